package tls

import (
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"
)

const (
	day = 24 * time.Hour
	// authorityLifetime is that of a CA: ten years.
	authorityLifetime = 3653 * day
	// leafLifetime is that of the certificate that the registry serves with.
	leafLifetime = 90 * day
	// issuedLifetime is that of a certificate for another server, which nobody renews in time.
	issuedLifetime = 365 * day
	// backdated is how far in the past certificates begin, for clients whose clock is behind.
	backdated = 48 * time.Hour
)

// ErrNoAuthority is the error of LoadAuthority when no CA was made yet.
var ErrNoAuthority = errors.New("there is no CA yet: the registry makes one when it first starts with http.tls.mode auto")

// Authority is a CA with its key. It is safe for concurrent use, and shows its key to nobody.
type Authority struct {
	chain []*x509.Certificate // the CA, and above it what its file holds besides
	key   crypto.Signer
}

// LoadAuthority returns the CA of mode auto: that of AuthorityCertificate and AuthorityKey where they are set, else that
// of Directory. It changes nothing, and works while a server runs. The error is ErrNoAuthority when there is none, and
// otherwise says what is wrong and what to do about it.
func LoadAuthority(c Config) (*Authority, error) {
	if c.AuthorityCertificate != "" || c.AuthorityKey != "" {
		return c.givenAuthority()
	}
	leaf, leafErr := LoadLeaf(c.Directory) // before the CA, which another start may make at this moment: the leaf comes after it
	certificate, err := os.ReadFile(c.path(authorityFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, c.noAuthority(leaf, leafErr)
	}
	if err != nil {
		return nil, fmt.Errorf("read the CA: %w", err)
	}
	key, err := os.ReadFile(c.path(authorityKeyFile))
	var a *Authority
	if err == nil {
		a, err = parseAuthority(certificate, key)
	}
	if err != nil {
		return nil, fmt.Errorf("the CA %s can't be used: %w. Restore %s and %s from a backup. To start over with a new CA, "+
			"which every client has to be told to trust, remove both, and %s", c.path(authorityFile), err, authorityFile,
			authorityKeyFile, certificateFile)
	}
	return a, nil
}

// noAuthority tells a CA that was never made, which is ErrNoAuthority, from one that is gone, by the leaf that was there before.
func (c Config) noAuthority(leaf *x509.Certificate, err error) error {
	if err != nil || selfSigned(leaf) {
		return ErrNoAuthority
	}
	return fmt.Errorf("%s is gone, which signed %s and which clients trust: restore %s and %s from a backup, or name them in "+
		"http.tls.auto. To start over with a new CA, which every client has to be told to trust, remove %s",
		c.path(authorityFile), certificateFile, authorityFile, authorityKeyFile, certificateFile)
}

// givenAuthority returns the CA that the configuration names.
func (c Config) givenAuthority() (*Authority, error) {
	certificate, err := os.ReadFile(c.AuthorityCertificate)
	if err != nil {
		return nil, fmt.Errorf("http.tls.auto.certificate: %w", err)
	}
	key, err := os.ReadFile(c.AuthorityKey)
	if err != nil {
		return nil, fmt.Errorf("http.tls.auto.key: %w", err)
	}
	a, err := parseAuthority(certificate, key)
	if err != nil {
		return nil, fmt.Errorf("http.tls.auto.certificate %s with http.tls.auto.key %s: %w",
			c.AuthorityCertificate, c.AuthorityKey, err)
	}
	return a, nil
}

// parseAuthority reads a CA and its key from PEM. Of the certificate's file it takes certificates and nothing else: some
// keep the key in there too.
func parseAuthority(certificate, key []byte) (*Authority, error) {
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return nil, err
	}
	a := &Authority{}
	for _, der := range pair.Certificate {
		parsed, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		a.chain = append(a.chain, parsed)
	}
	if why := unfit(a.chain[0]); why != "" {
		return nil, errors.New(why)
	}
	signer, ok := pair.PrivateKey.(crypto.Signer)
	if !ok {
		return nil, errors.New("its key can't sign")
	}
	a.key = signer
	return a, nil
}

