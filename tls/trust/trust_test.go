package trust

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// authority is a CA for tests.
type authority struct {
	pem         []byte
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "Berth CA <of> the test"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), certificate, key}
}

// leaf makes a certificate for the loopback addresses.
func (a *authority) leaf(t testing.TB) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2),
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		DNSNames:     []string{"localhost"},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// server serves a handler over HTTPS with a certificate of the CA, and returns its HOST:PORT.
func (a *authority) server(t testing.TB, address string, handler http.Handler) string {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(handler)
	server.Listener.Close()
	server.Listener = listener
	server.TLS = &tls.Config{Certificates: []tls.Certificate{a.leaf(t)}}
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	return listener.Addr().String()
}

func do(h http.Handler, method, target, host string) *http.Response {
	r := httptest.NewRequest(method, target, nil)
	r.Host = host
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func text(t testing.TB, response *http.Response) string {
	t.Helper()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func TestAnswers(t *testing.T) {
	ca := newAuthority(t)
	for name, tt := range map[string]struct {
		ca           []byte
		method, path string
		status       int
		contentType  string
		body         string // a part of it
	}{
		"page":                 {ca.pem, "GET", "/trust", 200, "text/html; charset=utf-8", "<!DOCTYPE html>"},
		"page with a slash":    {ca.pem, "GET", "/trust/", 200, "text/html; charset=utf-8", "<!DOCTYPE html>"},
		"page's head":          {ca.pem, "HEAD", "/trust", 200, "text/html; charset=utf-8", ""},
		"certificate":          {ca.pem, "GET", "/trust/ca.crt", 200, "application/x-x509-ca-cert", string(ca.pem)},
		"script":               {ca.pem, "GET", "/trust/install.sh", 200, "text/x-shellscript; charset=utf-8", string(script)},
		"page without a CA":    {nil, "GET", "/trust", 200, "text/html; charset=utf-8", "comes from elsewhere"},
		"no CA":                {nil, "GET", "/trust/ca.crt", 404, "text/plain; charset=utf-8", "not found"},
		"not a CA":             {[]byte("x"), "GET", "/trust/ca.crt", 404, "text/plain; charset=utf-8", "not found"},
		"a key is no CA":       {[]byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"), "GET", "/trust/ca.crt", 404, "text/plain; charset=utf-8", "not found"},
		"script without a CA":  {nil, "GET", "/trust/install.sh", 200, "text/x-shellscript; charset=utf-8", string(script)},
		"the key's file":       {ca.pem, "GET", "/trust/ca-key.pem", 404, "text/plain; charset=utf-8", "not found"},
		"outside":              {ca.pem, "GET", "/trust/../ca-key.pem", 404, "text/plain; charset=utf-8", "not found"},
		"escaped":              {ca.pem, "GET", "/trust/..%2fca-key.pem", 404, "text/plain; charset=utf-8", "not found"},
		"below a file":         {ca.pem, "GET", "/trust/ca.crt/", 404, "text/plain; charset=utf-8", "not found"},
		"nothing of the kind":  {ca.pem, "GET", "/trustful", 404, "text/plain; charset=utf-8", "not found"},
		"post":                 {ca.pem, "POST", "/trust", 405, "text/plain; charset=utf-8", "not allowed"},
		"delete":               {ca.pem, "DELETE", "/trust/ca.crt", 405, "text/plain; charset=utf-8", "not allowed"},
		"put":                  {ca.pem, "PUT", "/trust/install.sh", 405, "text/plain; charset=utf-8", "not allowed"},
		"post to what is not":  {ca.pem, "POST", "/trust/x", 404, "text/plain; charset=utf-8", "not found"},
		"query does not count": {ca.pem, "GET", "/trust/ca.crt?x=1", 200, "application/x-x509-ca-cert", string(ca.pem)},
	} {
		t.Run(name, func(t *testing.T) {
			response := do(New(Config{CA: tt.ca}), tt.method, tt.path, "registry.lan:5000")
			body := text(t, response)
			if response.StatusCode != tt.status || response.Header.Get("Content-Type") != tt.contentType || !strings.Contains(body, tt.body) {
				t.Errorf("got %d, %q:\n%s", response.StatusCode, response.Header, body)
			}
			if allow := response.Header.Get("Allow"); (tt.status == 405) != (allow == "GET, HEAD") {
				t.Errorf("Allow is %q", allow)
			}
			for header, want := range map[string]string{
				"X-Content-Type-Options": "nosniff",
				"Referrer-Policy":        "no-referrer",
				"Cache-Control":          "no-store",
			} {
				if got := response.Header.Get(header); got != want {
					t.Errorf("%s is %q", header, got)
				}
			}
			if policy := response.Header.Get("Content-Security-Policy"); !strings.HasPrefix(policy, "default-src 'none'; style-src 'sha256-") {
				t.Errorf("the policy is %q", policy)
			}
			if strings.Contains(body, "PRIVATE KEY") {
				t.Error("it shows a key")
			}
		})
	}
}

// Over a connection, HEAD has the length of GET's body and no body.
func TestHead(t *testing.T) {
	ca := newAuthority(t)
	server := httptest.NewServer(New(Config{CA: ca.pem}))
	defer server.Close()
	for _, path := range []string{"/trust", "/trust/ca.crt", "/trust/install.sh"} {
		response, err := http.Head(server.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		got, err := http.Get(server.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		body := text(t, got)
		got.Body.Close()
		if response.ContentLength != int64(len(body)) || len(body) == 0 {
			t.Errorf("%s: HEAD says %d bytes, GET has %d", path, response.ContentLength, len(body))
		}
	}
}

func TestPage(t *testing.T) {
	ca := newAuthority(t)
	h := New(Config{CA: ca.pem})
	for host, address := range map[string]string{
		"192.168.1.18:5000": "192.168.1.18:5000",
		"registry.lan":      "registry.lan:443",
		"[fd00::18]:5000":   "[fd00::18]:5000",
		"[::1]":             "[::1]:443",
	} {
		body := text(t, do(h, "GET", "/trust", host))
		for _, want := range []string{
			"<code>" + address + "</code>",
			"install.sh $@&#39; sh " + strings.ReplaceAll(quote(address), "'", "&#39;") + " " + Checksum(ca.pem),
			Checksum(ca.pem),
			Fingerprint(ca.certificate),
			ca.certificate.NotAfter.UTC().Format("2006-01-02"),
			"Berth CA \\&lt;of\\&gt; the test",
		} {
			if !strings.Contains(body, want) {
				t.Errorf("for Host %q, %q is not in\n%s", host, want, body)
			}
		}
		if strings.Contains(body, placeholder) {
			t.Errorf("the page for %q has the placeholder", host)
		}
		for _, external := range []string{"{{", "src=", "<script", "http://", "url(", "@import"} {
			if strings.Contains(body, external) {
				t.Errorf("the page for %q has %s", host, external)
			}
		}
	}
}

// Nothing of a Host header that is not an address gets into the page.
func TestPageRefusesHosts(t *testing.T) {
	h := New(Config{CA: newAuthority(t).pem})
	want := text(t, do(h, "GET", "/trust", ""))
	if !strings.Contains(want, "in the place of <code>HOST:PORT</code>") {
		t.Errorf("it does not say that the address is missing:\n%s", want)
	}
	for _, host := range badAddresses() {
		if got := text(t, do(h, "GET", "/trust", host)); got != want {
			t.Errorf("for Host %q it is\n%s", host, got)
		}
	}
}

// The policy has the hash of the style as it stands in the page: otherwise browsers would drop it.
func TestPolicyAllowsTheStyle(t *testing.T) {
	response := do(New(Config{}), "GET", "/trust", "a:1")
	body := text(t, response)
	_, rest, _ := strings.Cut(body, "<style>")
	inPage, _, _ := strings.Cut(rest, "</style>")
	if got, want := response.Header.Get("Content-Security-Policy"), contentPolicy(inPage); got != want || inPage == "" {
		t.Errorf("the policy is %q, the page needs %q", got, want)
	}
}

func TestScriptIsTheSameForEverybody(t *testing.T) {
	h := New(Config{CA: newAuthority(t).pem})
	for _, host := range append(badAddresses(), "a.b:1", "evil.example:5000") {
		if got := text(t, do(h, "GET", "/trust/install.sh?"+"x", host)); got != string(script) {
			t.Errorf("for Host %q it is another", host)
		}
	}
	if !bytes.HasSuffix(script, []byte("\nmain \"$@\"\n")) {
		t.Error("a script that was cut off could run: it has to end with the call of main")
	}
}
