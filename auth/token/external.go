package token

import (
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base32"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// ExternalConfig says which token server to believe: section auth.token of the configuration.
type ExternalConfig struct {
	Issuer, Service string
	// RootCertBundle is a PEM file with certificates: their keys sign tokens, or those of certificates that they signed.
	RootCertBundle string
	// JWKS is a file with a JSON Web Key Set (RFC 7517, section 5).
	JWKS string
	// Algorithms are the ones that are accepted, by their JOSE names. Empty means all but those with a shared secret.
	Algorithms []string
}

// External verifies the tokens of another server.
type External struct {
	issuer, service string
	algorithms      []jose.SignatureAlgorithm
	roots           *x509.CertPool
	keys            map[string]crypto.PublicKey
}

// AsymmetricAlgorithms returns the names that ExternalConfig.Algorithms may have.
func AsymmetricAlgorithms() []string {
	return []string{"EdDSA", "ES256", "ES384", "ES512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}
}

// OpenExternal reads the files that c names.
func OpenExternal(c ExternalConfig) (*External, error) {
	e := &External{issuer: c.Issuer, service: c.Service, roots: x509.NewCertPool(), keys: make(map[string]crypto.PublicKey)}
	if len(c.Algorithms) == 0 {
		c.Algorithms = AsymmetricAlgorithms()
	}
	for _, name := range c.Algorithms {
		e.algorithms = append(e.algorithms, jose.SignatureAlgorithm(name))
	}
	if c.RootCertBundle != "" {
		if err := e.readRoots(c.RootCertBundle); err != nil {
			return nil, fmt.Errorf("auth.token.rootcertbundle: %w", err)
		}
	}
	if c.JWKS != "" {
		if err := e.readKeySet(c.JWKS); err != nil {
			return nil, fmt.Errorf("auth.token.jwks: %w", err)
		}
	}
	if len(e.keys) == 0 {
		return nil, errors.New("auth.token: there is no key to check tokens with: set rootcertbundle or jwks")
	}
	return e, nil
}

func (e *External) readRoots(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	found := false
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		e.roots.AddCert(certificate)
		if err := e.addKey(certificate.PublicKey); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		found = true
	}
	if !found {
		return fmt.Errorf("%s holds no certificate in PEM form", path)
	}
	return nil
}

// addKey makes a key known by both ids that token servers give it: its thumbprint (RFC 7638), and the fingerprint of
// Docker's old libtrust.
func (e *External) addKey(key crypto.PublicKey) error {
	jwk := jose.JSONWebKey{Key: key}
	thumbprint, err := jwk.Thumbprint(crypto.SHA256)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return err
	}
	e.keys[base64.RawURLEncoding.EncodeToString(thumbprint)] = key
	e.keys[libtrustID(der)] = key
	return nil
}

// libtrustID is the first 240 bits of the key's SHA-256 in base32, with a colon after every four characters.
func libtrustID(der []byte) string {
	sum := sha256.Sum256(der)
	text := base32.StdEncoding.EncodeToString(sum[:30])
	var parts []string
	for ; len(text) > 0; text = text[4:] {
		parts = append(parts, text[:4])
	}
	return strings.Join(parts, ":")
}

func (e *External) readKeySet(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(data, &set); err != nil {
		return fmt.Errorf("%s is no JSON Web Key Set: %w", path, err)
	}
	for _, key := range set.Keys {
		public := key.Public()
		if !public.Valid() {
			return fmt.Errorf("%s: the key %q has no public half: keys with a shared secret are not accepted", path, key.KeyID)
		}
		if err := e.addKey(public.Key); err != nil {
			return fmt.Errorf("%s: the key %q: %w", path, key.KeyID, err)
		}
		if key.KeyID != "" {
			e.keys[key.KeyID] = public.Key
		}
	}
	return nil
}

// Verify returns what a token says. Its scopes alone decide what its bearer may do.
func (e *External) Verify(raw string, now time.Time) (Claims, error) {
	if len(raw) > maxToken {
		return Claims{}, errTooLong
	}
	parsed, err := jwt.ParseSigned(raw, e.algorithms)
	if err != nil {
		return Claims{}, errSignature
	}
	key, err := e.key(parsed.Headers[0], now)
	if err != nil {
		return Claims{}, err
	}
	var registered jwt.Claims
	var c struct {
		Access []Scope `json:"access"`
	}
	if err := parsed.Claims(key, &registered, &c); err != nil {
		return Claims{}, errSignature
	}
	if registered.Expiry == nil {
		return Claims{}, errors.New("the token has no end")
	}
	return Claims{Access: c.Access}.complete(registered, jwt.Expected{
		Issuer: e.issuer, AnyAudience: jwt.Audience{e.service}, Time: now,
	})
}

// key finds the key that a token says it is signed with. What the token brings along counts only where a root vouches for
// it, or where it is known.
func (e *External) key(h jose.Header, now time.Time) (crypto.PublicKey, error) {
	if chains, err := h.Certificates(x509.VerifyOptions{
		Roots: e.roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	}); err == nil && len(chains) > 0 {
		return chains[0][0].PublicKey, nil
	}
	if h.JSONWebKey != nil {
		thumbprint, err := h.JSONWebKey.Thumbprint(crypto.SHA256)
		if key, ok := e.keys[base64.RawURLEncoding.EncodeToString(thumbprint)]; err == nil && ok {
			return key, nil
		}
	}
	if key, ok := e.keys[h.KeyID]; ok && h.KeyID != "" {
		return key, nil
	}
	return nil, errors.New("the token is signed with an unknown key")
}
