package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"berth/conformance/client"

	"github.com/opencontainers/go-digest"
)

func TestUniqueBlobsHaveTheirDigest(t *testing.T) {
	u, seen := newUnique(1000), map[digest.Digest]bool{}
	for range 10 {
		next := u.take()
		body, err := io.ReadAll(u.body(next))
		if err != nil {
			t.Fatal(err)
		}
		if len(body) != 1000 || u.size() != 1000 || digest.FromBytes(body) != next.digest || seen[next.digest] {
			t.Errorf("%d bytes with digest %s, seen %v", len(body), next.digest, seen[next.digest])
		}
		seen[next.digest] = true
	}
}

// ofRates returns rounds in which so many operations were done in a second.
func ofRates(operations ...int) (r rounds) {
	for _, n := range operations {
		r = append(r, result{latencies: make([]time.Duration, n), elapsed: time.Second, cpu: time.Second})
	}
	return r
}

func TestRounds(t *testing.T) {
	r := result{elapsed: 2 * time.Second, cpu: time.Second}
	for i := range 200 {
		r.latencies = append(r.latencies, time.Duration(i)*time.Millisecond)
	}
	one := rounds{r}
	for _, tt := range []struct {
		name      string
		got, want string
	}{
		{"rate", rate(row{}, one), "100/s"},
		{"rate of bytes", rate(row{bytes: 3 << 20}, one), "300 MiB/s"},
		{"p50", milliseconds(one.percentile(50)), "99 ms"},
		{"p99", milliseconds(one.percentile(99)), "197 ms"},
		{"p0", milliseconds(one.percentile(0)), "0.00 ms"},
		{"p100", milliseconds(one.percentile(100)), "199 ms"},
		{"cpu", cpu(row{}, one), "5.000 ms"},
		{"cpu of bytes", cpu(row{bytes: 1 << 29}, one), "0.01 s/GiB"},
		{"cpu unknown", cpu(row{}, rounds{{latencies: r.latencies}}), ""},
		{"median rate", rate(row{}, ofRates(40, 90, 50)), "50/s"},
		{"median of two", rate(row{}, ofRates(40, 90)), "65/s"},
		{"ratio within a round", times(ratio(ofRates(40, 90, 50), ofRates(2, 3, 10), result.perSecond)), "20.0×"},
		{"large ratio", times(ratio(ofRates(400), ofRates(2), result.perSecond)), "200×"},
	} {
		if tt.got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, tt.got, tt.want)
		}
	}
}

// TestTargetsTakeTurns measures for no time at all: each connection does the operation when it begins, and once more.
func TestTargetsTakeTurns(t *testing.T) {
	var order, after []string
	note := func(what string) func(context.Context, *client.Client) error {
		return func(_ context.Context, c *client.Client) error {
			order = append(order, what+" "+c.URL)
			return nil
		}
	}
	rows := []row{{name: "x", do: note("x"), direct: note("direct")}, {name: "y", password: true, do: note("y")}}
	results, err := turns{
		settings: settings{connections: 1, rounds: 2},
		targets:  []*target{{url: "a", locked: &target{url: "a locked"}}, {url: "b"}, {url: "c", gateway: true}},
		stderr:   io.Discard,
		after: func(_ context.Context, t *target, r row) error {
			after = append(after, r.name+" "+t.url)
			return nil
		},
	}.measure(t.Context(), rows)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"x a", "y a locked", "x b", "direct c", "x b", "direct c", "x a", "y a locked"}; !slices.Equal(slices.Compact(order), want) {
		t.Errorf("the order was %q, want %q", order, want)
	}
	if want := []string{"x a", "y a locked", "x b", "x c", "x b", "x c", "x a", "y a locked"}; !slices.Equal(after, want) {
		t.Errorf("the order afterwards was %q, want %q", after, want)
	}
	for i, want := range [][]int{{2, 2, 2}, {2, 0, 0}} {
		for at, n := range want {
			if len(results[i][at]) != n {
				t.Errorf("row %d of target %d has %d rounds, want %d", i, at, len(results[i][at]), n)
			}
		}
	}
}

func TestMeasureStopsAtAnError(t *testing.T) {
	calls := 0
	failing := row{do: func(context.Context, *client.Client) error {
		if calls++; calls > 3 {
			return io.ErrUnexpectedEOF
		}
		return nil
	}}
	_, err := measure(t.Context(), &target{url: "http://localhost"}, failing, settings{connections: 1, duration: time.Hour})
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("measure: %v, want the error of the operation", err)
	}
}

