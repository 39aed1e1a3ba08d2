package adopt

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"berth/registry"
	"berth/registry/manifest"
	"berth/storage"
	"berth/storage/metadata"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

const (
	// readers is how many files are read at once.
	readers = 16
	// manifestBatch, manifestBytes and batch are how many manifests, with how many bytes, and how many blobs and tags, are recorded in one
	// transaction.
	manifestBatch = 100
	manifestBytes = registry.MaxManifestSize
	batch         = 1000
	// maxLink is how many bytes a link has at the most: a digest.
	maxLink = 256
	// maxConfig is the largest blob in bytes that is looked at for the platform of an image.
	maxConfig = 1 << 20
	// forEver is the lease of blobs that a manifest may need which could not be read.
	forEver = 100 * 365 * 24 * time.Hour
)

// repository is what the files of a repository of distribution's say.
type repository struct {
	a         *adoption
	name      string
	layers    map[digest.Digest]bool // those that are linked, true once they are taken over
	revisions []revision
	tags      []tagFile
	there     map[digest.Digest]bool // manifests that were taken over
	unread    bool                   // there are bytes of a manifest that could not be understood
}

// revision is a manifest and, once it was read, what it says.
type revision struct {
	digest  digest.Digest
	pushed  time.Time
	body    []byte
	parsed  manifest.Manifest
	problem error // why it is passed over
}

// tagFile is a tag and, once its link was read, what that says.
type tagFile struct {
	name    string
	link    storage.Object
	digest  digest.Digest
	problem error
}

func (r *repository) add(f file, o storage.Object) {
	switch f.kind {
	case layerLink:
		r.layers[f.digest] = false
	case revisionLink:
		r.revisions = append(r.revisions, revision{digest: f.digest, pushed: o.Modified})
	case tagLink:
		r.tags = append(r.tags, tagFile{name: f.tag, link: o})
	case upload:
		r.a.report.Uploads++
	}
	if o.Size == 0 && (f.kind == layerLink || f.kind == revisionLink) { // its path says all the same what it linked
		r.a.find(r.name+"@"+f.digest.String(), "its link is empty; it is taken over nevertheless")
	}
}

func (r *repository) adopt(ctx context.Context) error {
	if len(r.layers)+len(r.revisions)+len(r.tags) == 0 {
		return nil
	}
	r.a.report.Repositories++
	for rest := r.revisions; len(rest) > 0; {
		n := r.batch(rest)
		if err := r.adoptManifests(ctx, rest[:n]); err != nil {
			return err
		}
		clear(rest[:n]) // their bodies take memory
		rest = rest[n:]
	}
	if err := r.adoptRest(ctx); err != nil {
		return err
	}
	for some := range slices.Chunk(r.tags, batch) {
		if err := r.adoptTags(ctx, some); err != nil {
			return err
		}
	}
	return nil
}

// batch returns how many of some manifests are recorded together.
func (r *repository) batch(some []revision) int {
	var bytes int64
	for i, rev := range some[:min(len(some), manifestBatch)] {
		if s := r.a.stored[rev.digest]; s != nil {
			bytes += s.size
		}
		if i > 0 && bytes > manifestBytes {
			return i
		}
	}
	return min(len(some), manifestBatch)
}

// adoptManifests takes over manifests with the blobs that they reference.
func (r *repository) adoptManifests(ctx context.Context, some []revision) error {
	err := each(ctx, some, func(ctx context.Context, rev *revision) error {
		rev.body, rev.parsed, rev.problem = r.readManifest(ctx, rev.digest)
		return fatal(ctx, rev.problem)
	})
	if err != nil {
		return err
	}
	part := metadata.Adoption{Repository: r.name}
	isConfig := make(map[digest.Digest]bool)
	for _, rev := range some {
		subject := r.name + "@" + rev.digest.String()
		s := r.a.stored[rev.digest]
		if s != nil {
			s.used = true
		}
		if rev.problem != nil {
			r.a.find(subject, "%v", rev.problem)
			r.unread = r.unread || s != nil
			continue
		}
		r.there[rev.digest] = true
		facts := registry.ManifestFacts(rev.parsed, rev.digest, rev.body)
		r.needBlobs(subject, rev.parsed, &part)
		optional(facts.Blobs)
		optional(facts.Children)
		part.Manifests = append(part.Manifests, metadata.AdoptedManifest{NewManifest: facts, Pushed: rev.pushed})
		isConfig[facts.Config] = true
	}
	err = each(ctx, part.Blobs, func(ctx context.Context, b *metadata.AdoptedBlob) error {
		if !isConfig[b.Digest] {
			return nil
		}
		return r.readConfig(ctx, b)
	})
	if err != nil {
		return err
	}
	return r.a.record(ctx, part)
}

func optional(edges []metadata.Edge) {
	for i := range edges {
		edges[i].Optional = true
	}
}

// needBlobs adds what a manifest references to a part, unless it was taken over before, and notes what is not there.
func (r *repository) needBlobs(subject string, m manifest.Manifest, part *metadata.Adoption) {
	for _, b := range m.Blobs {
		s := r.a.stored[b.Digest]
		linked, has := r.layers[b.Digest]
		switch {
		case linked, !has && manifest.Nondistributable(b):
		case s == nil:
			r.a.find(subject, "the blob %s that it references is not there", b.Digest)
			delete(r.layers, b.Digest)
		case s.size != b.Size:
			r.a.find(subject, "the blob %s that it references has %d bytes of %d", b.Digest, s.size, b.Size)
			s.used = true // damaged, but somebody's
			delete(r.layers, b.Digest)
		default:
			if !has {
				r.a.find(subject, "the blob %s that it references is not linked in the repository; it is taken over nevertheless", b.Digest)
			}
			r.layers[b.Digest] = true
			part.Blobs = append(part.Blobs, adopted(b.Digest, s))
		}
	}
}

