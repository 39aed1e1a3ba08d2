package client

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// trust makes a TLS configuration believe the CAs for a registry, and show the certificates that it wants.
func (c *Client) trust(host string, config *tls.Config) error {
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool() // a machine without a store, such as an empty container
	}
	if c.config.CA != nil && !roots.AppendCertsFromPEM(c.config.CA) {
		return errors.New("--ca: the file holds no certificate")
	}
	if c.config.Local.is(host) {
		roots.AppendCertsFromPEM(c.config.Local.CA)
	}
	config.RootCAs = roots
	for _, directory := range c.config.CertificateDirectories {
		if err := addDirectory(filepath.Join(directory, host), config); err != nil {
			return err
		}
	}
	return nil
}

// addDirectory adds what Docker's conventions say of a directory for one registry, which need not be there.
func addDirectory(directory string, config *tls.Config) error {
	entries, err := os.ReadDir(directory)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return nil // another user's: what verifies without it is as good
	}
	if err != nil {
		return err
	}
	for _, entry := range entries {
		path := filepath.Join(directory, entry.Name())
		if err := addFile(path, config); err != nil && !errors.Is(err, fs.ErrPermission) {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil
}

func addFile(path string, config *tls.Config) error {
	base, isCertificate := strings.CutSuffix(path, ".cert")
	switch {
	case isCertificate:
		pair, err := tls.LoadX509KeyPair(path, base+".key")
		if err != nil {
			return err
		}
		config.Certificates = append(config.Certificates, pair)
	case strings.HasSuffix(path, ".crt"):
		content, err := os.ReadFile(path)
		if err == nil && !config.RootCAs.AppendCertsFromPEM(content) {
			err = errors.New("it holds no certificate")
		}
		return err
	}
	return nil
}
