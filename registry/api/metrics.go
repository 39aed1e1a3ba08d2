package api

import (
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/VictoriaMetrics/metrics"
)

// meters count requests for Prometheus, under the names that distribution gave them. A nil *meters counts nothing.
type meters struct {
	set      *metrics.Set
	requests sync.Map // of *metrics.Counter by requestKey
	times    sync.Map // of *metrics.PrometheusHistogram by kind
	running  atomic.Int64
	missing  missing
}

type requestKey struct {
	kind   kind
	method string
	status int
}

func newMeters(set *metrics.Set) *meters {
	if set == nil {
		return nil
	}
	m := &meters{set: set}
	set.NewGauge("registry_http_in_flight_requests", func() float64 { return float64(m.running.Load()) })
	return m
}

// begin counts a request that runs. Call what it returns when the request was answered.
func (m *meters) begin(c *call) (end func()) {
	if m == nil {
		return func() {}
	}
	began := time.Now()
	m.running.Add(1)
	return func() {
		m.running.Add(-1)
		m.counter(requestKey{c.kind, methodLabel(c.r.Method), c.w.status}).Inc()
		m.histogram(c.kind).Update(time.Since(began).Seconds())
	}
}

// methodLabel bounds how many counters clients can make.
func methodLabel(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return method
	}
	return "other"
}

func (m *meters) counter(key requestKey) *metrics.Counter {
	if known, ok := m.requests.Load(key); ok {
		return known.(*metrics.Counter)
	}
	made := m.set.GetOrCreateCounter(fmt.Sprintf(`registry_http_requests_total{code="%d",handler=%q,method=%q}`,
		key.status, key.kind, key.method))
	m.requests.Store(key, made)
	return made
}

func (m *meters) histogram(k kind) *metrics.PrometheusHistogram {
	if known, ok := m.times.Load(k); ok {
		return known.(*metrics.PrometheusHistogram)
	}
	made := m.set.GetOrCreatePrometheusHistogram(fmt.Sprintf(`registry_http_request_duration_seconds{handler=%q}`, k))
	m.times.Store(k, made)
	return made
}

// maxMissing bounds the counters of missing platforms: repositories and platforms are what people name them.
const maxMissing = 1000

// missing are the counters of platforms that were asked for in vain.
type missing struct {
	mu    sync.Mutex
	known map[[2]string]bool
}

// platformMissing counts a pull of an index that has no image for the client's platform.
func (m *meters) platformMissing(repository, platform string) {
	if m == nil {
		return
	}
	repository, platform = m.missing.labels(repository, platform)
	m.set.GetOrCreateCounter("registry_platform_missing_total{repository=" + strconv.Quote(repository) + ",platform=" + strconv.Quote(platform) + "}").Inc()
}

// labels returns the labels of a counter. Once there are very many, all others share one.
func (m *missing) labels(repository, platform string) (string, string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	key := [2]string{repository, platform}
	switch {
	case m.known[key]:
	case len(m.known) >= maxMissing:
		return "other", "other"
	case m.known == nil:
		m.known = map[[2]string]bool{key: true}
	default:
		m.known[key] = true
	}
	return repository, platform
}
