package transfer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"berth/registry/manifest"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/errdef"
)

// place is a registry in memory. As a target it is strict: it refuses a manifest before what it lists.
type place struct {
	mu           sync.Mutex
	repositories map[string]*repository
	byTags       bool // it has no API for referrers
	// fault is asked before (false) and after (true) each write.
	fault  func(done bool) error
	jobs   int
	writes atomic.Int64
	opened map[digest.Digest]int
}

// repository is one in a place, which is a Reader and a Writer.
type repository struct {
	place *place
	held  map[digest.Digest][]byte
	types map[digest.Digest]string // of manifests
	tags  map[string]v1.Descriptor
}

func newPlace() *place {
	return &place{jobs: 3, repositories: map[string]*repository{}, opened: map[digest.Digest]int{}, fault: func(bool) error { return nil }}
}

func (p *place) repository(name string) *repository {
	if p.repositories[name] == nil {
		p.repositories[name] = &repository{
			place: p, held: map[digest.Digest][]byte{}, types: map[digest.Digest]string{}, tags: map[string]v1.Descriptor{},
		}
	}
	return p.repositories[name]
}

func (r *repository) Tags(_ context.Context, page func([]string) error) error {
	for _, tag := range slices.Sorted(maps.Keys(r.tags)) {
		if err := page([]string{tag}); err != nil {
			return err
		}
	}
	return nil
}

func (r *repository) Resolve(_ context.Context, tag string) (v1.Descriptor, error) {
	r.place.mu.Lock()
	defer r.place.mu.Unlock()
	d, ok := r.tags[tag]
	if !ok {
		return d, errdef.ErrNotFound
	}
	return d, nil
}

func (r *repository) ReadManifest(_ context.Context, d v1.Descriptor) ([]byte, error) {
	r.place.mu.Lock()
	defer r.place.mu.Unlock()
	if r.types[d.Digest] == "" {
		return nil, errdef.ErrNotFound
	}
	return r.held[d.Digest], nil
}

func (r *repository) ReadBlob(_ context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	r.place.mu.Lock()
	defer r.place.mu.Unlock()
	body, ok := r.held[d.Digest]
	if !ok {
		return nil, errdef.ErrNotFound
	}
	r.place.opened[d.Digest]++
	return io.NopCloser(bytes.NewReader(body)), nil
}

func (r *repository) Referrers(_ context.Context, d v1.Descriptor) (all []v1.Descriptor, err error) {
	r.place.mu.Lock()
	defer r.place.mu.Unlock()
	if r.place.byTags {
		return nil, errdef.ErrUnsupported
	}
	for referrer, mediaType := range r.types {
		m, err := manifest.Parse(mediaType, r.held[referrer])
		if err == nil && m.Subject != nil && m.Subject.Digest == d.Digest {
			all = append(all, v1.Descriptor{MediaType: mediaType, Digest: referrer, Size: int64(len(r.held[referrer]))})
		}
	}
	return all, nil
}

func (r *repository) HasManifest(_ context.Context, d v1.Descriptor) (bool, error) {
	r.place.mu.Lock()
	defer r.place.mu.Unlock()
	return r.types[d.Digest] != "", nil
}

func (r *repository) HasBlob(_ context.Context, d v1.Descriptor) (bool, error) {
	r.place.mu.Lock()
	defer r.place.mu.Unlock()
	_, ok := r.held[d.Digest]
	return ok, nil
}

func (r *repository) WriteBlob(ctx context.Context, d v1.Descriptor, open func() (io.ReadCloser, error)) error {
	return r.write(ctx, func() error {
		for _, other := range r.place.repositories {
			if body, ok := other.held[d.Digest]; ok {
				r.held[d.Digest] = body // mounted
				return nil
			}
		}
		r.place.mu.Unlock()
		f, err := open()
		var body []byte
		if err == nil {
			body, err = io.ReadAll(f)
		}
		r.place.mu.Lock()
		if err == nil {
			r.held[d.Digest] = body
		}
		return err
	})
}

func (r *repository) WriteManifest(ctx context.Context, d v1.Descriptor, body []byte, tag string) error {
	return r.write(ctx, func() error {
		m, err := manifest.Parse(d.MediaType, body)
		if err != nil {
			return err
		}
		for _, needed := range append(m.Blobs, m.Children...) {
			if _, ok := r.held[needed.Digest]; !ok {
				return fmt.Errorf("%s needs %s", d.Digest, needed.Digest)
			}
		}
		r.held[d.Digest], r.types[d.Digest] = body, d.MediaType
		if tag != "" {
			r.tags[tag] = d
		}
		return nil
	})
}

