// Package transfer copies repositories from one place to another: from a registry to another one, or to and from a directory.
//
// What is copied keeps its bytes and so its digest. A tag comes with all that its manifest lists, and with all that refers to any of
// these manifests, such as signatures and SBOMs. A tag is set after everything that it needs, and what the target has is not sent again:
// a transfer that was interrupted goes on where it was, and one that is repeated brings what is new. A tag that fails stops no other.
//
// Layers that the target may lack (manifest.Nondistributable) are not copied. Manifests of other kinds than those of package manifest are
// skipped and reported, as those of Docker schema 1. What an index lists and the source lacks is left out and reported.
//
// Blobs are streamed. In memory are the manifests that are being worked on, Jobs at most for each level of nested indexes, a page of
// tags, and the digests of the repositories at work.
package transfer

import (
	"context"
	"errors"
	"io"
	"iter"
	"sync"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry"
)

// Reader reads one repository, for many goroutines at a time. It fails with errdef.ErrNotFound for what is not there.
type Reader interface {
	// Tags calls page with all tags, some at a time.
	Tags(ctx context.Context, page func(tags []string) error) error
	// Resolve returns what a tag points to.
	Resolve(ctx context.Context, tag string) (v1.Descriptor, error)
	// ReadManifest returns a manifest, which was compared with its digest.
	ReadManifest(ctx context.Context, d v1.Descriptor) ([]byte, error)
	// ReadBlob returns a blob. Whoever stores it compares it with its digest.
	ReadBlob(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error)
	// Referrers returns the manifests whose subject is d. It fails with errdef.ErrUnsupported where they are only to be found by tags.
	Referrers(ctx context.Context, d v1.Descriptor) ([]v1.Descriptor, error)
}

// Writer writes one repository, for many goroutines at a time.
type Writer interface {
	// Resolve returns what a tag points to, or fails with errdef.ErrNotFound. Only the digest counts.
	Resolve(ctx context.Context, tag string) (v1.Descriptor, error)
	// HasManifest and HasBlob report whether the repository has it, and for an image its blobs.
	HasManifest(ctx context.Context, d v1.Descriptor) (bool, error)
	HasBlob(ctx context.Context, d v1.Descriptor) (bool, error)
	// WriteBlob stores a blob that has the digest of d. It opens it as often as it has to, which may be never.
	WriteBlob(ctx context.Context, d v1.Descriptor, open func() (io.ReadCloser, error)) error
	// WriteManifest stores a manifest, under a tag unless that is empty.
	WriteManifest(ctx context.Context, d v1.Descriptor, body []byte, tag string) error
}

// Linker is a Writer that does not find by itself what refers to a manifest.
type Linker interface {
	// Link records the referrers of a manifest. It is called when all tags of the repository are done.
	Link(ctx context.Context, subject v1.Descriptor, referrers []v1.Descriptor) error
}

// Repository is one to copy.
type Repository struct {
	// Name is what reports call it: its name at the target.
	Name string
	From Reader
	To   Writer
	// Tags are those to copy, with the tags by which cosign and the referrers' tag schema find what belongs to them. Nil means all.
	Tags []string
}

// The states of a tag after a transfer.
const (
	Copied  = "copied"
	Present = "present" // the target had it, with all that belongs to it
	Planned = "planned" // a dry run: it would be copied
	Skipped = "skipped" // it is of a kind that is not copied
	Failed  = "failed"
)

// Result is what became of a tag, or, where Tag is empty, why a repository was not copied whole. Its JSON is stable: fields are added,
// never changed.
type Result struct {
	Repository string        `json:"repository"`
	Tag        string        `json:"tag,omitempty"`
	Digest     digest.Digest `json:"digest,omitempty"`
	Status     string        `json:"status"`
	// Blobs and Bytes are what was sent for it. What several tags share counts for one of them.
	Blobs int64 `json:"blobs"`
	Bytes int64 `json:"bytes"`
	// Missing is what belongs to it and was left out: the source lacks it, or it is of a kind that is not copied.
	Missing []digest.Digest `json:"missing,omitempty"`
	// Reason says why it was skipped or failed.
	Reason string `json:"reason,omitempty"`
}

// Copier copies repositories. Its fields are set before Copy, which is called once.
type Copier struct {
	// Jobs is how many tags are worked on at the same time, and how many blobs are. It is at least 1.
	Jobs int
	// DryRun looks which tags the target lacks, not whether something new refers to the others, and writes nothing.
	DryRun bool
	// Report is called with each result, by one goroutine at a time.
	Report func(Result)

	reporting sync.Mutex
	slots     chan struct{} // holds as many as transfer blobs
	bytes     atomic.Int64

	mu      sync.Mutex
	writing map[digest.Digest]chan struct{} // the blobs that are being written, which is closed then
}

// Bytes returns how many bytes of blobs were sent so far.
func (c *Copier) Bytes() int64 { return c.bytes.Load() }

// Copy copies repositories, and returns when all of it was reported. It fails with the error with which the list of the repositories
// ends, or with that of the context.
func (c *Copier) Copy(ctx context.Context, repositories iter.Seq2[Repository, error]) error {
	c.slots, c.writing = make(chan struct{}, c.Jobs), map[digest.Digest]chan struct{}{}
	tags := make(chan func())
	var workers sync.WaitGroup
	for range c.Jobs {
		workers.Go(func() {
			for work := range tags {
				work()
			}
		})
	}
	err := c.plan(ctx, repositories, tags)
	close(tags)
	workers.Wait()
	if err == nil {
		err = ctx.Err()
	}
	return err
}

