package registry_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"berth/registry"
	"berth/registry/manifest"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// index lists images of a repository for platforms like linux/arm/v7.
func index(t testing.TB, children map[string]registry.ManifestPushed) []byte {
	t.Helper()
	document := v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex, Manifests: []v1.Descriptor{}}
	for platform, child := range children {
		d := child.Descriptor
		parts := append(strings.Split(platform, "/"), "")
		d.Platform = &v1.Platform{OS: parts[0], Architecture: parts[1], Variant: parts[2]}
		document.Manifests = append(document.Manifests, d)
	}
	slices.SortFunc(document.Manifests, func(a, b v1.Descriptor) int { return strings.Compare(string(a.Digest), string(b.Digest)) })
	return encode(t, document)
}

func TestManifestRoundTrip(t *testing.T) { onBoth(t, testManifestRoundTrip) }

func testManifestRoundTrip(t *testing.T, f *fixture) {
	body := f.image(t, "a/b", config("linux", "amd64"), []byte("layer"))
	// Bytes come back as they were sent, unknown fields and white space included.
	body = append([]byte("{ \"x-unknown\": [1, 2],\n"), body[1:]...)
	pushed := f.put(t, "a/b", "latest", "", body)
	if pushed.Digest != digest.FromBytes(body) {
		t.Errorf("pushed as %s", pushed.Digest)
	}
	sha512 := digest.SHA512.FromBytes(body)
	f.put(t, "a/b", sha512.String(), v1.MediaTypeImageManifest, body)
	for _, name := range []string{"latest", pushed.Digest.String(), sha512.String()} {
		m, err := f.Manifest(t.Context(), "a/b", ref(t, name))
		if err != nil || !bytes.Equal(m.Body, body) || m.MediaType != v1.MediaTypeImageManifest || m.Size != int64(len(body)) {
			t.Errorf("%s: %+v, %v", name, m.Descriptor, err)
		}
		d, err := f.ResolveManifest(t.Context(), "a/b", ref(t, name))
		if err != nil || d.Digest != m.Digest || d.Size != m.Size || d.MediaType != m.MediaType {
			t.Errorf("resolve %s: %+v, %v", name, d, err)
		}
	}
	for _, unknown := range []struct{ repository, name string }{{"a/b", "other"}, {"b", "latest"}, {"b", pushed.Digest.String()}} {
		if _, err := f.Manifest(t.Context(), unknown.repository, ref(t, unknown.name)); !errors.Is(err, registry.ErrManifestUnknown) {
			t.Errorf("%v: %v", unknown, err)
		}
	}
}

func TestManifestRefusals(t *testing.T) {
	f := newFixture(t)
	body := f.image(t, "a/b", config("linux", "amd64"), []byte("layer"))
	absent := digest.FromString("absent")
	lacking := encode(t, v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest,
		Config: v1.Descriptor{MediaType: v1.MediaTypeImageConfig, Digest: absent, Size: 6},
		Layers: []v1.Descriptor{{MediaType: v1.MediaTypeImageLayer, Digest: digest.FromString("absent too"), Size: 10}},
	})
	sparse := index(t, map[string]registry.ManifestPushed{"linux/arm": {Descriptor: v1.Descriptor{MediaType: v1.MediaTypeImageManifest, Digest: absent, Size: 6}}})
	for _, test := range []struct {
		name, reference, mediaType string
		body                       []byte
		want                       error
		says                       string
	}{
		{"other digest", absent.String(), "", body, registry.ErrDigestInvalid, digest.FromBytes(body).String()},
		{"no JSON", "x", v1.MediaTypeImageManifest, []byte("hello"), registry.ErrManifestInvalid, ""},
		{"other media type", "x", manifest.MediaTypeDockerManifest, body, registry.ErrManifestInvalid, ""},
		{"too large", "x", "", append(body, bytes.Repeat([]byte(" "), registry.MaxManifestSize)...), registry.ErrTooLarge, ""},
		{"blobs that are not there", "x", "", lacking, registry.ErrManifestBlobUnknown, digest.FromString("absent too").String()},
		{"a child that is not there", "x", "", sparse, registry.ErrManifestBlobUnknown, absent.String()},
		{"schema 1", "x", "application/vnd.docker.distribution.manifest.v1+prettyjws", []byte(`{"schemaVersion":1}`), registry.ErrManifestInvalid, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := f.PutManifest(t.Context(), "a/b", registry.ManifestPush{Reference: ref(t, test.reference), MediaType: test.mediaType, Body: test.body})
			if !errors.Is(err, test.want) || !strings.Contains(fmt.Sprint(err), test.says) {
				t.Errorf("got %v", err)
			}
		})
	}
	_, err := f.PutManifest(t.Context(), "a/b", registry.ManifestPush{Reference: ref(t, digest.FromBytes(body).String()), Tags: []string{"good", "-bad"}, Body: body})
	if !errors.Is(err, registry.ErrTagInvalid) {
		t.Errorf("a bad tag among others: %v", err)
	}
	if names, _, err := f.Repositories(t.Context(), registry.Page{N: 10}); err != nil || len(names) > 0 {
		t.Errorf("refused manifests left repositories %v, %v", names, err)
	}
}

