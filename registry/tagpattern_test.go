package registry_test

import (
	"slices"
	"strings"
	"testing"

	settings "berth/config"
	"berth/registry"
)

func patterns(t testing.TB, from ...string) []registry.TagPattern {
	t.Helper()
	var all []registry.TagPattern
	for _, s := range from {
		p, err := registry.ParseTagPattern(s)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	return all
}

// defaultPatterns are those of a rule that names none.
func defaultPatterns(t testing.TB) []registry.TagPattern {
	t.Helper()
	return patterns(t, settings.IndexPatterns()...)
}

// TestMatchTag reads tags as a person would.
func TestMatchTag(t *testing.T) {
	all := defaultPatterns(t)
	for tag, want := range map[string]string{
		"1.2-amd64":                     "1.2 /amd64",
		"1.2-x86_64":                    "1.2 /amd64",
		"1.2-386":                       "1.2 /386",
		"1.2-i386":                      "1.2 /386",
		"1.2-arm64":                     "1.2 /arm64",
		"1.2-aarch64":                   "1.2 /arm64",
		"1.2-arm64v8":                   "1.2 /arm64",
		"1.2-arm64-v8":                  "1.2 /arm64",
		"1.2-arm":                       "1.2 /arm/v7",
		"1.2-armhf":                     "1.2 /arm/v7",
		"1.2-armv7":                     "1.2 /arm/v7",
		"1.2-armv7l":                    "1.2 /arm/v7",
		"1.2-arm32v7":                   "1.2 /arm/v7",
		"1.2-arm-v7":                    "1.2 /arm/v7",
		"1.2-armv6":                     "1.2 /arm/v6",
		"1.2-arm32v6":                   "1.2 /arm/v6",
		"1.2-arm-v6":                    "1.2 /arm/v6",
		"1.2-armv5":                     "1.2 /arm/v5",
		"1.2-arm32v5":                   "1.2 /arm/v5",
		"1.2-ppc64le":                   "1.2 /ppc64le",
		"1.2-s390x":                     "1.2 /s390x",
		"1.2-riscv64":                   "1.2 /riscv64",
		"1.2-linux-amd64":               "1.2 linux/amd64",
		"1.2-windows-amd64":             "1.2 windows/amd64",
		"1.2-linux-arm-v7":              "1.2 linux/arm/v7",
		"1.2-alpine-arm64":              "1.2-alpine /arm64",
		"1.2-rc.1-armv6":                "1.2-rc.1 /arm/v6",
		"buildcache-arm64":              "buildcache /arm64",
		"amd64":                         "latest /amd64",
		"arm":                           "latest /arm/v7",
		"arm64-v8":                      "latest /arm64",
		"latest-arm":                    "latest /arm/v7",
		"amd64-arm":                     "amd64 /arm/v7",
		"1.2":                           "",
		"1.2-alpine":                    "",
		"1.2-Amd64":                     "",
		"1.2-mips":                      "",
		"1.2amd64":                      "",
		"-amd64":                        "",
		"1.2-linux":                     "",
		"1.2-arm-v8":                    "",
		"linux-amd64":                   "latest linux/amd64",
		"linux-arm":                     "latest linux/arm/v7",
		"linux-arm-v7":                  "latest linux/arm/v7",
		"sha256-" + hex64:               "",
		"sha256-" + hex64[:64] + ".sig": "",
	} {
		whole, platform, ok := registry.MatchTag(all, tag)
		got := ""
		if ok {
			got = whole + " " + platform.String()
		}
		if got != want {
			t.Errorf("%s: got %q, want %q", tag, got, want)
		}
	}
}

var hex64 = strings.Repeat("ab12", 16)

// TestTagsOf goes the other way: what belongs to a tag.
func TestTagsOf(t *testing.T) {
	tags := registry.TagsOf(patterns(t, "v{tag}.{arch}"), "1")
	if len(tags) != 22 || !slices.Contains(tags, "v1.amd64") || !slices.Contains(tags, "v1.armv6") {
		t.Errorf("got %v", tags)
	}
	latest := registry.TagsOf(defaultPatterns(t), "latest")
	for _, tag := range []string{"arm", "linux-arm", "latest-arm", "latest-linux-arm-v7"} {
		if !slices.Contains(latest, tag) {
			t.Errorf("latest: no %s", tag)
		}
	}
	if tags := registry.TagsOf(patterns(t, "{tag}-{arch}"), strings.Repeat("x", 128)); len(tags) != 0 {
		t.Errorf("longer than a tag: %v", tags)
	}
}

func TestParseTagPatternRefuses(t *testing.T) {
	for pattern, want := range map[string]string{
		"":                       "{arch}",
		"{tag}":                  "{arch}",
		"{tag}-{arch}-{arch}":    "once",
		"{tag}-{tag}-{arch}":     "at most once",
		"{tag}-{os}{os}{arch}":   "at most once",
		"{variant}-{arch}":       "{variant} after {arch}",
		"{tag}-{arch}-{foo}":     "letters",
		"{tag}:{arch}":           "letters",
		"{tag}/{arch}":           "letters",
		strings.Repeat("x", 129): "128",
	} {
		if _, err := registry.ParseTagPattern(pattern); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", pattern, err, want)
		}
	}
}

// FuzzTagPattern sees that what a pattern reads it also writes.
func FuzzTagPattern(f *testing.F) {
	for _, s := range []string{"{tag}-{arch}", "{arch}", "{tag}-{os}-{arch}{variant}", "{os}.{arch}.{tag}", "{arch}{tag}"} {
		f.Add(s, "1.2-linux-amd64")
	}
	f.Fuzz(func(t *testing.T, s, tag string) {
		p, err := registry.ParseTagPattern(s)
		if err != nil || registry.CheckTag(tag) != nil {
			return
		}
		all := []registry.TagPattern{p}
		whole, platform, ok := registry.MatchTag(all, tag)
		if !ok {
			return
		}
		if registry.CheckTag(whole) != nil {
			t.Errorf("%q reads %q as the tag %q", s, tag, whole)
		}
		if !slices.Contains(registry.TagsOf(all, whole), tag) {
			t.Errorf("%q reads %q as %q for %s, which it does not write", s, tag, whole, platform)
		}
	})
}
