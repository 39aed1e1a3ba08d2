package layout

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/errdef"
)

// Distribution is a data directory that registry:2 and registry:3 serve. Its Repository is a transfer.Writer and a transfer.Linker.
type Distribution struct{ root string } // …/docker/registry/v2

// OpenDistribution returns the data directory at a path, which need not be there.
func OpenDistribution(path string) *Distribution {
	return &Distribution{filepath.Join(path, "docker", "registry", "v2")}
}

// Repository returns one of its repositories, which need not be there.
func (s *Distribution) Repository(name string) *DistributionRepository {
	return &DistributionRepository{s, filepath.Join(s.root, "repositories", filepath.FromSlash(name))}
}

// data is where the bytes of a blob or manifest are, for all repositories.
func (s *Distribution) data(d digest.Digest) string {
	return filepath.Join(s.root, "blobs", d.Algorithm().String(), d.Encoded()[:2], d.Encoded(), "data")
}

func (s *Distribution) write(d v1.Descriptor, open opener) error {
	path := s.data(d.Digest)
	has, err := hasFile(path, d.Size)
	if err != nil || has {
		return err
	}
	return writeFile(path, d, open)
}

// DistributionRepository is a repository in such a directory: links to what is in it, as files that hold a digest.
type DistributionRepository struct {
	store *Distribution
	path  string
}

func (r *DistributionRepository) link(d digest.Digest, below ...string) string {
	return filepath.Join(append([]string{r.path, filepath.Join(below...)}, d.Algorithm().String(), d.Encoded(), "link")...)
}

func (r *DistributionRepository) current(tag string) string {
	return filepath.Join(r.path, "_manifests", "tags", tag, "current", "link")
}

// Resolve returns the digest that a tag has, or fails with errdef.ErrNotFound.
func (r *DistributionRepository) Resolve(_ context.Context, tag string) (v1.Descriptor, error) {
	path := r.current(tag)
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return v1.Descriptor{}, errdef.ErrNotFound
	}
	if err != nil {
		return v1.Descriptor{}, err
	}
	d, err := digest.Parse(strings.TrimSpace(string(content)))
	if err != nil {
		return v1.Descriptor{}, errdef.ErrNotFound // it will be written anew
	}
	return v1.Descriptor{Digest: d}, nil
}

// HasManifest reports whether a manifest is in the repository.
func (r *DistributionRepository) HasManifest(_ context.Context, d v1.Descriptor) (bool, error) {
	return r.has(r.link(d.Digest, "_manifests", "revisions"), d)
}

// HasBlob reports whether a blob is in the repository.
func (r *DistributionRepository) HasBlob(_ context.Context, d v1.Descriptor) (bool, error) {
	return r.has(r.link(d.Digest, "_layers"), d)
}

func (r *DistributionRepository) has(link string, d v1.Descriptor) (bool, error) {
	has, err := hasFile(link, int64(len(d.Digest)))
	if err != nil || !has {
		return false, err
	}
	return hasFile(r.store.data(d.Digest), d.Size)
}

// WriteBlob stores a blob, which is not opened where another repository has it.
func (r *DistributionRepository) WriteBlob(_ context.Context, d v1.Descriptor, open func() (io.ReadCloser, error)) error {
	if err := r.store.write(d, open); err != nil {
		return err
	}
	return writeSmall(r.link(d.Digest, "_layers"), d.Digest.String())
}

// WriteManifest stores a manifest, under a tag unless that is empty.
func (r *DistributionRepository) WriteManifest(_ context.Context, d v1.Descriptor, body []byte, tag string) error {
	err := r.store.write(d, func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil })
	if err != nil {
		return err
	}
	paths := []string{r.link(d.Digest, "_manifests", "revisions")}
	if tag != "" {
		paths = append(paths, r.link(d.Digest, "_manifests", "tags", tag, "index"), r.current(tag))
	}
	for _, path := range paths {
		if err := writeSmall(path, d.Digest.String()); err != nil {
			return err
		}
	}
	return nil
}

// Link adds referrers to the index under the tag that clients look at in registries without an API for them (OCI distribution spec,
// "Unavailable Referrers API").
func (r *DistributionRepository) Link(ctx context.Context, subject v1.Descriptor, referrers []v1.Descriptor) error {
	tag := strings.Replace(subject.Digest.String(), ":", "-", 1)
	if len(tag) > 128 {
		return fmt.Errorf("what refers to %s was copied, but clients won't find it: its tag would be too long for a registry", subject.Digest)
	}
	index, err := r.index(ctx, tag)
	if err != nil {
		return err
	}
	before := len(index.Manifests)
	for _, referrer := range referrers {
		if !slices.ContainsFunc(index.Manifests, func(d v1.Descriptor) bool { return d.Digest == referrer.Digest }) {
			index.Manifests = append(index.Manifests, referrer)
		}
	}
	if len(index.Manifests) == before {
		return nil
	}
	body, err := json.Marshal(index)
	if err != nil {
		return err
	}
	d := v1.Descriptor{MediaType: index.MediaType, Digest: digest.FromBytes(body), Size: int64(len(body))}
	return r.WriteManifest(ctx, d, body, tag)
}

// index returns the index that a tag points to, which is empty where there is none.
func (r *DistributionRepository) index(ctx context.Context, tag string) (v1.Index, error) {
	empty := v1.Index{MediaType: v1.MediaTypeImageIndex, Manifests: []v1.Descriptor{}}
	empty.SchemaVersion = 2
	d, err := r.Resolve(ctx, tag)
	if errors.Is(err, errdef.ErrNotFound) {
		return empty, nil
	}
	if err != nil {
		return empty, err
	}
	content, err := os.ReadFile(r.store.data(d.Digest))
	if err != nil {
		return empty, err
	}
	var index v1.Index
	if err := json.Unmarshal(content, &index); err != nil || index.MediaType != v1.MediaTypeImageIndex {
		return empty, fmt.Errorf("the tag %s is no index of referrers", tag)
	}
	return index, nil
}
