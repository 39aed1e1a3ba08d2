package api

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/VictoriaMetrics/metrics"
)

// TestMetrics holds the metrics to the names, labels and values of distribution, for which there are dashboards.
func TestMetrics(t *testing.T) {
	set := metrics.NewSet()
	s := newServer(t, options{config: Config{Metrics: set, Gate: everybody{}, Tokens: func(w http.ResponseWriter, _ *http.Request, _ Origin) {
		w.WriteHeader(http.StatusUnauthorized)
	}}})
	ask := func(method, path, body string, changes ...func(*http.Request)) {
		r := httptest.NewRequest(method, path, strings.NewReader(body))
		for _, change := range changes {
			change(r)
		}
		s.Config.Handler.ServeHTTP(httptest.NewRecorder(), r)
	}
	d, _ := s.pushImage("app", "1", "layer")
	ask("GET", "/v2/app/manifests/"+d, "")
	for _, path := range []string{"/", "/v2/", "/v2/_catalog", "/v2/app/tags/list", "/v2/app/referrers/" + d, "/v2/_berth/tags/app/1", "/v2/nothing"} {
		ask("GET", path, "")
	}
	ask("DELETE", "/v2/_berth/repositories/none", "")
	ask("BREW", "/v2/", "")
	ask("GET", TokenPath, "")
	ask("GET", TokenPath, "", func(r *http.Request) { r.SetBasicAuth("ann", "wrong") })
	ask("POST", TokenPath, "password=wrong")
	var page bytes.Buffer
	set.WritePrometheus(&page)
	for _, want := range []string{
		`registry_http_requests_total{code="200",handler="manifest",method="get"} 1`,
		`registry_http_requests_total{code="201",handler="manifest",method="put"} 1`,
		`registry_http_requests_total{code="405",handler="base",method="unknown"} 1`,
		`registry_http_requests_total{code="401",handler="token",method="post"} 1`,
		`registry_http_request_duration_seconds_bucket{handler="manifest",method="get",le="25"} 1`,
		`registry_http_request_size_bytes_bucket{handler="manifest",le="1024"} 2`,
		`registry_http_response_size_bytes_bucket{handler="manifest",le="1024"} 2`,
		`registry_http_response_size_bytes_bucket{handler="manifest",le="2.147483648e+09"} 2`,
		`registry_http_in_flight_requests{handler="blob_upload_chunk"} 0`,
		`registry_failed_logins_total 2`,
	} {
		if !strings.Contains(page.String(), want+"\n") {
			t.Errorf("no %s in\n%s", want, page.String())
		}
	}
	for _, handler := range []string{"none", "base", "catalog", "tags", "manifest", "blob_upload", "referrers", "repository", "tag", "token"} {
		if !strings.Contains(page.String(), `handler="`+handler+`",method=`) {
			t.Errorf("nothing of %s in\n%s", handler, page.String())
		}
	}
}

// TestMetricsInFlight looks at a request while it runs.
func TestMetricsInFlight(t *testing.T) {
	set := metrics.NewSet()
	var page bytes.Buffer
	s := newServer(t, options{config: Config{Metrics: set, Tokens: func(http.ResponseWriter, *http.Request, Origin) { set.WritePrometheus(&page) }}})
	s.Config.Handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", TokenPath, nil))
	running := slices.DeleteFunc(strings.Split(page.String(), "\n"), func(line string) bool { return !strings.HasSuffix(line, "} 1") })
	if want := []string{`registry_http_in_flight_requests{handler="token"} 1`}; !slices.Equal(running, want) {
		t.Errorf("while a token is given out: %q", running)
	}
}

// TestMetricsAllocate holds counting to one allocation a request, which is the function that ends it.
func TestMetricsAllocate(t *testing.T) {
	m := newMeters(metrics.NewSet())
	r := httptest.NewRequest("GET", "/v2/app/manifests/1", nil)
	c := &call{target: target{kind: kindNone}, w: &response{status: http.StatusOK}, r: r}
	allocated := testing.AllocsPerRun(100, func() {
		c.kind = kindNone
		end := m.begin(c)
		m.become(c, kindManifest)
		end()
	})
	if allocated > 1 {
		t.Errorf("%v allocations", allocated)
	}
}
