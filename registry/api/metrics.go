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

// meters count requests for Prometheus, with the names and labels that distribution gives its metrics. A nil *meters counts nothing.
type meters struct {
	set          *metrics.Set
	handlers     map[kind]*handlerMeters // never changes
	failedLogins *metrics.Counter
	missing      missing
}

// handlerMeters count the requests of a kind. What clients never do is no metric.
type handlerMeters struct {
	label   string
	running atomic.Int64

	mu      sync.RWMutex
	answers map[answerKey]*answerMeters
}

type answerKey struct {
	method string
	status int
}

// answerMeters are what answers of one status to one method are counted with.
type answerMeters struct {
	requests             *metrics.Counter
	time, received, sent *metrics.PrometheusHistogram
}

func newMeters(set *metrics.Set) *meters {
	if set == nil {
		return nil
	}
	m := &meters{set: set, handlers: make(map[kind]*handlerMeters), failedLogins: set.NewCounter("registry_failed_logins_total")}
	for _, k := range []kind{kindNone, kindBase, kindCatalog, kindTags, kindManifest, kindBlob, kindUploads, kindUpload, kindReferrers,
		kindRepository, kindTag, kindToken} {
		h := &handlerMeters{label: handlerLabel(k), answers: make(map[answerKey]*answerMeters)}
		set.NewGauge(fmt.Sprintf(`registry_http_in_flight_requests{handler=%q}`, h.label), func() float64 { return float64(h.running.Load()) })
		m.handlers[k] = h
	}
	return m
}

// handlerLabel returns distribution's name of a handler, where it has that.
func handlerLabel(k kind) string {
	switch k {
	case kindUploads:
		return "blob_upload"
	case kindUpload:
		return "blob_upload_chunk"
	}
	return string(k)
}

// begin counts a request that runs. Call what it returns when the request was answered.
func (m *meters) begin(c *call) (end func()) {
	if m == nil {
		return func() {}
	}
	began := time.Now()
	m.handlers[c.kind].running.Add(1)
	return func() {
		h := m.handlers[c.kind]
		h.running.Add(-1)
		h.count(m.set, c, time.Since(began))
		if loginFailed(c) {
			m.failedLogins.Inc()
		}
	}
}

// become says what kind of request it is that began as another one.
func (m *meters) become(c *call, k kind) {
	if m != nil {
		m.handlers[c.kind].running.Add(-1)
		m.handlers[k].running.Add(1)
	}
	c.kind = k
}

// count counts a request that was answered.
func (h *handlerMeters) count(set *metrics.Set, c *call, took time.Duration) {
	key := answerKey{methodLabel(c.r.Method), c.w.status}
	h.mu.RLock()
	a := h.answers[key]
	h.mu.RUnlock()
	if a == nil {
		a = h.add(set, key)
	}
	a.requests.Inc()
	a.time.Update(took.Seconds())
	a.received.Update(float64(max(c.r.ContentLength, 0)))
	a.sent.Update(float64(c.w.bytes))
}

// add makes the metrics of answers of which there were none yet.
func (h *handlerMeters) add(set *metrics.Set, key answerKey) *answerMeters {
	h.mu.Lock()
	defer h.mu.Unlock()
	handler, method := fmt.Sprintf("handler=%q", h.label), fmt.Sprintf("method=%q", key.method)
	h.answers[key] = &answerMeters{
		requests: set.GetOrCreateCounter(fmt.Sprintf(`registry_http_requests_total{code="%d",%s,%s}`, key.status, handler, method)),
		time:     set.GetOrCreatePrometheusHistogramExt("registry_http_request_duration_seconds{"+handler+","+method+"}", timeBuckets()),
		received: set.GetOrCreatePrometheusHistogramExt("registry_http_request_size_bytes{"+handler+"}", sizeBuckets()),
		sent:     set.GetOrCreatePrometheusHistogramExt("registry_http_response_size_bytes{"+handler+"}", sizeBuckets()),
	}
	return h.answers[key]
}

// timeBuckets are in seconds.
func timeBuckets() []float64 {
	return []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 25, 60}
}

// sizeBuckets are from a KiB to 2 GiB.
func sizeBuckets() []float64 {
	buckets := make([]float64, 22)
	for i := range buckets {
		buckets[i] = float64(int64(1) << (10 + i))
	}
	return buckets
}

// methodLabel bounds how many metrics clients can make.
func methodLabel(method string) string {
	switch method {
	case http.MethodGet:
		return "get"
	case http.MethodHead:
		return "head"
	case http.MethodPost:
		return "post"
	case http.MethodPut:
		return "put"
	case http.MethodPatch:
		return "patch"
	case http.MethodDelete:
		return "delete"
	case http.MethodOptions:
		return "options"
	}
	return "unknown"
}

// loginFailed reports whether a password was refused, or not looked at since there were too many wrong ones.
func loginFailed(c *call) bool {
	if c.w.status != http.StatusUnauthorized && c.w.status != http.StatusTooManyRequests {
		return false
	}
	_, _, ok := c.r.BasicAuth()
	return ok || c.kind == kindToken && c.r.Method == http.MethodPost
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
