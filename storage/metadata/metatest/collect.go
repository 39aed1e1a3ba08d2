package metatest

import (
	"testing"
	"time"

	"berth/storage/metadata"

	"github.com/opencontainers/go-digest"
)

func collectTests() suite {
	return suite{
		{"Lease", testCollectLease},
		{"Referenced", testCollectReferenced},
		{"SharedBlob", testCollectSharedBlob},
		{"Pinned", testCollectPinned},
		{"PushAgain", testCollectPushAgain},
		{"Limit", testCollectLimit},
		{"Untagged", testDeleteUntagged},
	}
}

// endLease lets the time of a link's lease pass.
func (f *fixture) endLease(t *testing.T, repository string, d digest.Digest) {
	t.Helper()
	id := f.number(t, `SELECT id FROM repositories WHERE name = $1`, repository)
	f.exec(t, 1, `UPDATE repository_blobs SET leased_until = 1 WHERE repository = $1 AND digest = $2`, id, encoded(d))
	if f.number(t, `SELECT count(*) FROM gc_queue WHERE repository = $1 AND digest = $2`, id, encoded(d)) > 0 {
		f.exec(t, 1, `UPDATE gc_queue SET review_after = 1 WHERE repository = $1 AND digest = $2`, id, encoded(d))
	}
}

// wantCollected has the collector look, and fails unless it removed so many links and blobs.
func (f *fixture) wantCollected(t *testing.T, links, blobs int) metadata.Collected {
	t.Helper()
	done, err := f.Collect(t.Context(), 100)
	must(t, err)
	if done.Links != links || done.Blobs != blobs || done.Bytes != int64(blobs)*blobSize {
		t.Errorf("collected %+v, want %d links and %d blobs", done, links, blobs)
	}
	return done
}

func testCollectLease(t *testing.T, f *fixture) {
	key := f.push(t, "a", blob(1))
	f.wantCollected(t, 0, 0)
	// A manifest that is deleted early has its blobs looked at early, too: their lease still holds.
	f.put(t, "a", image("one", blob(1)))
	must(t, f.DeleteManifest(t.Context(), "a", image("one", blob(1)).Digest, metadata.Deletion{}))
	if done := f.wantCollected(t, 0, 0); done.Reviewed != 1 {
		t.Errorf("%d links were looked at", done.Reviewed)
	}
	if done := f.wantCollected(t, 0, 0); done.Reviewed != 0 {
		t.Error("a link that is leased is looked at again and again")
	}
	f.endLease(t, "a", blob(1))
	f.wantCollected(t, 1, 1)
	f.wantUse(t, key, "dead")
	f.wantBlob(t, blob(1), "")
	f.wantCollected(t, 0, 0)
}

func testCollectReferenced(t *testing.T, f *fixture) {
	key := f.push(t, "a", blob(1))
	one, two := image("one", blob(1)), image("two", blob(1))
	f.put(t, "a", one)
	f.put(t, "a", two)
	f.endLease(t, "a", blob(1))
	f.wantCollected(t, 0, 0)
	must(t, f.DeleteManifest(t.Context(), "a", one.Digest, metadata.Deletion{}))
	f.wantCollected(t, 0, 0)
	f.wantBlob(t, blob(1), key, "a")
	// The blob's lease began anew with the question of wantBlob.
	must(t, f.DeleteManifest(t.Context(), "a", two.Digest, metadata.Deletion{}))
	f.endLease(t, "a", blob(1))
	f.wantCollected(t, 1, 1)
}

// testCollectSharedBlob keeps a blob of two repositories until neither needs it.
func testCollectSharedBlob(t *testing.T, f *fixture) {
	key := f.push(t, "a", blob(1))
	must(t, f.MountBlob(t.Context(), "b", "a", blob(1)))
	f.put(t, "b", image("one", blob(1)))
	f.endLease(t, "a", blob(1))
	f.wantCollected(t, 1, 0)
	f.wantBlob(t, blob(1), key, "b")
	f.endLease(t, "b", blob(1))
	f.wantCollected(t, 0, 0)
	must(t, f.DeleteManifest(t.Context(), "b", image("one", blob(1)).Digest, metadata.Deletion{}))
	f.wantCollected(t, 1, 1)
	f.wantUse(t, key, "dead")
}

