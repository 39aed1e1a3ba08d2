package conformance

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"berth/conformance/client"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// layout is an OCI image layout on disk: what clients push from and pull into.
type layout struct {
	t   *testing.T
	dir string
}

// newLayout writes a layout that holds an index of two images under a tag.
func newLayout(t *testing.T, tag string) (layout, v1.Descriptor) {
	t.Helper()
	l := layout{t: t, dir: t.TempDir()}
	index := l.addJSON(v1.MediaTypeImageIndex, v1.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: v1.MediaTypeImageIndex,
		Manifests: []v1.Descriptor{l.addImage("amd64", 1), l.addImage("arm64", 2)},
	})
	index.Annotations = map[string]string{v1.AnnotationRefName: tag}
	l.write(v1.ImageIndexFile, v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []v1.Descriptor{index}})
	l.write(v1.ImageLayoutFile, v1.ImageLayout{Version: v1.ImageLayoutVersion})
	return l, index
}

func (l layout) addImage(architecture string, seed uint64) v1.Descriptor {
	l.t.Helper()
	small, smallID := l.addLayer(seed, 100)
	large, largeID := l.addLayer(seed+100, 3<<20)
	platform := v1.Platform{OS: "linux", Architecture: architecture}
	image := l.addJSON(v1.MediaTypeImageManifest, v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: v1.MediaTypeImageManifest,
		Config: l.addJSON(v1.MediaTypeImageConfig, v1.Image{
			Platform: platform, RootFS: v1.RootFS{Type: "layers", DiffIDs: []digest.Digest{smallID, largeID}},
		}),
		Layers: []v1.Descriptor{small, large},
	})
	image.Platform = &platform
	return image
}

// addLayer adds a layer whose one file has size bytes, and returns the digest of what it unpacks to as well.
func (l layout) addLayer(seed uint64, size int64) (v1.Descriptor, digest.Digest) {
	l.t.Helper()
	var archive, compressed bytes.Buffer
	w := tar.NewWriter(&archive)
	err := w.WriteHeader(&tar.Header{Name: "file", Mode: 0o644, Size: size})
	if err != nil {
		l.t.Fatal(err)
	}
	_, err = io.Copy(w, client.Content{Seed: seed, Size: size}.Reader(0))
	if err = errors.Join(err, w.Close()); err != nil {
		l.t.Fatal(err)
	}
	z := gzip.NewWriter(&compressed)
	_, err = z.Write(archive.Bytes())
	if err = errors.Join(err, z.Close()); err != nil {
		l.t.Fatal(err)
	}
	return l.add(v1.MediaTypeImageLayerGzip, compressed.Bytes()), digest.FromBytes(archive.Bytes())
}

func (l layout) addJSON(mediaType string, value any) v1.Descriptor {
	l.t.Helper()
	body, err := json.Marshal(value)
	if err != nil {
		l.t.Fatal(err)
	}
	return l.add(mediaType, body)
}

func (l layout) add(mediaType string, body []byte) v1.Descriptor {
	l.t.Helper()
	d := digest.FromBytes(body)
	l.writeFile(l.path(d), body)
	return v1.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(body))}
}

func (l layout) write(name string, value any) {
	l.t.Helper()
	body, err := json.Marshal(value)
	if err != nil {
		l.t.Fatal(err)
	}
	l.writeFile(filepath.Join(l.dir, name), body)
}

func (l layout) writeFile(path string, body []byte) {
	l.t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		l.t.Fatal(err)
	}
	if err := os.WriteFile(path, body, 0o644); err != nil {
		l.t.Fatal(err)
	}
}

func (l layout) path(d digest.Digest) string {
	return filepath.Join(l.dir, v1.ImageBlobsDir, d.Algorithm().String(), d.Encoded())
}

// blobs returns every blob of the layout by its file name.
func (l layout) blobs() map[string][]byte {
	l.t.Helper()
	files, err := filepath.Glob(filepath.Join(l.dir, v1.ImageBlobsDir, "*", "*"))
	if err != nil {
		l.t.Fatal(err)
	}
	blobs := map[string][]byte{}
	for _, file := range files {
		body, err := os.ReadFile(file)
		if err != nil {
			l.t.Fatal(err)
		}
		blobs[filepath.Base(file)] = body
	}
	return blobs
}

// equal fails the test unless another layout holds the same blobs, byte for byte.
func (l layout) equal(other string) {
	l.t.Helper()
	want, got := l.blobs(), layout{t: l.t, dir: other}.blobs()
	for name, body := range want {
		if !bytes.Equal(got[name], body) {
			l.t.Errorf("blob %s: %d bytes came back for %d", name, len(got[name]), len(body))
		}
	}
	if len(got) != len(want) {
		l.t.Errorf("%d blobs came back for %d", len(got), len(want))
	}
}
