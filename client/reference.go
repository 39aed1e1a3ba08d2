package client

import (
	"fmt"
	"strings"

	// The digests that references may have.
	_ "crypto/sha256"
	_ "crypto/sha512"

	"github.com/opencontainers/go-digest"
	"oras.land/oras-go/v2/registry"
)

// Reference names a manifest in a repository of a registry.
type Reference struct {
	// Host is HOST or HOST:PORT, or empty for the local registry.
	Host       string
	Repository string
	// Tag is empty where only a digest was given, and Digest where only a tag was. Where there are both, the digest counts.
	Tag    string
	Digest digest.Digest
}

// ParseReference reads [HOST[:PORT]/]REPOSITORY[:TAG][@DIGEST]. The part before the first slash is a host where Docker takes it
// for one, too: when it has a dot or a colon, or is localhost. Without tag and digest, the tag is latest.
func ParseReference(s string) (Reference, error) {
	host, rest, ok := strings.Cut(s, "/")
	if !ok || host != "localhost" && !strings.ContainsAny(host, ".:") {
		host, rest = "", s
	}
	ref := Reference{Host: host}
	rest, encoded, hasDigest := strings.Cut(rest, "@")
	ref.Repository, ref.Tag, ok = strings.Cut(rest, ":")
	if !ok && !hasDigest {
		ref.Tag = "latest"
	}
	ref.Digest = digest.Digest(encoded)
	if problem := ref.problem(ok, hasDigest); problem != nil {
		return Reference{}, fmt.Errorf("%q is no reference such as HOST:PORT/REPOSITORY:TAG: %w", s, problem)
	}
	return ref, nil
}

func (r Reference) problem(hasTag, hasDigest bool) error {
	parsed := registry.Reference{Registry: r.Host, Repository: r.Repository, Reference: r.Tag}
	if r.Host != "" {
		if err := parsed.ValidateRegistry(); err != nil {
			return err
		}
	}
	if err := parsed.ValidateRepository(); err != nil {
		return err
	}
	if hasTag {
		if err := parsed.ValidateReferenceAsTag(); err != nil {
			return err
		}
	}
	if hasDigest {
		return r.Digest.Validate()
	}
	return nil
}

// String returns the reference as ParseReference reads it.
func (r Reference) String() string {
	s := r.Repository
	if r.Host != "" {
		s = r.Host + "/" + s
	}
	if r.Tag != "" {
		s += ":" + r.Tag
	}
	if r.Digest != "" {
		s += "@" + r.Digest.String()
	}
	return s
}

// at is what a registry is asked for.
func (r Reference) at() string {
	if r.Digest != "" {
		return r.Digest.String()
	}
	return r.Tag
}

// IsRepository reports whether a reference that ParseReference reads names neither a tag nor a digest.
func IsRepository(s string) bool {
	return !strings.Contains(s, "@") && !strings.Contains(s[strings.LastIndex(s, "/")+1:], ":")
}