func TestIndexHoldsItsChildren(t *testing.T) {
	f := newFixture(t)
	amd64 := f.put(t, "a/b", "x-amd64", "", f.image(t, "a/b", config("linux", "amd64"), []byte("1")))
	arm := f.put(t, "a/b", "x-arm", "", f.image(t, "a/b", config("linux", "arm"), []byte("2")))
	inner := f.put(t, "a/b", "inner", "", index(t, map[string]registry.ManifestPushed{"linux/arm/v7": arm}))
	outer := f.put(t, "a/b", "x", "", index(t, map[string]registry.ManifestPushed{"linux/amd64": amd64, "linux/arm": inner}))

	m, err := f.PlatformManifest(t.Context(), "a/b", outer.Digest)
	if err != nil || m.Digest != amd64.Digest {
		t.Errorf("for an old client: %v, %v", m.Digest, err)
	}
	if _, err := f.PlatformManifest(t.Context(), "a/b", inner.Digest); !errors.Is(err, registry.ErrManifestUnknown) {
		t.Errorf("of an index without linux/amd64: %v", err)
	}
	for _, held := range []digest.Digest{amd64.Digest, inner.Digest, arm.Digest} {
		if _, err := f.DeleteManifest(t.Context(), "a/b", held, registry.Deletion{}); !errors.Is(err, registry.ErrConflict) {
			t.Errorf("delete of a child: %v", err)
		}
	}
	if err := f.DeleteBlob(t.Context(), "a/b", digest.FromString("1")); !errors.Is(err, registry.ErrConflict) {
		t.Errorf("delete of a layer: %v", err)
	}
	// A child's own tag may go. The child stays.
	if err := f.DeleteTag(t.Context(), "a/b", "x-amd64", registry.Deletion{}); err != nil {
		t.Error(err)
	}
	if _, err := f.Manifest(t.Context(), "a/b", ref(t, amd64.Digest.String())); err != nil {
		t.Error(err)
	}
	for _, d := range []digest.Digest{outer.Digest, inner.Digest, amd64.Digest, arm.Digest} {
		if _, err := f.DeleteManifest(t.Context(), "a/b", d, registry.Deletion{}); err != nil {
			t.Errorf("delete from the top: %v", err)
		}
	}
	if err := f.DeleteBlob(t.Context(), "a/b", digest.FromString("1")); err != nil {
		t.Error(err)
	}
	if tags, _, err := f.Tags(t.Context(), "a/b", registry.Page{N: 10}); err != nil || len(tags) > 0 {
		t.Errorf("tags %v, %v", tags, err)
	}
}

// With sparse indexes allowed, a child that comes later is held from then on.
func TestSparseIndex(t *testing.T) {
	f := newFixture(t)
	sparse := assemble(f.blobs, f.facts, registry.Config{ChildRequired: func(p *v1.Platform) bool { return p.Architecture == "amd64" }})
	child := f.image(t, "elsewhere", config("linux", "arm"), []byte("layer"))
	pushed := f.put(t, "elsewhere", "x", "", child)
	parent := index(t, map[string]registry.ManifestPushed{"linux/arm": pushed})
	if _, err := f.PutManifest(t.Context(), "a/b", registry.ManifestPush{Reference: ref(t, "x"), Body: parent}); !errors.Is(err, registry.ErrManifestBlobUnknown) {
		t.Errorf("not allowed: %v", err)
	}
	sparse.put(t, "a/b", "x", "", parent)
	if _, err := f.Manifest(t.Context(), "a/b", ref(t, pushed.Digest.String())); !errors.Is(err, registry.ErrManifestUnknown) {
		t.Errorf("absent child: %v", err)
	}
	sparse.put(t, "a/b", pushed.Digest.String(), "", f.image(t, "a/b", config("linux", "arm"), []byte("layer")))
	if _, err := f.DeleteManifest(t.Context(), "a/b", pushed.Digest, registry.Deletion{}); !errors.Is(err, registry.ErrConflict) {
		t.Errorf("delete of the child that came later: %v", err)
	}
	required := index(t, map[string]registry.ManifestPushed{"linux/amd64": {Descriptor: v1.Descriptor{MediaType: v1.MediaTypeImageManifest, Digest: digest.FromString("absent"), Size: 6}}})
	if _, err := sparse.PutManifest(t.Context(), "a/b", registry.ManifestPush{Reference: ref(t, "y"), Body: required}); !errors.Is(err, registry.ErrManifestBlobUnknown) {
		t.Errorf("a platform that is required: %v", err)
	}
}