func (r *repository) write(ctx context.Context, do func() error) error {
	r.place.mu.Lock()
	defer r.place.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := r.place.fault(false); err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	r.place.writes.Add(1)
	return r.place.fault(true)
}

// put stores a manifest, under tags if some are named.
func (r *repository) put(t *testing.T, mediaType string, document any, tags ...string) v1.Descriptor {
	t.Helper()
	body, err := json.Marshal(document)
	if err != nil {
		t.Fatal(err)
	}
	d := v1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(body), Size: int64(len(body))}
	r.held[d.Digest], r.types[d.Digest] = body, mediaType
	for _, tag := range tags {
		r.tags[tag] = d
	}
	return d
}

func (r *repository) image(t *testing.T, subject *v1.Descriptor, layers ...string) v1.Descriptor {
	t.Helper()
	m := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest, Subject: subject}
	for _, layer := range append([]string{"config"}, layers...) {
		d := v1.Descriptor{MediaType: v1.MediaTypeImageLayer, Digest: digest.FromString(layer), Size: int64(len(layer))}
		r.held[d.Digest] = []byte(layer)
		m.Layers = append(m.Layers, d)
	}
	m.Config, m.Layers = m.Layers[0], m.Layers[1:]
	return r.put(t, v1.MediaTypeImageManifest, m)
}

func (r *repository) index(t *testing.T, children []v1.Descriptor, tags ...string) v1.Descriptor {
	t.Helper()
	return r.put(t, v1.MediaTypeImageIndex, v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex,
		Manifests: children}, tags...)
}

// full is a place with indexes that share images, images that share layers, and signatures of signatures.
func full(t *testing.T) *place {
	p := newPlace()
	for _, name := range []string{"app", "team/app"} {
		r := p.repository(name)
		one, two := r.image(t, nil, "shared", "one"), r.image(t, nil, "shared", "two "+name)
		r.index(t, []v1.Descriptor{one, two}, "1", "latest")
		r.index(t, []v1.Descriptor{two, r.image(t, nil, "three")}, "2")
		r.tags["one"] = one
		r.index(t, []v1.Descriptor{r.index(t, []v1.Descriptor{r.image(t, nil, "four")})}, "nested")
		signature := r.image(t, &two, "signature")
		r.image(t, &signature, "signature of it")
		r.image(t, &one)
	}
	return p
}

// transfer copies all of a place and returns the results by REPO:TAG.
func (p *place) transfer(ctx context.Context, to *place, tags ...string) map[string]Result {
	results := map[string]Result{}
	c := Copier{Jobs: to.jobs, Report: func(r Result) { results[r.Repository+":"+r.Tag] = r }}
	_ = c.Copy(ctx, func(yield func(Repository, error) bool) { // it fails when the context has ended
		for _, name := range slices.Sorted(maps.Keys(p.repositories)) {
			to.mu.Lock()
			target := to.repository(name)
			to.mu.Unlock()
			if !yield(Repository{Name: name, From: p.repository(name), To: target, Tags: tags}, nil) {
				return
			}
		}
	})
	return results
}

func (p *place) equal(t *testing.T, other *place) {
	t.Helper()
	for name, r := range p.repositories {
		o := other.repositories[name]
		if !maps.EqualFunc(r.held, o.held, bytes.Equal) || !maps.Equal(r.types, o.types) {
			t.Errorf("%s has %d blobs and manifests, want %d", name, len(o.held), len(r.held))
		}
		if len(r.tags) != len(o.tags) {
			t.Errorf("%s has the tags %v, want %v", name, o.tags, r.tags)
		}
		for tag, d := range r.tags {
			if o.tags[tag].Digest != d.Digest {
				t.Errorf("%s:%s is %v, want %v", name, tag, o.tags[tag], d)
			}
		}
	}
}

func count(results map[string]Result, status string) (n int) {
	for _, r := range results {
		if r.Status == status {
			n++
		}
	}
	return n
}