func TestEachStopsAtAnError(t *testing.T) {
	var last error
	done := make([]bool, 1000)
	for _, fail := range []bool{false, true} {
		last = each(t.Context(), &target{url: "http://localhost"}, len(done), func(_ *client.Client, i int) error {
			if fail {
				return io.ErrUnexpectedEOF
			}
			done[i] = true
			return nil
		})
		if slices.Contains(done, false) || errors.Is(last, io.ErrUnexpectedEOF) != fail {
			t.Errorf("each: %v, done %v", last, !slices.Contains(done, false))
		}
	}
}

func TestTable(t *testing.T) {
	table := newTable([]*target{{name: "a"}, {name: "b"}})
	table.add([]row{{name: "work"}, {name: "other", to: "work"}}, [][]rounds{{ofRates(40, 90, 50), ofRates(20, 30, 20)}, {ofRates(20, 9, 10), nil}})
	values := []float64{3 << 20, 2 << 20}
	if err := table.addValues("memory", func(*target) (float64, error) {
		defer func() { values = values[1:] }()
		return values[0], nil
	}, mebibytes); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := table.print(&out); err != nil {
		t.Fatal(err)
	}
	const want = `| work | a | p50 | p99 | CPU | b | p50 | p99 | CPU | rate | CPU |
|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|
| work | 50/s | 0.00 ms | 0.00 ms | 20.000 ms | 20/s | 0.00 ms | 0.00 ms | 50.000 ms | 2.50× | 0.40× |
| other | 10/s | 0.00 ms | 0.00 ms | 100.000 ms | | | | | | |
| memory | 3 MiB | | | | 2 MiB | | | | 1.50× | |

| rate of | to | a | b |
|---|---|---:|---:|
| other | work | 0.20× | |
`
	if got := out.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestParse(t *testing.T) {
	for _, tt := range []struct {
		args       string
		registries int // -1 is an error
	}{
		{"-start a=b", 1},
		{"-start a=b -start c=d,X=y", 2},
		{"-start a=b -run c=d -url e=https://localhost,pid=7,ca=f,user=g", 3},
		{"-s3 a -rounds 3", 0},
		{"-s3 a -rounds 0", -1},
		{"-s3 a -gate a", -1},
		{"", -1},
		{"-start a", -1},
		{"-run a", -1},
		{"-url a", -1},
		{"-url a=http://localhost", -1},
		{"-url a=https://localhost,pid=x", -1},
		{"-url a=https://localhost,other=x", -1},
		{"-start a=b -only (", -1},
		{"-start a=b rest", -1},
		{"-no-such-flag", -1},
	} {
		s, err := parse(strings.Fields(tt.args), io.Discard)
		if (err == nil) != (tt.registries >= 0) || err == nil && len(s.registries) != tt.registries {
			t.Errorf("parse(%q): %d registries, %v, want %d", tt.args, len(s.registries), err, tt.registries)
		}
	}
}

// TestRun measures each row of a Berth a few times, started in both ways.
func TestRun(t *testing.T) {
	program := filepath.Join(t.TempDir(), "registry")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, "berth/cmd/registry").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	command := "REGISTRY_AUTH=none REGISTRY_HTTP_ADDR=$ADDRESS REGISTRY_HTTP_TLS_CERTIFICATE=$CERTIFICATE REGISTRY_HTTP_TLS_KEY=$KEY " +
		"REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY=$DATA exec " + program + " serve"
	var out, log bytes.Buffer
	err := run(t.Context(), []string{
		"-start", "one=" + program + ",REGISTRY_AUTH=none", "-run", "other=" + command,
		"-tags", "5", "-repositories", "5", "-large", "1", "-duration", "1ms", "-rounds", "2", "-connections", "2",
	}, &out, &log)
	if err != nil {
		t.Fatalf("%v\n%s", err, &log)
	}
	s := settings{large: 1 << 20, tags: 5, repositories: 5}
	names := []string{"peak memory", "start", "start after kill -9", "idle memory", "program"}
	for _, g := range groups(s) {
		for _, r := range g.rows {
			names = append(names, r.name)
		}
	}
	for _, name := range names {
		if n := strings.Count(out.String(), "\n| "+name+" | "); n < 1 {
			t.Errorf("there is no row %q in\n%s", name, &out)
		}
	}
	for line := range strings.Lines(out.String()) {
		if n := strings.Count(line, "|"); n != 12 && n != 5 && line != "\n" {
			t.Errorf("%d columns in %s", n, line)
		}
	}
}
