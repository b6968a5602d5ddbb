package container

// overlapBytesMax is how much of what came over the connection is looked for in
// the engine's log: several hundred lines.
const overlapBytesMax = 64 << 10

// overlap returns how much of logged lies before where live begins. Both are
// pieces of one stream; logged ends wherever it was read to, and live begins
// wherever the connection was made, perhaps amid a line. Where a stream repeats
// itself, the earliest place counts: little is printed while a connection is
// made. Without anything in common it is all of logged.
func overlap(logged, live []byte) int {
	live = live[:min(len(live), overlapBytesMax)]
	if len(live) == 0 {
		return len(logged)
	}
	back := borders(live)
	matched := 0
	for end, b := range logged {
		for matched > 0 && live[matched] != b {
			matched = int(back[matched-1])
		}
		if live[matched] == b {
			matched++
		}
		if matched == len(live) {
			return end + 1 - matched
		}
	}
	return len(logged) - matched
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
