package clients

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"strings"
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

// dataSize is how large the file in an image is that tells it from the images for other platforms. Its bytes can't be
// compressed. Half of it is more than the progress, 1 MiB, that skopeo and its kin want to see before they go on with a layer.
const dataSize = 4 << 20

// image is one for a platform, with a file by which it is known.
type image struct {
	v1.Platform
	name string
	data []byte
}

// newImage makes an image whose file has the bytes of that seed.
func newImage(name string, p v1.Platform, seed byte) image {
	i := image{name: name, Platform: p, data: make([]byte, dataSize)}
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(i.data) // never fails
	return i
}

// imagesOfPlatforms are an image for amd64, which everybody takes who asks for no platform, and one for ARMv7.
func imagesOfPlatforms() []image {
	return []image{
		newImage("amd64", v1.Platform{OS: "linux", Architecture: "amd64"}, 1),
		newImage("arm", v1.Platform{OS: "linux", Architecture: "arm", Variant: "v7"}, 2),
	}
}

// sum returns the SHA-256 of the file, in hex.
func (i image) sum() string { return digest.FromBytes(i.data).Encoded() }

// file is what the file is called.
func (i image) file() string { return "data-" + i.Architecture }

func (i image) rootfs(t *testing.T) []byte { return archive(t, file{i.file(), 0o644, i.data}) }

func (i image) platform() string {
	return strings.TrimSuffix(i.OS+"/"+i.Architecture+"/"+i.Variant, "/")
}

// env tells a client's commands of the image, but not the client that it is for this platform.
func (i image) env() []string {
	return []string{
		"SOURCE=" + imageDirectory + i.name, "FILE=" + i.file(), "PLATFORM=",
		"FOR=" + i.platform(), "ARCH=" + i.Architecture, "VARIANT=" + i.Variant,
	}
}

// asked tells the client, too.
func (i image) asked() []string { return append(i.env(), "PLATFORM="+i.platform()) }

// writeTo puts the image on a machine in all its forms.
func (i image) writeTo(m *machine) {
	m.t.Helper()
	m.write(imageDirectory+i.name+".rootfs.tar", string(i.rootfs(m.t)))
	writeSources(m, i.name, i)
}

// writeSources puts an image on a machine, or the index of several: as an OCI layout, in an archive and in a directory, and
// as the files that it is built from.
func writeSources(m *machine, name string, images ...image) {
	m.t.Helper()
	directory := imageDirectory + name
	m.write(directory+".tar", string(imageLayout(m.t, images...)))
	m.do("mkdir -p " + directory + " && tar -xf " + directory + ".tar -C " + directory)
	for _, i := range images {
		m.write(directory+".files/"+i.file(), string(i.data))
	}
	m.write(directory+".files/Dockerfile", "FROM scratch\nARG TARGETARCH\nCOPY data-$TARGETARCH /\n")
	m.write(directory+".files/Chart.yaml", "apiVersion: v2\nname: "+imageName+"\nversion: "+tag+"\n")
}

// layout is an OCI layout while it is made.
type layout struct {
	t     *testing.T
	files []file
}

// imageLayout returns the OCI layout, in one archive, of an image, or of the index of several.
func imageLayout(t *testing.T, images ...image) []byte {
	t.Helper()
	l := &layout{t: t, files: []file{{v1.ImageLayoutFile, 0o644, encode(t, v1.ImageLayout{Version: v1.ImageLayoutVersion})}}}
	var manifests []v1.Descriptor
	for _, i := range images {
		manifests = append(manifests, l.manifest(i))
	}
	root, kind := manifests[0], "image"
	if len(manifests) > 1 {
		root, kind = l.blob(v1.MediaTypeImageIndex, encode(t, indexOf(manifests...))), "imageIndex"
	}
	root.Annotations = map[string]string{ // the names by which oras and regctl, containerd, and cosign look for it
		v1.AnnotationRefName:       tag,
		"io.containerd.image.name": imported,
		"kind":                     "dev.cosignproject.cosign/" + kind,
	}
	return archive(t, append(l.files, file{v1.ImageIndexFile, 0o644, encode(t, indexOf(root))})...)
}

func (l *layout) manifest(i image) v1.Descriptor {
	layer := l.blob(v1.MediaTypeImageLayer, i.rootfs(l.t))
	config := l.blob(v1.MediaTypeImageConfig, encode(l.t, v1.Image{
		Platform: i.Platform,
		RootFS:   v1.RootFS{Type: "layers", DiffIDs: []digest.Digest{layer.Digest}},
	}))
	manifest := l.blob(v1.MediaTypeImageManifest, encode(l.t, v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest,
		Config: config, Layers: []v1.Descriptor{layer},
	}))
	manifest.Platform = &i.Platform
	return manifest
}

func (l *layout) blob(mediaType string, content []byte) v1.Descriptor {
	d := v1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
	l.files = append(l.files, file{v1.ImageBlobsDir + "/sha256/" + d.Digest.Encoded(), 0o644, content})
	return d
}

func indexOf(manifests ...v1.Descriptor) v1.Index {
	return v1.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex, Manifests: manifests,
	}
}

func encode(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
