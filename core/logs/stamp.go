package logs

import (
	"strings"
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// liftKlog reads "I1122 12:34:56.789012   123 file.go:12] text". The stamp has no
// year.
func liftKlog(l *plugin.LogLine, s string, now time.Time) bool {
	const stamp = "I1122 12:34:56.789012"
	if len(s) < len(stamp) || s[5] != ' ' || s[8] != ':' || s[11] != ':' || s[14] != '.' {
		return false
	}
	found := levelLetter(s[0])
	end := strings.IndexByte(s[:min(len(s), pythonHeaderMax)], ']')
	n, ok := numbers(s, 1, 3, 6, 9, 12)
	if found == "" || end < len(stamp) || !ok {
		return false
	}
	micros := number(s[15:21])
	if micros < 0 {
		return false
	}
	where := strings.TrimSpace(s[len(stamp):end])
	where = where[strings.LastIndexByte(where, ' ')+1:] // behind the thread's number
	l.Level, l.Message = found, strings.TrimPrefix(s[end+1:], " ")
	l.Fields = single("caller", where)
	moment{year: now.Year(), numbers: n, nanos: micros * 1000}.set(l, now)
	return true
}

// numbers reads the two digits at each of at most five places.
func numbers(s string, places ...int) (n [5]int, ok bool) {
	for i, at := range places {
		tens, ones := s[at]-'0', s[at+1]-'0'
		if tens > 9 || ones > 9 {
			return n, false
		}
		n[i] = 10*int(tens) + int(ones)
	}
	return n, true
}

// number reads digits; -1 when there are others.
func number(s string) int {
	n := 0
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return -1
		}
		n = 10*n + int(s[i]-'0')
	}
	return n
}

// moment is a time as a line has it.
type moment struct {
	year    int
	numbers [5]int // month, day, hour, minute, second
	nanos   int
	zone    *time.Location // nil: not written
}

func (m moment) in(zone *time.Location) time.Time {
	n := m.numbers
	return time.Date(m.year, time.Month(n[0]), n[1], n[2], n[3], n[4], m.nanos, zone)
}

// set takes the moment as the line's time if it is near now, when it was printed.
// Without a zone it is ours or UTC, whichever is nearer.
func (m moment) set(l *plugin.LogLine, now time.Time) {
	zone := m.zone
	if zone == nil {
		zone = time.UTC
	}
	at := m.in(zone)
	if m.zone == nil {
		if local := m.in(time.Local); local.Sub(now).Abs() < at.Sub(now).Abs() {
			at = local
		}
	}
	if at.Sub(now).Abs() <= timeSpread {
		l.Time = at.UTC()
	}
}

// stamp reads "2026-01-02T03:04:05", with slashes or a space, and what may stand
// behind it of a fraction and a zone.
func stamp(s string) (at moment, rest string, ok bool) {
	const form = "2026-01-02T03:04:05"
	if len(s) <= len(form) || s[4] != '-' && s[4] != '/' || s[7] != s[4] || s[10] != 'T' && s[10] != ' ' || s[13] != ':' || s[16] != ':' {
		return at, "", false
	}
	if at.numbers, ok = numbers(s, 5, 8, 11, 14, 17); !ok {
		return at, "", false
	}
	if at.year = number(s[:4]); at.year < 0 {
		return at, "", false
	}
	at.nanos, rest = fraction(s[len(form):])
	at.zone, rest = zoneOf(rest)
	return at, strings.TrimLeft(rest, " \t"), true
}

// fraction reads ".678" or ",678".
func fraction(s string) (nanos int, rest string) {
	if s == "" || s[0] != '.' && s[0] != ',' {
		return 0, s
	}
	end := digits(s, 1)
	for i := range 9 {
		nanos *= 10
		if 1+i < end {
			nanos += int(s[1+i] - '0')
		}
	}
	return nanos, s[end:]
}

// zoneOf reads Z, +02:00 or +0200; nil when there is none.
func zoneOf(s string) (*time.Location, string) {
	switch {
	case strings.HasPrefix(s, "Z"):
		return time.UTC, s[1:]
	case len(s) < len("+0200") || s[0] != '+' && s[0] != '-':
		return nil, s
	}
	minutes := 3
	if s[3] == ':' {
		minutes = 4
	}
	if len(s) < minutes+2 {
		return nil, s
	}
	h, m := number(s[1:3]), number(s[minutes:minutes+2])
	if h < 0 || m < 0 {
		return nil, s
	}
	offset := h*3600 + m*60
	if s[0] == '-' {
		offset = -offset
	}
	return time.FixedZone("", offset), s[minutes+2:]
}
