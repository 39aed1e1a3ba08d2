package main

import (
	"bytes"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"go.yaml.in/yaml/v3"
)

const monitoring = "../../docs/guides/monitoring.md"

// page is what a registry says of itself to Prometheus.
type page string

// value returns that of a metric with its labels.
func (p page) value(t *testing.T, metric string) float64 {
	t.Helper()
	for line := range strings.Lines(string(p)) {
		if text, ok := strings.CutPrefix(line, metric+" "); ok {
			value, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
			if err != nil {
				t.Fatal(err)
			}
			return value
		}
	}
	t.Fatalf("no %s in\n%s", metric, p)
	return 0
}

// names are those of Berth's own metrics.
func (p page) names() map[string]bool {
	all := make(map[string]bool)
	for line := range strings.Lines(string(p)) {
		name := line[:strings.IndexAny(line, "{ ")]
		for _, part := range []string{"_bucket", "_sum", "_count"} {
			name = strings.TrimSuffix(name, part)
		}
		if !strings.HasPrefix(name, "process_") && !strings.HasPrefix(name, "go_") {
			all[name] = true
		}
	}
	return all
}

// monitored serves with metrics and returns what they are, asked again whenever it is called.
func monitored(t *testing.T, environ ...string) (*running, func() page) {
	t.Helper()
	address := freeAddress(t)
	r := serve(t, t.TempDir(), append([]string{"REGISTRY_HTTP_DEBUG_ADDR=" + address, "REGISTRY_HTTP_DEBUG_PROMETHEUS_ENABLED=true"}, environ...)...)
	return r, func() page {
		status, body := get(t, "http://"+address+"/metrics", "", "")
		if status != http.StatusOK {
			t.Fatal(status, body)
		}
		return page(body)
	}
}

// TestServerMetrics looks at what a year without looking depends on.
func TestServerMetrics(t *testing.T) {
	r, ask := monitored(t, "REGISTRY_GC_INTERVAL=10ms")
	defer r.end(t)
	if status, _ := get(t, r.url()+"/v2/", "admin", "wrong"); status != http.StatusUnauthorized {
		t.Errorf("a wrong password: %d", status)
	}
	get(t, r.url()+"/v2/", "", "") // is no failed login
	within(t, "a round of the collector", func() bool { return ask().value(t, "registry_gc_last_success_timestamp_seconds") > 0 })
	p := ask()
	for metric, between := range map[string][2]float64{
		"registry_metadata_up":                          {1, 1},
		"registry_failed_logins_total":                  {1, 1},
		`registry_disk_free_bytes{of="data"}`:           {1, 1e18},
		`registry_disk_free_bytes{of="metadata"}`:       {1, 1e18},
		"registry_disk_min_free_bytes":                  {256 << 20, 256 << 20},
		"registry_certificate_expiry_timestamp_seconds": {seconds(time.Now().Add(24 * time.Hour)), seconds(time.Now().Add(10000 * time.Hour))},
		"registry_gc_last_success_timestamp_seconds":    {seconds(time.Now().Add(-time.Minute)), seconds(time.Now())},
	} {
		if got := p.value(t, metric); got < between[0] || got > between[1] {
			t.Errorf("%s is %f, want %v", metric, got, between)
		}
	}
}

// TestPausedCollectorIsNoSuccess has the alert come that tells of a pause which somebody forgot.
func TestPausedCollectorIsNoSuccess(t *testing.T) {
	r, ask := monitored(t, "REGISTRY_GC_INTERVAL=1ms")
	defer r.end(t)
	last := func() float64 { return ask().value(t, "registry_gc_last_success_timestamp_seconds") }
	within(t, "a round", func() bool { return last() > 0 })
	for _, arguments := range [][]string{{"gc", "pause"}, {"garbage-collect"}} { // the second waits for the round that ran when it was paused
		if _, _, err := command(t, r.environ, arguments...); err != nil {
			t.Fatal(err)
		}
	}
	before := last()
	time.Sleep(100 * time.Millisecond)
	if after := last(); after != before {
		t.Errorf("it went on for %v s", after-before)
	}
}

// TestMonitoringGuide holds the guide to the metrics that there are, and the metrics to the guide.
func TestMonitoringGuide(t *testing.T) {
	r, ask := monitored(t, "REGISTRY_HTTP_TLS_MODE=auto", "REGISTRY_AUTH=none", "REGISTRY_INDEXES=[{repositories: ['**']}]", "REGISTRY_QUOTA=[{repositories: [app], bytes: 1TiB, tags: 9}]")
	defer r.end(t)
	served := ask().names()
	maps.Copy(served, page(cachePage(t)).names())
	served["registry_platform_missing_total"] = true // that it is served, TestDebug says
	for _, name := range []string{"registry_http_requests_total", "registry_http_request_duration_seconds", "registry_http_request_size_bytes", "registry_http_response_size_bytes"} {
		get(t, r.url()+"/v2/", "", "")
		if !ask().names()[name] {
			t.Errorf("no %s", name)
		}
		served[name] = true
	}
	content, err := os.ReadFile(monitoring)
	if err != nil {
		t.Fatal(err)
	}
	documented := make(map[string]bool)
	for _, name := range regexp.MustCompile(`registry_[a-z]+_[a-z_]*[a-z]`).FindAllString(string(content), -1) {
		documented[name] = true
	}
	if got, want := slices.Sorted(maps.Keys(documented)), slices.Sorted(maps.Keys(served)); !slices.Equal(got, want) {
		t.Errorf("documented are\n%s\nserved are\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// cachePage are the metrics of the disk cache, which not every registry has.
func cachePage(t *testing.T) string {
	t.Helper()
	s := &stores{blobs: elsewhere{}}
	if err := s.openCache(t.Context(), cached(filepath.Join(t.TempDir(), "cache")), slog.Default()); err != nil {
		t.Fatal(err)
	}
	set := metrics.NewSet()
	s.countCache(set)
	var all bytes.Buffer
	set.WritePrometheus(&all)
	if err := s.cache.Close(); err != nil {
		t.Fatal(err)
	}
	return all.String()
}

// TestAlertRules reads the guide's rules as Prometheus does, but for their expressions.
func TestAlertRules(t *testing.T) {
	content, err := os.ReadFile(monitoring)
	if err != nil {
		t.Fatal(err)
	}
	_, rules, _ := strings.Cut(string(content), "```yaml\ngroups:")
	rules, _, _ = strings.Cut(rules, "```")
	var file struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr string
				For         time.Duration
				Annotations struct{ Summary string }
			}
		}
	}
	decoder := yaml.NewDecoder(strings.NewReader("groups:" + rules))
	decoder.KnownFields(true)
	if err := decoder.Decode(&file); err != nil || len(file.Groups) != 1 || len(file.Groups[0].Rules) != 5 {
		t.Fatal(errors.Join(err, errors.New(rules)))
	}
	for _, rule := range file.Groups[0].Rules {
		if rule.Alert == "" || rule.For == 0 || rule.Annotations.Summary == "" || strings.Count(rule.Expr, "(") != strings.Count(rule.Expr, ")") {
			t.Errorf("%+v", rule)
		}
	}
}