func TestCopy(t *testing.T) {
	from, to := full(t), newPlace()
	if results := from.transfer(t.Context(), to); count(results, Copied) != 10 {
		t.Errorf("first: %v", results)
	}
	from.equal(t, to)
	for d, n := range from.opened {
		if n != 1 {
			t.Errorf("%s was read %d times", d, n)
		}
	}
	writes := to.writes.Load()
	if results := from.transfer(t.Context(), to); count(results, Present) != 10 || to.writes.Load() != writes {
		t.Errorf("again, with %d writes: %v", to.writes.Load()-writes, results)
	}
	r := from.repository("app")
	latest := r.tags["1"]
	r.image(t, &latest, "new")
	four := r.image(t, nil, "four")
	r.image(t, &four, "new, in an index that did not change")
	r.tags["latest"] = r.tags["2"]
	results := from.transfer(t.Context(), to)
	if count(results, Failed) > 0 || count(results, Present) < 6 || results["app:latest"].Status != Copied {
		t.Errorf("with news: %v", results)
	}
	from.equal(t, to)
}

// TestFaults has each write fail, before and after it was done, and at each the transfer end. One tag fails, not what shares something with
// it; what is under a tag is whole, which the target sees to; and the next transfer brings the rest.
func TestFaults(t *testing.T) {
	errFault := errors.New("fault")
	for n, hit := 1, true; hit; n++ {
		for _, after := range []bool{false, true} {
			for _, ends := range []bool{false, true} {
				from, to := full(t), newPlace()
				ctx, end := context.WithCancel(t.Context())
				calls := 0
				hit, to.jobs = false, 1
				to.fault = func(done bool) error {
					if done != after {
						return nil
					}
					if calls++; calls != n {
						return nil
					}
					hit = true
					if ends {
						end()
					}
					return errFault
				}
				results := from.transfer(ctx, to)
				end()
				if failed := count(results, Failed); hit && !ends && failed != 1 || !hit && failed > 0 || ends && failed > 0 {
					t.Fatalf("fault %d, after %v, ends %v: %v", n, after, ends, results)
				}
				to.fault = func(bool) error { return nil }
				if results := from.transfer(t.Context(), to); count(results, Copied)+count(results, Present) != 10 {
					t.Errorf("after fault %d, after %v, ends %v: %v", n, after, ends, results)
				}
				from.equal(t, to)
			}
		}
	}
}

// TestByTags copies from a place without an API for referrers: all tags bring what there is, and a tag brings what is named for it.
func TestByTags(t *testing.T) {
	from := newPlace()
	from.byTags = true
	r := from.repository("app")
	image := r.image(t, nil, "layer")
	r.tags["1"], r.tags["2"] = image, r.image(t, nil, "other")
	schema, sig := "sha256-"+image.Digest.Encoded(), "sha256-"+image.Digest.Encoded()+".sig"
	r.index(t, []v1.Descriptor{r.image(t, &image, "attached")}, schema)
	r.tags[sig] = r.image(t, nil, "signed")
	to := newPlace()
	results := from.transfer(t.Context(), to, "1")
	if len(results) != 3 || results["app:"+schema].Status != Copied || results["app:"+sig].Status != Copied {
		t.Errorf("one tag: %v", results)
	}
	if results := from.transfer(t.Context(), to); count(results, Copied) != 1 || count(results, Present) != 3 {
		t.Errorf("all tags: %v", results)
	}
	from.equal(t, to)
}

// TestNoDigest has the source say that something refers to an image whose digest is none.
func TestNoDigest(t *testing.T) {
	for _, bad := range []digest.Digest{"x", "sha256:../../../etc/passwd", "md5:00"} {
		from, to := newPlace(), newPlace()
		r := from.repository("app")
		image := r.image(t, nil, "layer")
		r.tags["1"] = image
		referrer := r.image(t, &image, "attached")
		r.held[bad], r.types[bad] = r.held[referrer.Digest], r.types[referrer.Digest]
		if results := from.transfer(t.Context(), to); count(results, Failed) != 1 || to.repository("app").types[bad] != "" {
			t.Errorf("%s: %v", bad, results)
		}
	}
}

// TestDeep refuses what could keep it busy without end.
func TestDeep(t *testing.T) {
	from := newPlace()
	r := from.repository("app")
	d := r.image(t, nil, "layer")
	for range maxDepth + 1 {
		d = r.index(t, []v1.Descriptor{d})
	}
	r.tags["deep"] = d
	if got := from.transfer(t.Context(), newPlace())["app:deep"]; got.Status != Failed {
		t.Errorf("got %+v", got)
	}
}
