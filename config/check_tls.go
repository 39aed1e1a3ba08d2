package config

import (
	"crypto/tls"
	"net/netip"
	"strings"
)

// checkTLS reports what is missing for a mode, and what belongs to another one: where it may be meant seriously it is an
// error, and otherwise it has no effect.
func (l *loader) checkTLS(t *TLS) {
	switch t.Mode {
	case TLSFiles:
		l.checkFiles(t)
	case TLSACME:
		l.checkACME(t)
	case TLSAuto:
		l.checkAuto(t)
	case TLSOff:
		l.unused("http.tls.certificate")
		l.unused("http.tls.key")
		l.unused("http.tls.letsencrypt")
	}
	if t.Mode != TLSAuto {
		l.unused("http.tls.hosts")
		l.unused("http.tls.auto")
	}
	l.checkClients(t)
	for _, host := range t.Hosts {
		if !validHost(host) {
			l.failAt("http.tls.hosts", "%q is neither a host name nor an address; leave out scheme and port", clip(host))
		}
	}
	for _, name := range t.CipherSuites {
		if !validCipherSuite(name) {
			l.failAt("http.tls.ciphersuites", "%q is not a secure cipher suite of Go's crypto/tls", clip(name))
		}
	}
}

func (l *loader) checkFiles(t *TLS) {
	const certificate, key = "http.tls.certificate", "http.tls.key"
	switch {
	case t.Certificate == "" && t.Key == "":
		l.failAt("http.tls.mode", "files needs %s and %s", certificate, key)
	case t.Certificate == "":
		l.failAt(certificate, "is missing: %s is given, and one is of no use without the other", key)
	case t.Key == "":
		l.failAt(key, "is missing: %s is given, and one is of no use without the other", certificate)
	}
	if t.LetsEncrypt.given() {
		l.failAt("http.tls.letsencrypt", "can't be used together with %s: remove one of the two", certificate)
	}
}

func (l *loader) checkAuto(t *TLS) {
	const certificate, key = "http.tls.auto.certificate", "http.tls.auto.key"
	if t.Certificate+t.Key != "" {
		l.failAt("http.tls.mode", "auto makes a certificate of its own: remove http.tls.certificate and http.tls.key, or set "+
			"the mode to files")
	}
	if t.LetsEncrypt.given() {
		l.failAt("http.tls.mode", "auto makes a certificate of its own: remove http.tls.letsencrypt, or set the mode to acme")
	}
	if t.Auto.Certificate != "" && t.Auto.Key == "" {
		l.failAt(key, "is missing: %s is given, and one is of no use without the other", certificate)
	}
	if t.Auto.Key != "" && t.Auto.Certificate == "" {
		l.failAt(certificate, "is missing: %s is given, and one is of no use without the other", key)
	}
}

func (l *loader) checkACME(t *TLS) {
	const section = "http.tls.letsencrypt"
	if t.Certificate+t.Key != "" {
		l.failAt("http.tls.mode", "acme gets its certificates by itself: remove http.tls.certificate and http.tls.key, or set "+
			"the mode to files")
	}
	if len(t.LetsEncrypt.Hosts) == 0 {
		l.failAt(section+".hosts", "is missing: list the names that clients use")
	}
	for _, host := range t.LetsEncrypt.Hosts {
		// An ACME server asks the name itself for a proof.
		if _, err := netip.ParseAddr(host); err == nil || !validHost(host) || host[0] == '*' || !strings.Contains(host, ".") {
			l.failAt(section+".hosts", "%q is not a host name with its domain, such as registry.example.com", clip(host))
		}
	}
	if email := t.LetsEncrypt.Email; email != "" && (controls(email) || !strings.Contains(email, "@")) {
		l.failAt(section+".email", "must be an email address, not %q", clip(email))
	}
	if u := t.LetsEncrypt.DirectoryURL; u != "" && (!validURL(u) || !strings.HasPrefix(u, "https:")) {
		l.failAt(section+".directoryurl", "must be the https URL of an ACME directory, not %q", clip(u))
	}
}

// checkClients sees to it that nobody believes in a check of certificates that does not take place.
func (l *loader) checkClients(t *TLS) {
	switch {
	case t.Mode == TLSOff && len(t.ClientCAs) > 0:
		l.failAt("http.tls.clientcas", "asks for certificates, and http.tls.mode is off: remove one of the two")
	case t.ClientAuth != "" && len(t.ClientCAs) == 0:
		l.failAt("http.tls.clientauth", "needs http.tls.clientcas, the CAs that clients' certificates are of")
	}
}

// validHost knows names as DNS has them, also with underscores, as container networks have them, and with a wildcard.
func validHost(host string) bool {
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	if len(host) > 253 {
		return false
	}
	for label := range strings.SplitSeq(strings.TrimPrefix(host, "*."), ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || strings.ContainsFunc(label, notInLabel) {
			return false
		}
	}
	return true
}

func notInLabel(r rune) bool {
	switch {
	case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', r == '-', r == '_':
		return false
	}
	return true
}

func validCipherSuite(name string) bool {
	for _, suite := range tls.CipherSuites() {
		if suite.Name == name {
			return true
		}
	}
	return false
}
