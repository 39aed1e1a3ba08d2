package client

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// secure is a fake that speaks TLS, and the certificate of its CA as PEM.
func secure(t *testing.T, config *tls.Config) (*fake, []byte) {
	t.Helper()
	f := unstarted(t)
	f.TLS = config
	f.StartTLS()
	f.image("linux/amd64", nil, "1")
	return f, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.Certificate().Raw})
}

func write(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestTrust(t *testing.T) {
	f, ca := secure(t, nil)
	directory := t.TempDir()
	write(t, filepath.Join(directory, f.host(), "ca.crt"), ca)
	for name, config := range map[string]Config{
		"a CA that is given":         {CA: ca},
		"a CA in certs.d":            {CertificateDirectories: []string{t.TempDir(), directory}},
		"the local registry's CA":    {Local: &Local{Host: f.host(), CA: ca}},
		"the local one by its alias": {Local: &Local{Host: "registry.invalid:5000", Aliases: []string{f.host()}, CA: ca}},
	} {
		if _, err := New(config).Inspect(t.Context(), f.ref(":1")); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, config := range map[string]Config{
		"nothing":                   {},
		"another registry's CA":     {Local: &Local{Host: "registry.invalid:5000", CA: ca}},
		"another directory's CA":    {CertificateDirectories: []string{filepath.Join(directory, f.host())}},
		"plain HTTP with another":   {PlainHTTP: func(host string) bool { return host != f.host() }},
		"a login, which is no help": {Login: Login{Host: f.host(), Username: "ann", Password: "secret"}},
	} {
		_, err := New(config).Inspect(t.Context(), f.ref(":1"))
		if known, ok := errors.AsType[*Problem](err); !ok || !strings.Contains(known.Message, "registry cert show --address "+f.host()) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The local registry is asked on this machine, whatever its name resolves to.
func TestLocalDial(t *testing.T) {
	f, ca := secure(t, nil)
	local := &Local{Host: "example.com:5000", Dial: f.host(), CA: ca} // the name in the certificate of httptest
	m, err := New(Config{Local: local}).Inspect(t.Context(), Reference{Repository: "app", Tag: "1"})
	if err != nil || m.Reference != "example.com:5000/app:1" {
		t.Errorf("got %+v, %v", m, err)
	}
	_, err = New(Config{}).Inspect(t.Context(), Reference{Repository: "app", Tag: "1"})
	if err == nil || !strings.Contains(err.Error(), "HOST:PORT") {
		t.Errorf("without a local registry: %v", err)
	}
}

func TestClientCertificate(t *testing.T) {
	f, ca := secure(t, &tls.Config{ClientAuth: tls.RequireAnyClientCert})
	directory := t.TempDir()
	certificate, key := keyPair(t)
	if _, err := New(Config{CA: ca}).Inspect(t.Context(), f.ref(":1")); err == nil {
		t.Error("without a certificate it answers")
	}
	write(t, filepath.Join(directory, f.host(), "client.cert"), certificate)
	config := Config{CA: ca, CertificateDirectories: []string{directory}}
	if _, err := New(config).Inspect(t.Context(), f.ref(":1")); err == nil || !strings.Contains(err.Error(), "client.cert") {
		t.Errorf("without the key: %v", err)
	}
	write(t, filepath.Join(directory, f.host(), "client.key"), key)
	if _, err := New(config).Inspect(t.Context(), f.ref(":1")); err != nil {
		t.Error(err)
	}
}

func keyPair(t *testing.T) (certificate, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}

// wantLogin lets only ann in.
func wantLogin(w http.ResponseWriter, r *http.Request) bool {
	if user, password, _ := r.BasicAuth(); user == "ann" && password == "right" {
		return false
	}
	w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
	w.WriteHeader(http.StatusUnauthorized)
	return true
}

// loggedIn writes what docker login stores.
func loggedIn(t *testing.T, host, user, password string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.json")
	write(t, path, fmt.Appendf(nil, `{"auths":{%q:{"auth":%q}}}`, host, base64.StdEncoding.EncodeToString([]byte(user+":"+password))))
	return path
}

func TestLogin(t *testing.T) {
	f := newFake(t)
	f.refuse = wantLogin
	f.image("linux/amd64", nil, "1")
	right, wrong := loggedIn(t, f.host(), "ann", "right"), loggedIn(t, f.host(), "ann", "wrong-password")
	other, missing := loggedIn(t, "other.lan:5000", "ann", "right"), filepath.Join(t.TempDir(), "missing")
	broken := filepath.Join(t.TempDir(), "broken")
	write(t, broken, []byte("{"))
	local := &Local{Host: f.host(), Aliases: []string{"other.lan:5000"}, PlainHTTP: true}
	for _, test := range []struct {
		name  string
		login Login
		files []string
		local *Local
		want  string // a part of the error, or nothing
	}{
		{"given", Login{f.host(), "ann", "right"}, []string{wrong}, nil, ""},
		{"stored", Login{}, []string{missing, other, right}, nil, ""},
		{"stored by another name of the local registry", Login{}, []string{other}, local, ""},
		{"given for another", Login{"other.lan:5000", "ann", "right"}, nil, nil, "docker login " + f.host()},
		{"stored for another", Login{}, []string{other}, nil, "docker login " + f.host()},
		{"none", Login{}, nil, nil, "wants a login"},
		{"wrong", Login{}, []string{wrong}, nil, `did not accept the login of "ann"`},
		{"unreadable", Login{}, []string{broken}, nil, broken},
	} {
		t.Run(test.name, func(t *testing.T) {
			config := f.reader().config
			config.Login, config.CredentialFiles, config.Local = test.login, test.files, test.local
			_, err := New(config).Inspect(t.Context(), f.ref(":1"))
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
			if err != nil && strings.Contains(err.Error(), "wrong-password") {
				t.Errorf("the error has the password: %v", err)
			}
		})
	}
}

// Each thing that goes wrong says what to do about it, and a registry that has failed is not asked again and again.
// TestInTheClear has a registry with TLS name a token server without it, and redirect to one: neither is asked.
func TestInTheClear(t *testing.T) {
	asked := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("it was asked") }))
	defer asked.Close()
	for want, refuse := range map[string]http.HandlerFunc{
		"uses http": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+asked.URL+`",service="x"`)
			w.WriteHeader(http.StatusUnauthorized)
		},
		"without TLS": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, asked.URL, http.StatusTemporaryRedirect)
		},
	} {
		f, ca := secure(t, nil)
		f.refuse = func(w http.ResponseWriter, r *http.Request) bool { refuse(w, r); return true }
		_, err := New(Config{CA: ca, Login: Login{f.host(), "ann", "the-password"}}).Inspect(t.Context(), f.ref(":1"))
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "the-password") {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func TestProblems(t *testing.T) {
	answer := func(status int, body string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body))
			return true
		}
	}
	failures := 0
	broken := func(w http.ResponseWriter, r *http.Request) bool {
		failures++
		return answer(http.StatusNotImplemented, "")(w, r)
	}
	for _, test := range []struct {
		name   string
		refuse func(http.ResponseWriter, *http.Request) bool
		rest   string
		want   []string
	}{
		{"no tag", nil, ":2", []string{"has no tag 2; it has 1"}},
		{"no digest", nil, "@sha256:" + strings.Repeat("0", 64), []string{"has no manifest sha256:00"}},
		{"no repository", answer(http.StatusNotFound, ""), ":1", []string{"has no repository app"}},
		{"forbidden", answer(http.StatusForbidden, `{"errors":[{"code":"DENIED","message":"not for you"}]}`), ":1",
			[]string{"refused it", "not for you"}},
		{"broken", broken, ":1", []string{"answered 501: Not Implemented"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := newFake(t)
			f.refuse = test.refuse
			f.image("linux/amd64", nil, "1")
			_, err := f.reader().Inspect(t.Context(), f.ref(test.rest))
			if _, ok := errors.AsType[*Problem](err); !ok {
				t.Fatalf("no problem: %v", err)
			}
			for _, want := range append(test.want, f.host()) {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got %v, want %q", err, want)
				}
			}
		})
	}
	if failures != 1 {
		t.Errorf("a registry that has failed is asked %d times", failures)
	}
}

func TestConnectionProblems(t *testing.T) {
	f := newFake(t)
	if _, err := New(Config{}).Inspect(t.Context(), f.ref(":1")); err == nil || !strings.Contains(err.Error(), "--plain-http") {
		t.Errorf("HTTPS to plain HTTP: %v", err)
	}
	g, ca := secure(t, nil)
	_, port, err := net.SplitHostPort(g.host())
	if err != nil {
		t.Fatal(err)
	}
	_, err = New(Config{CA: ca}).Inspect(t.Context(), Reference{Host: "localhost:" + port, Repository: "app", Tag: "1"})
	if err == nil || !strings.Contains(err.Error(), "only example.com") {
		t.Errorf("by a name that the certificate lacks: %v", err)
	}
	ref := g.ref(":1")
	g.Close()
	if _, err := New(Config{}).Inspect(t.Context(), ref); err == nil || !strings.Contains(err.Error(), "no registry answers on "+ref.Host) {
		t.Errorf("of a registry that is gone: %v", err)
	}
	_, err = New(Config{Local: &Local{Host: ref.Host}}).Inspect(t.Context(), ref)
	if err == nil || !strings.Contains(err.Error(), "--config") {
		t.Errorf("of a local registry that is gone: %v", err)
	}
}
