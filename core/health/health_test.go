package health

import (
	"context"
	"errors"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

var errTest = errors.New("out of order")

func TestCheck_faultAndCureAreToldWithinFiveSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var broken atomic.Bool
		asked := 0
		c := New(Question{Name: "bus", Ask: func(context.Context) error {
			asked++
			if broken.Load() {
				return errTest
			}
			return nil
		}})
		first := c.Needed(t.Context())[0]
		if first.Err != nil || first.Name != "bus" || first.Since.IsZero() {
			t.Fatalf("got %+v", first)
		}
		for range 100 {
			c.Needed(t.Context())
		}
		if asked != 1 {
			t.Errorf("asked %d times within a second, want once", asked)
		}
		for _, want := range []bool{true, false} {
			broken.Store(want)
			began := time.Now()
			for (c.Needed(t.Context())[0].Err != nil) != want {
				<-time.After(100 * time.Millisecond)
			}
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("broken %v: told after %v", want, took)
			}
			if since := c.Needed(t.Context())[0].Since; since.Before(began) {
				t.Errorf("broken %v: since %v, want not before %v", want, since, began)
			}
		}
	})
}

func TestCheck_hangingQuestionIsAskedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cured := make(chan struct{})
		var asked atomic.Int64
		c := New(
			Question{Name: "quick", Ask: func(context.Context) error { return nil }},
			Question{Name: "hangs", Ask: func(context.Context) error { asked.Add(1); <-cured; return nil }},
		)
		for range 3 {
			var all sync.WaitGroup
			for range 50 {
				all.Go(func() {
					began := time.Now()
					answers := c.Needed(t.Context())
					if took := time.Since(began); took > askMax {
						t.Errorf("took %v", took)
					}
					if answers[0].Err != nil || !errors.Is(answers[1].Err, plugin.ErrDeadline) {
						t.Errorf("got %+v", answers)
					}
				})
			}
			all.Wait()
			<-time.After(3 * freshMax)
		}
		if asked.Load() != 1 {
			t.Errorf("asked %d times, want once", asked.Load())
		}
		close(cured)
		synctest.Wait()
		<-time.After(freshMax)
		if a := c.Needed(t.Context())[1]; a.Err != nil {
			t.Errorf("cured: got %v", a.Err)
		}
	})
}

func TestCheck_impatientCallerDoesNotSpoilTheAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Question{Name: "slow", Ask: func(ctx context.Context) error {
			select {
			case <-time.After(time.Second):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}})
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		c.Needed(ctx)
		if a := c.Needed(t.Context())[0]; a.Err != nil || a.Took != time.Second {
			t.Errorf("got %+v", a)
		}
	})
}

type fake struct {
	plugin.Adapter
	why error
}

func (f fake) Name() string                    { return "fake" }
func (f fake) Available(context.Context) error { return f.why }

func TestCheck_adaptersAreShownAndNotNeeded(t *testing.T) {
	c := Daemon(t.TempDir(), []plugin.Adapter{fake{why: errTest}})
	for _, a := range c.Needed(t.Context()) {
		if a.Err != nil || a.Advisory {
			t.Errorf("got %+v", a)
		}
	}
	all := c.All(t.Context())
	if len(all) != 3 || !errors.Is(all[2].Err, errTest) || all[2].Name != "adapter/fake" || !all[2].Advisory {
		t.Errorf("got %+v", all)
	}
}

func TestDisk_saysWhatIsMissing(t *testing.T) {
	err := disk(t.TempDir(), math.MaxUint64).Ask(t.Context())
	if !errors.Is(err, plugin.ErrUnavailable) || !strings.Contains(err.Error(), "MiB are free") {
		t.Errorf("full: got %v", err)
	}
	if err := Disk("/nowhere").Ask(t.Context()); !errors.Is(err, plugin.ErrUnavailable) {
		t.Errorf("no folder: got %v", err)
	}
	if err := Inodes("/nowhere").Ask(t.Context()); !errors.Is(err, plugin.ErrUnavailable) {
		t.Errorf("no folder: got %v", err)
	}
}
