// Package tls finds the certificates that the registry serves with: those of a CA that it makes by itself, those of an
// administrator's files, or those of an ACME server. All are replaced while the registry runs, and no connection notices.
//
// It guarantees that a CA of its own making is never replaced by another without being told to, that all servers which
// share a directory share its CA, however they start, that the certificate in use names all that the machine is known by
// and is renewed after two thirds of its life, that private keys are readable by their owner only and never logged, and that
// nothing below TLS 1.2 and no insecure cipher suite is ever negotiated.
//
// It does not make clients trust the CA. It does not notice when the CA's files are replaced while it runs, and a machine's
// name that changes counts from the next start or change of address. It can't know the addresses outside of a
// container but from the configuration and from what requests call the registry.
//
// Everything that can be wrong with the configuration, and a CA that can't be used, fails in Open, with the key of the
// configuration or the file in the message. Later there is nothing that stops the registry: what can't be replaced stays, and
// the log says why.
package tls

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"time"
)

// The modes of Config.
const (
	ModeAuto  = "auto"  // a certificate of the registry's own CA
	ModeFiles = "files" // the one of Certificate and Key
	ModeACME  = "acme"  // one of an ACME server for each of ACME.Hosts
	ModeOff   = "off"   // plain HTTP
)

// Config is the section http.tls of the configuration.
type Config struct {
	// Mode is one of the modes. When it is empty, it is ModeFiles if Certificate or Key is set, ModeACME if ACME.Hosts are,
	// and ModeAuto otherwise.
	Mode string
	// Certificate and Key are paths of PEM files. The certificate's may go on with its chain. Changes are noticed.
	Certificate, Key string
	// Directory is where ModeAuto keeps its files: ca.pem, ca-key.pem, certificate.pem (with the CA after it), key.pem and
	// learnt.txt. It is made when it does not exist. Several servers may share one.
	Directory string
	// AuthorityCertificate and AuthorityKey are paths of PEM files with a CA for ModeAuto to use in place of its own.
	AuthorityCertificate, AuthorityKey string
	// Hosts are host names and IP addresses that ModeAuto puts into the certificate besides those that the machine
	// knows of itself.
	Hosts []string
	// Host is the URL by which clients know the registry, if that is known. ModeAuto puts its host into the certificate, and
	// ModeFiles warns when it is not there.
	Host string
	// LearnDisabled keeps ModeAuto from putting into the certificate what clients nearby call the registry.
	LearnDisabled bool
	// BuildTime is when the program was built: while the clock is before it, ModeAuto makes no CA, and counts the lives of
	// certificates from it. Zero means unknown.
	BuildTime time.Time
	// ACME is for ModeACME.
	ACME ACME
	// ClientCAs are paths of PEM files with the CAs whose certificates clients have to show.
	ClientCAs []string
	// ClientAuth says what is asked of clients when there are ClientCAs: require-and-verify-client-cert, the default,
	// verify-client-cert-if-given, require-any-client-cert or request-client-cert.
	ClientAuth string
	// MinimumTLS is tls1.2, the default, or tls1.3.
	MinimumTLS string
	// CipherSuites are the names of the suites to allow with TLS 1.2, by default those that Go considers best. TLS 1.3
	// has its own, always on.
	CipherSuites []string
	// HTTP2Disabled keeps HTTP/2 from being negotiated.
	HTTP2Disabled bool
}

// Source has the certificate to serve with at each moment. Open makes one; its methods may be called at any time, from
// several goroutines.
type Source struct {
	settings     *tls.Config
	certificates certificates
	auto         *auto // nil in other modes
}

// certificates is what a mode does.
type certificates interface {
	// certificate is called in each handshake.
	certificate(*tls.ClientHelloInfo) (*tls.Certificate, error)
	// leaf returns what is served now, nil when there is nothing yet.
	leaf() *x509.Certificate
	// run keeps it up to date until ctx ends.
	run(ctx context.Context)
}

// Open returns where the certificates come from. In ModeAuto there is a CA and a certificate afterwards, in ModeFiles the
// files were good; an ACME server is not asked before Run. In ModeOff the Source does nothing.
func Open(c Config, log *slog.Logger) (*Source, error) { return openWith(c, realSystem(), log) }

