package tls

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"time"
)

// files serves with a certificate that somebody else keeps in two files.
type files struct {
	config  Config
	log     *slog.Logger
	now     func() time.Time
	current atomic.Pointer[tls.Certificate]
	judged  version   // of the files that were last loaded, or found broken
	warned  time.Time // when problems were last reported
}

// version tells contents of the two files apart, errors included.
type version [sha256.Size]byte

func openFiles(c Config, log *slog.Logger) (*files, error) {
	if c.Certificate == "" || c.Key == "" {
		return nil, errors.New("http.tls.mode is files, which needs both http.tls.certificate and http.tls.key")
	}
	f := &files{config: c, log: log, now: time.Now}
	pair, v, err := f.read()
	if err != nil {
		return nil, err
	}
	f.judged = v
	f.use(pair)
	return f, nil
}

// read returns what the files hold now.
func (f *files) read() (*tls.Certificate, version, error) {
	certificate, err := os.ReadFile(f.config.Certificate)
	if err != nil {
		return nil, sha256.Sum256([]byte(err.Error())), fmt.Errorf("http.tls.certificate: %w", err)
	}
	key, err := os.ReadFile(f.config.Key)
	if err != nil {
		return nil, sha256.Sum256([]byte(err.Error())), fmt.Errorf("http.tls.key: %w", err)
	}
	v := version(sha256.Sum256(fmt.Appendf(nil, "%d %s%s", len(certificate), certificate, key)))
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return nil, v, fmt.Errorf("load http.tls.certificate %s with http.tls.key %s: %w", f.config.Certificate, f.config.Key, err)
	}
	return &pair, v, nil
}

// run loads the files again when they change, until ctx ends. It compares what they hold, so that it does not matter how
// they are replaced.
func (f *files) run(ctx context.Context) {
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	seen := f.judged
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			seen = f.look(seen)
		}
	}
}

// look loads the files when they have changed and were the same at the last look, whose version it takes: two files are
// never replaced at once. It returns the version at this look.
func (f *files) look(before version) version {
	pair, seen, err := f.read()
	switch {
	case seen == f.judged:
		if f.now().Sub(f.warned) >= day {
			f.warn()
		}
	case seen != before:
	case err != nil:
		f.judged = seen
		f.log.Error("TLS certificate was not reloaded, the old one stays", "error", err)
	default:
		f.judged = seen
		f.use(pair)
		f.log.Info("TLS certificate reloaded", "certificate", f.config.Certificate, "names", certificateNames(pair.Leaf),
			"expires", pair.Leaf.NotAfter, "sha256", fingerprint(pair.Leaf))
	}
	return seen
}

func (f *files) use(pair *tls.Certificate) {
	f.current.Store(pair)
	f.warn()
}

// warn reports why clients refuse the certificate in use, or soon will.
func (f *files) warn() {
	f.warned = f.now()
	for _, problem := range problems(f.leaf(), f.config.hostname(), f.warned) {
		f.log.Warn("TLS certificate has a problem", "problem", problem, "certificate", f.config.Certificate)
	}
}

func (f *files) certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return f.current.Load(), nil
}

func (f *files) leaf() *x509.Certificate { return f.current.Load().Leaf }

// problems says why clients refuse a server's certificate or soon will. The host is the one that they are told to use,
// empty when that is unknown.
func problems(leaf *x509.Certificate, host string, now time.Time) []string {
	var found []string
	add := func(wrong bool, format string, args ...any) {
		if wrong {
			found = append(found, fmt.Sprintf(format, args...))
		}
	}
	expired := now.After(leaf.NotAfter)
	named := len(leaf.DNSNames)+len(leaf.IPAddresses) > 0
	add(expired, "it expired on %s", leaf.NotAfter.Format(time.RFC3339))
	add(!expired && nearlyExpired(leaf, now), "it expires soon, on %s", leaf.NotAfter.Format(time.RFC3339))
	add(now.Before(leaf.NotBefore), "it is not valid before %s", leaf.NotBefore.Format(time.RFC3339))
	add(!named, "it has no subject alternative names, and clients no longer look at its common name %s", leaf.Subject.CommonName)
	add(named && host != "" && leaf.VerifyHostname(host) != nil, "it does not name %s, the host of http.host", host)
	add(!forServers(leaf), "its extended key usage does not allow it to be a server's")
	return found
}

// nearlyExpired is true in the last fifth of a certificate's life, or the last two weeks of a long one.
func nearlyExpired(leaf *x509.Certificate, now time.Time) bool {
	return leaf.NotAfter.Sub(now) < min(leaf.NotAfter.Sub(leaf.NotBefore)/5, 14*day)
}

// firstCertificate returns the first certificate of a PEM file.
func firstCertificate(data []byte) (*x509.Certificate, error) {
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			return x509.ParseCertificate(block.Bytes)
		}
	}
	return nil, errors.New("it holds no certificate")
}
