package client

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"berth/registry/manifest"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// outline writes what a report says as lines, with what belongs to a manifest indented below it.
func outline(m *Manifest, indent string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s%s %s", indent, m.Kind, m.Platform)
	if m.Layers > 0 {
		fmt.Fprintf(&b, " layers=%d", m.Layers)
	}
	if !m.Created.IsZero() {
		fmt.Fprintf(&b, " created=%d", m.Created.Year())
	}
	if m.ArtifactType != "" {
		fmt.Fprintf(&b, " of %s", m.ArtifactType)
	}
	if m.Missing {
		b.WriteString(" missing")
	}
	if m.Problem != "" {
		b.WriteString(" unreadable")
	}
	if m.Predicates != nil {
		fmt.Fprintf(&b, " states %s", strings.Join(m.Predicates, ","))
	}
	b.WriteString("\n")
	for _, below := range append(slices.Clone(m.Attestations), m.Manifests...) {
		b.WriteString(outline(&below, indent+"  "))
	}
	return b.String()
}

const provenance, spdx = "https://slsa.dev/provenance/v1", "https://spdx.dev/Document"

func TestInspect(t *testing.T) {
	shared := layer("shared", 1000)
	for _, test := range []struct {
		name string
		make func(*fake)
		want string
	}{
		{"image", func(f *fake) { f.image("linux/arm", []v1.Descriptor{shared}, "1") },
			"image linux/arm/v7 layers=1 created=2026\n"},
		{"image that says nothing of its platform", func(f *fake) { f.image("", []v1.Descriptor{shared}, "1") },
			"image  layers=1\n"},
		{"image whose config is missing", func(f *fake) {
			f.image("linux/arm", nil, "1")
			maps.DeleteFunc(f.held, func(_ digest.Digest, h held) bool { return h.mediaType == v1.MediaTypeImageConfig })
		}, "image \n"},
		{"what buildx pushes", func(f *fake) {
			amd, arm := f.image("linux/amd64", []v1.Descriptor{shared}), f.image("linux/arm/v7", []v1.Descriptor{shared, layer("arm", 1)})
			f.index([]v1.Descriptor{amd, arm, f.attestation(amd, provenance), f.attestation(arm, spdx), f.attestation(amd, spdx)}, "1")
		}, `index 
  image linux/amd64 layers=1 created=2026
    attestation  layers=1 states https://slsa.dev/provenance/v1
    attestation  layers=1 states https://spdx.dev/Document
  image linux/arm/v7 layers=2 created=2026
    attestation  layers=1 states https://spdx.dev/Document
`},
		{"attestation about what is not listed", func(f *fake) {
			f.index([]v1.Descriptor{f.attestation(layer("elsewhere", 1), spdx)}, "1")
		}, "index \n  attestation  layers=1 states https://spdx.dev/Document\n"},
		{"attestation by itself", func(f *fake) { f.tags["1"] = f.attestation(shared, spdx).Digest },
			"attestation  layers=1 states https://spdx.dev/Document\n"},
		{"sparse index", func(f *fake) {
			amd, arm := f.image("linux/amd64", nil), f.image("linux/arm/v7", nil)
			delete(f.held, arm.Digest)
			f.index([]v1.Descriptor{amd, arm}, "1")
		}, "index \n  image linux/amd64 created=2026\n  image linux/arm/v7 missing\n"},
		{"index in an index", func(f *fake) {
			f.index([]v1.Descriptor{f.index([]v1.Descriptor{f.image("linux/s390x", nil)})}, "1")
		}, "index \n  index \n    image linux/s390x created=2026\n"},
		{"Docker manifest list", func(f *fake) {
			config := f.put("application/vnd.docker.container.image.v1+json",
				map[string]any{"os": "windows", "architecture": "amd64", "rootfs": map[string]any{}})
			f.list([]v1.Descriptor{f.put(manifest.MediaTypeDockerManifest, v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2},
				MediaType: manifest.MediaTypeDockerManifest, Layers: []v1.Descriptor{shared}, Config: config})}, "1")
		}, "index \n  image windows/amd64 layers=1\n"},
		{"chart", func(f *fake) {
			config := layer("chart", 5)
			config.MediaType = "application/vnd.cncf.helm.config.v1+json"
			f.put(v1.MediaTypeImageManifest, v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, Config: config,
				Layers: []v1.Descriptor{shared}}, "1")
		}, "artifact  layers=1 of application/vnd.cncf.helm.config.v1+json\n"},
		{"build cache", func(f *fake) { f.index([]v1.Descriptor{shared}, "1") }, "index \n   \n"},
		{"child of schema 1", func(f *fake) {
			f.index([]v1.Descriptor{f.put(v1.MediaTypeImageManifest, map[string]any{"schemaVersion": 1})}, "1")
		}, "index \n  image  unreadable\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := newFake(t)
			test.make(f)
			m, err := f.reader().Inspect(t.Context(), f.ref(":1"))
			if err != nil {
				t.Fatal(err)
			}
			if got := outline(m, ""); got != test.want {
				t.Errorf("got\n%swant\n%s", got, test.want)
			}
		})
	}
}

