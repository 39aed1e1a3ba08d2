package conformance

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"berth/conformance/client"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	randomClients = 8
	// randomTime is how long they go on, unless BERTH_RANDOM says otherwise.
	randomTime = time.Minute
	// randomContents is how many different layers there are, few enough that images share them.
	randomContents = 30
)

// collecting is how a registry is configured whose collector works as much as it can. Its quota refuses nothing, and fsck looks whether it
// counts right.
func collecting() []string {
	return []string{"REGISTRY_GC_INTERVAL=100ms", "REGISTRY_GC_RATE=1000000", "REGISTRY_GC_GRACE=1s",
		"REGISTRY_QUOTA=[{repositories: [random/a, random/b], bytes: 1TiB, tags: 1000000}]"}
}

// TestRandomClients has clients push, pull, retag and delete at random while the collector works. No pull fails whose tag still points at that
// digest when it ends, and no push but by what was deleted meanwhile; one in a hundred may be told to try again. In the end the registry comes to hold the blobs of what is
// left, and nothing else.
func TestRandomClients(t *testing.T) {
	t.Parallel()
	t.Run("SQLite", func(t *testing.T) {
		t.Parallel()
		b := start(t, options{env: collecting()})
		m := newMarket(t, b.client())
		m.open(t)
		m.settle(t, []*berth{b}, func() int { return b.objects() })
	})
	t.Run("PostgreSQL", func(t *testing.T) {
		t.Parallel()
		c := newCluster(t, options{env: collecting()})
		m := newMarket(t, c.clients()...)
		m.open(t)
		m.settle(t, c.replicas, func() int { return c.s3.Objects(t, c.bucket) })
	})
}

// objects counts what is stored, in files and in the database.
func (b *berth) objects() int {
	b.t.Helper()
	out, err := b.tryFsck("--json")
	var report struct{ Objects int }
	if err != nil || json.Unmarshal(out, &report) != nil {
		b.t.Fatalf("fsck: %v\n%s", err, out)
	}
	return report.Objects
}

// market is what the clients know of each other.
type market struct {
	clients []*client.Client
	seed    uint64
	// deletions counts the deletes of manifests and blobs that began or ended, by repository: what fails while it changes, may.
	deletions map[string]*atomic.Int64
	mu        sync.Mutex
	pushed    map[string]map[digest.Digest][]byte // manifests, by repository
	counts    map[string]int                      // of what was done
}

func newMarket(t *testing.T, clients ...*client.Client) *market {
	t.Helper()
	m := &market{clients: clients, seed: crashSeed(t), deletions: make(map[string]*atomic.Int64), pushed: make(map[string]map[digest.Digest][]byte),
		counts: make(map[string]int)}
	for _, repository := range randomRepositories() {
		m.deletions[repository], m.pushed[repository] = new(atomic.Int64), make(map[digest.Digest][]byte)
	}
	return m
}

func randomRepositories() []string { return []string{"random/a", "random/b", "random/c"} }

// open lets the clients work, and reports what they saw that must not be.
func (m *market) open(t *testing.T) {
	t.Helper()
	long := randomTime
	if text := os.Getenv("BERTH_RANDOM"); text != "" {
		var err error
		if long, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), long)
	defer cancel()
	var running sync.WaitGroup
	for i := range randomClients {
		s := &shopper{market: m, Client: m.clients[i%len(m.clients)], rand: rand.New(rand.NewPCG(m.seed, uint64(i)))}
		running.Go(func() {
			for ctx.Err() == nil {
				if err := s.visit(ctx); err != nil && ctx.Err() == nil {
					t.Error(err)
					cancel()
				}
			}
		})
	}
	running.Wait()
	t.Logf("done: %v", m.counts)
	if m.counts["busy"] > m.counts["push"]/100 {
		t.Errorf("%d requests were answered that the registry is busy", m.counts["busy"])
	}
	for _, what := range []string{"push", "push index", "pull", "retag", "delete tag", "delete manifest", "delete blob", "mount"} {
		if m.counts[what] < 10 {
			t.Errorf("%s was done %d times: that is too few for this test to mean anything", what, m.counts[what])
		}
	}
}

func (m *market) count(what string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.counts[what]++
}

// known returns up to n digests of manifests that were pushed to a repository, deleted meanwhile or not, in no order.
func (m *market) known(repository string, n int) (all []digest.Digest) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for d := range m.pushed[repository] {
		if len(all) == n {
			break
		}
		all = append(all, d)
	}
	return all
}

// shopper is a client.
type shopper struct {
	*market
	*client.Client
	rand *rand.Rand
}

