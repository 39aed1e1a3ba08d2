package tls

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	// lifetime is below the 825 days that Apple's systems put up with.
	lifetime = 730 * 24 * time.Hour
	// renewal is how long before its end a certificate is replaced.
	renewal = 30 * 24 * time.Hour
)

// selfSigned returns the certificate of the directory, after making a new one where needed.
func (c Config) selfSigned(log *slog.Logger) (tls.Certificate, error) {
	if c.Directory == "" {
		return tls.Certificate{}, errors.New("http.tls.mode is auto, which needs a directory to keep the certificate in")
	}
	names, err := c.names()
	if err != nil {
		return tls.Certificate{}, err
	}
	kept, reason, err := c.load(names)
	if err != nil || reason == "" {
		return kept, err
	}
	made, err := c.renew(names)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make a TLS certificate in %s: %w", c.Directory, err)
	}
	log.Info("TLS certificate made", "reason", reason, "certificate", c.certificatePath(), "names", names.all(),
		"expires", made.Leaf.NotAfter, "sha256", fingerprint(made.Leaf))
	return made, nil
}

func (c Config) certificatePath() string { return filepath.Join(c.Directory, "certificate.pem") }
func (c Config) keyPath() string         { return filepath.Join(c.Directory, "key.pem") }

func fingerprint(certificate *x509.Certificate) string {
	sum := sha256.Sum256(certificate.Raw)
	return hex.EncodeToString(sum[:])
}

// load returns the certificate that is kept, or why it can't be used. What can't be read is an error: it may be good.
func (c Config) load(names nameSet) (kept tls.Certificate, reason string, err error) {
	certificate, err := os.ReadFile(c.certificatePath())
	if errors.Is(err, fs.ErrNotExist) {
		return kept, "there was none", nil
	}
	if err != nil {
		return kept, "", fmt.Errorf("read TLS certificate: %w", err)
	}
	key, err := os.ReadFile(c.keyPath())
	if errors.Is(err, fs.ErrNotExist) {
		return kept, "its key is gone", nil
	}
	if err != nil {
		return kept, "", fmt.Errorf("read TLS key: %w", err)
	}
	kept, err = tls.X509KeyPair(certificate, key)
	if err != nil {
		return kept, "the old one is damaged: " + err.Error(), nil
	}
	return kept, outdated(kept.Leaf, names), nil
}

// outdated says why a certificate needs to be replaced, or nothing. A clock that is behind is no reason: many small
// machines start with one, and the clients' clocks are right.
func outdated(certificate *x509.Certificate, names nameSet) string {
	if time.Until(certificate.NotAfter) < renewal {
		return "the old one expires soon"
	}
	if missing := names.missing(certificate); len(missing) > 0 {
		return "the old one does not name " + strings.Join(missing, ", ")
	}
	return ""
}

// renew makes a certificate and keeps it. A crash between the two files leaves a pair that does not match, which the
// next start replaces.
func (c Config) renew(names nameSet) (tls.Certificate, error) {
	certificate, key, err := generate(names, time.Now())
	if err != nil {
		return tls.Certificate{}, err
	}
	if err := os.MkdirAll(c.Directory, 0o700); err != nil {
		return tls.Certificate{}, err
	}
	if err := writeFile(c.keyPath(), key, 0o600); err != nil {
		return tls.Certificate{}, err
	}
	if err := writeFile(c.certificatePath(), certificate, 0o644); err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair(certificate, key)
}

// generate makes a self-signed certificate and its key, both as PEM.
func generate(names nameSet, now time.Time) (certificate, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{Organization: []string{"Berth"}, CommonName: "self-signed certificate"},
		DNSNames:              names.hosts,
		NotBefore:             now.Add(-time.Hour), // for clients whose clock is a little behind
		NotAfter:              now.Add(lifetime),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	for _, address := range names.addresses {
		template.IPAddresses = append(template.IPAddresses, address.AsSlice())
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		return nil, nil, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), nil
}

// writeFile puts a whole file in place or leaves what was there.
func writeFile(path string, data []byte, mode fs.FileMode) error {
	directory := filepath.Dir(path)
	f, err := os.CreateTemp(directory, ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // does nothing once it is renamed
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDirectory(directory)
}

func syncDirectory(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