// What is in two images counts once in their index, and what is missing does not count.
func TestTotalSize(t *testing.T) {
	f := newFake(t)
	shared, own := layer("shared", 1000), layer("own", 30)
	gone := f.image("linux/s390x", []v1.Descriptor{layer("other", 1<<40)})
	clear(f.held)
	amd, arm := f.image("linux/amd64", []v1.Descriptor{shared, own, own}), f.image("linux/arm/v7", []v1.Descriptor{shared})
	f.index([]v1.Descriptor{amd, arm, gone}, "1")
	want := int64(1030)
	for _, document := range f.held {
		want += int64(len(document.body))
	}
	m, err := f.reader().Inspect(t.Context(), f.ref(":1"))
	if err != nil {
		t.Fatal(err)
	}
	if m.TotalSize != want {
		t.Errorf("the index has %d bytes, want %d", m.TotalSize, want)
	}
	if m.Manifests[2].TotalSize != 0 || !m.Manifests[2].Missing {
		t.Errorf("what is missing: %+v", m.Manifests[2])
	}
}

// The fields of the JSON are a promise.
func TestReportJSON(t *testing.T) {
	f := newFake(t)
	amd := f.image("linux/amd64", []v1.Descriptor{layer("a", 1)})
	f.index([]v1.Descriptor{amd, f.attestation(amd, spdx)}, "1")
	signature := f.put(v1.MediaTypeImageManifest, map[string]any{})
	signature.ArtifactType, signature.Annotations = "application/x-signature", map[string]string{"by": "me"}
	f.referrers[f.tags["1"]] = []v1.Descriptor{signature}
	m, err := f.reader().Inspect(t.Context(), f.ref(":1"))
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(body, &got); err != nil {
		t.Fatal(err)
	}
	child := got["manifests"].([]any)[0].(map[string]any)
	for _, test := range []struct {
		of   any
		want string
	}{
		{got, "digest kind manifests mediaType reference referrers size totalSize"},
		{child, "attestations created digest kind layers mediaType platform size totalSize"},
		{child["attestations"].([]any)[0], "annotations digest kind layers mediaType predicates size totalSize"},
		{got["referrers"].([]any)[0], "annotations artifactType digest mediaType size"},
	} {
		if got := strings.Join(slices.Sorted(maps.Keys(test.of.(map[string]any))), " "); got != test.want {
			t.Errorf("fields %s, want %s", got, test.want)
		}
	}
}

