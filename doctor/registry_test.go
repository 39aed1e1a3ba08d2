package doctor

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// pair is a certificate and its key.
type pair struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func (p pair) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.certificate.Raw}))
}

func (p pair) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(p.certificate)
	return pool
}

// sign makes a certificate from a template, signed by a CA or by itself.
func sign(t testing.TB, template *x509.Certificate, by *pair) pair {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	if template.NotBefore.IsZero() {
		template.NotBefore = time.Now().Add(-time.Hour)
	}
	if template.NotAfter.IsZero() {
		template.NotAfter = time.Now().AddDate(0, 1, 0)
	}
	parent, signer := template, key
	if by != nil {
		parent, signer = by.certificate, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return pair{certificate, key}
}

func newCA(t testing.TB, name string) pair {
	t.Helper()
	return sign(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: time.Now().AddDate(-1, 0, 0), NotAfter: time.Now().AddDate(1, 0, 0),
	}, nil)
}

// registry is what is examined, and the machine from which it is.
type registry struct {
	t       *testing.T
	ca      pair
	leaf    *x509.Certificate // its template
	tls     *tls.Config
	handler http.HandlerFunc
	plain   bool              // speak plain HTTP
	files   map[string]string // of the machine; those that end with a slash are directories
	root    string
	address string // HOST:PORT
	config  Config
}

func newRegistry(t *testing.T) *registry {
	ca := newCA(t, "the registry's CA")
	return &registry{
		t:       t,
		ca:      ca,
		leaf:    &x509.Certificate{DNSNames: []string{"registry.lan"}},
		tls:     &tls.Config{},
		handler: func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("{}")) },
		files:   map[string]string{},
		root:    t.TempDir(),
		config: Config{
			System:  x509.NewCertPool(),
			Timeout: 5 * time.Second,
			Lookup: func(_ context.Context, host string) ([]netip.Addr, error) {
				if host != "registry.lan" {
					return nil, errors.New("no such host")
				}
				return []netip.Addr{netip.MustParseAddr(elsewhere)}, nil
			},
			dial: func(ctx context.Context, network, address string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, network, strings.Replace(address, elsewhere, "127.0.0.1", 1))
			},
		},
	}
}

// elsewhere is the registry's address: not on loopback, where Docker and containerd verify nothing.
const elsewhere = "192.0.2.18"

// onLoopback has the registry's name mean this machine.
func (r *registry) onLoopback() {
	r.config.Lookup = func(context.Context, string) ([]netip.Addr, error) {
		return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
	}
}

// start serves, and sets the address.
func (r *registry) start() {
	r.t.Helper()
	server := httptest.NewUnstartedServer(r.handler)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	if r.plain {
		server.Start()
	} else {
		leaf := sign(r.t, r.leaf, &r.ca)
		r.tls.Certificates = []tls.Certificate{{Certificate: [][]byte{leaf.certificate.Raw}, PrivateKey: leaf.key}}
		server.TLS = r.tls
		server.StartTLS()
	}
	r.t.Cleanup(server.Close)
	_, port, err := net.SplitHostPort(server.Listener.Addr().String())
	if err != nil {
		r.t.Fatal(err)
	}
	r.address = "registry.lan:" + port
}

// write puts files on the machine. ADDRESS in names and contents is the registry's, CA its CA's certificate.
func (r *registry) write(files map[string]string) {
	r.t.Helper()
	for name, content := range files {
		fill := strings.NewReplacer("ADDRESS", r.address, "CA.PEM", r.ca.pem(), "_PORT_", strings.Replace(r.address, "registry.lan:", "_", 1)+"_")
		path := filepath.Join(r.root, fill.Replace(name))
		if strings.HasSuffix(name, "/") {
			r.check(os.MkdirAll(path, 0o755))
			continue
		}
		r.check(os.MkdirAll(filepath.Dir(path), 0o755))
		r.check(os.WriteFile(path, []byte(fill.Replace(content)), 0o644))
	}
}

func (r *registry) check(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *registry) examine() []Finding {
	r.t.Helper()
	r.start()
	r.write(r.files)
	r.config.Root = r.root
	return Run(r.t.Context(), "https://"+r.address, r.config)
}

// expectation is a finding of which the detail begins or goes on like this.
type expectation struct {
	status Status
	check  string
	detail string
	remedy string
}

// compare wants all of these findings, no other failure, and of every finding that is not all right a remedy.
func compare(t *testing.T, got []Finding, want ...expectation) {
	t.Helper()
	for _, w := range want {
		if !slices.ContainsFunc(got, func(f Finding) bool {
			return f.Status == w.status && f.Check == w.check && strings.Contains(f.Detail, w.detail) && strings.Contains(f.Remedy, w.remedy)
		}) {
			t.Errorf("there is no %v", w)
		}
	}
	for _, f := range got {
		expected := slices.ContainsFunc(want, func(w expectation) bool { return w.status == Fail && w.check == f.Check })
		if f.Status == Fail && !expected {
			t.Errorf("it fails with %v", f)
		}
		if (f.Status == OK) != (f.Remedy == "") || strings.ContainsAny(f.Detail+f.Remedy, "\n\r") || f.Detail == "" {
			t.Errorf("not one line with a remedy where it is needed: %+v", f)
		}
	}
	if want := slices.ContainsFunc(want, func(w expectation) bool { return w.status == Fail }); Failed(got) != want {
		t.Errorf("Failed is %v", !want)
	}
	if t.Failed() {
		for _, f := range got {
			t.Logf("%s\t%s\t%s\t%s", f.Status, f.Check, f.Detail, f.Remedy)
		}
	}
}

func answer(status int, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		if status == http.StatusOK {
			w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
		}
		w.WriteHeader(status)
	}
}
