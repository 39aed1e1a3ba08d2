package tls

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"berth/atomicfile"
)

// createAuthority makes the CA of Directory, and reports false when another process was faster. The key comes first: a crash after it
// leaves a key without a certificate that anybody knows, for which the next start makes one.
func (c Config) createAuthority(now time.Time, host string) (created bool, err error) {
	if err := os.MkdirAll(c.Directory, 0o700); err != nil {
		return false, err
	}
	key, err := c.authorityKey()
	if err != nil {
		return false, err
	}
	template := &x509.Certificate{
		Subject:               subject("Berth CA of " + host),
		NotBefore:             now.Add(-backdated),
		NotAfter:              now.Add(authorityLifetime),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return false, err
	}
	return atomicfile.Create(c.path(authorityFile), encodeCertificate(der), 0o644)
}

// authorityKey returns the key that the directory holds after a new one was offered to it.
func (c Config) authorityKey() (*ecdsa.PrivateKey, error) {
	path := c.path(authorityKeyFile)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		key, err := newKey()
		if err != nil {
			return nil, err
		}
		encoded, err := encodeKey(key)
		if err != nil {
			return nil, err
		}
		if _, err := atomicfile.Create(path, encoded, 0o600); err != nil {
			return nil, err
		}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return decodeKey(path, data)
}

// subject keeps to the 64 characters that a common name may have.
func subject(name string) pkix.Name {
	return pkix.Name{Organization: []string{"Berth"}, CommonName: name[:min(len(name), 64)]}
}

func newKey() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

func encodeCertificate(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func decodeKey(path string, data []byte) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("%s is damaged; remove it, there is no CA of it yet", path)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read the key %s: %w", path, err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("the key %s is of another kind than ECDSA", path)
	}
	return key, nil
}

func (c Config) path(name string) string { return filepath.Join(c.Directory, name) }
