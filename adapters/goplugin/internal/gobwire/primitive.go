package gobwire

import (
	"math"
	"math/bits"
)

// appendUint writes gob's unsigned integer: one byte below 128, else the
// negated count of bytes and the bytes, big end first.
func appendUint(b []byte, x uint64) []byte {
	if x < 0x80 {
		return append(b, byte(x))
	}
	n := (bits.Len64(x) + 7) / 8
	b = append(b, byte(-n))
	for i := n - 1; i >= 0; i-- {
		b = append(b, byte(x>>(8*i)))
	}
	return b
}

// appendInt writes gob's signed integer: the low bit says whether the rest is
// complemented.
func appendInt(b []byte, x int64) []byte {
	if x < 0 {
		return appendUint(b, uint64(^x<<1)|1)
	}
	return appendUint(b, uint64(x<<1))
}

// appendFloat writes gob's float: its bytes reversed, as an unsigned integer.
func appendFloat(b []byte, f float64) []byte {
	return appendUint(b, bits.ReverseBytes64(math.Float64bits(f)))
}

func appendText[T string | []byte](b []byte, s T) []byte {
	return append(appendUint(b, uint64(len(s))), s...)
}

func toInt(x uint64) int64 {
	if x&1 != 0 {
		return ^int64(x >> 1)
	}
	return int64(x >> 1)
}

func toFloat(x uint64) float64 { return math.Float64frombits(bits.ReverseBytes64(x)) }
