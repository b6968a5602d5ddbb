package api

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

const (
	// pluginsMax plugins have series of their own, about 1 KiB for each metric;
	// further ones are counted together.
	pluginsMax = 2000
	// reasonsMax bounds the words of why a plugin failed: the core has a dozen.
	reasonsMax = 32
	// otherReason is the label of reasons beyond reasonsMax.
	otherReason = "Other"
)

// perPlugin is a counter per plugin, and perhaps per one more word, with bounded
// labels. It is safe for concurrent use.
type perPlugin struct {
	vec   *prometheus.CounterVec
	known *knownLabels
}

type knownLabels struct {
	mu             sync.Mutex
	plugins, words map[string]struct{}
}

func newPerPlugin(name, help string, labels ...string) perPlugin {
	return perPlugin{
		vec:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, append([]string{"plugin"}, labels...)),
		known: &knownLabels{plugins: map[string]struct{}{}, words: map[string]struct{}{}},
	}
}

// add counts n of a plugin.
func (p perPlugin) add(n float64, plugin string, words ...string) {
	p.known.mu.Lock()
	defer p.known.mu.Unlock()
	labels := []string{bounded(p.known.plugins, plugin, pluginsMax, otherPlugins)}
	for _, word := range words {
		labels = append(labels, bounded(p.known.words, word, reasonsMax, otherReason))
	}
	p.vec.WithLabelValues(labels...).Add(n)
}

// bounded returns the word if it is known or there is room for it, else other.
func bounded(known map[string]struct{}, word string, most int, other string) string {
	if _, ok := known[word]; !ok {
		if len(known) >= most {
			return other
		}
		known[word] = struct{}{}
	}
	return word
}

func (p perPlugin) forget(name string) {
	p.known.mu.Lock()
	defer p.known.mu.Unlock()
	if _, ok := p.known.plugins[name]; ok {
		delete(p.known.plugins, name)
		p.vec.DeletePartialMatch(prometheus.Labels{"plugin": name})
	}
}

// Changed counts restarts: failures after which the plugin is tried again.
func (m *Metrics) Changed(c plugin.StateChange) {
	if m == nil || c.To != plugin.Backoff {
		return
	}
	m.restarts.add(1, c.Status.Plugin, c.Status.Reason)
}

// CountChanges counts what it hands on to next.
func (m *Metrics) CountChanges(next func(plugin.StateChange)) func(plugin.StateChange) {
	if m == nil {
		return next
	}
	return func(c plugin.StateChange) {
		m.Changed(c)
		next(c)
	}
}

// CountInvocations counts what it hands on to next.
func (m *Metrics) CountInvocations(next func(plugin.InvocationRecord)) func(plugin.InvocationRecord) {
	if m == nil {
		return next
	}
	return func(r plugin.InvocationRecord) {
		m.Invoked(r)
		next(r)
	}
}

// LogBatch is how a batch of log lines is stored: *bus.Bus's.
type LogBatch func(plugin.LogBatch) (sequence uint64, err error)

// CountLogs counts what store has stored, and what its lines say was lost.
func (m *Metrics) CountLogs(store LogBatch) LogBatch {
	if m == nil {
		return store
	}
	return func(b plugin.LogBatch) (uint64, error) {
		sequence, err := store(b)
		if err != nil {
			return sequence, err
		}
		bytes, dropped := 0, uint64(0)
		for i := range b.Lines {
			bytes += len(b.Lines[i].Message)
			dropped += b.Lines[i].Dropped
		}
		m.logBytes.add(float64(bytes), b.Plugin)
		m.logDropped.add(float64(dropped), b.Plugin)
		return sequence, nil
	}
}

// LostLogs counts lines that no later line tells of.
func (m *Metrics) LostLogs(plugin string, lines uint64) {
	if m != nil {
		m.logDropped.add(float64(lines), plugin)
	}
}

// Callback counts what a plugin asked of its host: by what it is bound to, and how it
// went. Both are words of few.
func (m *Metrics) Callback(plugin, binding, outcome string) {
	if m != nil {
		m.callbacks.add(1, plugin, binding, outcome)
	}
}

// Reconciled takes how long one comparison took.
func (m *Metrics) Reconciled(took time.Duration) {
	if m != nil {
		m.reconciles.Observe(took.Seconds())
	}
}
