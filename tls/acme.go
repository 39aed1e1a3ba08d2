package tls

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"
)

const (
	// acmeInterval is the time between two looks at the certificates.
	acmeInterval = time.Minute
	// acmePause is how long an ACME server is left alone after it failed: Let's Encrypt allows five failures an hour.
	acmePause = 15 * time.Minute
)

// ACME is what mode acme needs: section http.tls.letsencrypt.
type ACME struct {
	// CacheFile is the directory of account and certificates, by default acme in Config.Directory.
	CacheFile string
	// Email is where the ACME server writes to; it may be empty.
	Email string
	// Hosts are the names to get certificates for, at least one. Other names are refused.
	Hosts []string
	// DirectoryURL is the ACME server's, by default that of Let's Encrypt.
	DirectoryURL string
}

// acmeFiles serves with certificates of an ACME server, one for each host.
type acmeFiles struct {
	manager *autocert.Manager
	hosts   []string
	log     *slog.Logger
	now     func() time.Time

	mu      sync.Mutex
	current map[string]*x509.Certificate // by host
	paused  map[string]time.Time         // until when the server is not asked again
	warned  time.Time                    // when problems were last reported
}

func openACME(c Config, log *slog.Logger) (*acmeFiles, error) {
	hosts, err := c.ACME.hosts()
	if err != nil {
		return nil, err
	}
	directory := cmp.Or(c.ACME.CacheFile, c.path("acme"))
	if info, err := os.Stat(directory); err == nil && !info.IsDir() {
		return nil, fmt.Errorf("http.tls.letsencrypt.cachefile: %s is a file, of an older registry perhaps: name a directory", directory)
	}
	if err := os.MkdirAll(directory, 0o700); err != nil {
		return nil, fmt.Errorf("http.tls.letsencrypt.cachefile: %w", err)
	}
	return &acmeFiles{
		manager: &autocert.Manager{
			Prompt:     autocert.AcceptTOS,
			Cache:      autocert.DirCache(directory),
			HostPolicy: autocert.HostWhitelist(hosts...),
			Email:      c.ACME.Email,
			Client:     &acme.Client{DirectoryURL: cmp.Or(c.ACME.DirectoryURL, autocert.DefaultACMEDirectory), UserAgent: "berth"},
		},
		hosts:   hosts,
		log:     log,
		now:     time.Now,
		current: make(map[string]*x509.Certificate),
		paused:  make(map[string]time.Time),
	}, nil
}

// hosts returns the hosts in lower case. An ACME server proves a name by asking it, which neither wildcards nor names
// without a dot allow.
func (c ACME) hosts() ([]string, error) {
	var hosts []string
	for _, host := range c.Hosts {
		name, ok := canonical(host)
		if _, err := netip.ParseAddr(name); err == nil || !ok || name[0] == '*' || !strings.Contains(name, ".") {
			return nil, fmt.Errorf("http.tls.letsencrypt.hosts: %q is not a host name with a domain", host)
		}
		hosts = merge(hosts, name)
	}
	if len(hosts) == 0 {
		return nil, errors.New("http.tls.mode is acme, which needs http.tls.letsencrypt.hosts")
	}
	return hosts, nil
}

// certificate returns the certificate for the name that a client asks for, or, when it asks for none or an address, for
// the first host. The first client may wait for it. An ACME server that asks gets its answer.
func (a *acmeFiles) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if isChallenge(hello) {
		return a.manager.GetCertificate(hello)
	}
	host := cmp.Or(strings.ToLower(strings.TrimSuffix(hello.ServerName, ".")), a.hosts[0])
	if !slices.Contains(a.hosts, host) {
		return nil, fmt.Errorf("%q is not in http.tls.letsencrypt.hosts", hello.ServerName)
	}
	if until := a.pause(host); a.now().Before(until) {
		return nil, fmt.Errorf("there is no certificate for %s, and none is asked for before %s", host, until.Format(time.TimeOnly))
	}
	certificate, err := a.manager.GetCertificate(helloFor(host))
	a.note(host, certificate, err)
	return certificate, err
}

// helloFor is what the library is asked with, whoever the client is: one that does not know ECDSA would have it order a
// second certificate, with RSA, and that would be for anybody to start.
func helloFor(host string) *tls.ClientHelloInfo {
	return &tls.ClientHelloInfo{
		ServerName:   host,
		CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256},
	}
}

// pause returns until when the ACME server is not asked: zero while there is a certificate, which the library has without
// asking.
func (a *acmeFiles) pause(host string) time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	if leaf := a.current[host]; leaf != nil && a.now().Before(leaf.NotAfter) {
		return time.Time{}
	}
	return a.paused[host]
}

// note keeps what became of asking for a certificate, and logs what is new.
func (a *acmeFiles) note(host string, certificate *tls.Certificate, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch now := a.now(); {
	case err != nil && now.Before(a.paused[host]): // another client has noted it
	case err != nil:
		a.paused[host] = now.Add(acmePause)
		a.log.Error("no TLS certificate from the ACME server", "host", host, "error", err, "again", a.paused[host])
	case a.current[host] == nil || !a.current[host].Equal(certificate.Leaf):
		a.current[host] = certificate.Leaf
		a.log.Info("TLS certificate in use", "host", host, "expires", certificate.Leaf.NotAfter, "sha256", fingerprint(certificate.Leaf))
	}
}

// leaf returns the first host's certificate, nil before there is one.
func (a *acmeFiles) leaf() *x509.Certificate {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.current[a.hosts[0]]
}

// run gets the certificates before a client asks for them, and says what is wrong with them, until ctx ends. The library
// renews them by itself, and silently; what it has begun then goes on until the process ends.
func (a *acmeFiles) run(ctx context.Context) {
	ticker := time.NewTicker(acmeInterval)
	defer ticker.Stop()
	for {
		if a.ask(ctx); ctx.Err() != nil {
			return
		}
		a.warn()
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// ask wants each host's certificate, as a client does. It does not wait for the library beyond ctx, which
// the library does not take.
func (a *acmeFiles) ask(ctx context.Context) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for _, host := range a.hosts {
			_, _ = a.certificate(helloFor(host)) // what goes wrong is noted
		}
	}()
	select {
	case <-ctx.Done():
	case <-done:
	}
}

// warn reports once a day the certificates that were not renewed in time.
func (a *acmeFiles) warn() {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.now()
	if now.Sub(a.warned) < day {
		return
	}
	for host, leaf := range a.current {
		for _, problem := range problems(leaf, host, now) {
			a.log.Warn("TLS certificate has a problem", "problem", problem, "host", host)
			a.warned = now
		}
	}
}

// isChallenge reports whether a handshake is that of an ACME server which proves a name (RFC 8737, section 3).
func isChallenge(hello *tls.ClientHelloInfo) bool {
	return slices.Equal(hello.SupportedProtos, []string{acme.ALPNProto})
}

// answerChallenges lets an ACME server shake hands, which has no client certificate to show. Nothing is served to it:
// net/http closes connections with a protocol that it does not know.
func answerChallenges(config *tls.Config) {
	challenge := config.Clone()
	challenge.ClientAuth = tls.NoClientCert
	challenge.NextProtos = []string{acme.ALPNProto}
	config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if isChallenge(hello) {
			return challenge, nil
		}
		return nil, nil
	}
}
