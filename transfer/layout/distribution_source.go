package layout

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"berth/registry/manifest"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry"
)

// mediaTypeUnknown is what a manifest is said to be that no registry takes any more, as one of Docker schema 1.
const mediaTypeUnknown = "application/octet-stream"

// IsDistribution reports whether a path is a data directory of registry:2 or registry:3.
func IsDistribution(path string) bool {
	info, err := os.Stat(filepath.Join(OpenDistribution(path).root, "repositories"))
	return err == nil && info.IsDir()
}

// Repositories calls page with the names of all repositories that have tags, one at a time.
func (s *Distribution) Repositories(ctx context.Context, page func(names []string) error) error {
	top := filepath.Join(s.root, "repositories")
	return filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		case !entry.IsDir():
			return nil
		case !strings.HasPrefix(entry.Name(), "_"): // no component of a name begins so
			return nil
		}
		name, err := filepath.Rel(top, filepath.Dir(path))
		name = filepath.ToSlash(name)
		if err == nil && entry.Name() == "_manifests" && (registry.Reference{Repository: name}).ValidateRepository() == nil {
			err = page([]string{name})
		}
		if err == nil {
			err = filepath.SkipDir
		}
		return err
	})
}

// Source returns one of its repositories as a transfer.Reader. Links that are damaged link to nothing.
func (s *Distribution) Source(name string) *DistributionSource {
	return &DistributionSource{s.Repository(name)}
}

// DistributionSource is a repository in a data directory of registry:2 or registry:3 that is read.
type DistributionSource struct{ repository *DistributionRepository }

// Tags calls page with all tags.
func (r *DistributionSource) Tags(_ context.Context, page func(tags []string) error) error {
	entries, err := os.ReadDir(filepath.Join(r.repository.path, "_manifests", "tags"))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", r.repository.path, errdef.ErrNotFound)
	}
	var tags []string
	for _, entry := range entries {
		if (registry.Reference{Reference: entry.Name()}).ValidateReferenceAsTag() == nil {
			tags = append(tags, entry.Name())
		}
	}
	return errors.Join(err, page(tags))
}

// Resolve returns what a tag points to, or fails with errdef.ErrNotFound.
func (r *DistributionSource) Resolve(ctx context.Context, tag string) (v1.Descriptor, error) {
	d, err := r.repository.Resolve(ctx, tag)
	if err != nil {
		return d, err
	}
	if err := d.Digest.Validate(); err != nil {
		return d, fmt.Errorf("%s: %w", tag, errdef.ErrNotFound)
	}
	body, err := r.manifest(d.Digest)
	if err != nil {
		return d, err
	}
	d.Size, d.MediaType = int64(len(body)), mediaTypeUnknown
	if m, err := manifest.Parse("", body); err == nil {
		d.MediaType = m.MediaType
	}
	return d, nil
}

// ReadManifest returns a manifest, compared with its digest, or fails with errdef.ErrNotFound.
func (r *DistributionSource) ReadManifest(_ context.Context, d v1.Descriptor) ([]byte, error) {
	if err := d.Digest.Validate(); err != nil {
		return nil, err
	}
	return r.manifest(d.Digest)
}

func (r *DistributionSource) manifest(d digest.Digest) ([]byte, error) {
	f, err := r.open(d)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && info.Size() > maxManifest {
		err = fmt.Errorf("%s has %d bytes, where at most %d are read", d, info.Size(), maxManifest)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	body, err := content.ReadAll(f, v1.Descriptor{Digest: d, Size: info.Size()})
	return body, errors.Join(err, f.Close())
}

// ReadBlob returns a blob, or fails with errdef.ErrNotFound.
func (r *DistributionSource) ReadBlob(_ context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	if err := d.Digest.Validate(); err != nil {
		return nil, err
	}
	return r.open(d.Digest)
}

func (r *DistributionSource) open(d digest.Digest) (*os.File, error) {
	f, err := os.Open(r.repository.store.data(d))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", d, errdef.ErrNotFound)
	}
	return f, err
}

// Referrers fails with errdef.ErrUnsupported: registry:2 and registry:3 have tags for them.
func (r *DistributionSource) Referrers(context.Context, v1.Descriptor) ([]v1.Descriptor, error) {
	return nil, errdef.ErrUnsupported
}
