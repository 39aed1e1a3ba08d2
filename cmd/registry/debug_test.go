package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"berth/config"

	"github.com/VictoriaMetrics/metrics"
)

// TestDebug asks a running registry for its metrics, after a node found nothing for its platform.
func TestDebug(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	if err := listener.Close(); err != nil { // its port is free now
		t.Fatal(err)
	}
	r := serve(t, t.TempDir(), "REGISTRY_HTTP_TLS_MODE=off", "REGISTRY_AUTH=none", "REGISTRY_INDEXES=[{repositories: ['**']}]",
		"REGISTRY_QUOTA=[{repositories: [app, 'team/**'], bytes: 1TiB}]", "REGISTRY_HTTP_DEBUG_ADDR="+address, "REGISTRY_HTTP_DEBUG_PROMETHEUS_ENABLED=true")
	defer r.end(t)
	v := visitor{t: t, url: r.url()}
	v.pushImage("app", "1.2-amd64", "amd64")
	for agent, times := range map[string]int{
		"docker/20.10.24 go/go1.19 os/linux arch/arm UpstreamClient(x)": 2, "docker/20.10.24 os/linux arch/amd64": 3, "crane/0.20": 4,
	} {
		for range times {
			request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, v.url+"/v2/app/manifests/1.2", nil)
			if err != nil {
				t.Fatal(err)
			}
			request.Header.Set("User-Agent", agent)
			response, err := http.DefaultClient.Do(request)
			if err != nil || response.Body.Close() != nil || response.StatusCode != http.StatusOK {
				t.Fatal(response, err)
			}
		}
	}
	debug := visitor{t: t, url: "http://" + address}
	status, body, _ := debug.do(http.MethodGet, "/metrics", "", "")
	for _, want := range []string{
		`registry_platform_missing_total{repository="app",platform="linux/arm"} 2`,
		`registry_http_requests_total{code="200",handler="manifest",method="get"} 9`,
		`registry_http_request_duration_seconds_count{handler="manifest",method="get"} 9`,
		`registry_http_in_flight_requests{handler="manifest"} 0`,
		`process_resident_memory_bytes `,
		`registry_quota_bytes{repositories="app team/**"} 1099511627776`,
		`registry_quota_used_bytes{repositories="app team/**"} 78`,
		`registry_quota_used_tags{repositories="app team/**"} 2`,
	} {
		if status != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("no %s: %d\n%s", want, status, body)
		}
	}
	if status, body, _ := debug.do(http.MethodGet, "/debug/health", "", ""); status != http.StatusOK || body != "ok\n" {
		t.Errorf("health: %d %s", status, body)
	}
	if status, body, _ := debug.do(http.MethodGet, "/debug/pprof/heap", "", ""); status != http.StatusOK || body == "" {
		t.Errorf("profile: %d", status)
	}
	if out := r.errOut.String(); strings.Count(out, `level=WARN msg="platform missing" repository=app tags=1.2 digest=sha256:`) != 2 ||
		strings.Count(out, " platform=linux/arm remote=127.0.0.1") != 2 {
		t.Errorf("the log:\n%s", out)
	}
}

// TestDebugRefuses keeps profiles from other machines, and metrics from everybody when they are not asked for.
func TestDebugRefuses(t *testing.T) {
	for _, test := range []struct {
		remote, path string
		prometheus   config.Prometheus
		want         int
	}{
		{"192.0.2.1:1", "/debug/pprof/heap", config.Prometheus{}, http.StatusForbidden},
		{"192.0.2.1:1", "/debug/pprof/", config.Prometheus{}, http.StatusForbidden},
		{"[::ffff:127.0.0.1]:1", "/debug/pprof/", config.Prometheus{}, http.StatusOK},
		{"127.0.0.1:1", "/debug/pprof/cmdline", config.Prometheus{}, http.StatusNotFound},
		{"127.0.0.1:1", "/metrics", config.Prometheus{}, http.StatusNotFound},
		{"192.0.2.1:1", "/metrics", config.Prometheus{Enabled: true}, http.StatusOK},
		{"192.0.2.1:1", "/m/x", config.Prometheus{Enabled: true, Path: "m/x"}, http.StatusOK},
		{"192.0.2.1:1", "/{m", config.Prometheus{Enabled: true, Path: "/{m"}, http.StatusOK},
		{"192.0.2.1:1", "/m", config.Prometheus{Enabled: true, Path: "/{m}"}, http.StatusNotFound},
	} {
		var set *metrics.Set
		if test.prometheus.Enabled {
			set = metrics.NewSet()
		}
		w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, test.path, nil)
		r.RemoteAddr = test.remote
		debugHandler(config.Debug{Prometheus: test.prometheus}, http.NotFoundHandler(), set).ServeHTTP(w, r)
		if w.Code != test.want {
			body, _ := io.ReadAll(w.Body) // of a recorder
			t.Errorf("%s from %s: %d %s", test.path, test.remote, w.Code, body)
		}
	}
	_, _, err := openDebug(config.Debug{Addr: "nowhere.invalid:1"}, nil)
	if err == nil || !strings.Contains(fmt.Sprint(err), "http.debug.addr: ") {
		t.Errorf("a bad address: %v", err)
	}
}
