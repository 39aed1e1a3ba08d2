package tls

import (
	"crypto/tls"
	"errors"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestACMEServerFails asks a server that has nothing to give. How certificates come from a real one is tested with the
// whole program.
func TestACMEServerFails(t *testing.T) {
	var asked atomic.Int64
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		http.Error(w, `{"detail":"out of paper"}`, http.StatusForbidden)
	}))
	defer server.Close()
	log, logger := newLog()
	c := Config{Directory: t.TempDir(), ACME: ACME{Hosts: []string{"Registry.Example."}, DirectoryURL: server.URL}}
	a, err := openACME(c, logger)
	if err != nil {
		t.Fatal(err)
	}
	a.manager.Client.HTTPClient = server.Client()
	now := time.Now()
	a.now = func() time.Time { return now }
	hello := func(name string, protocols ...string) *tls.ClientHelloInfo {
		return &tls.ClientHelloInfo{ServerName: name, SupportedProtos: protocols}
	}
	if a.leaf() != nil {
		t.Error("there is a certificate")
	}
	for _, name := range []string{"other.example", "nas", "192.0.2.1"} {
		if _, err := a.certificate(hello(name)); err == nil || !strings.Contains(err.Error(), "http.tls.letsencrypt.hosts") {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if _, err := a.certificate(hello("registry.example", "acme-tls/1")); err == nil {
		t.Error("there is an answer to a challenge that nobody made")
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("the server was asked %d times for names of others", n)
	}
	for _, name := range []string{"registry.example", "REGISTRY.example.", ""} {
		if _, err := a.certificate(hello(name)); err == nil {
			t.Errorf("%q: there is a certificate", name)
		}
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("the server was asked %d times", n)
	}
	if n := strings.Count(log.String(), "no TLS certificate from the ACME server"); n != 1 || !strings.Contains(log.String(), "out of paper") {
		t.Errorf("logged %s", log)
	}
}

// TestACMEKeepsWhatItHas serves with a certificate of an earlier run, and reports that it grows old.
func TestACMEKeepsWhatItHas(t *testing.T) {
	tpl := named("registry.example")
	tpl.NotBefore, tpl.NotAfter = time.Now().Add(-80*day), time.Now().Add(10*day)
	certificate, key := writePair(t, tpl)
	cache := filepath.Join(t.TempDir(), "cache")
	c := Config{ACME: ACME{Hosts: []string{"registry.example"}, CacheFile: cache, DirectoryURL: "https://127.0.0.1:1/"}}
	log, logger := newLog()
	a, err := openACME(c, logger)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(cache, "registry.example"), append(read(t, key), read(t, certificate)...))
	a.ask(t.Context())
	for range 3 {
		a.warn()
	}
	if a.leaf() == nil || a.leaf().VerifyHostname("registry.example") != nil {
		t.Errorf("got %v", a.leaf())
	}
	wantLog(t, log, "TLS certificate in use", "it expires soon")
	if n := strings.Count(log.String(), "it expires soon"); n != 1 {
		t.Errorf("it was said %d times", n)
	}
	// A client that knows RSA only gets the same certificate, and nobody is asked for another.
	rsa := &tls.ClientHelloInfo{ServerName: "registry.example", CipherSuites: []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}}
	for range 2 {
		if got, err := a.certificate(rsa); err != nil || !got.Leaf.Equal(a.leaf()) {
			t.Errorf("to a client without ECDSA: %v", err)
		}
	}
	// While the ACME server fails, what there is is served.
	a.note("registry.example", nil, errors.New("out of paper"))
	if _, err := a.certificate(&tls.ClientHelloInfo{ServerName: "registry.example"}); err != nil {
		t.Errorf("after a failure: %v", err)
	}
	source := openOn(t, newFake(t), c, quiet())
	clientOf := client(t, trusting(t, read(t, certificate)), serve(t, with(source)), true)
	if status, _ := get(t, clientOf, "https://registry.example/"); status != http.StatusOK {
		t.Errorf("got %d", status)
	}
}
