package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// self stands for this process among pids.
const self = 0

// processorTime is the user and system time that a process has used, all its
// threads with it, to the nanosecond: /proc counts in steps of 10 ms. It is
// getrusage's figure for this process.
func processorTime(pid int) (time.Duration, error) {
	if pid == self {
		var u unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
			return 0, err
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano()), nil
	}
	// clock_getcpuclockid(3): the complement of the pid, and CPUCLOCK_SCHED.
	clock := int32(^pid<<3 | 2)
	var t unix.Timespec
	if err := unix.ClockGettime(clock, &t); err != nil {
		return 0, fmt.Errorf("processor time of %d: %w", pid, err)
	}
	return time.Duration(t.Nano()), nil
}

func processorTimes(pids []int) (sum time.Duration, err error) {
	for _, pid := range pids {
		t, err := processorTime(pid)
		if err != nil {
			return 0, err
		}
		sum += t
	}
	return sum, nil
}

// resident is how much memory a process holds now, in bytes.
func resident(pid int) (float64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return kib * 1024, err
		}
	}
	return 0, fmt.Errorf("process %d tells no memory", pid)
}

// megabytes of 1e6 are what limits are written in.
func megabytes(bytes float64) float64 { return bytes / 1e6 }

// calls makes a side of n callers that call until the turn is over. The
// processor time is that of the pids.
func calls(n int, pids []int, op func(ctx context.Context, caller int) error) side {
	return func(ctx context.Context, d time.Duration) (s sample, err error) {
		before, err := processorTimes(pids)
		if err != nil {
			return s, err
		}
		began := time.Now()
		end := began.Add(d)
		done := make([]int, n)
		failed := make([]error, n)
		var all sync.WaitGroup
		for caller := range n {
			all.Go(func() { // ends with the turn
				count := 0
				for failed[caller] == nil && time.Now().Before(end) {
					if failed[caller] = op(ctx, caller); failed[caller] == nil {
						count++
					}
				}
				done[caller] = count
			})
		}
		all.Wait()
		s.wall = time.Since(began)
		after, err := processorTimes(pids)
		if err != nil {
			return s, err
		}
		s.cpu = after - before
		for caller := range n {
			if failed[caller] != nil {
				return s, failed[caller]
			}
			s.ops += done[caller]
		}
		return s, nil
	}
}
