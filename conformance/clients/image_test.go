package clients

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"runtime"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// file is an entry of an archive.
type file struct {
	name    string
	mode    int64
	content []byte
}

func archive(t *testing.T, files ...file) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		if err := w.WriteHeader(&tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.content))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(f.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// imageArchive returns the OCI layout of an image with one layer, in one file.
func imageArchive(t *testing.T, layer []byte) []byte {
	t.Helper()
	files := []file{{v1.ImageLayoutFile, 0o644, encode(t, v1.ImageLayout{Version: v1.ImageLayoutVersion})}}
	blob := func(mediaType string, content []byte) v1.Descriptor {
		d := v1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
		files = append(files, file{v1.ImageBlobsDir + "/sha256/" + d.Digest.Encoded(), 0o644, content})
		return d
	}
	layerDescriptor := blob(v1.MediaTypeImageLayer, layer)
	config := blob(v1.MediaTypeImageConfig, encode(t, v1.Image{
		Platform: v1.Platform{OS: "linux", Architecture: runtime.GOARCH},
		RootFS:   v1.RootFS{Type: "layers", DiffIDs: []digest.Digest{layerDescriptor.Digest}},
	}))
	manifest := blob(v1.MediaTypeImageManifest, encode(t, v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest,
		Config: config, Layers: []v1.Descriptor{layerDescriptor},
	}))
	index := encode(t, v1.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex,
		Manifests: []v1.Descriptor{manifest},
	})
	return archive(t, append(files, file{v1.ImageIndexFile, 0o644, index})...)
}

func encode(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