func TestReferrers(t *testing.T) {
	of := func(n int) (all []v1.Descriptor) {
		for i := range n {
			all = append(all, v1.Descriptor{MediaType: v1.MediaTypeImageManifest, Digest: digest.FromString(fmt.Sprint(i)),
				Size: 1, ArtifactType: fmt.Sprint("application/", i)})
		}
		return all
	}
	tag := func(d v1.Descriptor) string { return strings.Replace(d.Digest.String(), ":", "-", 1) }
	for _, test := range []struct {
		name string
		make func(*fake, v1.Descriptor)
		want string // artifact types
	}{
		{"none", func(*fake, v1.Descriptor) {}, ""},
		{"pages", func(f *fake, d v1.Descriptor) { f.referrers[d.Digest], f.perPage = of(5), 2 },
			"application/0 application/1 application/2 application/3 application/4"},
		{"by tag, where the API is not found", func(f *fake, d v1.Descriptor) {
			f.referrersStatus = http.StatusNotFound
			f.index(of(2), tag(d))
		}, "application/0 application/1"},
		{"by tag, where the API is no endpoint", func(f *fake, d v1.Descriptor) {
			f.referrersStatus = http.StatusMethodNotAllowed
			f.index(of(2), tag(d))
		}, "application/0 application/1"},
		{"cosign's tags", func(f *fake, d v1.Descriptor) {
			signature := layer("signature", 1)
			signature.MediaType = "application/vnd.dev.cosign.simplesigning.v1+json"
			f.image("linux/amd64", []v1.Descriptor{signature}, tag(d)+".sig")
			f.image("linux/amd64", nil, tag(d)+".att")
		}, "application/vnd.dev.cosign.simplesigning.v1+json " + v1.MediaTypeImageConfig},
		{"by API and by cosign's tag", func(f *fake, d v1.Descriptor) {
			signature := f.image("", nil, tag(d)+".sig")
			signature.ArtifactType = "application/sig"
			f.referrers[d.Digest] = []v1.Descriptor{signature}
		}, "application/sig"},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := newFake(t)
			test.make(f, f.image("linux/amd64", nil, "1"))
			m, err := f.reader().Inspect(t.Context(), f.ref(":1"))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, r := range m.Referrers {
				got = append(got, r.ArtifactType)
			}
			if got := strings.Join(got, " "); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

// A digest of SHA-512 is too long for cosign's tags.
func TestInspectSHA512(t *testing.T) {
	f := newFake(t)
	image := f.held[f.image("linux/amd64", nil).Digest]
	d := digest.SHA512.FromBytes(image.body)
	f.held[d] = image
	m, err := f.reader().Inspect(t.Context(), f.ref("@"+d.String()))
	if err != nil || m.Digest != d || m.Platform != "linux/amd64" {
		t.Errorf("got %+v, %v", m, err)
	}
}

// A registry that lies, or has too much to tell, is found out.
func TestInspectRefuses(t *testing.T) {
	replace := func(f *fake, mediaType, old, with string) {
		for d, h := range f.held {
			if h.mediaType == mediaType {
				f.held[d] = held{mediaType, []byte(strings.Replace(string(h.body), old, with, 1))}
			}
		}
	}
	for _, test := range []struct {
		name string
		make func(*fake)
		want string
	}{
		{"another manifest than the digest's", func(f *fake) {
			f.image("linux/amd64", nil, "1")
			replace(f, v1.MediaTypeImageManifest, "2", "3")
		}, "digest"},
		{"another config than the digest's", func(f *fake) {
			f.image("linux/amd64", nil, "1")
			replace(f, v1.MediaTypeImageConfig, "amd64", "arm64")
		}, "digest"},
		{"a large manifest", func(f *fake) {
			f.put(v1.MediaTypeImageIndex, map[string]any{"x": strings.Repeat("x", maxBytes)}, "1")
		}, "at most 4194304"},
		{"many manifests", func(f *fake) {
			children := make([]v1.Descriptor, maxManifests+1)
			for i := range children {
				children[i] = v1.Descriptor{MediaType: v1.MediaTypeImageManifest, Digest: digest.FromString(fmt.Sprint(i)), Size: 1}
			}
			f.index(children, "1")
		}, "more than 1000 manifests"},
		{"many signatures", func(f *fake) {
			d := f.image("linux/amd64", nil, "1")
			for i := range maxManifests + 1 {
				f.referrers[d.Digest] = append(f.referrers[d.Digest],
					v1.Descriptor{MediaType: v1.MediaTypeImageManifest, Digest: digest.FromString(fmt.Sprint(i)), Size: 1})
			}
		}, "more than 1000 manifests refer to"},
		{"schema 1", func(f *fake) { f.put(v1.MediaTypeImageManifest, map[string]any{"schemaVersion": 1}, "1") }, "schema 1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := newFake(t)
			test.make(f)
			if m, err := f.reader().Inspect(t.Context(), f.ref(":1")); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %+v, %v, want an error with %q", m, err, test.want)
			}
		})
	}
}

func TestIndex(t *testing.T) {
	f := newFake(t)
	amd, gone := f.image("linux/amd64", nil, "image"), f.image("linux/arm", nil)
	f.index([]v1.Descriptor{amd, f.attestation(amd, spdx), gone}, "1")
	delete(f.held, gone.Digest)
	m, err := f.reader().Index(t.Context(), f.ref(":1"))
	if err != nil {
		t.Fatal(err)
	}
	if want := "index \n  image linux/amd64\n    attestation \n  image linux/arm/v7\n"; outline(m, "") != want {
		t.Errorf("got\n%swant\n%s", outline(m, ""), want)
	}
	if _, err := f.reader().Index(t.Context(), f.ref(":image")); err == nil || !strings.Contains(err.Error(), "registry inspect") {
		t.Errorf("of an image: %v", err)
	}
}
