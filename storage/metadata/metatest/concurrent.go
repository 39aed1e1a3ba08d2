package metatest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"berth/storage/metadata"

	"github.com/opencontainers/go-digest"
)

func concurrentTests() suite {
	return suite{
		{"Crowd", testCrowd},
		{"OneUpload", testOneUpload},
		{"OneBlob", testOneBlob},
		{"OneQuarantine", testOneQuarantine},
		{"ParentAndChild", testParentAndChild},
		{"ImageAndLayer", testImageAndLayer},
		{"Snapshot", testSnapshot},
	}
}

// together runs fn n times at once, and fails with what they return.
func together(t *testing.T, n int, fn func(i int) error) {
	t.Helper()
	errs := make([]error, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { errs[i] = fn(i) })
	}
	all.Wait()
	must(t, errors.Join(errs...))
}

// conflict drops the errors that methods name: others were faster.
func conflict(err error) error {
	var inUse *metadata.InUseError
	var missing *metadata.MissingError
	if errors.Is(err, metadata.ErrNotFound) || errors.Is(err, metadata.ErrSuperseded) || errors.As(err, &inUse) || errors.As(err, &missing) {
		return nil
	}
	return err
}

// testCrowd has many push, mount, delete and quarantine the same few things.
func testCrowd(t *testing.T, f *fixture) {
	together(t, 12, func(i int) error {
		rng := rand.New(rand.NewPCG(uint64(i), 1))
		for step := range 40 {
			id := fmt.Sprintf("%d-%d", i, step)
			if err := f.crowdStep(t, rng, id); err != nil {
				return err
			}
		}
		return nil
	})
}

func (f *fixture) crowdStep(t *testing.T, rng *rand.Rand, id string) error {
	ctx, repository, other := t.Context(), pick(rng, walkRepositories()), pick(rng, walkRepositories())
	d, m := pick(rng, walkBlobs()), pick(rng, walkManifests())
	m.Tags = []string{"x"}
	switch rng.IntN(9) {
	case 0, 1:
		return f.crowdPush(t, repository, id, d)
	case 2:
		return conflict(f.MountBlob(ctx, repository, other, d))
	case 3:
		_, err := f.LeaseBlob(ctx, repository, d)
		return conflict(err)
	case 4, 5:
		return conflict(f.PutManifest(ctx, repository, m))
	case 6:
		return conflict(f.DeleteManifest(ctx, repository, m.Digest, metadata.Deletion{}))
	case 7:
		b, err := f.Blob(ctx, repository, d)
		if err == nil {
			_, err = f.Quarantine(ctx, d, b.Key)
		}
		return conflict(err)
	}
	return conflict(f.DeleteBlob(ctx, repository, d))
}

// crowdPush declares the digest, so that blobs are pinned while others delete them.
func (f *fixture) crowdPush(t *testing.T, repository, id string, d digest.Digest) error {
	u, err := f.StartUpload(t.Context(), id, repository, digest.SHA256, d)
	if err != nil {
		return err
	}
	u.Size = blobSize
	err = f.CommitUpload(t.Context(), u, d)
	if errors.Is(err, metadata.ErrQuarantined) {
		err = nil // since it was declared
	}
	return err
}

// testOneUpload has many claim one session: the last claim commits, and nobody else.
func testOneUpload(t *testing.T, f *fixture) {
	const many = 8
	u := f.start(t, "a")
	committed := make([]bool, many)
	together(t, many, func(i int) error {
		claimed, err := f.ClaimUpload(t.Context(), "a", u.ID, "")
		if err != nil || claimed.Committed != "" {
			return err
		}
		err = f.CommitUpload(t.Context(), claimed, blob(i))
		committed[i] = err == nil
		return conflict(err)
	})
	var winner []int
	for i, ok := range committed {
		if ok {
			winner = append(winner, i)
		}
	}
	if len(winner) != 1 {
		t.Fatalf("committed by %v", winner)
	}
	f.wantUse(t, u.Key, "blob")
	_, err := f.Blob(t.Context(), "a", blob(winner[0]))
	must(t, err)
}

