// Package habit is what every tiny plugin does beside its protocol when its
// environment asks for it: TINY_START=2s begins slowly, TINY_COUNT=5ms prints
// count 1, count 2 ... to standard error at that pace. Tests use it.
package habit

import (
	"fmt"
	"os"
	"time"
)

// The variables.
const (
	StartVariable = "TINY_START"
	CountVariable = "TINY_COUNT"
)

// Begin is for the start of main, before a library takes standard error over.
func Begin() {
	if every, err := time.ParseDuration(os.Getenv(CountVariable)); err == nil && every > 0 {
		go count(os.Stderr, every) // ends with the process
	}
	if wait, err := time.ParseDuration(os.Getenv(StartVariable)); err == nil {
		time.Sleep(wait)
	}
}

func count(to *os.File, every time.Duration) {
	tick := time.NewTicker(every)
	for n := 1; ; n++ {
		fmt.Fprintf(to, "count %d\n", n)
		<-tick.C
	}
}
