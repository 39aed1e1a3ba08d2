package metadata

import (
	_ "crypto/sha256" // digests of both algorithms are refused unless they are linked in
	_ "crypto/sha512"
	"database/sql/driver"
	"encoding/hex"
	"fmt"

	"github.com/opencontainers/go-digest"
)

// The first byte of a stored digest. These values are on disk: never change one.
const (
	algorithmSHA256 = 1
	algorithmSHA512 = 2
)

// sqlDigest is a digest as SQL holds it: one byte of algorithm and the raw hash, null when empty.
type sqlDigest digest.Digest

// Value implements driver.Valuer.
func (d sqlDigest) Value() (driver.Value, error) {
	if d == "" {
		return nil, nil
	}
	return encodeDigest(digest.Digest(d))
}

// Scan implements sql.Scanner.
func (d *sqlDigest) Scan(src any) error {
	switch v := src.(type) {
	case nil:
		*d = ""
		return nil
	case []byte:
		decoded, err := decodeDigest(v)
		*d = sqlDigest(decoded)
		return err
	}
	return fmt.Errorf("digest column holds a %T", src)
}

func encodeDigest(d digest.Digest) ([]byte, error) {
	if err := d.Validate(); err != nil {
		return nil, fmt.Errorf("digest %q: %w", d, err)
	}
	var algorithm byte
	switch d.Algorithm() {
	case digest.SHA256:
		algorithm = algorithmSHA256
	case digest.SHA512:
		algorithm = algorithmSHA512
	default:
		return nil, fmt.Errorf("digest %q: algorithm is not stored", d)
	}
	raw := make([]byte, 1, 1+d.Algorithm().Size())
	raw[0] = algorithm
	return hex.AppendDecode(raw, []byte(d.Encoded()))
}

func decodeDigest(raw []byte) (digest.Digest, error) {
	algorithm := digest.Algorithm("")
	if len(raw) > 0 {
		switch raw[0] {
		case algorithmSHA256:
			algorithm = digest.SHA256
		case algorithmSHA512:
			algorithm = digest.SHA512
		}
	}
	if algorithm == "" || len(raw) != 1+algorithm.Size() {
		return "", fmt.Errorf("digest column holds %d bytes %x", len(raw), raw)
	}
	return digest.NewDigestFromEncoded(algorithm, hex.EncodeToString(raw[1:])), nil
}
