package conformance

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"berth/conformance/server"
)

const (
	acmeHost = "registry.test"
	// acmeLife is the life of a certificate, of which the last third is for its renewal.
	acmeLife = 30 * time.Second
)

// TestACME gets a certificate from Pebble, Let's Encrypt's server for tests, has it renewed, and keeps it over a restart
// without Pebble. The registry asks all clients for certificates, which Pebble doesn't have.
func TestACME(t *testing.T) {
	t.Parallel()
	c := configure(t, options{root: t.TempDir()})
	address := c.URL[len("http://"):]
	pebble := startPebble(t, address)
	certificate, key, err := server.MakeCertificate(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	c.Env = append(c.Env, "REGISTRY_HTTP_TLS_MODE=acme", "SSL_CERT_FILE="+pebble.CA,
		"REGISTRY_HTTP_TLS_LETSENCRYPT_DIRECTORYURL="+pebble.URL+"/dir", "REGISTRY_HTTP_TLS_LETSENCRYPT_HOSTS_0="+acmeHost,
		"REGISTRY_HTTP_TLS_LETSENCRYPT_EMAIL=someone@registry.test", "REGISTRY_HTTP_TLS_CLIENTCAS_0="+certificate)
	pair, err := tls.LoadX509KeyPair(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	settings := &tls.Config{RootCAs: pebble.root(t), ServerName: acmeHost, Certificates: []tls.Certificate{pair}}
	registry := launch(t, c)
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()

	first := handshake(ctx, t, address, settings, func(leaf *x509.Certificate) bool { return true })
	renewed := handshake(ctx, t, address, settings, func(leaf *x509.Certificate) bool { return !leaf.Equal(first) })
	if renewed.NotBefore.Before(first.NotBefore.Add(acmeLife / 2)) {
		t.Errorf("the certificate of %v was renewed on %v", first.NotBefore, renewed.NotBefore)
	}

	if err := getWith(ctx, pebble.file(t), "https://"+acmeHost+"/trust/ca.crt", address, settings.Certificates); err == nil || err.Error() != "got 404 Not Found" {
		t.Errorf("the CA of a registry that has none: %v", err)
	}
	pebble.Kill()
	if err := registry.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	launch(t, c)
	if kept := handshake(ctx, t, address, settings, func(*x509.Certificate) bool { return true }); kept.NotBefore.Before(renewed.NotBefore) {
		t.Errorf("after the restart the certificate is that of %v", kept.NotBefore)
	}
	anonymous := settings.Clone()
	anonymous.Certificates = nil
	if _, err := ask(ctx, address, anonymous); err == nil {
		t.Error("a client without a certificate got in")
	}
	other := settings.Clone()
	other.ServerName = "other.test"
	if _, err := ask(ctx, address, other); err == nil {
		t.Error("there is a certificate for another name")
	}
}

// launch starts a registry of which it is not known whether it answers.
func launch(t *testing.T, c server.Config) *server.Server {
	t.Helper()
	s, err := server.Launch(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Kill()
		if t.Failed() {
			t.Logf("the registry printed:\n%s", s.Printed())
		}
	})
	return s
}

// handshake asks the registry again and again until it answers with the certificate that is wanted.
func handshake(ctx context.Context, t *testing.T, address string, settings *tls.Config, wanted func(*x509.Certificate) bool) *x509.Certificate {
	t.Helper()
	for {
		leaf, err := ask(ctx, address, settings)
		if err == nil && wanted(leaf) {
			return leaf
		}
		select {
		case <-ctx.Done():
			t.Fatalf("the last answer is with %v, %v", leaf, err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// ask makes one request on a connection of its own and returns the server's certificate.
func ask(ctx context.Context, address string, settings *tls.Config) (*x509.Certificate, error) {
	transport := &http.Transport{
		TLSClientConfig:   settings,
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, address)
		},
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+acmeHost+"/v2/", nil)
	if err != nil {
		return nil, err
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("got %s", response.Status)
	}
	return response.TLS.PeerCertificates[0], nil
}

// pebble is an ACME server that finds every name on this machine.
type pebble struct {
	*server.Server
	management string
}

// startPebble starts one that proves names at the port of an address.
func startPebble(t *testing.T, address string) pebble {
	t.Helper()
	bin, err := tools()
	if err != nil {
		t.Fatal(err)
	}
	listen, management := freeAddress(t), freeAddress(t)
	directory := t.TempDir()
	certificate, key, err := server.MakeCertificate(directory)
	if err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(directory, "pebble.json")
	writeJSON(t, config, map[string]any{"pebble": map[string]any{
		"listenAddress":           listen,
		"managementListenAddress": management,
		"certificate":             certificate,
		"privateKey":              key,
		"tlsPort":                 json.Number(port),
		"keyAlgorithm":            "ecdsa",
		"retryAfter":              map[string]int{"authz": 1, "order": 1},
		"profiles":                map[string]any{"default": map[string]any{"validityPeriod": int(acmeLife.Seconds())}},
	}})
	s := run(t, server.Config{
		Program: filepath.Join(bin, "pebble"),
		Args:    []string{"-config", config, "-dnsserver", serveNames(t, bin)},
		Dir:     directory,
		Env:     []string{"PEBBLE_VA_NOSLEEP=1", "PEBBLE_AUTHZREUSE=0"},
		URL:     "https://" + listen,
		CA:      certificate,
	})
	return pebble{s, management}
}

// run runs a program until the end of the test.
func run(t *testing.T, c server.Config) *server.Server {
	t.Helper()
	s, err := server.Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Kill()
		if t.Failed() {
			t.Logf("%s printed:\n%s", filepath.Base(c.Program), s.Printed())
		}
	})
	return s
}

func freeAddress(t *testing.T) string {
	t.Helper()
	address, err := server.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	return address
}

func writeJSON(t *testing.T, path string, value any) {
	t.Helper()
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// file writes that root to a file, as PEM, and returns its path.
func (p pebble) file(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "root.pem")
	if err := os.WriteFile(path, p.rootPEM(t), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// root returns the root of the certificates that Pebble makes, another at each start.
func (p pebble) root(t *testing.T) *x509.CertPool {
	t.Helper()
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(p.rootPEM(t)) {
		t.Fatal("Pebble's root can't be read")
	}
	return roots
}

func (p pebble) rootPEM(t *testing.T) []byte {
	t.Helper()
	transport, err := p.Transport()
	if err != nil {
		t.Fatal(err)
	}
	defer transport.CloseIdleConnections()
	response, err := (&http.Client{Transport: transport}).Get("https://" + p.management + "/roots/0")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// serveNames runs a name server that knows this machine for every name, and returns its address.
func serveNames(t *testing.T, bin string) string {
	t.Helper()
	listen, management := freeAddress(t), freeAddress(t)
	run(t, server.Config{
		Program: filepath.Join(bin, "pebble-challtestsrv"),
		Args: []string{"-dnsserver", listen, "-management", management, "-defaultIPv4", "127.0.0.1", "-defaultIPv6", "",
			"-http01", "", "-https01", "", "-tlsalpn01", "", "-doh", ""},
		Dir: t.TempDir(),
		URL: "http://" + management,
	})
	return listen
}
