package api

import (
	"testing"

	"berth/registry/manifest"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// dockerAgent is what a dockerd on a Raspberry Pi says, for a docker on another machine.
const dockerAgent = `docker/20.10.24+dfsg1 go/go1.19.8 git-commit/5d6db84 kernel/6.1.0-rpi7-rpi-v7 os/linux arch/arm UpstreamClient(Docker-Client/20.10.24 \(darwin\))`

func TestClientPlatform(t *testing.T) {
	for agent, want := range map[string]string{
		dockerAgent:                                    "linux/arm",
		"docker/29.0 os/windows arch/amd64":            "windows/amd64",
		"docker/29.0 arch/riscv64 os/linux":            "linux/riscv64",
		"docker/1 UpstreamClient(x os/linux arch/arm)": "",
		"x os/linux":                                   "",
		"x arch/arm":                                   "",
		"x os/ arch/":                                  "",
		"x os/li\"nux arch/arm":                        "",
		"x os/linux arch/" + "aaaaaaaaaaaaaaaaa":       "",
		"containerd/1.6.20":                            "",
		"":                                             "",
	} {
		p, ok := clientPlatform(agent)
		got := ""
		if ok {
			got = p.String()
		}
		if got != want {
			t.Errorf("%q: got %q, want %q", agent, got, want)
		}
	}
}

func FuzzClientPlatform(f *testing.F) {
	f.Add(dockerAgent)
	f.Add("os/linux arch/x UpstreamClient(")
	f.Fuzz(func(t *testing.T, agent string) {
		if p, ok := clientPlatform(agent); ok {
			if again, err := manifest.ParsePlatform(p.String()); err != nil || again.OS != p.OS {
				t.Errorf("%q: %s, %v", agent, p, err)
			}
		}
	})
}

func TestMayRun(t *testing.T) {
	of := func(os, architecture, variant string) v1.Descriptor {
		return v1.Descriptor{MediaType: v1.MediaTypeImageManifest, Digest: digest.FromString("x"), Platform: &v1.Platform{OS: os, Architecture: architecture, Variant: variant}}
	}
	untold := of("", "", "")
	untold.Platform = nil
	layer := untold
	layer.MediaType = v1.MediaTypeImageLayer
	for _, test := range []struct {
		client string
		d      v1.Descriptor
		want   bool
	}{
		{"linux/arm", of("linux", "arm", "v7"), true},
		{"linux/arm", of("linux", "arm", "v6"), true},
		{"linux/arm", of("linux", "arm64", ""), false},
		{"linux/arm64", of("linux", "arm", "v7"), true},
		{"linux/amd64", of("linux", "amd64", "v3"), true},
		{"linux/amd64", of("linux", "386", ""), true},
		{"linux/amd64", of("windows", "amd64", ""), false},
		{"linux/arm", of("unknown", "unknown", ""), false},
		{"linux/arm", untold, true},
		{"linux/arm", layer, true},
	} {
		p, err := manifest.ParsePlatform(test.client)
		if err != nil {
			t.Fatal(err)
		}
		p.Variant = ""
		if got := mayRun(p, test.d); got != test.want {
			t.Errorf("%s and %v: %t", test.client, test.d.Platform, got)
		}
	}
}

// TestMissingLabels sees that there are never very many counters.
func TestMissingLabels(t *testing.T) {
	var m missing
	for i := range maxMissing {
		if r, p := m.labels(string(rune('a'+i)), "x"); r == "other" || p == "other" {
			t.Fatalf("the counter %d is shared", i)
		}
	}
	if r, p := m.labels("late", "x"); r != "other" || p != "other" {
		t.Errorf("beyond: %s, %s", r, p)
	}
	if r, _ := m.labels("a", "x"); r != "a" {
		t.Errorf("of before: %s", r)
	}
}
