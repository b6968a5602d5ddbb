package api

import (
	"context"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/patchbay-dev/patchbay/core/bus"
	"github.com/patchbay-dev/patchbay/core/health"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// What is told of plugins, adapters and the bus when it is asked, so that nothing
// has to be kept in step.

// pluginCollector tells of each plugin; of those beyond pluginsMax, by name,
// together: up is then 1 when all of an adapter's are.
type pluginCollector struct {
	plugins  Plugins
	up       *prometheus.Desc
	inFlight *prometheus.Desc
}

func newPluginCollector(p Plugins) *pluginCollector {
	labels := []string{"plugin", "adapter"}
	return &pluginCollector{
		plugins:  p,
		up:       prometheus.NewDesc("patchbay_plugin_up", "1 when the plugin is running, 0 otherwise.", labels, nil),
		inFlight: prometheus.NewDesc("patchbay_invocations_in_flight", "Invocations under way.", labels, nil),
	}
}

// Describe tells what Collect gives.
func (p *pluginCollector) Describe(to chan<- *prometheus.Desc) {
	to <- p.up
	to <- p.inFlight
}

// upAndBusy is what is told of one plugin, or of several.
type upAndBusy struct{ up, inFlight float64 }

// Collect gives the state of every plugin.
func (p *pluginCollector) Collect(to chan<- prometheus.Metric) {
	all := Selector(nil).Match
	others, told := map[string]upAndBusy{}, 0
	for after, more := "", true; more; {
		var page []plugin.Resource
		page, after = p.plugins.List(after, pageMax, all)
		for _, r := range page {
			one := measured(r.Status)
			if told++; told <= pluginsMax {
				p.give(to, one, r.Metadata.Name, r.Spec.Adapter)
				continue
			}
			if sum, ok := others[r.Spec.Adapter]; ok {
				one = upAndBusy{min(sum.up, one.up), sum.inFlight + one.inFlight}
			}
			others[r.Spec.Adapter] = one
		}
		more = after != ""
	}
	for adapter, sum := range others {
		p.give(to, sum, otherPlugins, adapter)
	}
}

func measured(s plugin.Status) upAndBusy {
	one := upAndBusy{inFlight: float64(s.InFlight)}
	if s.State == plugin.Running {
		one.up = 1
	}
	return one
}

func (p *pluginCollector) give(to chan<- prometheus.Metric, one upAndBusy, labels ...string) {
	to <- prometheus.MustNewConstMetric(p.up, prometheus.GaugeValue, one.up, labels...)
	to <- prometheus.MustNewConstMetric(p.inFlight, prometheus.GaugeValue, one.inFlight, labels...)
}

// adapterCollector tells which adapters can launch plugins.
type adapterCollector struct {
	health Health
	up     *prometheus.Desc
}

func newAdapterCollector(h Health) *adapterCollector {
	return &adapterCollector{h, prometheus.NewDesc("patchbay_adapter_up", "1 when the adapter can launch plugins, 0 otherwise.", []string{"adapter"}, nil)}
}

// Describe tells what Collect gives.
func (a *adapterCollector) Describe(to chan<- *prometheus.Desc) { to <- a.up }

// Collect asks every adapter; core/health bounds that and shares the answers.
func (a *adapterCollector) Collect(to chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), readyMax)
	defer cancel()
	for _, answer := range a.health.All(ctx) {
		name, ok := strings.CutPrefix(answer.Name, health.AdapterPrefix)
		if !ok {
			continue
		}
		up := 0.0
		if answer.Err == nil {
			up = 1
		}
		to <- prometheus.MustNewConstMetric(a.up, prometheus.GaugeValue, up, name)
	}
}

// busMetrics are what the bus counts itself.
func busMetrics(stats func() bus.Stats) []prometheus.Collector {
	return []prometheus.Collector{
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "patchbay_event_lag_seconds", Help: "Age of the oldest event that is not stored yet; 0 when all are.",
		}, func() float64 { return stats().EventLag.Seconds() }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "patchbay_events_total", Help: "Events that the bus has stored.",
		}, func() float64 { return float64(stats().EventsPublished) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "patchbay_events_dropped_total", Help: "Events that were lost because too many waited for the bus.",
		}, func() float64 { return float64(stats().EventsDropped) }),
	}
}

var (
	_ prometheus.Collector = (*pluginCollector)(nil)
	_ prometheus.Collector = (*adapterCollector)(nil)
)
