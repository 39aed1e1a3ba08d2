package tls

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// fake is a machine of which a test decides what it says. Its clock runs, offset by as much as a test says.
type fake struct {
	environ   map[string]string
	mu        sync.Mutex
	root      string
	offset    time.Duration
	addresses []string
	host      string
	full      string // the answer of the name server, or empty for none
	broken    bool   // whether addresses can't be found
}

func newFake(t *testing.T) *fake {
	return &fake{
		root:      t.TempDir(),
		addresses: []string{"127.0.0.1/8", "::1/128", "192.168.1.18/24", "fd00::18/64", "fe80::1/64", "169.254.1.1/16"},
		host:      "nas",
		full:      "nas.example.",
	}
}

// set changes the machine.
func (f *fake) set(change func(*fake)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

func (f *fake) system() system {
	return system{
		now: func() time.Time {
			f.mu.Lock()
			defer f.mu.Unlock()
			return time.Now().Add(f.offset)
		},
		addresses: f.interfaces,
		hostname: func() (string, error) {
			f.mu.Lock()
			defer f.mu.Unlock()
			return f.host, nil
		},
		qualified: func(ctx context.Context, _ string) (string, error) {
			if f.full == "" {
				<-ctx.Done()
				return "", ctx.Err()
			}
			return f.full, nil
		},
		getenv: func(name string) string { return f.environ[name] },
		root:   f.root,
	}
}

func (f *fake) interfaces() ([]net.Addr, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.broken {
		return nil, errors.New("no addresses today")
	}
	var all []net.Addr
	for _, one := range f.addresses {
		ip, network, err := net.ParseCIDR(one)
		if err != nil {
			return nil, err
		}
		network.IP = ip
		all = append(all, network)
	}
	return all, nil
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// open is Open on a fake machine.
func open(t *testing.T, c Config) *Source {
	t.Helper()
	return openOn(t, newFake(t), c, quiet())
}

func openOn(t *testing.T, f *fake, c Config, log *slog.Logger) *Source {
	t.Helper()
	source, err := openWith(c, f.system(), log)
	if err != nil {
		t.Fatal(err)
	}
	return source
}

// logBuffer is what was logged. It may be read while it is written.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func newLog() (*logBuffer, *slog.Logger) {
	b := &logBuffer{}
	return b, newLogger(b)
}

func newLogger(b *logBuffer) *slog.Logger {
	return slog.New(slog.NewTextHandler(b, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func remove(t *testing.T, paths ...string) {
	t.Helper()
	for _, path := range paths {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

// template is a certificate, and who signs it.
type template struct {
	x509.Certificate
	parent *Authority // itself when nil
}

// writePair makes a certificate and writes it with its key, and returns the paths.
func writePair(t *testing.T, template template) (certificate, key string) {
	t.Helper()
	private, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	if template.NotBefore.IsZero() {
		template.NotBefore = time.Now().Add(-time.Hour)
	}
	if template.NotAfter.IsZero() {
		template.NotAfter = time.Now().Add(100 * day)
	}
	parent, signer := &template.Certificate, any(private)
	if template.parent != nil {
		parent, signer = template.parent.Certificate(), template.parent.key
	}
	der, err := x509.CreateCertificate(rand.Reader, &template.Certificate, parent, private.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := encodeKey(private)
	if err != nil {
		t.Fatal(err)
	}
	directory := t.TempDir()
	certificate, key = filepath.Join(directory, "c.pem"), filepath.Join(directory, "k.pem")
	write(t, certificate, encodeCertificate(der))
	write(t, key, encoded)
	return certificate, key
}

// authorityTemplate is a good CA.
func authorityTemplate() template {
	return template{Certificate: x509.Certificate{
		Subject:               subject("test CA"),
		BasicConstraintsValid: true,
		IsCA:                  true,
		KeyUsage:              x509.KeyUsageCertSign,
	}}
}

func loadPair(t *testing.T, certificate, key string) tls.Certificate {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

// calling is a request of this machine's for a host.
func calling(host string) *http.Request {
	return &http.Request{Host: host, RemoteAddr: "127.0.0.1:1"}
}

func wantLog(t *testing.T, log *logBuffer, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(log.String(), part) {
			t.Errorf("logged\n%s\nwant %q in it", log, part)
		}
	}
	if strings.Contains(log.String(), "PRIVATE") {
		t.Errorf("a key was logged:\n%s", log)
	}
}
