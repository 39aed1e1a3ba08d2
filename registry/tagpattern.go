package registry

import (
	"errors"
	"fmt"
	"strings"

	"berth/registry/manifest"
)

// defaultIndexTag is the tag that a pattern without {tag} is about: what clients take when they name none.
const defaultIndexTag = "latest"

// architectures is what tags call architectures, and nothing else is taken for one: "alpine" could be, if it were open.
func architectures() []platformName {
	return []platformName{
		{"amd64", "amd64", ""}, {"x86_64", "amd64", ""},
		{"386", "386", ""}, {"i386", "386", ""},
		{"arm64", "arm64", ""}, {"aarch64", "arm64", ""}, {"arm64v8", "arm64", ""}, {"arm64-v8", "arm64", ""},
		{"arm", "arm", "v7"}, {"armhf", "arm", "v7"}, {"armv7", "arm", "v7"}, {"armv7l", "arm", "v7"},
		{"arm32v7", "arm", "v7"}, {"arm-v7", "arm", "v7"},
		{"armv6", "arm", "v6"}, {"arm32v6", "arm", "v6"}, {"arm-v6", "arm", "v6"},
		{"armv5", "arm", "v5"}, {"arm32v5", "arm", "v5"},
		{"ppc64le", "ppc64le", ""}, {"s390x", "s390x", ""}, {"riscv64", "riscv64", ""},
	}
}

type platformName struct{ name, architecture, variant string }

func operatingSystems() []string { return []string{"linux", "windows", "darwin", "freebsd"} }

// TagPattern tells tags for one platform, and which tag is for all of them. Make it with ParseTagPattern.
type TagPattern struct {
	// forms are the pattern with every platform written in.
	forms []tagForm
}

// tagForm is what comes before and after the tag for all platforms. Without a place for it, prefix is the whole.
type tagForm struct {
	prefix, suffix string
	fixed          bool
	platform       manifest.Platform // without an operating system where the pattern has none
}

// ParseTagPattern reads a pattern such as {tag}-{arch} or {tag}-{os}-{arch}{variant}. {arch} and {arch}{variant} are the
// same: a name of an architecture with its variant, such as amd64, armv7 or arm-v7. A pattern without {tag} is about the tag
// latest.
func ParseTagPattern(s string) (TagPattern, error) {
	if len(s) > 128 {
		return TagPattern{}, errors.New("a pattern has at most 128 characters")
	}
	plain := strings.ReplaceAll(s, "{arch}{variant}", "{arch}")
	if strings.Count(plain, "{arch}") != 1 || strings.Count(plain, "{tag}") > 1 || strings.Count(plain, "{os}") > 1 {
		return TagPattern{}, fmt.Errorf("%q: a pattern has {arch} or {arch}{variant} once, and {tag} and {os} at most once, such as {tag}-{arch}", s)
	}
	rest := strings.NewReplacer("{arch}", "", "{tag}", "", "{os}", "").Replace(plain)
	if strings.ContainsFunc(rest, func(r rune) bool { return !inTag(r) }) {
		return TagPattern{}, fmt.Errorf("%q: besides {tag}, {os}, {arch} and {variant} after {arch} a pattern has letters, digits, '_', '.' and '-'", s)
	}
	systems := []string{""}
	if strings.Contains(plain, "{os}") {
		systems = operatingSystems()
	}
	var p TagPattern
	for _, system := range systems {
		for _, a := range architectures() {
			text := strings.NewReplacer("{os}", system, "{arch}", a.name).Replace(plain)
			prefix, suffix, hasTag := strings.Cut(text, "{tag}")
			p.forms = append(p.forms, tagForm{prefix, suffix, !hasTag, manifest.Platform{OS: system, Architecture: a.architecture, Variant: a.variant}})
		}
	}
	return p, nil
}

func inTag(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '_' || r == '.' || r == '-'
}

// match returns the tag for all platforms that a tag belongs to.
func (f tagForm) match(tag string) (whole string, ok bool) {
	if f.fixed {
		return defaultIndexTag, tag == f.prefix
	}
	rest, begins := strings.CutPrefix(tag, f.prefix)
	whole, ends := strings.CutSuffix(rest, f.suffix)
	return whole, begins && ends && CheckTag(whole) == nil
}

// tag is the other way around. It may be no tag that there can be.
func (f tagForm) tag(whole string) (tag string, ok bool) {
	if f.fixed {
		return f.prefix, whole == defaultIndexTag
	}
	return f.prefix + whole + f.suffix, true
}

// matchTag returns which tag a tag belongs to and what it is for, and false when no pattern matches. Where a tag can be read in
// several ways, the one that leaves the shortest is meant: 1.2-linux-amd64 belongs to 1.2.
func matchTag(patterns []TagPattern, tag string) (whole string, platform manifest.Platform, ok bool) {
	shortest := 0
	for _, p := range patterns {
		for _, f := range p.forms {
			w, fits := f.match(tag)
			left := len(tag) - len(f.prefix) - len(f.suffix)
			if fits && (!ok || left < shortest) {
				whole, platform, ok, shortest = w, f.platform, true, left
			}
		}
	}
	return whole, platform, ok
}

// tagsOf returns all tags that can be read as belonging to a tag. Of some of them matchTag reads a shorter one.
func tagsOf(patterns []TagPattern, whole string) []string {
	var all []string
	for _, p := range patterns {
		for _, f := range p.forms {
			if tag, ok := f.tag(whole); ok && CheckTag(tag) == nil {
				all = append(all, tag)
			}
		}
	}
	return all
}
