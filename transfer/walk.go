package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"berth/registry/manifest"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry"
)

// maxDepth is how deep indexes may be in each other.
const maxDepth = 16

// walk is the copying of one tag, with all that it leads to.
type walk struct {
	*copying
	// wrote is how many manifests were written beside the tag's own.
	wrote, blobs, bytes atomic.Int64

	lock    sync.Mutex
	missing []digest.Digest
}

// done is the result of a walk, and the manifests that it came by.
type done struct {
	Result
	manifests []v1.Descriptor
}

// unsupported says why a tag is skipped.
type unsupported struct{ error }

// tag copies a tag.
func (r *copying) tag(ctx context.Context, tag string) done {
	w := &walk{copying: r}
	result := done{Result: Result{Repository: r.Name, Tag: tag}}
	status, err := w.copy(ctx, &result)
	result.Status, result.Missing = status, w.missing
	result.Blobs, result.Bytes = w.blobs.Load(), w.bytes.Load()
	if err != nil {
		result.Status, result.Reason = Failed, err.Error()
		if _, ok := errors.AsType[unsupported](err); ok {
			result.Status = Skipped
		}
		if n := len(w.missing); n > 0 && result.Status == Failed {
			result.Reason += fmt.Sprintf(" (the source lacks %d of what it lists)", n)
		}
	}
	return result
}

// copy copies a tag and returns its status. It adds to the result what it finds out.
func (w *walk) copy(ctx context.Context, result *done) (status string, err error) {
	tag := result.Tag
	if err := (registry.Reference{Reference: tag}).ValidateReferenceAsTag(); err != nil {
		return "", err
	}
	root, err := w.From.Resolve(ctx, tag)
	if errors.Is(err, errdef.ErrNotFound) && w.Tags == nil {
		return "", unsupported{errors.New("the source lists this tag, and has no manifest for it")}
	}
	if err != nil {
		return "", err
	}
	result.Digest = root.Digest
	if !manifest.IsManifest(root.MediaType) {
		_, err := manifest.Parse(root.MediaType, nil)
		return "", unsupported{err}
	}
	held, err := w.To.Resolve(ctx, tag)
	if err != nil && !errors.Is(err, errdef.ErrNotFound) {
		return "", err
	}
	same := held.Digest == root.Digest
	switch {
	case same && (w.copier.DryRun || w.byTags.Load() && w.Tags == nil):
		return Present, nil
	case w.copier.DryRun:
		return Planned, nil
	}
	if result.manifests, err = w.root(ctx, root, tag, same); err != nil {
		return "", err
	}
	if same && w.wrote.Load() == 0 {
		return Present, nil
	}
	return Copied, nil
}

// root copies what a tag's manifest needs and what refers to it, and then, unless the tag is the same already, the manifest itself. It
// returns all manifests but for those that refer to others.
func (w *walk) root(ctx context.Context, d v1.Descriptor, tag string, same bool) ([]v1.Descriptor, error) {
	has, err := same, error(nil)
	if !same {
		has, err = w.To.HasManifest(ctx, d)
	}
	var body []byte
	if err == nil && (!same || manifest.IsIndex(d.MediaType)) {
		body, err = w.From.ReadManifest(ctx, d)
	}
	if err != nil {
		return nil, err
	}
	manifests, err := w.contents(ctx, d, body, has, 0)
	if err == nil {
		err = w.referrers(ctx, manifests)
	}
	if err == nil && !same {
		err = w.To.WriteManifest(ctx, d, body, tag)
	}
	return manifests, err
}

// contents copies what a manifest needs, and returns it and the manifests that it lists, directly or not. Of an image that the target
// has, it has the blobs too. An image in an index is missing, too, when the source lacks one of its blobs.
func (w *walk) contents(ctx context.Context, d v1.Descriptor, body []byte, has bool, depth int) ([]v1.Descriptor, error) {
	manifests := []v1.Descriptor{d}
	if has && !manifest.IsIndex(d.MediaType) {
		return manifests, nil
	}
	m, err := manifest.Parse(d.MediaType, body)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.Digest, err)
	}
	if depth == maxDepth {
		return nil, fmt.Errorf("indexes are nested deeper than %d", maxDepth)
	}
	for _, child := range m.Children {
		below, err := w.child(ctx, child, depth+1)
		if errors.Is(err, errdef.ErrNotFound) {
			w.lacks(child.Digest)
			continue
		}
		if err != nil {
			return nil, err
		}
		manifests = append(manifests, below...)
	}
	blobs := slices.DeleteFunc(m.Blobs, manifest.Nondistributable)
	return manifests, w.copier.all(blobs, func(blob v1.Descriptor) error {
		if err := w.blob(ctx, blob); err != nil {
			return fmt.Errorf("blob %s: %w", blob.Digest, err)
		}
		return nil
	})
}

