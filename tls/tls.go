// Package tls finds the certificate that the registry serves with and makes one where there is none, so that the first
// start already speaks HTTPS.
//
// It guarantees that a certificate which it made is kept and used again as long as it names the machine and has a month
// to live, that the private key is readable by its owner only, and that nothing below TLS 1.2 and no insecure cipher suite is
// ever negotiated. It does not watch files: a certificate that changes or expires while the server runs is noticed at the
// next start. A certificate of its own making is trusted by nobody until the client is told to.
//
// Everything that can be wrong with the configuration fails in Open, with the key of the configuration in the message.
package tls

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"slices"
	"time"
)

// The modes of Config.
const (
	ModeAuto  = "auto"  // a certificate of the package's own making
	ModeFiles = "files" // the one of Certificate and Key
	ModeOff   = "off"   // plain HTTP
)

// Config is the section http.tls of the configuration.
type Config struct {
	// Mode is one of the modes. When it is empty, it is ModeFiles if Certificate or Key is set, and ModeAuto otherwise.
	Mode string
	// Certificate and Key are paths of PEM files. The certificate's may go on with its chain.
	Certificate, Key string
	// Directory is where ModeAuto keeps certificate.pem and key.pem. It is made when it does not exist.
	Directory string
	// Hosts are host names and IP addresses that ModeAuto puts into the certificate besides those that the machine
	// knows of itself.
	Hosts []string
	// MinimumTLS is tls1.2, the default, or tls1.3.
	MinimumTLS string
	// CipherSuites are the names of the suites to allow with TLS 1.2, by default those that Go considers best. TLS 1.3
	// has its own, always on.
	CipherSuites []string
	// HTTP2Disabled keeps HTTP/2 from being negotiated.
	HTTP2Disabled bool
}

// Open returns what NewListener needs to serve, or nil for ModeOff.
func Open(c Config, log *slog.Logger) (*tls.Config, error) {
	if c.mode() == ModeOff {
		return nil, nil
	}
	config, err := c.settings()
	if err != nil {
		return nil, err
	}
	certificate, err := c.certificate(log)
	if err != nil {
		return nil, err
	}
	config.Certificates = []tls.Certificate{certificate}
	return config, nil
}

func (c Config) mode() string {
	switch {
	case c.Mode != "":
		return c.Mode
	case c.Certificate != "" || c.Key != "":
		return ModeFiles
	}
	return ModeAuto
}

// settings returns everything but the certificate.
func (c Config) settings() (*tls.Config, error) {
	version, err := minimumVersion(c.MinimumTLS)
	if err != nil {
		return nil, err
	}
	suites, err := cipherSuites(c.CipherSuites)
	if err != nil {
		return nil, err
	}
	config := &tls.Config{MinVersion: version, CipherSuites: suites, NextProtos: []string{"h2", "http/1.1"}}
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

func (c Config) certificate(log *slog.Logger) (tls.Certificate, error) {
	switch c.mode() {
	case ModeFiles:
		return c.fromFiles(log)
	case ModeAuto:
		return c.selfSigned(log)
	}
	return tls.Certificate{}, fmt.Errorf("http.tls.mode: %q is unknown: use auto, files or off", c.Mode)
}

func (c Config) fromFiles(log *slog.Logger) (tls.Certificate, error) {
	if c.Certificate == "" || c.Key == "" {
		return tls.Certificate{}, fmt.Errorf("http.tls.mode is files, which needs both http.tls.certificate and http.tls.key")
	}
	certificate, err := tls.LoadX509KeyPair(c.Certificate, c.Key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("load http.tls.certificate %s with http.tls.key %s: %w", c.Certificate, c.Key, err)
	}
	if expires := certificate.Leaf.NotAfter; time.Now().After(expires) {
		log.Warn("TLS certificate has expired", "certificate", c.Certificate, "expired", expires)
	}
	return certificate, nil
}
