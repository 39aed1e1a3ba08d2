package manifest

import (
	"strings"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestPlatforms(t *testing.T) {
	for in, want := range map[string]string{
		"linux/amd64": "linux/amd64", "Linux/AMD64": "linux/amd64", "linux/x86_64": "linux/amd64", "linux/amd64/v1": "linux/amd64",
		"linux/amd64/v3": "linux/amd64/v3", "linux/arm": "linux/arm/v7", "linux/arm/v7": "linux/arm/v7", "linux/arm/7": "linux/arm/v7",
		"linux/arm/v6": "linux/arm/v6", "linux/armhf": "linux/arm/v7", "linux/arm64": "linux/arm64", "linux/arm64/v8": "linux/arm64",
		"linux/aarch64": "linux/arm64", "linux/i386": "linux/386", "windows/amd64": "windows/amd64", "linux/riscv64": "linux/riscv64",
	} {
		p, err := ParsePlatform(in)
		if err != nil || p.String() != want {
			t.Errorf("%s: got %s, %v, want %s", in, p, err, want)
		}
		if again, err := ParsePlatform(p.String()); err != nil || again != p {
			t.Errorf("%s: read again it is %s, %v", in, again, err)
		}
	}
	for _, bad := range []string{"", "linux", "linux/", "/amd64", "a/b/c/d", "linux/am d64", "linux/" + strings.Repeat("a", 33), "linux/ä"} {
		if p, err := ParsePlatform(bad); err == nil {
			t.Errorf("%q is %s", bad, p)
		}
	}
}

func TestPlatformOf(t *testing.T) {
	for _, none := range []*v1.Platform{nil, {}, {OS: "unknown", Architecture: "unknown"}} {
		if p, ok := PlatformOf(v1.Descriptor{Platform: none}); ok {
			t.Errorf("%v is %s", none, p)
		}
	}
	if p, ok := PlatformOf(v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "arm"}}); !ok || p.String() != "linux/arm/v7" {
		t.Errorf("got %s, %t", p, ok)
	}
}

func FuzzParsePlatform(f *testing.F) {
	for _, seed := range []string{"linux/arm/v7", "linux/arm64/v8", "x/y", "", "a/b/8"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParsePlatform(s)
		if err != nil {
			return
		}
		if again, err := ParsePlatform(p.String()); err != nil || again != p {
			t.Errorf("%q is %s, and read again %s, %v", s, p, again, err)
		}
	})
}
