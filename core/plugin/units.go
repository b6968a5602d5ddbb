package plugin

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Duration is a time.Duration written as "250ms", "10s" or "1h30m".
type Duration time.Duration

// Std returns d as a time.Duration.
func (d Duration) Std() time.Duration { return time.Duration(d) }

// MarshalText writes the shortest form: "10m", not "10m0s".
func (d Duration) MarshalText() ([]byte, error) {
	text := time.Duration(d).String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return []byte(text), nil
}

// UnmarshalText reads a positive duration of at most a year.
func (d *Duration) UnmarshalText(text []byte) error {
	const most = 365 * 24 * time.Hour
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("%q is not a duration; write a number and a unit, such as 250ms, 10s or 5m", text)
	}
	if v <= 0 || v > most {
		return fmt.Errorf("%q is out of range; write more than 0 and at most 8760h", text)
	}
	*d = Duration(v)
	return nil
}

// Bytes is a size written as "256MiB", "1GiB", "64KB" or a plain number.
type Bytes int64

var byteUnits = []struct {
	suffix string
	factor int64
}{
	{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10},
	{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"KB", 1e3}, {"kB", 1e3}, {"B", 1}, {"", 1},
}

// MarshalText writes the largest binary unit that divides the size.
func (b Bytes) MarshalText() ([]byte, error) {
	for _, u := range byteUnits[:4] {
		if b != 0 && int64(b)%u.factor == 0 {
			return fmt.Appendf(nil, "%d%s", int64(b)/u.factor, u.suffix), nil
		}
	}
	return strconv.AppendInt(nil, int64(b), 10), nil
}

// UnmarshalText reads a positive size.
func (b *Bytes) UnmarshalText(text []byte) error {
	s := strings.TrimSpace(string(text))
	for _, u := range byteUnits {
		digits, ok := strings.CutSuffix(s, u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(digits), 64)
		size := n * float64(u.factor)
		if err != nil || !(size >= 1 && size <= 1<<60) { // not: NaN is neither
			break
		}
		*b = Bytes(size)
		return nil
	}
	return fmt.Errorf("%q is not a size; write a positive number and a unit, such as 64KiB, 256MiB or 1GiB", text)
}
