package main

import (
	"context"
	"errors"
	"io"
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
		body, err := io.ReadAll(io.MultiReader(u.head.Reader(0), strings.NewReader(string(next.tail))))
		if err != nil {
			t.Fatal(err)
		}
		if len(body) != 1000 || digest.FromBytes(body) != next.digest || seen[next.digest] {
			t.Errorf("%d bytes with digest %s, seen %v", len(body), next.digest, seen[next.digest])
		}
		seen[next.digest] = true
	}
}

func TestResult(t *testing.T) {
	r := result{elapsed: 2 * time.Second, cpu: time.Second}
	for i := range 200 {
		r.latencies = append(r.latencies, time.Duration(i)*time.Millisecond)
	}
	for _, tt := range []struct {
		name      string
		got, want string
	}{
		{"rate", rate(row{}, r), "100/s"},
		{"rate of bytes", rate(row{bytes: 3 << 20}, r), "300 MiB/s"},
		{"p50", milliseconds(r.percentile(50)), "99 ms"},
		{"p99", milliseconds(r.percentile(99)), "197 ms"},
		{"p0", milliseconds(r.percentile(0)), "0.00 ms"},
		{"p100", milliseconds(r.percentile(100)), "199 ms"},
		{"cpu", cpu(row{}, r), "5.000 ms"},
		{"cpu of bytes", cpu(row{bytes: 1 << 29}, r), "0.01 s/GiB"},
		{"cpu unknown", cpu(row{}, result{latencies: r.latencies}), ""},
	} {
		if tt.got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, tt.got, tt.want)
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

func TestParse(t *testing.T) {
	for _, tt := range []struct {
		args string
		ok   bool
	}{
		{"-start a=b", true},
		{"-start a=b -start c=d,X=y", true},
		{"-url https://localhost -pid 7", true},
		{"-s3 a -rounds 3", true},
		{"-s3 a -rounds 0", false},
		{"-s3 a -gate a", false},
		{"", false},
		{"-start a=b -url https://localhost", false},
		{"-start a=b -only (", false},
		{"-start a=b rest", false},
		{"-no-such-flag", false},
	} {
		if _, err := parse(strings.Fields(tt.args), io.Discard); (err == nil) != tt.ok {
			t.Errorf("parse(%q): %v, want ok %v", tt.args, err, tt.ok)
		}
	}
}
