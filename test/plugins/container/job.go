package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
)

// job does one thing and returns the exit code:
//
//	upper       standard input in upper case to standard output
//	sum         {"numbers": [...]} to {"sum": N}
//	env         the environment, a line each
//	exit N      a line on each stream, then code N
//	memory MIB  takes and touches that much memory
func job(word string, args []string) int {
	switch word {
	case "upper":
		return copied(func(in []byte) ([]byte, error) { return bytes.ToUpper(in), nil })
	case "sum":
		return copied(sum)
	case "env":
		for _, pair := range os.Environ() {
			fmt.Println(pair)
		}
		return 0
	case "exit":
		fmt.Println("to stdout")
		fmt.Fprintln(os.Stderr, "to stderr")
		return number(args)
	case "memory":
		return touch(number(args) << 20)
	}
	fmt.Fprintln(os.Stderr, "no such job:", word)
	return 2
}

func copied(by func([]byte) ([]byte, error)) int {
	in, err := io.ReadAll(os.Stdin)
	if err == nil {
		in, err = by(in)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	_, _ = os.Stdout.Write(in)
	return 0
}

func sum(in []byte) ([]byte, error) {
	var ask struct{ Numbers []float64 }
	if err := json.Unmarshal(in, &ask); err != nil {
		return nil, err
	}
	total := 0.0
	for _, n := range ask.Numbers {
		total += n
	}
	return json.Marshal(map[string]float64{"sum": total})
}

func touch(size int) int {
	const page = 4096
	block := make([]byte, size)
	for i := 0; i < len(block); i += page {
		block[i] = 1
	}
	fmt.Println("touched", len(block))
	return 0
}

func number(args []string) int {
	if len(args) == 0 {
		return 0
	}
	n, _ := strconv.Atoi(args[0])
	return n
}
