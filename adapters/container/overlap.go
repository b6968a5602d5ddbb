package container

import "bytes"

// overlapBytesMax is how much of what came over the connection is looked for in
// the engine's log: several hundred lines.
const overlapBytesMax = 64 << 10

// overlap returns how much of logged lies before where live begins. Both are
// pieces of one stream; logged ends wherever it was read to, and live begins
// wherever the connection was made, perhaps amid a line. They met when live has
// the end of logged: it is the earliest place where that may be, which counts for
// a stream that repeats itself. Else it is where live stands amid logged, and
// without anything in common all of logged.
func overlap(logged, live []byte) (before int, met bool) {
	head := live[:min(len(live), overlapBytesMax)]
	if len(head) == 0 {
		return len(logged), len(logged) == 0
	}
	back, amid, matched := borders(head), len(logged), 0
	for i, b := range logged {
		for matched > 0 && head[matched] != b {
			matched = int(back[matched-1])
		}
		if head[matched] == b {
			matched++
		}
		if matched < len(head) {
			continue
		}
		begin := i + 1 - matched
		if bytes.HasPrefix(live, logged[begin:]) {
			return begin, true
		}
		amid, matched = min(amid, begin), int(back[matched-1])
	}
	if matched > 0 {
		return len(logged) - matched, true
	}
	return amid, false
}

// borders gives for each prefix of p the length of the longest shorter prefix
// that it also ends with (Knuth, Morris, Pratt).
func borders(p []byte) []int32 {
	back := make([]int32, len(p))
	for i := 1; i < len(p); i++ {
		n := back[i-1]
		for n > 0 && p[n] != p[i] {
			n = back[n-1]
		}
		if p[n] == p[i] {
			n++
		}
		back[i] = n
	}
	return back
}
