package conformance

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"berth/conformance/server"
)

// TestTrustedByEveryName starts a registry on an empty directory, which takes less than a second, and has openssl, curl and Go
// reach it by each name of this machine with its CA and nothing else.
func TestTrustedByEveryName(t *testing.T) {
	for _, tool := range []string{"openssl", "curl"} {
		if _, err := exec.LookPath(tool); err != nil {
			unavailable(t, "this test needs "+tool)
		}
	}
	root := t.TempDir()
	c := configure(t, options{root: root, tls: true})
	_, port, err := net.SplitHostPort(c.URL[len("https://"):])
	if err != nil {
		t.Fatal(err)
	}
	c.Env = append(c.Env, "REGISTRY_HTTP_ADDR=:"+port)
	began := time.Now()
	b := &berth{t: t, root: root}
	b.run(c)
	t.Cleanup(b.Kill)
	took := time.Since(began)
	t.Logf("the first answer came after %v", took.Round(time.Millisecond))
	if took > time.Second && runtime.GOARCH != "arm" {
		t.Errorf("the first start took %v", took)
	}
	ca, leaf := filepath.Join(root, "tls", "ca.pem"), filepath.Join(root, "tls", "certificate.pem")
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	openssl := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "openssl", args...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("openssl %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	for host, flag := range map[string]string{"127.0.0.1": "ip", "::1": "ip", "localhost": "hostname", name: "hostname"} {
		openssl("verify", "-x509_strict", "-purpose", "sslserver", "-verify_"+flag, host, "-CAfile", ca, leaf)
		address := "127.0.0.1:" + port
		if host == "::1" {
			address = "[::1]:" + port
		}
		if out := openssl("s_client", "-connect", address, "-CAfile", ca, "-verify_"+flag, host, "-verify_return_error", "-brief", "-no_ign_eof"); !strings.Contains(out, "Verification: OK") {
			t.Errorf("openssl by %s:\n%s", host, out)
		}
		url := "https://" + net.JoinHostPort(host, port) + "/v2/"
		curl := exec.CommandContext(t.Context(), "curl", "--silent", "--show-error", "--fail", "--cacert", ca,
			"--resolve", name+":"+port+":127.0.0.1", url)
		if out, err := curl.CombinedOutput(); err != nil || string(out) != "{}" {
			t.Errorf("curl %s: %v\n%s", url, err, out)
		}
		if err := getWith(t.Context(), ca, url, address, nil); err != nil {
			t.Errorf("Go, %s: %v", url, err)
		}
	}
	if out, err := exec.CommandContext(t.Context(), "curl", "--silent", "--fail", c.URL+"/v2/").CombinedOutput(); err == nil {
		t.Errorf("curl trusts it without the CA: %s", out)
	}
	b.stop()
}

// getWith gets a URL from an address, trusting a CA, perhaps with a certificate of its own.
func getWith(ctx context.Context, ca, url, address string, certificates []tls.Certificate) error {
	transport, err := server.NewTransport(ca)
	if err != nil {
		return err
	}
	defer transport.CloseIdleConnections()
	transport.TLSClientConfig.Certificates = certificates
	transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := (&http.Client{Transport: transport}).Do(r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("got %s", response.Status)
	}
	return nil
}

