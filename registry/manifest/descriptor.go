package manifest

import (
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Nondistributable reports whether the registry may lack what d describes: a layer of a foreign or nondistributable type
// that says where else to get it.
func Nondistributable(d v1.Descriptor) bool {
	return len(d.URLs) > 0 &&
		(strings.HasPrefix(d.MediaType, "application/vnd.docker.image.rootfs.foreign.diff.tar") ||
			strings.HasPrefix(d.MediaType, "application/vnd.oci.image.layer.nondistributable.v1.tar"))
}

// problemOf says what is wrong with a descriptor, or nothing (OCI image spec, "OCI Content Descriptors").
func problemOf(d *v1.Descriptor) string {
	switch {
	case !validMediaType(d.MediaType):
		return fmt.Sprintf("mediaType %q is no media type", clip(d.MediaType))
	case !validDigest(d.Digest):
		return fmt.Sprintf("digest %q is none of sha256:<64 lower-case hex digits> and sha512:<128>", clip(d.Digest.String()))
	case d.Size < 0:
		return fmt.Sprintf("size %d is negative", d.Size)
	case d.ArtifactType != "" && !validMediaType(d.ArtifactType):
		return fmt.Sprintf("artifactType %q is no media type", clip(d.ArtifactType))
	case d.Platform != nil:
		return problemOfPlatform(d.Platform)
	}
	return ""
}

func problemOfPlatform(p *v1.Platform) string {
	for _, s := range append([]string{p.OS, p.Architecture, p.Variant, p.OSVersion}, p.OSFeatures...) {
		if !validPlatformPart(s) {
			return fmt.Sprintf("platform has %q, where up to 128 printable ASCII characters are allowed", clip(s))
		}
	}
	return ""
}

// validPlatformPart reports whether s is short and printable, as the names of Go's platforms are. It may be empty.
func validPlatformPart(s string) bool {
	return len(s) <= 128 && !strings.ContainsFunc(s, notPrintable)
}

func validDigest(d digest.Digest) bool {
	algorithm, encoded, _ := strings.Cut(string(d), ":")
	switch digest.Algorithm(algorithm) {
	case digest.SHA256:
		return len(encoded) == 64 && isLowerHex(encoded)
	case digest.SHA512:
		return len(encoded) == 128 && isLowerHex(encoded)
	}
	return false
}

func isLowerHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// validMediaType matches RFC 6838, section 4.2. Parameters, which that section does not have, are let through: clients
// push what they are given.
func validMediaType(s string) bool {
	full, parameters, _ := strings.Cut(s, ";")
	kind, subtype, ok := strings.Cut(full, "/")
	return ok && validRestrictedName(kind) && validRestrictedName(subtype) &&
		len(parameters) <= 256 && !strings.ContainsFunc(parameters, notPrintable)
}

// validRestrictedName matches a restricted-name of RFC 6838.
func validRestrictedName(s string) bool {
	if s == "" || len(s) > 127 || !isAlphanumeric(s[0]) {
		return false
	}
	for i := range len(s) {
		if !isAlphanumeric(s[i]) && strings.IndexByte("!#$&-^_.+", s[i]) < 0 {
			return false
		}
	}
	return true
}

func isAlphanumeric(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

func notPrintable(r rune) bool { return r < ' ' || r > '~' }
