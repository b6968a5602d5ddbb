// Command greeter is the example of a plugin that is an ordinary Go type: see
// sdk/go/goplugin.
package main

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"strconv"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/sdk/go/goplugin"
)

type helloIn struct {
	Name     string `json:"name" required:"true" doc:"Who is greeted."`
	Language string `json:"language,omitempty" enum:"en,fr" doc:"en (default) or fr."`
}

type helloOut struct {
	Greeting string    `json:"greeting"`
	Letters  int       `json:"letters" doc:"How many the name has."`
	At       time.Time `json:"at"`
}

type countIn struct {
	To    int           `json:"to" doc:"The last number."`
	Every time.Duration `json:"every,omitempty" doc:"The time between two, as in 0.5s."`
}

type number struct {
	N int `json:"n"`
}

// greeter has no state of its own: what it remembers is its host's.
type greeter struct{}

// Hello refuses a name that is unheard of.
func (greeter) Hello(ctx context.Context, in helloIn) (helloOut, error) {
	if in.Name == "nobody" {
		return helloOut{}, goplugin.Refuse(codes.NotFound, "there is no %s", in.Name).With(map[string]string{"name": in.Name})
	}
	slog.InfoContext(ctx, "greeted", "name", in.Name)
	word := map[string]string{"": "Hello", "en": "Hello", "fr": "Bonjour"}[in.Language]
	return helloOut{Greeting: word + ", " + in.Name + ".", Letters: len([]rune(in.Name)), At: time.Now()}, nil
}

// Count answers in parts.
func (greeter) Count(ctx context.Context, in countIn) iter.Seq2[number, error] {
	return func(yield func(number, error) bool) {
		for n := range in.To {
			select {
			case <-time.After(in.Every):
			case <-ctx.Done():
				yield(number{}, ctx.Err())
				return
			}
			if !yield(number{n + 1}, nil) {
				return
			}
		}
	}
}

// Sum is given its argument in parts.
func (greeter) Sum(_ context.Context, in iter.Seq2[number, error]) (number, error) {
	sum := number{}
	for part, err := range in {
		if err != nil {
			return sum, err
		}
		sum.N += part.N
	}
	return sum, nil
}

// Visit counts in a value that outlives the process, and tells everybody.
func (greeter) Visit(ctx context.Context, in helloIn) (number, error) {
	host := goplugin.HostOf(ctx)
	visits := number{}
	kept, err := host.Get(ctx, "visits/"+in.Name)
	if err == nil {
		visits.N, err = strconv.Atoi(string(kept))
	}
	if err != nil && !errors.Is(err, plugin.ErrNotFound) {
		return visits, err
	}
	visits.N++
	if err := host.Put(ctx, "visits/"+in.Name, []byte(strconv.Itoa(visits.N))); err != nil {
		return visits, err
	}
	return visits, host.Publish(ctx, "greeter.visit", map[string]any{"name": in.Name, "visits": visits.N})
}

// Panic shows that a panic is one call's end, and not the plugin's.
func (greeter) Panic(context.Context) error {
	panic("as you wished")
}

func main() {
	goplugin.Serve(greeter{},
		goplugin.Doc("Greets, counts and remembers."),
		goplugin.Operation("Hello", "Greets somebody."),
		goplugin.Operation("Count", "Counts from 1."),
		goplugin.Operation("Sum", "Adds numbers."),
		goplugin.Operation("Visit", "Counts the visits of a name."),
		goplugin.Operation("Panic", "Panics, which the plugin outlives."))
}