func openWith(c Config, system system, log *slog.Logger) (*Source, error) {
	if c.mode() == ModeOff {
		return &Source{}, nil
	}
	settings, err := c.settings()
	if err != nil {
		return nil, err
	}
	s := &Source{settings: settings}
	switch c.mode() {
	case ModeAuto:
		s.auto, err = openAuto(c, system, log)
		s.certificates = s.auto
	case ModeFiles:
		s.certificates, err = openFiles(c, log)
	case ModeACME:
		s.certificates, err = openACME(c, log)
	default:
		err = fmt.Errorf("http.tls.mode: %q is unknown: use auto, files, acme or off", c.Mode)
	}
	if err != nil {
		return nil, err
	}
	settings.GetCertificate = s.certificates.certificate
	if c.mode() == ModeACME {
		answerChallenges(settings)
	}
	return s, nil
}

// Config returns what NewListener needs, or nil in ModeOff.
func (s *Source) Config() *tls.Config { return s.settings }

// Run renews and reloads what is served, until ctx ends. It is to be called once.
func (s *Source) Run(ctx context.Context) {
	if s.certificates != nil {
		s.certificates.run(ctx)
	}
}

// Leaf returns the certificate that is served now, of several the first host's. It is nil in ModeOff, and in ModeACME until
// there is one.
func (s *Source) Leaf() *x509.Certificate {
	if s.certificates == nil {
		return nil
	}
	return s.certificates.leaf()
}

// Learn takes the Host header of a request from nearby. In ModeAuto a private address, a bare name and a name below .local or .lan is
// added to the certificate before Learn returns, 16 in all: one that was not used for a week makes room for another. Other modes, other
// names and known ones cost next to nothing.
func (s *Source) Learn(r *http.Request) {
	if s.auto != nil {
		s.auto.learn(r)
	}
}

// CA returns the certificate of the CA that clients have to trust as PEM in ModeAuto, and nil otherwise.
func (s *Source) CA() []byte {
	if s.auto == nil {
		return nil
	}
	return s.auto.authority.PEM()
}

// Issue is Authority.Issue of the CA of ModeAuto. In other modes it is an error.
func (s *Source) Issue(hosts []string, now time.Time) (certificatePEM, keyPEM []byte, err error) {
	if s.auto == nil {
		return nil, nil, errors.New("issue a certificate: only http.tls.mode auto has a CA")
	}
	return s.auto.authority.Issue(hosts, now)
}

func (c Config) mode() string {
	switch {
	case c.Mode != "":
		return c.Mode
	case c.Certificate != "" || c.Key != "":
		return ModeFiles
	case len(c.ACME.Hosts) > 0:
		return ModeACME
	}
	return ModeAuto
}

// settings returns everything but the certificates.
func (c Config) settings() (*tls.Config, error) {
	version, err := minimumVersion(c.MinimumTLS)
	if err != nil {
		return nil, err
	}
	suites, err := cipherSuites(c.CipherSuites)
	if err != nil {
		return nil, err
	}
	auth, authorities, err := c.clientAuth()
	if err != nil {
		return nil, err
	}
	config := &tls.Config{
		MinVersion:   version,
		CipherSuites: suites,
		NextProtos:   []string{"h2", "http/1.1"},
		ClientAuth:   auth,
		ClientCAs:    authorities,
	}
	if c.HTTP2Disabled {
		config.NextProtos = []string{"http/1.1"}
	}
	return config, nil
}

func minimumVersion(name string) (uint16, error) {
	switch name {
	case "", "tls1.2":
		return tls.VersionTLS12, nil
	case "tls1.3":
		return tls.VersionTLS13, nil
	case "tls1.0", "tls1.1":
		return 0, fmt.Errorf("http.tls.minimumtls: %s is insecure and no longer supported: use tls1.2 or tls1.3", name)
	}
	return 0, fmt.Errorf("http.tls.minimumtls: %q is unknown: use tls1.2 or tls1.3", name)
}

// cipherSuites returns nil, which is Go's choice, for no names.
func cipherSuites(names []string) ([]uint16, error) {
	var ids []uint16
	for _, name := range names {
		i := slices.IndexFunc(tls.CipherSuites(), func(s *tls.CipherSuite) bool { return s.Name == name })
		if i < 0 {
			return nil, fmt.Errorf("http.tls.ciphersuites: %q is unknown or insecure", name)
		}
		ids = append(ids, tls.CipherSuites()[i].ID)
	}
	return ids, nil
}
