package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

// TestWire makes requests with and without bodies over one connection.
func TestWire(t *testing.T) {
	var connections atomic.Int64
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %s %v", r.Method, r.URL.Path, body, err)
	}))
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	server.StartTLS()
	defer server.Close()
	w := &wire{tls: server.Client().Transport.(*http.Transport).TLSClientConfig}
	defer w.CloseIdleConnections()
	c := http.Client{Transport: w}
	for i, body := range []string{"", "some", strings.Repeat("x", 100_000), ""} {
		method := http.MethodGet
		if body != "" {
			method = http.MethodPut
		}
		r, err := http.NewRequestWithContext(t.Context(), method, fmt.Sprint(server.URL, "/", i), strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		response, err := c.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(response.Body)
		response.Body.Close()
		if want := fmt.Sprintf("%s /%d %s %v", method, i, body, error(nil)); string(got) != want || err != nil {
			t.Errorf("request %d: %.50q, %v, want %.50q", i, got, err, want)
		}
	}
	if n := connections.Load(); n != 1 {
		t.Errorf("it took %d connections", n)
	}
	stranger := http.Client{Transport: &wire{tls: &tls.Config{MinVersion: tls.VersionTLS13}}}
	if _, err := stranger.Get(server.URL); err == nil {
		t.Error("a certificate that nobody signed is taken")
	}
}

func TestS3Table(t *testing.T) {
	table := newS3Table([]*target{{name: "a"}, {name: "b"}, {name: "c"}, {name: "d"}})
	table.add(row{name: "work"}, []rounds{ofRates(40, 90, 50), ofRates(20, 30, 20), ofRates(2, 3, 10), ofRates(7, 9)})
	const want = "| work | a | b | c | d | SQLite, to distribution | PostgreSQL, to distribution |\n" +
		"|---|---:|---:|---:|---:|---:|---:|\n| work | 50/s | 20/s | 3/s | 8/s | 20.0× | 10.0× |\n"
	if got := table.out.String(); got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
}