// unfit says why a certificate can't be the CA of a server's, or nothing.
func unfit(ca *x509.Certificate) string {
	switch {
	case !ca.BasicConstraintsValid || !ca.IsCA:
		return "it is not the certificate of a CA"
	case ca.KeyUsage != 0 && ca.KeyUsage&x509.KeyUsageCertSign == 0:
		return "its key usage does not allow it to sign certificates"
	case !forServers(ca):
		return "its extended key usage does not allow certificates of servers"
	}
	return ""
}

// forServers reports whether a certificate's extended key usage, if it has one, allows it to be a server's.
func forServers(c *x509.Certificate) bool {
	return len(c.ExtKeyUsage)+len(c.UnknownExtKeyUsage) == 0 || slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth) ||
		slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageAny)
}

// Certificate returns the CA's certificate.
func (a *Authority) Certificate() *x509.Certificate { return a.chain[0] }

// PEM returns the CA's certificate, and those above it that its file holds: what clients have to trust. The bytes are the
// same whenever and wherever the same CA is loaded.
func (a *Authority) PEM() []byte {
	var all []byte
	for _, one := range a.chain {
		all = append(all, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: one.Raw})...)
	}
	return all
}

// Issue makes a certificate for a server that clients call by hosts, names and addresses, with a new key. It is valid
// from 48 hours before now for a year after it, but not longer than the CA. Both results are PEM; the CA follows the
// certificate.
func (a *Authority) Issue(hosts []string, now time.Time) (certificatePEM, keyPEM []byte, err error) {
	var names []string
	for _, host := range hosts {
		name, ok := canonical(host)
		if !ok {
			return nil, nil, fmt.Errorf("issue a certificate: %q is neither a host name nor an IP address", host)
		}
		names = merge(names, name)
	}
	switch end := a.chain[0].NotAfter; {
	case len(names) == 0:
		return nil, nil, errors.New("issue a certificate: it needs at least one host name or IP address")
	case now.After(end):
		return nil, nil, fmt.Errorf("issue a certificate: the CA expired on %s", end.Format(time.DateOnly))
	}
	made, err := a.issue(names[0], names, a.lifeFrom(now, issuedLifetime))
	return made.certificate, made.key, err
}

// life is the time in which a certificate is valid.
type life struct{ from, until time.Time }

// lifeFrom is the life of a certificate that is made now: it does not outlast the CA's.
func (a *Authority) lifeFrom(now time.Time, duration time.Duration) life {
	until := now.Add(duration)
	if end := a.chain[0].NotAfter; until.After(end) {
		until = end
	}
	begin := now
	if begin.After(until) {
		begin = until
	}
	// Certificates know whole seconds.
	return life{begin.Add(-backdated).Truncate(time.Second), until.Truncate(time.Second)}
}

// renewal is when two thirds of the life are over.
func (l life) renewal() time.Time {
	made := l.from.Add(backdated)
	return made.Add(l.until.Sub(made) * 2 / 3)
}

// pemPair is a certificate with its chain and the key, both as PEM.
type pemPair struct{ certificate, key []byte }

// issue makes a certificate with a new key. A CA with constraints that the names break makes none: clients would refuse it.
func (a *Authority) issue(title string, names []string, l life) (pemPair, error) {
	key, err := newKey()
	if err != nil {
		return pemPair{}, err
	}
	template := &x509.Certificate{
		Subject:               subject(title),
		NotBefore:             l.from,
		NotAfter:              l.until,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	setNames(template, names)
	der, err := x509.CreateCertificate(rand.Reader, template, a.chain[0], key.Public(), a.key)
	if err != nil {
		return pemPair{}, fmt.Errorf("sign a certificate: %w", err)
	}
	if err := a.verify(der, l); err != nil {
		return pemPair{}, fmt.Errorf("the CA can't sign a certificate for %v: %w", names, err)
	}
	keyPEM, err := encodeKey(key)
	return pemPair{append(encodeCertificate(der), a.PEM()...), keyPEM}, err
}

// verify looks at a new certificate as a client does that trusts the CA, at a time when both are valid.
func (a *Authority) verify(der []byte, l life) error {
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AddCert(a.chain[0])
	at := l.until
	if begin := a.chain[0].NotBefore; at.Before(begin) {
		at = begin
	}
	_, err = leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: at})
	return err
}

// fingerprint is the SHA-256 of a certificate in hexadecimal.
func fingerprint(certificate *x509.Certificate) string {
	sum := sha256.Sum256(certificate.Raw)
	return hex.EncodeToString(sum[:])
}