// TestCertificateFiles serves with a pair of files that is replaced, by a broken one and then by another good one, and asks
// clients for certificates.
func TestCertificateFiles(t *testing.T) {
	t.Parallel()
	files, first, second, clients := t.TempDir(), t.TempDir(), t.TempDir(), t.TempDir()
	certificate, key, err := server.MakeCertificate(first)
	if err != nil {
		t.Fatal(err)
	}
	other, otherKey, err := server.MakeCertificate(second)
	if err != nil {
		t.Fatal(err)
	}
	clientCertificate, clientKey, err := server.MakeCertificate(clients)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(clientCertificate, clientKey)
	if err != nil {
		t.Fatal(err)
	}
	use := func(certificate, key string) {
		t.Helper()
		for name, from := range map[string]string{"certificate.pem": certificate, "key.pem": key} {
			data, err := os.ReadFile(from)
			if err == nil {
				err = os.WriteFile(filepath.Join(files, name), data, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	use(certificate, key)
	c := configure(t, options{root: t.TempDir(), tls: true})
	address := c.URL[len("https://"):]
	c.Env = append(c.Env, "REGISTRY_HTTP_TLS_MODE=files", "REGISTRY_HTTP_TLS_CERTIFICATE="+filepath.Join(files, "certificate.pem"),
		"REGISTRY_HTTP_TLS_KEY="+filepath.Join(files, "key.pem"), "REGISTRY_HTTP_TLS_CLIENTCAS_0="+clientCertificate)
	b := launch(t, c)
	await := func(what, ca string) {
		t.Helper()
		for began := time.Now(); ; time.Sleep(50 * time.Millisecond) {
			err := getWith(t.Context(), ca, c.URL+"/v2/", address, []tls.Certificate{pair})
			if err == nil {
				return
			}
			if time.Since(began) > time.Minute {
				t.Fatalf("%s: %v", what, err)
			}
		}
	}
	await("first", certificate)
	if err := getWith(t.Context(), certificate, c.URL+"/v2/", address, nil); err == nil {
		t.Error("a client without a certificate got in")
	}
	if err := getWith(t.Context(), certificate, c.URL+"/trust/ca.crt", address, []tls.Certificate{pair}); err == nil || err.Error() != "got 404 Not Found" {
		t.Errorf("the CA of a registry that has none: %v", err)
	}
	stranger, err := tls.LoadX509KeyPair(other, otherKey)
	if err != nil {
		t.Fatal(err)
	}
	if err := getWith(t.Context(), certificate, c.URL+"/v2/", address, []tls.Certificate{stranger}); err == nil {
		t.Error("a client with another's certificate got in")
	}
	use(other, key) // which do not match
	for !strings.Contains(b.Printed(), "was not reloaded, the old one stays") {
		time.Sleep(50 * time.Millisecond)
		if t.Context().Err() != nil {
			t.Fatal("the broken pair went unseen")
		}
	}
	await("the old one stays", certificate)
	use(other, otherKey)
	await("second", other)
	if err := b.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestWhatIsOpen looks at what everybody may read of a registry that asks for a password, and at what nobody may.
func TestWhatIsOpen(t *testing.T) {
	t.Parallel()
	b := start(t, options{tls: true, htpasswd: true})
	c := b.client()
	c.User, c.Password = user, password
	pushTiny(t, c)
	open := b.client().HTTP
	get := func(path string) (int, string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, b.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.URL.Opaque = "//" + b.host() + path // as it stands, dots and all
		response, err := open.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return response.StatusCode, string(body)
	}
	ca, err := os.ReadFile(filepath.Join(b.root, "tls", "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if status, body := get("/trust/ca.crt"); status != http.StatusOK || body != string(ca) {
		t.Errorf("the CA: %d %s", status, body)
	}
	status, page := get("/trust")
	if status != http.StatusOK || !strings.Contains(page, "install.sh") || strings.Contains(page, "pulled") || strings.Contains(page, user) {
		t.Errorf("the page about trust: %d\n%s", status, page)
	}
	keys := privateKeys(t, filepath.Join(b.root, "tls", "ca-key.pem"), filepath.Join(b.root, "tls", "key.pem"), filepath.Join(b.root, "token-keys.pem"))
	for _, path := range []string{"/trust/ca-key.pem", "/trust/key.pem", "/tls/ca-key.pem", "/ca-key.pem", "/trust/../tls/ca-key.pem",
		"/trust/%2e%2e/tls/ca-key.pem", "/trust/..%2ftls%2fca-key.pem", "/v2/../tls/ca-key.pem", "/trust//ca-key.pem", "/token-keys.pem"} {
		status, body := get(path)
		if status < 300 {
			t.Errorf("%s: %d", path, status)
		}
		wantNoKey(t, path, body, keys)
	}
	if status, _ := get("/v2/pulled/manifests/v1"); status != http.StatusUnauthorized {
		t.Errorf("a manifest: %d", status)
	}
	b.stop()
	b.restart()
	b.stop()
	wantNoKey(t, "the log", b.Printed(), keys)

	for _, env := range [][]string{{"REGISTRY_HTTP_TLS_MODE=off"}} {
		plain := start(t, options{env: env})
		response, err := plain.client().HTTP.Get(plain.URL + "/trust/ca.crt")
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != http.StatusNotFound {
			t.Errorf("%v: the CA of a registry that has none: %s", env, response.Status)
		}
		plain.stop()
	}
}

// privateKeys returns the lines of keys, each of which is secret.
func privateKeys(t *testing.T, paths ...string) []string {
	t.Helper()
	var secrets []string
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", path, info, err)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(data)
		if _, err := x509.ParsePKCS8PrivateKey(block.Bytes); err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(data) {
			if line := strings.TrimSpace(string(line)); line != "" && !strings.HasPrefix(line, "-----") {
				secrets = append(secrets, line)
			}
		}
	}
	return secrets
}

func wantNoKey(t *testing.T, where, text string, keys []string) {
	t.Helper()
	for _, key := range keys {
		if strings.Contains(text, key) {
			t.Errorf("%s has a private key", where)
		}
	}
}
