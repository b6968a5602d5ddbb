package api

import (
	"maps"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// seriesMax bounds the pairs of plugin and outcome that have a histogram of
// their own, about 1 KiB each; further plugins are counted together.
const seriesMax = 2000

// otherPlugins is the label of plugins beyond the limits: no name of a plugin.
const otherPlugins = "_other"

// Metrics counts requests and invocations. It is safe for concurrent use. A nil
// *Metrics counts nothing.
type Metrics struct {
	requests    *prometheus.CounterVec
	inFlight    prometheus.Gauge
	invocations *prometheus.HistogramVec
	restarts    perPlugin
	logBytes    perPlugin
	logDropped  perPlugin
	callbacks   perPlugin
	reconciles  prometheus.Histogram

	// series are the histograms in use. The map is never changed but replaced, so
	// that the path of an invocation takes no lock.
	series atomic.Pointer[map[seriesKey]prometheus.Observer]
	mu     sync.Mutex // one replacement at a time
}

type seriesKey struct{ plugin, outcome string }

// NewMetrics returns metrics to give to New, and to dispatch.
func NewMetrics() *Metrics {
	m := &Metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "patchbay_http_requests_total", Help: "Finished REST requests by route and class of status.",
		}, []string{"method", "route", "code"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "patchbay_http_requests_in_flight", Help: "REST requests under way, streams among them.",
		}),
		invocations: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "patchbay_invocation_duration_seconds", Help: "Time from dispatch to answer, by plugin and outcome, through every door.",
			Buckets: []float64{.0001, .00025, .001, .0025, .01, .025, .1, .25, 1, 2.5, 10, 30},
		}, []string{"plugin", "outcome"}),
		restarts:   newPerPlugin("patchbay_plugin_restarts_total", "Failures after which the plugin is tried again, by reason.", "reason"),
		logBytes:   newPerPlugin("patchbay_log_bytes_total", "Bytes of log messages that the bus has stored."),
		logDropped: newPerPlugin("patchbay_log_dropped_total", "Log lines that were lost."),
		callbacks:  newPerPlugin("patchbay_callbacks_total", "What plugins asked of Patchbay, by what it is bound to and how it went.", "binding", "outcome"),
		reconciles: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "patchbay_reconcile_duration_seconds", Help: "Time to compare what is applied with what runs, of one plugin or of all.",
			Buckets: []float64{.00001, .0001, .001, .01, .1, 1},
		}),
	}
	m.series.Store(&map[seriesKey]prometheus.Observer{})
	return m
}

// Invoked counts one finished invocation. It returns at once.
func (m *Metrics) Invoked(r plugin.InvocationRecord) {
	if m == nil {
		return
	}
	key := seriesKey{r.Plugin, r.Outcome}
	observer, ok := (*m.series.Load())[key]
	if !ok {
		observer = m.resolve(key)
	}
	observer.Observe(float64(r.DurationMicros) / 1e6)
}

func (m *Metrics) resolve(key seriesKey) prometheus.Observer {
	m.mu.Lock()
	defer m.mu.Unlock()
	known := *m.series.Load()
	if observer, ok := known[key]; ok {
		return observer
	}
	if len(known) >= seriesMax {
		return m.invocations.WithLabelValues(otherPlugins, key.outcome)
	}
	observer := m.invocations.WithLabelValues(key.plugin, key.outcome)
	more := maps.Clone(known)
	more[key] = observer
	m.series.Store(&more)
	return observer
}

// forget drops the series of a plugin that was deleted.
func (m *Metrics) forget(name string) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	fewer := maps.Clone(*m.series.Load())
	maps.DeleteFunc(fewer, func(k seriesKey, _ prometheus.Observer) bool { return k.plugin == name })
	m.series.Store(&fewer)
	m.invocations.DeletePartialMatch(prometheus.Labels{"plugin": name})
	m.restarts.forget(name)
	m.logBytes.forget(name)
	m.logDropped.forget(name)
	m.callbacks.forget(name)
}

// routeMetrics are the counters of one route, looked up once.
type routeMetrics struct {
	inFlight prometheus.Gauge
	codes    [6]prometheus.Counter // by the first digit of the status
}

func (m *Metrics) route(method, route string) *routeMetrics {
	if m == nil {
		return nil
	}
	r := &routeMetrics{inFlight: m.inFlight}
	for class := range r.codes {
		if class > 1 {
			r.codes[class] = m.requests.WithLabelValues(method, route, strconv.Itoa(class)+"xx")
		}
	}
	return r
}

func (r *routeMetrics) begin() {
	if r != nil {
		r.inFlight.Inc()
	}
}

func (r *routeMetrics) end(status int) {
	if r == nil {
		return
	}
	r.inFlight.Dec()
	if class := status / 100; class > 1 && class < len(r.codes) {
		r.codes[class].Inc()
	}
}

// scrapeMax bounds one scrape; scrapesMax those at the same time.
const (
	scrapeMax  = 10 * time.Second
	scrapesMax = 2
)

// exposition is what /metrics shows: a registry of this API alone.
func exposition(d Deps) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		newPluginCollector(d.Plugins),
		newAdapterCollector(d.Health),
	)
	if d.BusStats != nil {
		registry.MustRegister(busMetrics(d.BusStats)...)
	}
	if m := d.Metrics; m != nil {
		registry.MustRegister(m.requests, m.inFlight, m.invocations, m.restarts.vec, m.logBytes.vec, m.logDropped.vec, m.callbacks.vec, m.reconciles)
	}
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{MaxRequestsInFlight: scrapesMax, Timeout: scrapeMax})
}
