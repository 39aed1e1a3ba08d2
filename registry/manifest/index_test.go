package manifest_test

import (
	"slices"
	"strings"
	"testing"

	"berth/registry/manifest"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

func child(mediaType, name string, p *v1.Platform) v1.Descriptor {
	return v1.Descriptor{MediaType: mediaType, Digest: digest.FromString(name), Size: int64(len(name)), Platform: p}
}

func platform(t *testing.T, s string) *v1.Platform {
	t.Helper()
	p, err := manifest.ParsePlatform(s)
	if err != nil {
		t.Fatal(err)
	}
	return &v1.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant}
}

func attestation(name string, about v1.Descriptor) v1.Descriptor {
	d := child(v1.MediaTypeImageManifest, name, &v1.Platform{OS: "unknown", Architecture: "unknown"})
	d.Annotations = map[string]string{"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": about.Digest.String()}
	return d
}

// TestNewIndex writes an index and reads it again.
func TestNewIndex(t *testing.T) {
	arm := child(v1.MediaTypeImageManifest, "arm", platform(t, "linux/arm/v7"))
	arm6 := child(v1.MediaTypeImageManifest, "arm6", platform(t, "linux/arm/v6"))
	amd := child(v1.MediaTypeImageManifest, "amd", platform(t, "linux/amd64"))
	windows := child(v1.MediaTypeImageManifest, "windows", platform(t, "windows/amd64"))
	provenance, sbom := attestation("provenance", amd), attestation("sbom", amd)

	entries := []manifest.Entry{{Image: windows}, {Image: arm}, {Image: amd, Attestations: []v1.Descriptor{provenance, sbom}}, {Image: arm6}}
	mediaType, body := manifest.NewIndex(entries)
	if mediaType != v1.MediaTypeImageIndex {
		t.Errorf("media type: %s", mediaType)
	}
	m, err := manifest.Parse(mediaType, body)
	if err != nil {
		t.Fatal(err)
	}
	want := []v1.Descriptor{amd, provenance, sbom, arm6, arm, windows}
	if !slices.EqualFunc(m.Children, want, same) {
		t.Errorf("the index lists %v, want %v", m.Children, want)
	}

	slices.Reverse(entries)
	if _, again := manifest.NewIndex(entries); string(again) != string(body) {
		t.Errorf("other bytes in another order: %s and %s", again, body)
	}
	back := manifest.Entries(m.Children)
	if len(back) != 4 || !same(back[0].Image, amd) || !slices.EqualFunc(back[0].Attestations, []v1.Descriptor{provenance, sbom}, same) {
		t.Errorf("read back: %v", back)
	}
}

func same(a, b v1.Descriptor) bool { return a.Digest == b.Digest }

// TestNewIndexMediaType wants Docker's list only where all in it is Docker's.
func TestNewIndexMediaType(t *testing.T) {
	docker := manifest.Entry{Image: child(manifest.MediaTypeDockerManifest, "amd", platform(t, "linux/amd64"))}
	oci := manifest.Entry{Image: child(v1.MediaTypeImageManifest, "arm", platform(t, "linux/arm/v7"))}
	if got, _ := manifest.NewIndex([]manifest.Entry{docker}); got != manifest.MediaTypeDockerManifestList {
		t.Errorf("of Docker's: %s", got)
	}
	if got, _ := manifest.NewIndex([]manifest.Entry{docker, oci}); got != v1.MediaTypeImageIndex {
		t.Errorf("of both: %s", got)
	}
	if _, body := manifest.NewIndex(nil); !strings.Contains(string(body), `"manifests":[]`) {
		t.Errorf("of nothing: %s", body)
	}
}

// TestEntries leaves out what nothing runs.
func TestEntries(t *testing.T) {
	image := child(v1.MediaTypeImageManifest, "amd", platform(t, "linux/amd64"))
	untold := child(manifest.MediaTypeDockerManifest, "untold", nil)
	artifact := child(v1.MediaTypeImageManifest, "sbom", nil)
	artifact.ArtifactType = "application/spdx+json"
	got := manifest.Entries([]v1.Descriptor{
		child("application/vnd.oci.image.layer.v1.tar+gzip", "layer of a cache", nil),
		child(v1.MediaTypeImageIndex, "nested", platform(t, "linux/amd64")),
		child(v1.MediaTypeImageManifest, "unknown", &v1.Platform{OS: "unknown", Architecture: "unknown"}),
		attestation("about another", artifact), artifact, image, untold,
	})
	if len(got) != 2 || !same(got[0].Image, image) || !same(got[1].Image, untold) || got[0].Attestations != nil {
		t.Errorf("got %v", got)
	}
}