// testOneBlob has many push the same blob: one of their keys is the blob's, the others are dead.
func testOneBlob(t *testing.T, f *fixture) {
	keys := make([]string, 8)
	together(t, len(keys), func(i int) error {
		u, err := f.StartUpload(t.Context(), fmt.Sprint(i), fmt.Sprint("repository-", i), digest.SHA256, "")
		if err != nil {
			return err
		}
		keys[i], u.Size = u.Key, blobSize
		return f.CommitUpload(t.Context(), u, blob(1))
	})
	uses, err := f.KeyUses(t.Context(), keys)
	must(t, err)
	count := make(map[string]int)
	for _, u := range uses {
		count[u.Use]++
	}
	wantEqual(t, "uses", count, map[string]int{"blob": 1, "dead": len(keys) - 1})
	repositories, err := f.BlobRepositories(t.Context(), blob(1), "", 100)
	if err != nil || len(repositories) != len(keys) {
		t.Errorf("in %v: %v", repositories, err)
	}
}

// testOneQuarantine has some push a blob while others quarantine it and say that it is well: each key that was given out is in one place.
func testOneQuarantine(t *testing.T, f *fixture) {
	const rounds = 30
	f.push(t, "a", blob(1))
	keys := make([]string, 0, 4*rounds)
	var mu sync.Mutex
	together(t, 8, func(i int) error {
		for round := range rounds {
			all, err := f.Blobs(t.Context(), "", 1)
			if err != nil {
				return err
			}
			switch d, key := all[0].Digest, all[0].Key; i % 4 {
			case 0:
				_, err = f.Quarantine(t.Context(), d, key)
			case 1:
				_, err = f.EndQuarantine(t.Context(), d, key)
			default:
				var u metadata.Upload
				if u, err = f.StartUpload(t.Context(), fmt.Sprintf("%d-%d", i, round), "a", digest.SHA256, ""); err == nil {
					u.Size = blobSize
					err = f.CommitUpload(t.Context(), u, d)
				}
				mu.Lock()
				keys = append(keys, u.Key)
				mu.Unlock()
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	uses, err := f.KeyUses(t.Context(), keys)
	must(t, err)
	count := make(map[string]int)
	for _, u := range uses {
		count[u.Use]++
	}
	if count["dead"]+count["blob"] != len(keys) || count["blob"] > 1 {
		t.Errorf("of %d keys: %v", len(keys), count)
	}
}

// testParentAndChild puts an index that may lack its child, and the child, at once: neither misses the other.
func testParentAndChild(t *testing.T, f *fixture) {
	for i := range 20 {
		child := image(fmt.Sprint("child ", i))
		parent := index(fmt.Sprint("parent ", i), child.Digest)
		parent.Children[0].Optional = true
		pair := []metadata.NewManifest{parent, child}
		together(t, 2, func(i int) error { return f.PutManifest(t.Context(), "a", pair[i]) })
		wantInUse(t, "delete", f.DeleteManifest(t.Context(), "a", child.Digest, metadata.Deletion{}), parent.Digest)
	}
}

// testImageAndLayer puts an image that may lack its layer, and the layer, at once: neither misses the other.
func testImageAndLayer(t *testing.T, f *fixture) {
	f.push(t, "a", blob(0)) // so that there is the repository
	for i := range 100 {
		layer := blob(1000 + i)
		m := image(fmt.Sprint("image ", i), layer)
		m.Blobs[0].Optional = true
		u := f.start(t, "a")
		u.Size = blobSize
		together(t, 2, func(i int) error {
			if i == 0 {
				return f.CommitUpload(t.Context(), u, layer)
			}
			return f.PutManifest(t.Context(), "a", m)
		})
		wantInUse(t, "delete", f.DeleteBlob(t.Context(), "a", layer), m.Digest)
	}
}

// testSnapshot reads manifests while they come and go: what is read of one belongs together.
func testSnapshot(t *testing.T, f *fixture) {
	f.push(t, "a", blob(1))
	one := image("one", blob(1), blob(1))
	for i := range 8 { // so that there is something to read between one and its references
		f.put(t, "a", image(fmt.Sprint(i)))
	}
	var done atomic.Bool
	together(t, 3, func(i int) (err error) {
		if i > 0 {
			for !done.Load() && err == nil {
				err = f.readWhole(t, one)
			}
			return err
		}
		defer done.Store(true)
		for range 60 {
			err = errors.Join(err, f.PutManifest(t.Context(), "a", one), f.DeleteManifest(t.Context(), "a", one.Digest, metadata.Deletion{}))
		}
		return err
	})
}

func (f *fixture) readWhole(t *testing.T, one metadata.NewManifest) error {
	all, err := f.Manifests(t.Context(), 0, 10)
	for _, m := range all {
		if m.Digest == one.Digest && len(m.Blobs) != len(one.Blobs) {
			return fmt.Errorf("a manifest was read with %d of its %d references", len(m.Blobs), len(one.Blobs))
		}
	}
	return err
}