// testCollectPinned keeps the bytes that somebody is about to push again.
func testCollectPinned(t *testing.T, f *fixture) {
	key := f.push(t, "a", blob(1))
	u, err := f.StartUpload(t.Context(), f.newID(), "b", digest.SHA256, blob(1))
	must(t, err)
	f.endLease(t, "a", blob(1))
	f.wantCollected(t, 1, 0)
	f.wantUse(t, key, "blob")
	u.Size = blobSize
	must(t, f.CommitUpload(t.Context(), u, blob(1)))
	f.wantBlob(t, blob(1), key, "b")
}

// testCollectPushAgain pushes what was collected: its bytes are new ones.
func testCollectPushAgain(t *testing.T, f *fixture) {
	old := f.push(t, "a", blob(1))
	f.endLease(t, "a", blob(1))
	f.wantCollected(t, 1, 1)
	key := f.push(t, "a", blob(1))
	f.wantBlob(t, blob(1), key, "a")
	f.wantUse(t, old, "dead")
	f.wantUse(t, key, "blob")
}

func testCollectLimit(t *testing.T, f *fixture) {
	for i := range 5 {
		f.push(t, "a", blob(i))
		f.endLease(t, "a", blob(i))
	}
	q, err := f.Queue(t.Context())
	must(t, err)
	wantEqual(t, "queue", q, metadata.Queue{Links: 5, Due: 5, Oldest: time.UnixMilli(1), Unused: 5, UnusedBytes: 5 * blobSize})
	for _, want := range []int{2, 2, 1, 0} {
		done, err := f.Collect(t.Context(), 2)
		must(t, err)
		wantEqual(t, "links", done.Links, want)
	}
	q, err = f.Queue(t.Context())
	must(t, err)
	if q.Links != 0 || q.DeadKeys != 5 || !q.Next.After(time.Now()) {
		t.Errorf("queue: %+v", q)
	}
}

// testDeleteUntagged removes what has no tag, no parent and no subject, and nothing that is being pushed.
func testDeleteUntagged(t *testing.T, f *fixture) {
	f.push(t, "a", blob(1))
	plain, tagged, child, young := image("plain", blob(1)), image("tagged", blob(1)), image("child", blob(1)), image("young", blob(1))
	tagged.Tags = []string{"x"}
	list := index("list", child.Digest)
	list.Tags = []string{"list"}
	signature, orphan := image("signature", blob(1)), image("orphan", blob(1))
	signature.Subject, orphan.Subject = tagged.Digest, blob(9)
	for _, m := range []metadata.NewManifest{plain, tagged, child, list, signature, orphan, young} {
		f.put(t, "a", m)
	}
	f.exec(t, 6, `UPDATE manifests SET pushed_at = 1 WHERE digest <> $1`, encoded(young.Digest))
	for _, dry := range []bool{true, false} {
		removed, err := f.DeleteUntagged(t.Context(), dry, metadata.Deletion{}, metadata.UntaggedManifest{}, 100)
		must(t, err)
		var got []digest.Digest
		for _, m := range removed {
			wantEqual(t, "repository", m.Repository, "a")
			got = append(got, m.Digest)
		}
		wantEqual(t, "untagged manifests", got, []digest.Digest{plain.Digest, orphan.Digest})
	}
	for _, m := range []metadata.NewManifest{tagged, child, list, signature, young} {
		if _, _, err := f.Manifest(t.Context(), "a", m.Digest, false); err != nil {
			t.Errorf("%s is gone: %v", m.Body, err)
		}
	}
	f.wantNoManifest(t, "a", plain)
}
