package tls

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
)

// clientAuth says which certificates are asked of clients, and returns the CAs whose certificates are believed.
func (c Config) clientAuth() (tls.ClientAuthType, *x509.CertPool, error) {
	if len(c.ClientCAs) == 0 {
		if c.ClientAuth != "" {
			return 0, nil, fmt.Errorf("http.tls.clientauth is %s, which needs http.tls.clientcas", c.ClientAuth)
		}
		return tls.NoClientCert, nil, nil
	}
	auth, err := clientAuthType(c.ClientAuth)
	if err != nil {
		return 0, nil, err
	}
	pool := x509.NewCertPool()
	for _, path := range c.ClientCAs {
		data, err := os.ReadFile(path)
		if err != nil {
			return 0, nil, fmt.Errorf("http.tls.clientcas: %w", err)
		}
		if !pool.AppendCertsFromPEM(data) {
			return 0, nil, fmt.Errorf("http.tls.clientcas: %s holds no certificate in PEM", path)
		}
	}
	return auth, pool, nil
}

// clientAuthType knows the words of distribution's configuration.
func clientAuthType(name string) (tls.ClientAuthType, error) {
	switch name {
	case "", "require-and-verify-client-cert":
		return tls.RequireAndVerifyClientCert, nil
	case "verify-client-cert-if-given":
		return tls.VerifyClientCertIfGiven, nil
	case "require-any-client-cert":
		return tls.RequireAnyClientCert, nil
	case "request-client-cert":
		return tls.RequestClientCert, nil
	}
	return 0, fmt.Errorf("http.tls.clientauth: %q is unknown: use require-and-verify-client-cert, "+
		"verify-client-cert-if-given, require-any-client-cert or request-client-cert", name)
}
