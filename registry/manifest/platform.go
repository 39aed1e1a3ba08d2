package manifest

import (
	"fmt"
	"strings"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Platform is what an image runs on, in the form in which two that mean the same are equal (OCI image spec, "Image Index
// Property Descriptions"). Make it with NewPlatform or ParsePlatform.
type Platform struct{ OS, Architecture, Variant string }

// NewPlatform returns a platform in its normal form: arm without a variant is v7, which is what it has always meant to Docker,
// arm64/v8 is arm64, and amd64/v1 is amd64.
func NewPlatform(os, architecture, variant string) Platform {
	p := Platform{strings.ToLower(os), strings.ToLower(architecture), strings.ToLower(variant)}
	switch p.Architecture {
	case "x86_64", "x86-64":
		p.Architecture = "amd64"
	case "aarch64":
		p.Architecture = "arm64"
	case "armhf":
		p.Architecture, p.Variant = "arm", "v7"
	case "i386":
		p.Architecture = "386"
	}
	if p.Variant != "" && p.Variant[0] >= '0' && p.Variant[0] <= '9' {
		p.Variant = "v" + p.Variant
	}
	switch {
	case p.Architecture == "arm" && p.Variant == "":
		p.Variant = "v7"
	case p.Architecture == "arm64" && p.Variant == "v8", p.Architecture == "amd64" && p.Variant == "v1":
		p.Variant = ""
	}
	return p
}

// PlatformOf returns the platform that a descriptor names, and false when it names none: attestations have unknown/unknown.
func PlatformOf(d v1.Descriptor) (Platform, bool) {
	if d.Platform == nil || d.Platform.OS == "" || d.Platform.OS == "unknown" {
		return Platform{}, false
	}
	return NewPlatform(d.Platform.OS, d.Platform.Architecture, d.Platform.Variant), true
}

// ParsePlatform reads a platform as people write it: linux/arm/v7.
func ParsePlatform(s string) (Platform, error) {
	parts := strings.Split(s, "/")
	if len(parts) < 2 || len(parts) > 3 {
		return Platform{}, fmt.Errorf("%q is no platform: write OS/ARCHITECTURE or OS/ARCHITECTURE/VARIANT, such as linux/arm/v7", s)
	}
	for _, part := range parts {
		if part == "" || len(part) > 32 || strings.ContainsFunc(part, notInPlatform) {
			return Platform{}, fmt.Errorf("%q is no platform: its parts have letters, digits, '_', '.' and '-'", s)
		}
	}
	return NewPlatform(parts[0], parts[1], strings.Join(parts[2:], "")), nil
}

func notInPlatform(r rune) bool {
	switch {
	case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', r == '_', r == '.', r == '-':
		return false
	}
	return true
}

// Includes reports whether an image for other runs where one for p is wanted: a platform without a variant includes those
// with one.
func (p Platform) Includes(other Platform) bool {
	return p == other || p.Variant == "" && p.OS == other.OS && p.Architecture == other.Architecture
}

// String returns the platform as ParsePlatform reads it.
func (p Platform) String() string {
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}
