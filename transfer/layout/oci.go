package layout

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"berth/atomicfile"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/errdef"
)

// containerdName is the annotation by which containerd and Docker call an image when they load it.
const containerdName = "io.containerd.image.name"

// OCI is an OCI image layout that is written, as a directory or as a tar file. Its Repository is a transfer.Writer and a transfer.Linker.
// What its index lists counts when Close has returned.
//
// The index has an entry for each tag, with the annotations org.opencontainers.image.ref.name REPO:TAG and io.containerd.image.name
// HOST/REPO:TAG, and one without a name for each manifest that refers to another one. A file has manifest.json besides, for what loads
// images as docker save wrote them before it wrote layouts.
type OCI struct {
	host  string
	files files

	mu      sync.Mutex
	entries map[string]v1.Descriptor // by key
}

// files is where the files of a layout are put.
type files interface {
	has(path string, size int64) (bool, error)
	write(path string, d v1.Descriptor, open opener) error
	// close writes the index, which has these entries, last.
	close(index []byte, entries []v1.Descriptor) error
}

// CreateOCI returns the layout in a directory, which is made unless it is there, or, if path ends with .tar, that in a new file, which
// takes the place of an old one in Close. The host is what images are called by.
func CreateOCI(path, host string) (*OCI, error) {
	o := &OCI{host: host, entries: map[string]v1.Descriptor{}}
	if IsTar(path) {
		archive, err := createArchive(path)
		o.files = archive
		return o, err
	}
	o.files = directory(path)
	body, err := os.ReadFile(filepath.Join(path, v1.ImageIndexFile))
	if errors.Is(err, fs.ErrNotExist) {
		return o, requireEmpty(path)
	}
	var index v1.Index
	if err == nil {
		err = json.Unmarshal(body, &index)
	}
	for _, d := range index.Manifests {
		if err == nil {
			err = d.Digest.Validate()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%s is no OCI image layout that can be added to: %w", path, err)
	}
	for _, d := range index.Manifests {
		o.set(d)
	}
	return o, nil
}

// IsTar reports whether a path is that of a layout in a tar file.
func IsTar(path string) bool { return strings.HasSuffix(path, ".tar") }

// requireEmpty fails for a directory that has something else than blobs that an interrupted export left.
func requireEmpty(path string) error {
	entries, err := os.ReadDir(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if e.Name() != v1.ImageBlobsDir && e.Name() != v1.ImageLayoutFile {
			return fmt.Errorf("%s is neither empty nor an OCI image layout: name another directory", path)
		}
	}
	return err
}

// Close writes the index, and the layout counts.
func (o *OCI) Close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	index := v1.Index{MediaType: v1.MediaTypeImageIndex, Manifests: []v1.Descriptor{}}
	index.SchemaVersion = 2
	for _, key := range slices.Sorted(maps.Keys(o.entries)) {
		index.Manifests = append(index.Manifests, o.entries[key])
	}
	body, err := json.Marshal(index)
	if err != nil {
		return err
	}
	return o.files.close(body, index.Manifests)
}

// Discard ends the writing of a layout that is not to count. What a directory has stays.
func (o *OCI) Discard() error {
	if a, ok := o.files.(*archive); ok {
		return a.discard()
	}
	return nil
}

// key is the name of an entry, or its digest where it has none. No name has an @ at its begin.
func key(d v1.Descriptor) string {
	if name := d.Annotations[v1.AnnotationRefName]; name != "" {
		return name
	}
	return "@" + d.Digest.String()
}

// set puts an entry into the index, in place of one with the same key.
func (o *OCI) set(d v1.Descriptor) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.entries[key(d)] = d
}

// Repository returns a repository in the layout.
func (o *OCI) Repository(name string) *OCIRepository { return &OCIRepository{o, name} }

// OCIRepository is a repository in a layout, which shares blobs and manifests with the others.
type OCIRepository struct {
	layout *OCI
	name   string
}

// Resolve returns what a tag points to, or fails with errdef.ErrNotFound.
func (r *OCIRepository) Resolve(_ context.Context, tag string) (v1.Descriptor, error) {
	r.layout.mu.Lock()
	d, ok := r.layout.entries[r.name+":"+tag]
	r.layout.mu.Unlock()
	if ok {
		has, err := r.layout.files.has(blobPath(d.Digest), d.Size)
		if err != nil || has {
			return d, err
		}
	}
	return v1.Descriptor{}, errdef.ErrNotFound
}

// HasManifest reports whether the layout has a manifest.
func (r *OCIRepository) HasManifest(_ context.Context, d v1.Descriptor) (bool, error) {
	return r.layout.files.has(blobPath(d.Digest), d.Size)
}

// HasBlob reports whether the layout has a blob.
func (r *OCIRepository) HasBlob(_ context.Context, d v1.Descriptor) (bool, error) {
	return r.layout.files.has(blobPath(d.Digest), d.Size)
}

// WriteBlob stores a blob.
func (r *OCIRepository) WriteBlob(_ context.Context, d v1.Descriptor, open func() (io.ReadCloser, error)) error {
	return r.layout.files.write(blobPath(d.Digest), d, open)
}

// WriteManifest stores a manifest, and in the index the name that it has with a tag, unless that is empty.
func (r *OCIRepository) WriteManifest(_ context.Context, d v1.Descriptor, body []byte, tag string) error {
	err := r.layout.files.write(blobPath(d.Digest), d, func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil })
	if err != nil || tag == "" {
		return err
	}
	name := r.name + ":" + tag
	r.layout.set(v1.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size, Annotations: map[string]string{
		v1.AnnotationRefName: name, containerdName: r.layout.host + "/" + name,
	}})
	return nil
}

// Link lists the referrers in the index, where readers of layouts look for them.
func (r *OCIRepository) Link(_ context.Context, _ v1.Descriptor, referrers []v1.Descriptor) error {
	for _, d := range referrers {
		d.Annotations = maps.Clone(d.Annotations)
		delete(d.Annotations, v1.AnnotationRefName)
		delete(d.Annotations, containerdName)
		r.layout.set(d)
	}
	return nil
}

// directory is where the files of a layout are.
type directory string

func (p directory) has(path string, size int64) (bool, error) {
	return hasFile(filepath.Join(string(p), filepath.FromSlash(path)), size)
}

func (p directory) write(path string, d v1.Descriptor, open opener) error {
	if has, err := p.has(path, d.Size); err != nil || has {
		return err
	}
	return writeFile(filepath.Join(string(p), filepath.FromSlash(path)), d, open)
}

func (p directory) close(index []byte, _ []v1.Descriptor) error {
	if err := writeSmall(filepath.Join(string(p), v1.ImageLayoutFile), layoutFile); err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(string(p), v1.ImageIndexFile), index, fileMode)
}

// layoutFile says that this is a layout, and of which version.
const layoutFile = `{"imageLayoutVersion":"` + v1.ImageLayoutVersion + `"}`
