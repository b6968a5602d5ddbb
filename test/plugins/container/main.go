// Command container is the tiny plugin of the container adapter's tests and
// examples. It is the only file of an image built FROM scratch.
//
// As a service (no arguments) it serves HTTP on :8080, one path per operation:
// echo, refuse, exit, print, slow, count (NDJSON in parts), env. As a job
// (`job WORD`) it does one thing and ends: see job.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/patchbay-dev/patchbay/test/plugins/habit"
)

func main() {
	if len(os.Args) > 2 && os.Args[1] == "job" {
		os.Exit(job(os.Args[2], os.Args[3:]))
	}
	go func() { // ends with the process
		asked := make(chan os.Signal, 1)
		signal.Notify(asked, syscall.SIGTERM, syscall.SIGINT)
		<-asked
		fmt.Println("asked to stop")
		os.Exit(0)
	}()
	if os.Getenv("FAIL_EARLY") != "" {
		fmt.Fprintln(os.Stderr, "no configuration:", os.Getenv("FAIL_EARLY"))
		os.Exit(7)
	}
	habit.Begin()
	fmt.Println("listening on :8080")
	fmt.Fprintln(os.Stderr, http.ListenAndServe(":8080", routes()))
	os.Exit(1)
}

func routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("POST /echo", echo)
	mux.HandleFunc("POST /refuse", refuse)
	mux.HandleFunc("POST /exit", exit)
	mux.HandleFunc("POST /print", printText)
	mux.HandleFunc("POST /slow", slow)
	mux.HandleFunc("POST /count", count)
	mux.HandleFunc("POST /env", env)
	return mux
}

// argument is what the operations take; each reads its own fields.
type argument struct {
	Message string `json:"message"`
	Text    string `json:"text"`
	Code    int    `json:"code"`
	Millis  int    `json:"ms"`
	N       int    `json:"n"`
}

func read(w http.ResponseWriter, r *http.Request) (a argument, ok bool) {
	if err := json.NewDecoder(r.Body).Decode(&a); err != nil {
		http.Error(w, "argument: "+err.Error(), http.StatusBadRequest)
		return a, false
	}
	return a, true
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

// echo answers its argument, byte for byte.
func echo(w http.ResponseWriter, r *http.Request) {
	data, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", r.Header.Get("Content-Type"))
	_, _ = w.Write(data)
}

func refuse(w http.ResponseWriter, r *http.Request) {
	if a, ok := read(w, r); ok {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusConflict)
		_ = json.NewEncoder(w).Encode(map[string]string{"message": a.Message})
	}
}

func exit(w http.ResponseWriter, r *http.Request) {
	if a, ok := read(w, r); ok {
		os.Exit(a.Code)
	}
}

// printText prints the text, or n lines of it, each with its number.
func printText(w http.ResponseWriter, r *http.Request) {
	a, ok := read(w, r)
	if !ok {
		return
	}
	if a.N == 0 {
		fmt.Println(a.Text)
	}
	for n := range a.N {
		fmt.Println(a.Text, n)
	}
	answer(w, map[string]int{"printed": max(1, a.N)})
}

func slow(w http.ResponseWriter, r *http.Request) {
	a, ok := read(w, r)
	if !ok {
		return
	}
	select {
	case <-time.After(time.Duration(a.Millis) * time.Millisecond):
		answer(w, map[string]int{"slept": a.Millis})
	case <-r.Context().Done():
	}
}

// count answers n lines of NDJSON, each flushed by itself.
func count(w http.ResponseWriter, r *http.Request) {
	a, ok := read(w, r)
	if !ok {
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	for i := range a.N {
		_, _ = io.WriteString(w, `{"n":`+strconv.Itoa(i+1)+"}\n")
		_ = http.NewResponseController(w).Flush()
	}
}

func env(w http.ResponseWriter, _ *http.Request) { answer(w, os.Environ()) }