func (w *walk) lacks(d digest.Digest) {
	w.lock.Lock()
	defer w.lock.Unlock()
	w.missing = append(w.missing, d)
}

// child copies what an index lists: a manifest or, in the index of a build cache, a blob.
func (w *walk) child(ctx context.Context, d v1.Descriptor, depth int) ([]v1.Descriptor, error) {
	if !manifest.IsManifest(d.MediaType) {
		return nil, w.blob(ctx, d)
	}
	return w.manifest(ctx, d, depth)
}

// manifest copies a manifest that no tag needs to name, and returns what contents does.
func (w *walk) manifest(ctx context.Context, d v1.Descriptor, depth int) ([]v1.Descriptor, error) {
	return w.once(ctx, node{d.Digest, true}, func() ([]v1.Descriptor, error) {
		has, err := w.To.HasManifest(ctx, d)
		if err != nil {
			return nil, err
		}
		if has && !manifest.IsIndex(d.MediaType) {
			return []v1.Descriptor{d}, nil
		}
		body, err := w.From.ReadManifest(ctx, d)
		if err != nil {
			return nil, err
		}
		manifests, err := w.contents(ctx, d, body, has, depth)
		if err != nil || has {
			return manifests, err
		}
		if err := w.To.WriteManifest(ctx, d, body, ""); err != nil {
			return nil, err
		}
		w.wrote.Add(1)
		return manifests, nil
	})
}

func (w *walk) blob(ctx context.Context, d v1.Descriptor) error {
	_, err := w.once(ctx, node{d.Digest, false}, func() ([]v1.Descriptor, error) {
		has, err := w.To.HasBlob(ctx, d)
		if err != nil || has {
			return nil, err
		}
		release, err := w.copier.slot(ctx, d.Digest)
		if err != nil {
			return nil, err
		}
		defer release()
		opened := false
		err = w.To.WriteBlob(ctx, d, func() (io.ReadCloser, error) {
			opened = true
			body, err := w.From.ReadBlob(ctx, d)
			return counted{body, w}, err
		})
		if err == nil && opened { // else it was mounted
			w.blobs.Add(1)
		}
		return nil, err
	})
	return err
}

// counted counts what is read.
type counted struct {
	io.ReadCloser
	walk *walk
}

func (c counted) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.walk.bytes.Add(int64(n))
	c.walk.copier.bytes.Add(int64(n))
	return n, err
}

// referrers copies what refers to manifests, and what refers to that, and so on.
func (w *walk) referrers(ctx context.Context, manifests []v1.Descriptor) error {
	for queue := slices.Clone(manifests); len(queue) > 0 && !w.byTags.Load(); {
		subject := queue[0]
		queue = queue[1:]
		if !w.claim(subject.Digest.String()) {
			continue
		}
		found, err := w.From.Referrers(ctx, subject)
		if errors.Is(err, errdef.ErrUnsupported) {
			w.byTags.Store(true)
			return nil
		}
		if err != nil {
			return fmt.Errorf("what refers to %s: %w", subject.Digest, err)
		}
		var copied []v1.Descriptor
		for _, referrer := range found {
			below, err := w.referrer(ctx, referrer)
			if errors.Is(err, errdef.ErrNotFound) {
				w.lacks(referrer.Digest)
				continue
			}
			if err != nil {
				return fmt.Errorf("%s, which refers to %s: %w", referrer.Digest, subject.Digest, err)
			}
			copied, queue = append(copied, referrer), append(queue, below...)
		}
		w.link(subject, copied)
	}
	return nil
}

// referrer copies a manifest that refers to another one. One of a kind that is not copied counts as missing.
func (w *walk) referrer(ctx context.Context, d v1.Descriptor) ([]v1.Descriptor, error) {
	if !manifest.IsManifest(d.MediaType) {
		return nil, errdef.ErrNotFound
	}
	if err := d.Digest.Validate(); err != nil {
		return nil, fmt.Errorf("it has no digest: %w", err)
	}
	return w.manifest(ctx, d, 0)
}

func (w *walk) link(subject v1.Descriptor, referrers []v1.Descriptor) {
	if len(referrers) == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.links = append(w.links, link{subject, referrers})
}

// companions are the tags under which something is kept about a manifest: those of cosign and, where the source knows referrers by tags
// only, that of the referrers' tag schema (OCI distribution spec, "Unavailable Referrers API").
func (r *copying) companions(d digest.Digest) (tags []string) {
	base := strings.Replace(d.String(), ":", "-", 1)
	for _, suffix := range []string{".sig", ".att", ".sbom", ""} {
		if tag := base + suffix; len(tag) <= 128 && (suffix != "" || r.byTags.Load()) {
			tags = append(tags, tag)
		}
	}
	return tags
}
