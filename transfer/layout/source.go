package layout

import (
	"cmp"
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

	"berth/registry/manifest"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry"
)

const (
	// maxManifest is the largest manifest that is read, in bytes.
	maxManifest = 4 << 20
	// maxIndex is the largest list of all that a layout has: some 200,000 names.
	maxIndex = 64 << 20
)

// Source is an OCI image layout that is read.
type Source struct {
	open      func(path string) (io.ReadCloser, error)
	close     func() error
	images    []Image
	referrers map[digest.Digest][]v1.Descriptor
}

// Image is what the index of a layout names. Repository and Tag are empty where it does not say.
type Image struct {
	Repository, Tag string
	Descriptor      v1.Descriptor
}

// OpenSource opens the layout in a directory or a tar file.
func OpenSource(path string) (*Source, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	s := &Source{referrers: map[digest.Digest][]v1.Descriptor{}}
	if info.IsDir() {
		root := os.DirFS(path)
		s.open, s.close = func(path string) (io.ReadCloser, error) { return root.Open(path) }, func() error { return nil }
	} else {
		archive, err := openArchive(path)
		if err != nil {
			return nil, err
		}
		s.open, s.close = archive.open, archive.f.Close
	}
	if err := s.load(path); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

// Close closes the layout.
func (s *Source) Close() error { return s.close() }

// Images returns what the index names, but for manifests that refer to others.
func (s *Source) Images() []Image { return s.images }

func (s *Source) load(path string) error {
	var layout v1.ImageLayout
	if err := s.readJSON(v1.ImageLayoutFile, &layout); err != nil {
		return notALayout(path, err)
	}
	if layout.Version != v1.ImageLayoutVersion {
		return fmt.Errorf("%s is an OCI image layout of version %q, which is not known", path, layout.Version)
	}
	var index v1.Index
	if err := s.readJSON(v1.ImageIndexFile, &index); err != nil {
		return fmt.Errorf("%s: %s: %w", path, v1.ImageIndexFile, err)
	}
	for _, d := range index.Manifests {
		if err := s.add(d); err != nil {
			return fmt.Errorf("%s: %s: %w", path, v1.ImageIndexFile, err)
		}
	}
	return nil
}

// notALayout says what a path may be in place of a layout.
func notALayout(path string, err error) error {
	if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %s: %w", path, v1.ImageLayoutFile, err)
	}
	for _, below := range []string{"registry/v2", "v2", "."} {
		if info, statErr := os.Stat(filepath.Join(path, below, "repositories")); statErr == nil && info.IsDir() {
			return fmt.Errorf("%s is within the data directory of a registry: name the directory that docker/ is in", path)
		}
	}
	return fmt.Errorf("%s is no OCI image layout: it has no file %s", path, v1.ImageLayoutFile)
}

// add takes an entry of the index.
func (s *Source) add(d v1.Descriptor) error {
	if err := d.Digest.Validate(); err != nil {
		return err
	}
	image := Image{Descriptor: v1.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}}
	name := cmp.Or(d.Annotations[containerdName], d.Annotations[v1.AnnotationRefName])
	if name != "" {
		var err error
		if image.Repository, image.Tag, err = parseName(name); err != nil {
			return err
		}
	} else if subject, ok := s.subject(d); ok {
		s.referrers[subject] = append(s.referrers[subject], d)
		return nil
	}
	s.images = append(s.images, image)
	return nil
}

// subject returns what a manifest refers to. One that can't be read says so when it is copied.
func (s *Source) subject(d v1.Descriptor) (digest.Digest, bool) {
	if !manifest.IsManifest(d.MediaType) {
		return "", false
	}
	body, err := s.manifest(d)
	if err != nil {
		return "", false
	}
	m, err := manifest.Parse(d.MediaType, body)
	if err != nil || m.Subject == nil {
		return "", false
	}
	return m.Subject.Digest, true
}

func (s *Source) readJSON(path string, into any) error {
	f, err := s.open(path)
	if err != nil {
		return err
	}
	body, err := io.ReadAll(io.LimitReader(f, maxIndex+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if len(body) > maxIndex {
		return fmt.Errorf("it has more than %d bytes", maxIndex)
	}
	return json.Unmarshal(body, into)
}

func (s *Source) blob(d v1.Descriptor) (io.ReadCloser, error) {
	if err := d.Digest.Validate(); err != nil {
		return nil, err
	}
	f, err := s.open(blobPath(d.Digest))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", d.Digest, errdef.ErrNotFound)
	}
	return f, err
}

func (s *Source) manifest(d v1.Descriptor) ([]byte, error) {
	if d.Size > maxManifest {
		return nil, fmt.Errorf("%s has %d bytes, where at most %d are read", d.Digest, d.Size, maxManifest)
	}
	f, err := s.blob(d)
	if err != nil {
		return nil, err
	}
	body, err := content.ReadAll(f, d)
	return body, errors.Join(err, f.Close())
}

// parseName reads what the entry of an index is called: a tag, REPO:TAG, or HOST[:PORT]/REPO[:TAG], whose host does not count.
func parseName(name string) (repository, tag string, err error) {
	if !strings.ContainsAny(name, "/:") {
		tag = name
	} else {
		first, rest, ok := strings.Cut(name, "/")
		if !ok || first != "localhost" && !strings.ContainsAny(first, ".:") {
			rest = name
		}
		rest, _, _ = strings.Cut(rest, "@")
		repository, tag, _ = strings.Cut(rest, ":")
		tag = cmp.Or(tag, "latest")
		err = registry.Reference{Repository: repository}.ValidateRepository()
	}
	if err == nil {
		err = registry.Reference{Reference: tag}.ValidateReferenceAsTag()
	}
	if err != nil {
		return "", "", fmt.Errorf("%q is no name such as REPO:TAG: %w", name, err)
	}
	return repository, tag, nil
}

// SourceRepository is a part of a layout with tags. It is a transfer.Reader.
type SourceRepository struct {
	source *Source
	tags   map[string]v1.Descriptor
}

// Repository returns the content of the layout under tags.
func (s *Source) Repository(tags map[string]v1.Descriptor) *SourceRepository {
	return &SourceRepository{s, tags}
}

// Tags calls page with all tags.
func (r *SourceRepository) Tags(_ context.Context, page func(tags []string) error) error {
	return page(slices.Sorted(maps.Keys(r.tags)))
}

// Resolve returns what a tag points to, or fails with errdef.ErrNotFound.
func (r *SourceRepository) Resolve(_ context.Context, tag string) (v1.Descriptor, error) {
	d, ok := r.tags[tag]
	if !ok {
		return d, fmt.Errorf("%s: %w", tag, errdef.ErrNotFound)
	}
	return d, nil
}

// ReadManifest returns a manifest, compared with its digest, or fails with errdef.ErrNotFound.
func (r *SourceRepository) ReadManifest(_ context.Context, d v1.Descriptor) ([]byte, error) {
	return r.source.manifest(d)
}

// ReadBlob returns a blob, or fails with errdef.ErrNotFound.
func (r *SourceRepository) ReadBlob(_ context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	return r.source.blob(d)
}

// Referrers returns the manifests of the index whose subject is d.
func (r *SourceRepository) Referrers(_ context.Context, d v1.Descriptor) ([]v1.Descriptor, error) {
	return r.source.referrers[d.Digest], nil
}
