// Command faulty is the plugin whose fault is chosen in its manifest, by FAULT in
// spec.env. It speaks just enough of three protocols to be believed until then:
// provider when its last arguments are the protocol's, go-plugin when it gets that
// cookie, else portable.
//
//	all       never (is not ready), exit (at once, with last words)
//	provider  nosocket (READY! and no socket), deaf (ignores TERM and stop), children
//	          (double fork and setsid), flood and torrent (on standard output, at a
//	          pace and without), mute (never reads a call), garbage, endless
//	          (answers), leak and leakcalled (memory, from the start and from the
//	          first call), forks (until it may not); none: works
//	goplugin  versions, alien (the socket FAULT_ADDRESS), outside (tcp beyond this
//	          machine), garbage
//	portable  garbage (no greeting), frame (one of 2^62 bytes)
package main

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"syscall"
	"time"
)

func main() {
	fault, args := os.Getenv("FAULT"), os.Args[1:]
	switch {
	case slices.Equal(args, []string{"nursery"}): // dies, so that its child is nobody's
		check(begin("child"))
		return
	case slices.Equal(args, []string{"child"}):
		hang()
	case len(args) > 0 && args[0] == "define":
		fmt.Println(`{"Name": "faulty", "Version": "v1.0.0", "PluginVersion": 4, "AvailableActions": [{"Command": "echo"}]}`)
		return
	case len(args) > 0 && args[0] == "unpack":
		return
	}
	switch {
	case fault == "never":
		hang()
	case fault == "exit":
		fmt.Fprintln(os.Stderr, "no licence for this machine")
		os.Exit(3)
	case len(args) == 3 && args[0] == "listen":
		provider(fault, args[1])
	case os.Getenv("PATCHBAY_TINY") != "":
		goplugin(fault)
	default:
		portable(fault)
	}
}

// hang does nothing for ever. An empty select would be a deadlock, which Go ends.
func hang() {
	for {
		time.Sleep(time.Hour)
	}
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		os.Exit(1)
	}
}

// begin starts this program again in a session of its own.
func begin(word string) error {
	cmd := exec.Command("/proc/self/exe", word)
	cmd.Env = os.Environ()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return cmd.Start()
}

func provider(fault, socket string) {
	switch fault {
	case "nosocket":
		fmt.Println("READY!")
		hang()
	case "deaf":
		signal.Ignore(syscall.SIGTERM)
	case "children":
		check(begin("nursery"))
	}
	listener, err := net.Listen("unix", socket)
	check(err)
	fmt.Println("READY!")
	switch fault {
	case "flood":
		go flood(floodRate) // ends with the process
	case "torrent":
		go flood(0) // ends with the process
	case "leak":
		go leak() // ends with the process
	case "forks":
		go forks() // ends with the first refusal
	}
	check(http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/api-plugin/v4/config":
			_, _ = w.Write([]byte(`{"Code": 200}`))
		case "/api-plugin/v4/stop":
			stop(fault)
		case "/api-plugin/v4/action":
			action(fault, w, r)
		default: // a probe
			http.NotFound(w, r)
		}
	})))
}

func stop(fault string) {
	if fault == "deaf" {
		hang()
	}
	os.Exit(0)
}

func action(fault string, w http.ResponseWriter, r *http.Request) {
	switch fault {
	case "mute":
		hang()
	case "garbage":
		conn, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			_, _ = conn.Write(noise(64 << 10))
			_ = conn.Close()
		}
	case "endless":
		part := bytes.Repeat([]byte("a"), 64<<10)
		for _, err := w.Write([]byte(`"`)); err == nil; {
			_, err = w.Write(part)
		}
	case "leakcalled":
		leak()
	default:
		var asked struct{ Params json.RawMessage }
		_ = json.NewDecoder(r.Body).Decode(&asked)
		_, _ = w.Write(asked.Params)
	}
}

func noise(size int) []byte {
	data := make([]byte, size)
	_, _ = rand.Read(data)
	return data
}

// floodRate is 10 GB a minute, in bytes a second.
const floodRate = 10_000_000_000 / 60

// flood writes lines, so many bytes a second or, with 0, as fast as they are taken.
func flood(rate float64) {
	lines := bytes.Repeat([]byte("the same line again and again, as nobody wants to read it\n"), 1<<10)
	begun, written := time.Now(), 0
	for {
		if rate > 0 {
			time.Sleep(time.Until(begun.Add(time.Duration(float64(written) / rate * float64(time.Second)))))
		}
		n, err := os.Stdout.Write(lines)
		if err != nil {
			return
		}
		written += n
	}
}

// leak takes 320 MiB a second, a bit at a time, and touches each page: a story about
// memory, not about a processor that is taken for as long as filling them would take.
func leak() {
	var all [][]byte
	for range time.Tick(time.Second / 320) {
		taken := make([]byte, 1<<20)
		for at := 0; at < len(taken); at += os.Getpagesize() {
			taken[at] = 1
		}
		all = append(all, taken)
		if len(all)%16 == 0 {
			fmt.Fprintln(os.Stderr, len(all), "MiB")
		}
	}
}

// forksMax is many more than a limit allows, and few for a machine without one.
const forksMax = 200

// forks starts children until it is refused one more, and says how many it has.
func forks() {
	for n := range forksMax {
		if err := begin("child"); err != nil {
			fmt.Fprintln(os.Stderr, "refused after", n, "children:", err)
			return
		}
	}
	fmt.Fprintln(os.Stderr, "never refused")
}

func goplugin(fault string) {
	switch fault {
	case "versions":
		fmt.Println("9|9|unix|" + os.Getenv("FAULT_ADDRESS") + "|netrpc")
	case "alien":
		fmt.Println("1|1|unix|" + os.Getenv("FAULT_ADDRESS") + "|netrpc")
	case "outside":
		fmt.Println("1|1|tcp|192.0.2.1:7420|netrpc")
	case "garbage":
		_, _ = os.Stdout.Write(noise(64 << 10))
	}
	hang()
}

func portable(fault string) {
	conn, err := net.Dial("unix", "/tmp/plugin_faulty.ipc")
	check(err)
	switch fault {
	case "garbage":
		_, _ = conn.Write(noise(64 << 10))
	case "frame":
		frame := []byte{0, 'S', 'P', 0, 0, 0x30, 0, 0, 1}
		_, _ = conn.Write(binary.BigEndian.AppendUint64(frame, 1<<62))
	}
	hang()
}