func adopted(d digest.Digest, s *stored) metadata.AdoptedBlob {
	return metadata.AdoptedBlob{Blob: metadata.Blob{Digest: d, Key: blobKey(d), Size: s.size}, Stored: s.modified}
}

// adoptRest takes over the links of blobs that no manifest references. They have a lease, as after a push; one that does not end where
// a manifest that can't be read may need them.
func (r *repository) adoptRest(ctx context.Context) error {
	lease := r.a.Lease
	if r.unread {
		lease = forEver
	}
	var rest []metadata.AdoptedBlob
	for d, done := range r.layers {
		switch s := r.a.stored[d]; {
		case done:
		case s == nil:
			r.a.find(r.name+"@"+d.String(), "a blob is linked that is not there")
		default:
			rest = append(rest, adopted(d, s))
		}
	}
	slices.SortFunc(rest, func(a, b metadata.AdoptedBlob) int { return strings.Compare(string(a.Digest), string(b.Digest)) })
	for some := range slices.Chunk(rest, batch) {
		if err := r.a.record(ctx, metadata.Adoption{Repository: r.name, Blobs: some, Lease: lease}); err != nil {
			return err
		}
	}
	if r.unread && len(rest) > 0 {
		r.a.report.Kept += len(rest)
		r.a.find(r.name, "%d blobs that no manifest references are kept for good, since the manifests of it that can't be read may need them; "+
			"registry delete --repository gives their space back, with all of the repository", len(rest))
	}
	return nil
}

func (r *repository) adoptTags(ctx context.Context, some []tagFile) error {
	err := each(ctx, some, func(ctx context.Context, t *tagFile) error {
		t.digest, t.problem = r.readTag(ctx, t.link)
		return fatal(ctx, t.problem)
	})
	if err != nil {
		return err
	}
	part := metadata.Adoption{Repository: r.name}
	for _, t := range some {
		switch {
		case t.problem != nil:
			r.a.find(r.name+":"+t.name, "%v", t.problem)
		case !r.there[t.digest]:
			r.a.find(r.name+":"+t.name, "it points to the manifest %s, which is not there", t.digest)
		default:
			part.Tags = append(part.Tags, metadata.AdoptedTag{Name: t.name, Digest: t.digest, Set: t.link.Modified})
		}
	}
	return r.a.record(ctx, part)
}

// readManifest reads a manifest and checks that it is what its digest says.
func (r *repository) readManifest(ctx context.Context, d digest.Digest) (body []byte, m manifest.Manifest, err error) {
	s := r.a.stored[d]
	if s == nil {
		return nil, m, damaged("the manifest's bytes are not there")
	}
	if body, err = read(ctx, r.a.Blobs, blobKey(d), s.size, registry.MaxManifestSize); err != nil {
		return nil, m, err
	}
	if got := d.Algorithm().FromBytes(body); got != d {
		return nil, m, damaged("the manifest's %d bytes have digest %s", len(body), got)
	}
	if m, err = manifest.Parse("", body); err != nil {
		return nil, m, damaged("%v", err)
	}
	if n := len(m.Blobs) + len(m.Children); n > registry.MaxReferences {
		return nil, m, damaged("the manifest references %d blobs and manifests: at most %d are allowed", n, registry.MaxReferences)
	}
	return body, m, nil
}

func (r *repository) readTag(ctx context.Context, link storage.Object) (digest.Digest, error) {
	if link.Size == 0 {
		return "", damaged("the tag's link is empty")
	}
	content, err := read(ctx, r.a.Blobs, link.Key, link.Size, maxLink)
	if err != nil {
		return "", err
	}
	d, err := registry.ParseDigest(string(content))
	if err != nil {
		return "", damaged("the tag's link is damaged: %v", err)
	}
	return d, nil
}

// readConfig finds out what an image runs on. A config that can't be read leaves that open.
func (r *repository) readConfig(ctx context.Context, b *metadata.AdoptedBlob) error {
	if b.Size > maxConfig {
		return nil
	}
	content, err := read(ctx, r.a.Blobs, b.Key, b.Size, maxConfig)
	if err != nil {
		return fatal(ctx, err)
	}
	if c, ok := manifest.ParseConfig(content); ok {
		b.Config = &metadata.ImageConfig{OS: c.OS, Architecture: c.Architecture, Variant: c.Variant, Created: c.Created}
	}
	return nil
}

// each calls fn for all of a list, several at once.
func each[T any](ctx context.Context, all []T, fn func(context.Context, *T) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(readers)
	for i := range all {
		group.Go(func() error { return fn(ctx, &all[i]) })
	}
	return group.Wait()
}

// damage is what the bytes say that were read.
type damage string

func (d damage) Error() string { return string(d) }

func damaged(format string, args ...any) error { return damage(fmt.Sprintf(format, args...)) }

// fatal returns an error unless it says something about the bytes: what can't be read now, because of permissions, a disk or a bucket, may be
// read at the next start, which goes on.
func fatal(ctx context.Context, err error) error {
	_, isDamage := errors.AsType[damage](err)
	if ctx.Err() == nil && (isDamage || errors.Is(err, storage.ErrNotFound) || errors.Is(err, storage.ErrShort)) {
		return nil
	}
	return err
}
