package layers_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/patchbay-dev/patchbay/cmd/patchbay/internal/layers"
)

func TestRun_endsFromTheTop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var order []string
		layer := func(name string) func(context.Context) error {
			return func(ctx context.Context) error {
				<-ctx.Done()
				mu.Lock()
				defer mu.Unlock()
				order = append(order, name)
				return nil
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if err := (layers.Layers{layer("low"), layer("middle"), layer("top")}).Run(ctx, time.Minute); err != nil {
			t.Error(err)
		}
		if !slices.Equal(order, []string{"top", "middle", "low"}) {
			t.Errorf("got order %v", order)
		}
	})
}

func TestRun_endsWithTheFirstFault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("broken")
		err := layers.Layers{
			func(ctx context.Context) error { <-ctx.Done(); return nil },
			func(context.Context) error { return broken },
		}.Run(t.Context(), time.Minute)
		if !errors.Is(err, broken) {
			t.Errorf("got %v, want what broke", err)
		}
	})
}

func TestRun_doesNotWaitForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		defer close(release)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		err := layers.Layers{func(context.Context) error { <-release; return nil }}.Run(ctx, time.Second)
		if err == nil || !strings.Contains(err.Error(), "within 1s") {
			t.Errorf("got %v", err)
		}
	})
}
