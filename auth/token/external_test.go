package token

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// authority is a token server's CA, and a key with a certificate of it.
type authority struct {
	root, leaf       *x509.Certificate
	rootKey, leafKey *ecdsa.PrivateKey
	bundle           string // path of root
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	a := authority{bundle: filepath.Join(t.TempDir(), "root.pem")}
	make := func(template, parent *x509.Certificate, signer *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if parent == nil {
			parent, signer = template, key
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
		if err != nil {
			t.Fatal(err)
		}
		parsed, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return parsed, key
	}
	template := x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"}, NotBefore: now.AddDate(-1, 0, 0),
		NotAfter: now.AddDate(1, 0, 0), IsCA: true, BasicConstraintsValid: true}
	a.root, a.rootKey = make(&template, nil, nil)
	template = x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "leaf"}, NotBefore: now.AddDate(-1, 0, 0),
		NotAfter: now.AddDate(1, 0, 0)}
	a.leaf, a.leafKey = make(&template, a.root, a.rootKey)
	write(t, a.bundle, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.root.Raw}))
	return a
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// signed returns a token of ann for service, with whatever headers.
func signed(t *testing.T, algorithm jose.SignatureAlgorithm, key any, options *jose.SignerOptions, service string) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: algorithm, Key: key}, options)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := jwt.Signed(signer).Claims(jwt.Claims{Issuer: "issuer", Subject: "ann", Audience: jwt.Audience{service},
		Expiry: jwt.NewNumericDate(now.Add(time.Hour)), NotBefore: jwt.NewNumericDate(now), IssuedAt: jwt.NewNumericDate(now)}).
		Claims(map[string]any{"access": []Scope{{TypeRepository, "a", []string{"pull"}}}}).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func with(header jose.HeaderKey, value any) *jose.SignerOptions {
	return (&jose.SignerOptions{}).WithHeader(header, value)
}

func chain(certificates ...*x509.Certificate) []string {
	var texts []string
	for _, c := range certificates {
		texts = append(texts, base64.StdEncoding.EncodeToString(c.Raw))
	}
	return texts
}

func TestExternal(t *testing.T) {
	a, others := newAuthority(t), newAuthority(t)
	jwks := filepath.Join(t.TempDir(), "jwks.json")
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	write(t, jwks, writeKeySet(t, jose.JSONWebKey{Key: rsaKey.Public(), KeyID: "of the set"}))
	e, err := OpenExternal(ExternalConfig{Issuer: "issuer", Service: "service", RootCertBundle: a.bundle, JWKS: jwks})
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(a.rootKey.Public())
	if err != nil {
		t.Fatal(err)
	}
	thumbprint, err := (&jose.JSONWebKey{Key: a.rootKey.Public()}).Thumbprint(crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	embedded := (&jose.SignerOptions{EmbedJWK: true})
	for name, test := range map[string]struct {
		raw  string
		good bool
	}{
		"chain":                      {signed(t, jose.ES256, a.leafKey, with("x5c", chain(a.leaf)), "service"), true},
		"chain with the root":        {signed(t, jose.ES256, a.leafKey, with("x5c", chain(a.leaf, a.root)), "service"), true},
		"id of a key set":            {signed(t, jose.RS256, rsaKey, with("kid", "of the set"), "service"), true},
		"id as libtrust has it":      {signed(t, jose.ES256, a.rootKey, with("kid", libtrustID(der)), "service"), true},
		"thumbprint":                 {signed(t, jose.ES256, a.rootKey, with("kid", base64.RawURLEncoding.EncodeToString(thumbprint)), "service"), true},
		"embedded key that is known": {signed(t, jose.ES256, a.rootKey, embedded, "service"), true},
		"embedded key of anybody":    {signed(t, jose.ES256, others.rootKey, embedded, "service"), false},
		"chain to another root":      {signed(t, jose.ES256, others.leafKey, with("x5c", chain(others.leaf, others.root)), "service"), false},
		"chain of somebody else":     {signed(t, jose.ES256, others.leafKey, with("x5c", chain(a.leaf)), "service"), false},
		"id of somebody else":        {signed(t, jose.ES256, others.leafKey, with("kid", libtrustID(der)), "service"), false},
		"no id":                      {signed(t, jose.ES256, a.rootKey, nil, "service"), false},
		"another service":            {signed(t, jose.RS256, rsaKey, with("kid", "of the set"), "other"), false},
		"shared secret":              {signed(t, jose.HS256, der, with("kid", libtrustID(der)), "service"), false},
		"no token":                   {"x", false},
	} {
		c, err := e.Verify(test.raw, now)
		if (err == nil) != test.good {
			t.Errorf("%s: %v", name, err)
		}
		if test.good && (c.User != "ann" || len(c.Access) != 1 || c.Access[0].Name != "a") {
			t.Errorf("%s: got %+v", name, c)
		}
	}
	good := signed(t, jose.RS256, rsaKey, with("kid", "of the set"), "service")
	for at, want := range map[time.Time]string{now.Add(time.Hour + 2*Skew): "expired", now.Add(-2 * Skew): "not valid yet"} {
		if _, err := e.Verify(good, at); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("at %v: %v", at, err)
		}
	}
	narrow, err := OpenExternal(ExternalConfig{Issuer: "issuer", Service: "service", JWKS: jwks, Algorithms: []string{"ES256"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := narrow.Verify(good, now); err == nil {
		t.Error("an algorithm that is not listed was taken")
	}
}

func TestOpenExternalRefuses(t *testing.T) {
	directory := t.TempDir()
	file := func(name string, data []byte) string {
		write(t, filepath.Join(directory, name), data)
		return filepath.Join(directory, name)
	}
	secret := writeKeySet(t, jose.JSONWebKey{Key: []byte("0123456789abcdef0123456789abcdef"), KeyID: "shared"})
	for name, test := range map[string]struct {
		config ExternalConfig
		want   string
	}{
		"nothing":       {ExternalConfig{}, "set rootcertbundle or jwks"},
		"no file":       {ExternalConfig{RootCertBundle: filepath.Join(directory, "none")}, "auth.token.rootcertbundle: open"},
		"no PEM":        {ExternalConfig{RootCertBundle: file("text", []byte("x"))}, "holds no certificate"},
		"no JSON":       {ExternalConfig{JWKS: file("json", []byte("x"))}, "auth.token.jwks: "},
		"empty set":     {ExternalConfig{JWKS: file("empty", []byte(`{"keys":[]}`))}, "set rootcertbundle or jwks"},
		"shared secret": {ExternalConfig{JWKS: file("secret", secret)}, "shared secret are not accepted"},
	} {
		if e, err := OpenExternal(test.config); e != nil || err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}