// A sparse image may lack layers, never its config, and holds a layer that comes later.
func TestSparseImage(t *testing.T) {
	f := newFixture(t)
	sparse := assemble(f.blobs, f.facts, registry.Config{SparseImages: true})
	body := f.image(t, "elsewhere", config("linux", "arm"), []byte("layer"))
	p := registry.ManifestPush{Reference: ref(t, "x"), Body: body}
	if _, err := sparse.PutManifest(t.Context(), "a/b", p); !errors.Is(err, registry.ErrManifestBlobUnknown) {
		t.Errorf("without its config: %v", err)
	}
	f.push(t, "a/b", config("linux", "arm"))
	if _, err := f.PutManifest(t.Context(), "a/b", p); !errors.Is(err, registry.ErrManifestBlobUnknown) {
		t.Errorf("where sparse images are not accepted: %v", err)
	}
	sparse.put(t, "a/b", "x", "", body)
	f.push(t, "a/b", []byte("layer"))
	if err := f.DeleteBlob(t.Context(), "a/b", digest.FromString("layer")); !errors.Is(err, registry.ErrConflict) {
		t.Errorf("delete of the layer that came later: %v", err)
	}
}

func TestForeignLayers(t *testing.T) {
	f := newFixture(t)
	m := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest}
	m.Config = f.push(t, "a/b", config("windows", "amd64"))
	m.Config.MediaType = v1.MediaTypeImageConfig
	m.Layers = []v1.Descriptor{{
		MediaType: "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
		Digest:    digest.FromString("foreign"), Size: 7, URLs: []string{"https://example.com/layer"},
	}}
	body := encode(t, m)
	strict := assemble(f.blobs, f.facts, registry.Config{URLAllowed: func(url string) bool { return !strings.Contains(url, "example.com") }})
	if _, err := strict.PutManifest(t.Context(), "a/b", registry.ManifestPush{Reference: ref(t, "x"), Body: body}); !errors.Is(err, registry.ErrManifestInvalid) {
		t.Errorf("a URL that is not allowed: %v", err)
	}
	f.put(t, "a/b", "x", "", body)
	// Once it is there, it is held.
	f.push(t, "a/b", []byte("foreign"))
	if err := f.DeleteBlob(t.Context(), "a/b", digest.FromString("foreign")); !errors.Is(err, registry.ErrConflict) {
		t.Errorf("delete: %v", err)
	}
}

func TestReferrers(t *testing.T) {
	f := newFixture(t)
	subject := f.put(t, "a/b", "x", "", f.image(t, "a/b", config("linux", "amd64")))
	var all []string
	for i := range 5 {
		artifact := v1.Manifest{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest,
			ArtifactType: fmt.Sprintf("application/type-%d", i%2),
			Config:       f.push(t, "a/b", []byte("{}")), Layers: []v1.Descriptor{},
			Subject:     &subject.Descriptor,
			Annotations: map[string]string{"number": fmt.Sprint(i)},
		}
		artifact.Config.MediaType = v1.MediaTypeEmptyJSON
		body := encode(t, artifact)
		pushed := f.put(t, "a/b", digest.FromBytes(body).String(), "", body)
		if pushed.Subject != subject.Digest {
			t.Errorf("subject %q", pushed.Subject)
		}
		all = append(all, pushed.Digest.String())
	}
	slices.Sort(all)
	var listed []string
	page := registry.Page{N: 2}
	for more := true; more; {
		descriptors, m, err := f.Referrers(t.Context(), "a/b", subject.Digest, "", page)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range descriptors {
			if d.Annotations["number"] == "" || !strings.HasPrefix(d.ArtifactType, "application/type-") {
				t.Errorf("incomplete descriptor %+v", d)
			}
			listed = append(listed, d.Digest.String())
		}
		more, page.Last = m, listed[len(listed)-1]
	}
	if !slices.Equal(listed, all) {
		t.Errorf("listed %v of %v", listed, all)
	}
	filtered, _, err := f.Referrers(t.Context(), "a/b", subject.Digest, "application/type-1", registry.Page{N: 10})
	if err != nil || len(filtered) != 2 {
		t.Errorf("filtered: %v, %v", filtered, err)
	}
	// The subject may go, and others may refer to what never was there.
	if _, err := f.DeleteManifest(t.Context(), "a/b", subject.Digest, registry.Deletion{}); err != nil {
		t.Error(err)
	}
	if left, _, err := f.Referrers(t.Context(), "a/b", subject.Digest, "", registry.Page{N: 10}); err != nil || len(left) != 5 {
		t.Errorf("after the subject's end: %d, %v", len(left), err)
	}
}

