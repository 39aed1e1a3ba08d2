package auth

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"berth/auth/token"
)

// newServer returns what makes tokens of ann as another server does, and how to check them.
func newServer(t *testing.T, key []byte) (func(...token.Scope) string, token.ExternalConfig) {
	t.Helper()
	block, _ := pem.Decode(key)
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	private := jose.JSONWebKey{Key: parsed, KeyID: "one"}
	set, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{private.Public()}})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "jwks.json")
	if err := os.WriteFile(path, set, 0o600); err != nil {
		t.Fatal(err)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.EdDSA, Key: private}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return func(scopes ...token.Scope) string {
		raw, err := jwt.Signed(signer).Claims(jwt.Claims{Issuer: "issuer", Subject: "ann", Audience: jwt.Audience{"service"},
			Expiry: jwt.NewNumericDate(time.Now().Add(time.Hour))}).Claims(map[string]any{"access": scopes}).Serialize()
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}, token.ExternalConfig{Issuer: "issuer", Service: "service", JWKS: path}
}
