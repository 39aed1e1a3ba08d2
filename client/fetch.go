package client

import (
	"context"
	"errors"
	"fmt"
	"io"

	"berth/registry/manifest"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
)

const (
	// maxBytes is the largest manifest or config that is read.
	maxBytes = 4 << 20
	// requests is how many are asked of a registry at the same time.
	requests = 4
	// idleConnections is how many stay open to a registry, for those who ask more at the same time.
	idleConnections = 32
)

// manifestTypes are what a registry is told that this client reads.
func manifestTypes() []string {
	return []string{v1.MediaTypeImageIndex, manifest.MediaTypeDockerManifestList,
		v1.MediaTypeImageManifest, manifest.MediaTypeDockerManifest}
}

// document is a manifest as it is stored.
type document struct {
	descriptor v1.Descriptor
	parsed     manifest.Manifest
}

// resolve fetches what a reference names. It fails with a *Problem where there is none.
func (r *Repository) resolve(ctx context.Context, ref Reference) (document, error) {
	d, body, err := r.remote.Manifests().FetchReference(ctx, ref.at())
	if isNotFound(err) {
		return document{}, r.notFound(ctx, ref, err)
	}
	if err != nil {
		return document{}, r.explain(err)
	}
	doc, err := read(d, body)
	if err != nil {
		return document{}, fmt.Errorf("%s: %w", ref, err)
	}
	return doc, nil
}

// manifest fetches a manifest by its digest.
func (r *Repository) manifest(ctx context.Context, d v1.Descriptor) (document, error) {
	body, err := r.remote.Manifests().Fetch(ctx, d)
	if err != nil {
		return document{}, err
	}
	return read(d, body)
}

// read reads and parses a manifest, whose size and digest have to be those of its descriptor.
func read(d v1.Descriptor, body io.ReadCloser) (document, error) {
	content, err := readAll(d, body)
	if err != nil {
		return document{}, err
	}
	parsed, err := manifest.Parse(d.MediaType, content)
	return document{d, parsed}, err
}

func readAll(d v1.Descriptor, body io.ReadCloser) (all []byte, err error) {
	defer func() { err = errors.Join(err, body.Close()) }()
	if d.Size > maxBytes {
		return nil, fmt.Errorf("%s has %d bytes, where at most %d are read", d.Digest, d.Size, int64(maxBytes))
	}
	return content.ReadAll(body, d)
}

// config fetches the config of an image. It is false for one that is missing, too large or not an image's.
func (r *Repository) config(ctx context.Context, m manifest.Manifest) (manifest.Config, []byte, bool, error) {
	if m.Config == nil || !manifest.IsImageConfig(m.Config.MediaType) || m.Config.Size > maxBytes {
		return manifest.Config{}, nil, false, nil
	}
	body, err := r.remote.Blobs().Fetch(ctx, *m.Config)
	if isNotFound(err) {
		return manifest.Config{}, nil, false, nil
	}
	if err != nil {
		return manifest.Config{}, nil, false, r.explain(err)
	}
	all, err := readAll(*m.Config, body)
	if err != nil {
		return manifest.Config{}, nil, false, fmt.Errorf("config in %s/%s: %w", r.host.name, r.name(), err)
	}
	c, ok := manifest.ParseConfig(all)
	return c, all, ok && c.OS != "unknown", nil // as BuildKit says of its attestations
}