// visit does one thing. Its error is what must not be.
func (s *shopper) visit(ctx context.Context) error {
	repository := randomRepositories()[s.rand.IntN(len(randomRepositories()))]
	tag := fmt.Sprintf("t%d", s.rand.IntN(6))
	began := s.deletions[repository].Load()
	var what string
	var err error
	switch n := s.rand.IntN(100); {
	case n < 35:
		what, err = "push", s.pushImage(ctx, repository, tag)
	case n < 45:
		what, err = "push index", s.pushIndex(ctx, repository, tag)
	case n < 68:
		what, err = "pull", s.pull(ctx, repository, tag)
	case n < 76:
		what, err = "retag", s.retag(ctx, repository, tag)
	case n < 81:
		what, err = "delete tag", conflict(s.DeleteManifest(ctx, repository, tag))
	case n < 95:
		what, err = "delete manifest", s.deleteManifest(ctx, repository)
	default:
		what, err = "delete blob", s.deleteBlob(ctx, repository)
	}
	s.count(what)
	if err == nil {
		return nil
	}
	if client.Status(err) == http.StatusServiceUnavailable { // which clients try again: others were faster in PostgreSQL
		s.count("busy")
		return nil
	}
	if missing(err) && s.deletions[repository].Load() != began {
		s.count(what + ", while others deleted")
		return nil
	}
	return fmt.Errorf("%s in %s: %w", what, repository, err)
}

// missing reports whether something that was needed is not there.
func missing(err error) bool {
	status := client.Status(err)
	return status == http.StatusNotFound || status == http.StatusBadRequest && strings.Contains(err.Error(), "MANIFEST_BLOB_UNKNOWN")
}

// conflict returns no error for what deletes may say.
func conflict(err error) error {
	if status := client.Status(err); status == http.StatusNotFound || status == http.StatusConflict {
		return nil
	}
	return err
}

// deleting counts a delete, which others may meet.
func (s *shopper) deleting(repository string, fn func() error) error {
	s.deletions[repository].Add(1)
	defer s.deletions[repository].Add(1)
	return conflict(fn())
}

func (s *shopper) deleteManifest(ctx context.Context, repository string) error {
	for _, d := range s.known(repository, 1) {
		return s.deleting(repository, func() error { return s.DeleteManifest(ctx, repository, d.String()) })
	}
	return nil
}

func (s *shopper) deleteBlob(ctx context.Context, repository string) error {
	return s.deleting(repository, func() error { return s.DeleteBlob(ctx, repository, s.content().Digest()) })
}

func (s *shopper) content() client.Content {
	n := s.rand.IntN(randomContents)
	return client.Content{Seed: uint64(n), Size: int64(100 + n*2000)}
}

// blob makes a repository have a content, in one of the ways in which clients do.
func (s *shopper) blob(ctx context.Context, repository string, c client.Content) error {
	d := c.Digest()
	switch s.rand.IntN(3) {
	case 0: // it may be there
		answer, err := s.Do(ctx, client.Request{Method: http.MethodHead, Target: "/v2/" + repository + "/blobs/" + d.String()}, http.StatusOK, http.StatusNotFound)
		if err != nil {
			return err
		}
		answer.Body.Close()
		if answer.StatusCode == http.StatusOK {
			return nil
		}
	case 1: // another may have it
		from := randomRepositories()[s.rand.IntN(len(randomRepositories()))]
		err := s.MountBlob(ctx, repository, d, from)
		if err == nil {
			s.count("mount")
		}
		if client.Status(err) != http.StatusAccepted {
			return err
		}
	}
	return s.PushBlob(ctx, repository, d, c.Reader(0), c.Size)
}

func (s *shopper) pushImage(ctx context.Context, repository, tag string) error {
	m := v1.Manifest{MediaType: v1.MediaTypeImageManifest, Layers: []v1.Descriptor{}}
	m.SchemaVersion = 2
	for i, c := range []client.Content{s.content(), s.content(), {Seed: s.rand.Uint64(), Size: 500}} { // which others share, or nobody
		if err := s.blob(ctx, repository, c); err != nil {
			return err
		}
		d := v1.Descriptor{MediaType: "application/octet-stream", Digest: c.Digest(), Size: c.Size}
		if i == 0 {
			m.Config = d
		} else {
			m.Layers = append(m.Layers, d)
		}
	}
	return s.put(ctx, repository, tag, m.MediaType, m)
}

// put pushes a manifest.
func (s *shopper) put(ctx context.Context, repository, tag, mediaType string, document any) error {
	body, err := json.Marshal(document)
	if err != nil {
		return err
	}
	s.mu.Lock() // also when the answer is lost
	s.pushed[repository][digest.FromBytes(body)] = body
	s.mu.Unlock()
	return s.PushManifest(ctx, repository, tag, mediaType, body)
}