func TestMount(t *testing.T) { onBoth(t, testMount) }

func testMount(t *testing.T, f *fixture) {
	d := f.push(t, "private/source", []byte("layer")).Digest
	anything := func(string) bool { return true }
	nothing := func(string) bool { return false }
	for _, test := range []struct {
		name string
		m    registry.Mount
		want bool
	}{
		{"from", registry.Mount{Digest: d, From: "private/source", Readable: anything}, true},
		{"from anywhere", registry.Mount{Digest: d, Readable: anything}, true},
		{"from what may not be read", registry.Mount{Digest: d, From: "private/source", Readable: nothing}, false},
		{"from anywhere, when nothing may be read", registry.Mount{Digest: d, Readable: nothing}, false},
		{"from where it is not", registry.Mount{Digest: d, From: "nowhere", Readable: anything}, false},
		{"of what is not there", registry.Mount{Digest: digest.FromString("absent"), Readable: anything}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			target := "target/" + strings.Map(func(r rune) rune {
				if r < 'a' || r > 'z' {
					return '-'
				}
				return r
			}, test.name)
			mounted, err := f.MountBlob(t.Context(), target, test.m)
			if err != nil || mounted != test.want {
				t.Errorf("mounted %t, %v", mounted, err)
			}
			_, err = f.Blob(t.Context(), target, test.m.Digest)
			if (err == nil) != test.want {
				t.Errorf("blob: %v", err)
			}
		})
	}
	// Many repositories that may not be read before one that may.
	for i := range 150 {
		f.push(t, fmt.Sprintf("closed/%03d", i), []byte("wide"))
	}
	f.push(t, "open/one", []byte("wide"))
	mounted, err := f.MountBlob(t.Context(), "target/wide", registry.Mount{
		Digest: digest.FromString("wide"), Readable: func(name string) bool { return strings.HasPrefix(name, "open/") },
	})
	if err != nil || !mounted {
		t.Errorf("mounted %t, %v", mounted, err)
	}
}

func TestDeletedBlobFreesItsBytes(t *testing.T) { onBoth(t, testDeletedBlobFreesItsBytes) }

func testDeletedBlobFreesItsBytes(t *testing.T, f *fixture) {
	d := f.push(t, "a/b", []byte("layer")).Digest
	f.push(t, "c", []byte("layer"))
	if err := f.DeleteBlob(t.Context(), "a/b", d); err != nil {
		t.Fatal(err)
	}
	if err := f.DeleteBlob(t.Context(), "a/b", d); !errors.Is(err, registry.ErrBlobUnknown) {
		t.Errorf("delete again: %v", err)
	}
	if got := f.read(t, "c", d); string(got) != "layer" {
		t.Errorf("the other repository reads %q", got)
	}
	if err := f.DeleteBlob(t.Context(), "c", d); err != nil {
		t.Fatal(err)
	}
	// The bytes wait for the grace, and the content can be pushed again meanwhile.
	if f.reap(t).Keys != 0 {
		t.Error("bytes went before their grace was over")
	}
	f.push(t, "c", []byte("layer"))
	if got := f.read(t, "c", d); string(got) != "layer" {
		t.Errorf("pushed again, it reads %q", got)
	}
}

func TestLists(t *testing.T) {
	f := newFixture(t)
	names := []string{"a", "a-b", "a.b", "a/b", "a_b", "b", "z/0"}
	tags := []string{"0", "A", "Z", "_", "a", "latest", "v1.10", "v1.9"}
	for _, name := range names {
		body := f.image(t, name, config("linux", "amd64"))
		for _, tag := range tags {
			f.put(t, name, tag, "", body)
		}
	}
	f.push(t, "no-manifest", []byte("x"))
	slices.Sort(names)
	slices.Sort(tags)
	for n := 1; n <= 9; n++ {
		got := pages(t, n, f.Repositories)
		if !slices.Equal(got, names) {
			t.Errorf("repositories by %d: %v", n, got)
		}
		got = pages(t, n, func(ctx context.Context, p registry.Page) ([]string, bool, error) { return f.Tags(ctx, "a/b", p) })
		if !slices.Equal(got, tags) {
			t.Errorf("tags by %d: %v", n, got)
		}
	}
	if _, _, err := f.Tags(t.Context(), "unknown", registry.Page{N: 1}); !errors.Is(err, registry.ErrNameUnknown) {
		t.Errorf("tags of an unknown repository: %v", err)
	}
}
