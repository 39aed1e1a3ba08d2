package registry

import (
	"strings"

	"github.com/opencontainers/go-digest"

	// go-digest knows only the algorithms that are linked in.
	_ "crypto/sha256"
	_ "crypto/sha512"
)

// MaxNameLength is the longest repository name in bytes, as in distribution.
const MaxNameLength = 255

// Reference names a manifest within a repository: by tag or by digest. Exactly one of the two is set.
type Reference struct {
	Tag    string
	Digest digest.Digest
}

// String returns the tag or the digest.
func (r Reference) String() string {
	if r.Digest != "" {
		return r.Digest.String()
	}
	return r.Tag
}

// ParseReference reads a tag or a digest (OCI distribution spec, "Pulling manifests"). It fails with ErrTagInvalid or
// ErrDigestInvalid.
func ParseReference(s string) (Reference, error) {
	if strings.Contains(s, ":") {
		d, err := ParseDigest(s)
		return Reference{Digest: d}, err
	}
	return Reference{Tag: s}, CheckTag(s)
}

// ParseDigest reads a digest of one of the algorithms that the registry stores: sha256 and sha512. It fails with
// ErrDigestInvalid.
func ParseDigest(s string) (digest.Digest, error) {
	algorithm, encoded, ok := strings.Cut(s, ":")
	if !ok {
		return "", ErrDigestInvalid.Withf("digest %q has no algorithm: expected sha256:<64 hex digits> or sha512:<128>", clip(s))
	}
	a, err := ParseAlgorithm(algorithm)
	if err != nil {
		return "", err
	}
	if len(encoded) != 2*a.Size() || strings.ContainsFunc(encoded, notLowerHex) {
		return "", ErrDigestInvalid.Withf("digest %q: %s needs %d lower-case hex digits", clip(s), a, 2*a.Size())
	}
	return digest.Digest(s), nil
}

// ParseAlgorithm reads the name of a digest algorithm that the registry stores. It fails with ErrDigestInvalid.
func ParseAlgorithm(s string) (digest.Algorithm, error) {
	switch a := digest.Algorithm(s); a {
	case digest.SHA256, digest.SHA512:
		return a, nil
	}
	return "", ErrDigestInvalid.Withf("digest algorithm %q is not supported: use sha256 or sha512", clip(s))
}

// CheckTag fails with ErrTagInvalid unless s is a tag: [a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}.
func CheckTag(s string) error {
	if s == "" || len(s) > 128 || s[0] == '.' || s[0] == '-' || strings.ContainsFunc(s, notInTag) {
		return ErrTagInvalid.Withf("invalid tag %q: up to 128 letters, digits, '_', '.' and '-', not beginning with '.' or '-'", clip(s))
	}
	return nil
}

// CheckName fails with ErrNameInvalid unless s is a repository name: path components of lower-case letters and digits,
// separated within by '.', '_', '__' or any number of '-', joined by '/', at most 255 bytes.
func CheckName(s string) error {
	if s == "" || len(s) > MaxNameLength {
		return ErrNameInvalid.Withf("invalid repository name of %d bytes: between 1 and %d are allowed", len(s), MaxNameLength)
	}
	for component := range strings.SplitSeq(s, "/") {
		if !validComponent(component) {
			return ErrNameInvalid.Withf("invalid repository name %q: components are lower-case letters and digits, separated within by one of '.', '_', '__' or '-'", clip(s))
		}
	}
	return nil
}

// validComponent matches [a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*.
func validComponent(s string) bool {
	for {
		n := prefixLength(s, isLowerAlphanumeric)
		if n == 0 {
			return false
		}
		if s = s[n:]; s == "" {
			return true
		}
		switch {
		case strings.HasPrefix(s, "__"):
			s = s[2:]
		case s[0] == '_', s[0] == '.':
			s = s[1:]
		case s[0] == '-':
			s = strings.TrimLeft(s, "-")
		default:
			return false
		}
	}
}

func prefixLength(s string, in func(byte) bool) int {
	for i := range len(s) {
		if !in(s[i]) {
			return i
		}
	}
	return len(s)
}

func isLowerAlphanumeric(c byte) bool { return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' }

func notLowerHex(r rune) bool { return (r < '0' || r > '9') && (r < 'a' || r > 'f') }

func notInTag(r rune) bool {
	switch {
	case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', r == '_', r == '.', r == '-':
		return false
	}
	return true
}

// clip keeps a client's bad input from filling answers and logs.
func clip(s string) string {
	const most = 160
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}
