package adopt_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// legacy is a data directory as distribution writes it.
type legacy struct {
	t    testing.TB
	root string
}

func newLegacy(t *testing.T) legacy { return legacy{t, t.TempDir()} }

func (l legacy) path(parts ...string) string {
	return filepath.Join(append([]string{l.root, "docker", "registry", "v2"}, parts...)...)
}

func (l legacy) write(content []byte, parts ...string) {
	l.t.Helper()
	path := l.path(parts...)
	must(l.t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(l.t, os.WriteFile(path, content, 0o644))
}

func (l legacy) data(d digest.Digest) []string {
	return []string{"blobs", string(d.Algorithm()), d.Encoded()[:2], d.Encoded(), "data"}
}

// blob stores bytes, in no repository.
func (l legacy) blob(content []byte) v1.Descriptor {
	l.t.Helper()
	d := digest.FromBytes(content)
	l.write(content, l.data(d)...)
	return v1.Descriptor{MediaType: v1.MediaTypeImageLayer, Digest: d, Size: int64(len(content))}
}

// layer stores bytes and links them.
func (l legacy) layer(repository, content string) v1.Descriptor {
	l.t.Helper()
	b := l.blob([]byte(content))
	l.write([]byte(b.Digest), "repositories", repository, "_layers", "sha256", b.Digest.Encoded(), "link")
	return b
}

// put stores a document as a manifest, with tags.
func (l legacy) put(repository, mediaType string, document any, tags ...string) v1.Descriptor {
	l.t.Helper()
	body, err := json.Marshal(document)
	must(l.t, err)
	b := l.blob(body)
	b.MediaType = mediaType
	link := []byte(b.Digest)
	l.write(link, "repositories", repository, "_manifests", "revisions", "sha256", b.Digest.Encoded(), "link")
	for _, tag := range tags {
		l.write(link, "repositories", repository, "_manifests", "tags", tag, "current", "link")
		l.write(link, "repositories", repository, "_manifests", "tags", tag, "index", "sha256", b.Digest.Encoded(), "link")
	}
	return b
}

const armConfig = `{"os":"linux","architecture":"arm","variant":"v7","rootfs":{"type":"layers","diff_ids":[]}}`

// image stores an image of one layer for linux/arm/v7.
func (l legacy) image(repository, layer string, tags ...string) v1.Descriptor {
	l.t.Helper()
	m := v1.Manifest{MediaType: v1.MediaTypeImageManifest, Config: l.layer(repository, armConfig), Layers: []v1.Descriptor{l.layer(repository, layer)}}
	m.SchemaVersion = 2
	m.Config.MediaType = v1.MediaTypeImageConfig
	return l.put(repository, m.MediaType, m, tags...)
}

// index stores an index without a media type of its own, which OCI allows.
func (l legacy) index(repository, tag string, children ...v1.Descriptor) v1.Descriptor {
	l.t.Helper()
	x := v1.Index{Manifests: children}
	x.SchemaVersion = 2
	return l.put(repository, v1.MediaTypeImageIndex, x, tag)
}
