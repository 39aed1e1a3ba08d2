package layout

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	pathpkg "path"
	"path/filepath"
	"runtime"
	"sync"

	"berth/registry/manifest"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// archive is a tar file that is being written. Its entries are written one after the other, whoever writes at the same time.
type archive struct {
	path string // to be

	mu      sync.Mutex
	f       *os.File
	entries map[string]span
}

func createArchive(path string) (*archive, error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*.tar")
	if err != nil {
		return nil, err
	}
	return &archive{path: path, f: f, entries: map[string]span{}}, nil
}

func (a *archive) has(path string, size int64) (bool, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	held, ok := a.entries[path]
	return ok && held.size == size, nil
}

func (a *archive) write(path string, d v1.Descriptor, open opener) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, ok := a.entries[path]; ok {
		return nil
	}
	return a.append(path, d.Size, func(w io.Writer) error { return copyVerified(w, d, open) })
}

// append writes an entry. When that fails the file is as it was.
func (a *archive) append(path string, size int64, fill func(io.Writer) error) error {
	begin, err := a.f.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	w := tar.NewWriter(a.f) // which has no state between entries
	err = w.WriteHeader(&tar.Header{Name: path, Mode: fileMode, Size: size, Typeflag: tar.TypeReg})
	if err == nil {
		err = fill(w)
	}
	if err = errors.Join(err, w.Flush()); err != nil {
		_, seekErr := a.f.Seek(begin, io.SeekStart)
		return errors.Join(err, a.f.Truncate(begin), seekErr)
	}
	end, err := a.f.Seek(0, io.SeekCurrent)
	a.entries[path] = span{end - padded(size), size}
	return err
}

// padded returns how many bytes the content of an entry takes.
func padded(size int64) int64 { return (size + 511) &^ 511 }

func (a *archive) close(index []byte, entries []v1.Descriptor) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	docker, err := a.dockerManifest(entries)
	if err != nil {
		return errors.Join(err, a.remove())
	}
	for _, file := range []struct {
		name string
		body []byte
	}{{v1.ImageLayoutFile, []byte(layoutFile)}, {v1.ImageIndexFile, index}, {dockerManifestFile, docker}} {
		err := a.append(file.name, int64(len(file.body)), func(w io.Writer) error {
			_, err := w.Write(file.body)
			return err
		})
		if err != nil {
			return errors.Join(err, a.remove())
		}
	}
	err = errors.Join(tar.NewWriter(a.f).Close(), a.f.Chmod(fileMode), a.f.Sync())
	if err == nil {
		err = os.Rename(a.f.Name(), a.path)
	}
	if err != nil {
		return errors.Join(err, a.remove())
	}
	return errors.Join(a.f.Close(), syncDirectory(filepath.Dir(a.path)))
}

func (a *archive) discard() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.remove()
}

func (a *archive) remove() error { return errors.Join(a.f.Close(), os.Remove(a.f.Name())) }

// dockerManifestFile is what docker load and podman load read of a file by themselves, other than containerd.
const dockerManifestFile = "manifest.json"

// dockerImage is an image in it.
type dockerImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// dockerManifest lists the images of the entries for those programs: of an index that for this machine's architecture.
func (a *archive) dockerManifest(entries []v1.Descriptor) ([]byte, error) {
	images := []dockerImage{}
	for _, d := range entries {
		name := d.Annotations[containerdName]
		if name == "" {
			continue
		}
		m, err := a.image(d)
		if err != nil {
			return nil, err
		}
		if image := a.docker(m); image != nil {
			image.RepoTags = []string{name}
			images = append(images, *image)
		}
	}
	return json.Marshal(images)
}

// image returns the manifest of an image, or, in place of an index, that of the one in it that this machine would run.
func (a *archive) image(d v1.Descriptor) (manifest.Manifest, error) {
	s, ok := a.entries[blobPath(d.Digest)]
	if !ok {
		return manifest.Manifest{}, nil
	}
	body := make([]byte, s.size)
	if _, err := a.f.ReadAt(body, s.offset); err != nil {
		return manifest.Manifest{}, err
	}
	m, err := manifest.Parse(d.MediaType, body)
	if err != nil {
		return m, err
	}
	for _, e := range manifest.Entries(m.Children) {
		if p := e.Image.Platform; p != nil && p.OS == "linux" && p.Architecture == runtime.GOARCH {
			return a.image(e.Image)
		}
	}
	return m, nil
}

// docker returns an image as Docker lists it, or nil for what it can't load.
func (a *archive) docker(m manifest.Manifest) *dockerImage {
	if m.Config == nil || !manifest.IsImageConfig(m.Config.MediaType) {
		return nil
	}
	var paths []string
	for _, blob := range m.Blobs {
		path := blobPath(blob.Digest)
		if _, ok := a.entries[path]; !ok {
			return nil
		}
		paths = append(paths, path)
	}
	return &dockerImage{Config: paths[0], Layers: paths[1:]}
}

// archiveReader reads the files in a tar file.
type archiveReader struct {
	f       *os.File
	entries map[string]span
}

// span is where the content of an entry is.
type span struct{ offset, size int64 }

func openArchive(path string) (*archiveReader, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	entries, err := spans(f)
	if err != nil {
		_ = f.Close() // it was read only
		return nil, fmt.Errorf("%s is no tar file that can be read (a compressed one has to be unpacked first): %w", path, err)
	}
	return &archiveReader{f, entries}, nil
}

// spans returns where the files of an archive are, by cleaned names.
func spans(f io.ReadSeeker) (map[string]span, error) {
	entries := map[string]span{}
	for r := tar.NewReader(f); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return entries, nil
		}
		if err != nil {
			return nil, err
		}
		offset, err := f.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, err
		}
		if header.Typeflag == tar.TypeReg {
			entries[pathpkg.Clean("/" + header.Name)[1:]] = span{offset, header.Size}
		}
	}
}

func (a *archiveReader) open(path string) (io.ReadCloser, error) {
	s, ok := a.entries[path]
	if !ok {
		return nil, &os.PathError{Op: "open", Path: path, Err: os.ErrNotExist}
	}
	return io.NopCloser(io.NewSectionReader(a.f, s.offset, s.size)), nil
}
