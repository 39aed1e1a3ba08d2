package token

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// maxKeys bounds a key file. Keys that are too old to have signed a token that is still valid are to be removed.
const maxKeys = 10

// Keys sign tokens and verify them: the first of a file signs, and all verify, so that a new one can be put in front
// while tokens of the old one are out.
type Keys struct {
	signer jose.Signer
	public map[string]crypto.PublicKey // by key id
}

// GenerateKey returns a new key as PEM.
func GenerateKey() ([]byte, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// RotateKeys returns the content of a key file with a new key in front, after which the newest of the old ones follows.
func RotateKeys(data []byte) ([]byte, error) {
	if _, err := ParseKeys(data); err != nil {
		return nil, err
	}
	made, err := GenerateKey()
	if err != nil {
		return nil, err
	}
	newest, _ := pem.Decode(data)
	return append(made, pem.EncodeToMemory(newest)...), nil
}

// ParseKeys reads private keys from PEM: Ed25519 and ECDSA with P-256, as PKCS #8 or SEC 1. Its errors tell nothing of them.
func ParseKeys(data []byte) (*Keys, error) {
	k := &Keys{public: make(map[string]crypto.PublicKey)}
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if len(k.public) == maxKeys {
			return nil, fmt.Errorf("there are more than %d keys: remove the oldest", maxKeys)
		}
		if err := k.add(block); err != nil {
			return nil, fmt.Errorf("key %d: %w", len(k.public)+1, err)
		}
		data = rest
	}
	switch {
	case k.signer == nil:
		return nil, errors.New("it holds no private key in PEM form")
	case len(bytes.TrimSpace(data)) > 0:
		return nil, errors.New("there is something behind the last key that is no PEM")
	}
	return k, nil
}

func (k *Keys) add(block *pem.Block) error {
	algorithm, key, err := parseKey(block)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return errors.New("its public half can't be used")
	}
	sum := sha256.Sum256(der)
	id := base64.RawURLEncoding.EncodeToString(sum[:12])
	k.public[id] = key.Public()
	if k.signer != nil {
		return nil
	}
	options := (&jose.SignerOptions{}).WithType("JWT")
	k.signer, err = jose.NewSigner(jose.SigningKey{Algorithm: algorithm, Key: jose.JSONWebKey{Key: key, KeyID: id}}, options)
	return err
}

func parseKey(block *pem.Block) (jose.SignatureAlgorithm, crypto.Signer, error) {
	var parsed any
	var err error
	switch block.Type {
	case "PRIVATE KEY":
		parsed, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		parsed, err = x509.ParseECPrivateKey(block.Bytes)
	default:
		return "", nil, errors.New(`it is no private key without a password ("PRIVATE KEY" or "EC PRIVATE KEY")`)
	}
	if err != nil {
		return "", nil, errors.New("it is damaged")
	}
	switch key := parsed.(type) {
	case ed25519.PrivateKey:
		return jose.EdDSA, key, nil
	case *ecdsa.PrivateKey:
		if key.Curve == elliptic.P256() {
			return jose.ES256, key, nil
		}
	}
	return "", nil, errors.New("use a key of Ed25519, or of ECDSA with the curve P-256")
}

// algorithms are those that Keys sign with. No others are ever tried, whatever a token says of itself.
func algorithms() []jose.SignatureAlgorithm {
	return []jose.SignatureAlgorithm{jose.EdDSA, jose.ES256}
}

// open reads the claims of a token that one of the keys signed.
func (k *Keys) open(raw string, claims ...any) error {
	parsed, err := jwt.ParseSigned(raw, algorithms())
	if err != nil {
		return err
	}
	key, ok := k.public[parsed.Headers[0].KeyID]
	if !ok {
		return errors.New("it is signed with an unknown key")
	}
	return parsed.Claims(key, claims...)
}