// plan sends the work on each tag.
func (c *Copier) plan(ctx context.Context, repositories iter.Seq2[Repository, error], work chan<- func()) error {
	for repository, err := range repositories {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		r := &copying{Repository: repository, copier: c, memo: map[node]*entry{}, asked: map[string]bool{}}
		r.pending.Add(1)
		err = r.eachTag(ctx, func(tag string) error {
			r.pending.Add(1)
			select {
			case work <- func() { r.copyTag(ctx, tag) }:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		if err != nil {
			c.report(ctx, Result{Repository: r.Name, Status: Failed, Reason: err.Error()})
		}
		r.finish(ctx)
	}
	return nil
}

// report passes a result on. What failed because the transfer was interrupted did not fail.
func (c *Copier) report(ctx context.Context, result Result) {
	c.reporting.Lock()
	defer c.reporting.Unlock()
	if c.Report != nil && (result.Status != Failed || ctx.Err() == nil) {
		c.Report(result)
	}
}

// slot waits until a blob may be written: while Jobs are, and while the same one is for another repository, from which it can be mounted
// then. The caller calls release when it is done.
func (c *Copier) slot(ctx context.Context, d digest.Digest) (release func(), err error) {
	for {
		c.mu.Lock()
		other, busy := c.writing[d]
		if !busy {
			c.writing[d] = make(chan struct{})
		}
		c.mu.Unlock()
		if !busy {
			break
		}
		select {
		case <-other:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	c.slots <- struct{}{} // those who hold one end when the context does
	return func() {
		<-c.slots
		c.mu.Lock()
		defer c.mu.Unlock()
		close(c.writing[d])
		delete(c.writing, d)
	}, nil
}

// copying is a repository at work.
type copying struct {
	Repository
	copier *Copier
	// pending is how many tags are not done, and one more until all are listed.
	pending atomic.Int64
	// byTags is set when the source turns out to have what refers to its manifests under tags only.
	byTags atomic.Bool

	mu    sync.Mutex
	memo  map[node]*entry
	asked map[string]bool // the manifests whose referrers were looked for, and the tags that were looked for because of them
	links []link
}

// link is what refers to a manifest.
type link struct {
	subject   v1.Descriptor
	referrers []v1.Descriptor
}

func (r *copying) eachTag(ctx context.Context, do func(tag string) error) error {
	if err := (registry.Reference{Repository: r.Name}).ValidateRepository(); err != nil {
		return err
	}
	page := func(tags []string) error {
		for _, tag := range tags {
			if err := do(tag); err != nil {
				return err
			}
		}
		return nil
	}
	if r.Tags != nil {
		return page(r.Tags)
	}
	return r.From.Tags(ctx, page)
}

// copyTag copies a tag, and with one that was named what belongs to it by its name.
func (r *copying) copyTag(ctx context.Context, tag string) {
	defer r.finish(ctx)
	done := r.tag(ctx, tag)
	r.copier.report(ctx, done.Result)
	if r.Tags == nil || done.Status == Failed || r.copier.DryRun {
		return
	}
	for _, d := range done.manifests {
		for _, companion := range r.companions(d.Digest) {
			if !r.claim(companion) {
				continue
			}
			if _, err := r.From.Resolve(ctx, companion); !errors.Is(err, errdef.ErrNotFound) {
				r.copier.report(ctx, r.tag(ctx, companion).Result)
			}
		}
	}
}

// finish links what was found when all tags are done.
func (r *copying) finish(ctx context.Context) {
	if r.pending.Add(-1) > 0 {
		return
	}
	linker, ok := r.To.(Linker)
	if !ok {
		return
	}
	for _, l := range r.links {
		if err := linker.Link(ctx, l.subject, l.referrers); err != nil {
			r.copier.report(ctx, Result{Repository: r.Name, Digest: l.subject.Digest, Status: Failed, Reason: err.Error()})
		}
	}
}

// node is a manifest or a blob.
type node struct {
	digest   digest.Digest
	manifest bool
}

// entry is a node that is or was being copied.
type entry struct {
	done      chan struct{}
	manifests []v1.Descriptor
	err       error
}

// once calls copy, unless that was done for the node, and returns what it returned. Of several callers one does it and the others wait.
// What failed is tried again by the next who wants it.
func (r *copying) once(ctx context.Context, n node, copy func() ([]v1.Descriptor, error)) ([]v1.Descriptor, error) {
	r.mu.Lock()
	e, known := r.memo[n]
	if !known {
		e = &entry{done: make(chan struct{})}
		r.memo[n] = e
	}
	r.mu.Unlock()
	if known {
		select {
		case <-e.done:
			return e.manifests, e.err
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	e.manifests, e.err = copy()
	if e.err != nil {
		r.mu.Lock()
		delete(r.memo, n)
		r.mu.Unlock()
	}
	close(e.done)
	return e.manifests, e.err
}

// claim reports whether nobody asked for what a manifest's digest or a tag names before.
func (r *copying) claim(name string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.asked[name] {
		return false
	}
	r.asked[name] = true
	return true
}

// all calls do for each of a list, for Jobs at a time, and returns the first error. One that fails stops no other: they may be needed
// elsewhere too.
func (c *Copier) all(list []v1.Descriptor, do func(v1.Descriptor) error) error {
	var group errgroup.Group
	group.SetLimit(c.Jobs)
	for _, d := range list {
		group.Go(func() error { return do(d) })
	}
	return group.Wait()
}
