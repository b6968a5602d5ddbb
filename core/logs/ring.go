package logs

import "github.com/patchbay-dev/patchbay/core/plugin"

const (
	// ringLinesMax is what Tail can show: twenty crash reports.
	ringLinesMax = 1000
	// ringBytesMax bounds the same for plugins that print long lines: a thousand
	// of the longest would be 64 MiB for each of them.
	ringBytesMax = 1 << 20
)

// ring keeps the newest lines of an instance.
type ring struct {
	lines    []plugin.LogLine // grows to ringLinesMax
	oldest   int
	n, bytes int
}

func sizeOf(line *plugin.LogLine) int { return len(line.Message) + len(line.Fields) }

func (r *ring) push(line plugin.LogLine) {
	size := sizeOf(&line)
	for r.n == ringLinesMax || r.n > 0 && r.bytes+size > ringBytesMax {
		r.pop()
	}
	if r.n == len(r.lines) {
		grown := make([]plugin.LogLine, min(max(16, 2*r.n), ringLinesMax))
		copy(grown, r.last(r.n))
		r.lines, r.oldest = grown, 0
	}
	r.lines[(r.oldest+r.n)%len(r.lines)] = line
	r.n++
	r.bytes += size
}

func (r *ring) pop() {
	r.bytes -= sizeOf(&r.lines[r.oldest])
	r.lines[r.oldest] = plugin.LogLine{}
	r.oldest = (r.oldest + 1) % len(r.lines)
	r.n--
}

// last returns the newest n lines, oldest first.
func (r *ring) last(n int) []plugin.LogLine {
	n = max(0, min(n, r.n))
	out := make([]plugin.LogLine, 0, n)
	for i := r.n - n; i < r.n; i++ {
		out = append(out, r.lines[(r.oldest+i)%len(r.lines)])
	}
	return out
}