// pushIndex pushes an index of images that are there.
func (s *shopper) pushIndex(ctx context.Context, repository, tag string) error {
	index := v1.Index{MediaType: v1.MediaTypeImageIndex, Manifests: []v1.Descriptor{}}
	index.SchemaVersion = 2
	for _, d := range s.known(repository, 6) {
		body, err := s.Manifest(ctx, repository, d.String())
		if client.Status(err) == http.StatusNotFound {
			continue
		}
		if err != nil {
			return err
		}
		if m, _ := contents(body); m != "" {
			index.Manifests = append(index.Manifests, v1.Descriptor{MediaType: v1.MediaTypeImageManifest, Digest: d, Size: int64(len(body))})
		}
	}
	if len(index.Manifests) == 0 {
		return nil
	}
	return s.put(ctx, repository, tag, index.MediaType, index)
}

// contents returns the digest of an image's config, empty for an index, and all that a manifest references.
func contents(body []byte) (config digest.Digest, all []v1.Descriptor) {
	var m struct {
		Config    v1.Descriptor
		Layers    []v1.Descriptor
		Manifests []v1.Descriptor
	}
	_ = json.Unmarshal(body, &m) // of this test
	if m.Config.Digest != "" {
		all = append(all, m.Config)
	}
	return m.Config.Digest, slices.Concat(all, m.Layers, m.Manifests)
}

// pull fetches all that a tag points to. Its error is that of a pull whose tag still points there.
func (s *shopper) pull(ctx context.Context, repository, tag string) error {
	body, err := s.Manifest(ctx, repository, tag)
	if client.Status(err) == http.StatusNotFound {
		return nil
	}
	if err != nil {
		return err
	}
	if err := s.fetch(ctx, repository, body); err != nil {
		now, again := s.Manifest(ctx, repository, tag)
		if client.Status(again) == http.StatusNotFound || again == nil && string(now) != string(body) {
			s.count("pull, of a tag that moved")
			return nil
		}
		return cmp.Or(again, err)
	}
	return nil
}

func (s *shopper) fetch(ctx context.Context, repository string, manifest []byte) error {
	image, all := contents(manifest)
	for _, d := range all {
		if image == "" {
			child, err := s.Manifest(ctx, repository, d.Digest.String())
			if err == nil {
				err = s.fetch(ctx, repository, child)
			}
			if err != nil {
				return err
			}
			continue
		}
		body, err := s.Blob(ctx, repository, d.Digest)
		if err != nil {
			return err
		}
		got := digest.Canonical.Digester()
		_, err = io.Copy(got.Hash(), body)
		body.Close()
		if err == nil && got.Digest() != d.Digest {
			err = fmt.Errorf("blob %s has the bytes of %s", d.Digest, got.Digest())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// retag puts what a tag points to under another one.
func (s *shopper) retag(ctx context.Context, repository, tag string) error {
	body, err := s.Manifest(ctx, repository, tag)
	if client.Status(err) == http.StatusNotFound {
		return nil
	}
	if err != nil {
		return err
	}
	mediaType := v1.MediaTypeImageIndex
	if image, _ := contents(body); image != "" {
		mediaType = v1.MediaTypeImageManifest
	}
	return s.PushManifest(ctx, repository, fmt.Sprintf("t%d", s.rand.IntN(6)), mediaType, body)
}

// settle starts the servers again with leases and a trash of one second, and waits until there are as many objects as the manifests need
// that are left.
func (m *market) settle(t *testing.T, servers []*berth, objects func() int) {
	t.Helper()
	for _, b := range servers {
		b.stop()
	}
	before := objects()
	for _, b := range servers {
		b.Config.Env = append(b.Config.Env, "REGISTRY_GC_LEASE=1s", "REGISTRY_TRASH_RETAIN=1s")
		b.restart()
	}
	c := servers[0].client()
	needed, left := make(map[digest.Digest]bool), 0
	for repository, pushed := range m.pushed {
		for d, body := range pushed {
			switch _, err := c.Manifest(t.Context(), repository, d.String()); {
			case client.Status(err) == http.StatusNotFound:
				continue
			case err != nil:
				t.Fatal(err)
			}
			left++
			if image, all := contents(body); image != "" {
				for _, blob := range all {
					needed[blob.Digest] = true
				}
			}
		}
	}
	for deadline := time.Now().Add(2 * time.Minute); objects() != len(needed); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d objects for %d blobs of %d manifests", objects(), len(needed), left)
		}
	}
	if before <= len(needed) {
		t.Errorf("there were %d objects before, which is too few for this test to mean anything", before)
	}
	t.Logf("%d objects before, %d for the blobs of %d manifests after", before, len(needed), left)
	for _, b := range servers {
		b.fsck("--rehash")
	}
}
