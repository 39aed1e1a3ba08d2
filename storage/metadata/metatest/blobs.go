package metatest

import (
	"slices"
	"testing"
	"time"

	"berth/storage/metadata"

	"github.com/opencontainers/go-digest"
)

func blobTests() suite {
	return suite{
		{"Visible", testVisible},
		{"Mount", testMount},
		{"Lease", testLease},
		{"ShortLease", testShortLease},
		{"Delete", testDeleteBlob},
		{"DeleteInUse", testDeleteBlobInUse},
		{"LastLink", testLastLink},
		{"PushAgain", testPushAgain},
		{"Repositories", testBlobRepositories},
		{"SHA512", testSHA512Blob},
	}
}

// wantBlob fails unless exactly the repositories that are named have a blob.
func (f *fixture) wantBlob(t *testing.T, d digest.Digest, key string, repositories ...string) {
	t.Helper()
	for _, repository := range []string{"a", "b", "c", "nowhere"} {
		for name, get := range map[string]func() (metadata.Blob, error){
			"blob":  func() (metadata.Blob, error) { return f.Blob(t.Context(), repository, d) },
			"lease": func() (metadata.Blob, error) { return f.LeaseBlob(t.Context(), repository, d) },
		} {
			got, err := get()
			if !slices.Contains(repositories, repository) {
				wantError(t, name+" of "+repository, err, metadata.ErrNotFound)
				continue
			}
			must(t, err)
			wantEqual(t, name+" of "+repository, got, metadata.Blob{Digest: d, Key: key, Size: blobSize})
		}
	}
}

func testVisible(t *testing.T, f *fixture) {
	f.start(t, "b")
	f.start(t, "c")
	key := f.push(t, "a", blob(1))
	f.wantBlob(t, blob(1), key, "a")
	f.wantBlob(t, blob(2), "")
}

func testMount(t *testing.T, f *fixture) {
	key := f.push(t, "a", blob(1))
	f.push(t, "b", blob(2))
	for _, from := range []string{"b", "nowhere", "c"} {
		wantError(t, "mount from "+from, f.MountBlob(t.Context(), "c", from, blob(1)), metadata.ErrNotFound)
	}
	f.wantBlob(t, blob(1), key, "a")
	must(t, f.MountBlob(t.Context(), "c", "a", blob(1))) // c is new
	must(t, f.MountBlob(t.Context(), "b", "c", blob(1)))
	must(t, f.MountBlob(t.Context(), "b", "c", blob(1)))
	must(t, f.MountBlob(t.Context(), "a", "a", blob(1)))
	f.wantBlob(t, blob(1), key, "a", "b", "c")
}

// lease returns how long a link is leased from now on, and the version of its row in the collector's queue.
func (f *fixture) lease(t *testing.T, d digest.Digest) (left time.Duration, version int64) {
	t.Helper()
	until := f.number(t, `SELECT leased_until FROM repository_blobs WHERE digest = $1`, encoded(d))
	version = f.number(t, `SELECT coalesce(max(version), 0) FROM gc_queue WHERE digest = $1`, encoded(d))
	return time.Until(time.UnixMilli(until)), version
}

func testLease(t *testing.T, f *fixture) {
	const slack = time.Minute // between clocks, and for a slow test
	f.push(t, "a", blob(1))
	if left, version := f.lease(t, blob(1)); left < day-slack || left > day+slack || version != 1 {
		t.Errorf("pushed: leased for %s, version %d", left, version)
	}
	f.exec(t, 1, `UPDATE repository_blobs SET leased_until = leased_until - $1`, (day/2 - slack).Milliseconds())
	before, _ := f.lease(t, blob(1))
	for range 3 {
		_, err := f.LeaseBlob(t.Context(), "a", blob(1))
		must(t, err)
	}
	if left, version := f.lease(t, blob(1)); left > before || version != 1 {
		t.Errorf("leased with more than half left: %s, version %d", left, version)
	}
	f.exec(t, 1, `UPDATE repository_blobs SET leased_until = leased_until - $1`, (2 * slack).Milliseconds())
	for range 3 {
		_, err := f.LeaseBlob(t.Context(), "a", blob(1))
		must(t, err)
	}
	if left, version := f.lease(t, blob(1)); left < day-slack || version != 2 {
		t.Errorf("leased with less than half left: %s, version %d", left, version)
	}
	if review := f.number(t, `SELECT review_after FROM gc_queue`); time.Until(time.UnixMilli(review)) < day-slack {
		t.Error("the review is due before the lease is over")
	}
	_, err := f.Blob(t.Context(), "a", blob(1))
	must(t, err)
	must(t, f.MountBlob(t.Context(), "a", "a", blob(1)))
	if _, version := f.lease(t, blob(1)); version != 3 {
		t.Errorf("a mount made version %d", version)
	}
}

func testShortLease(t *testing.T, f *fixture) {
	f = newFixture(t, f.open, metadata.Config{Lease: time.Hour})
	f.push(t, "a", blob(1))
	if left, _ := f.lease(t, blob(1)); left > time.Hour {
		t.Errorf("leased for %s", left)
	}
	f.audit(t)
}

func testDeleteBlob(t *testing.T, f *fixture) {
	f.push(t, "b", blob(2))
	key := f.push(t, "a", blob(1))
	must(t, f.MountBlob(t.Context(), "b", "a", blob(1)))
	for _, repository := range []string{"c", "nowhere"} {
		wantError(t, "delete in "+repository, f.DeleteBlob(t.Context(), repository, blob(1)), metadata.ErrNotFound)
	}
	must(t, f.DeleteBlob(t.Context(), "a", blob(1)))
	f.wantBlob(t, blob(1), key, "b")
	wantError(t, "delete again", f.DeleteBlob(t.Context(), "a", blob(1)), metadata.ErrNotFound)
	if n := f.number(t, `SELECT count(*) FROM gc_queue WHERE digest = $1`, encoded(blob(1))); n != 1 {
		t.Errorf("%d links are queued for review", n)
	}
	wantError(t, "mount from where it was", f.MountBlob(t.Context(), "c", "a", blob(1)), metadata.ErrNotFound)
}

func testDeleteBlobInUse(t *testing.T, f *fixture) {
	key := f.push(t, "a", blob(1))
	must(t, f.MountBlob(t.Context(), "b", "a", blob(1)))
	one, two := image("one", blob(1)), image("two", blob(1), blob(1))
	f.put(t, "a", one)
	f.put(t, "a", two)
	wantInUse(t, "delete", f.DeleteBlob(t.Context(), "a", blob(1)), one.Digest, two.Digest)
	must(t, f.DeleteBlob(t.Context(), "b", blob(1))) // nothing needs it there
	must(t, f.DeleteManifest(t.Context(), "a", one.Digest, metadata.Deletion{}))
	wantInUse(t, "delete", f.DeleteBlob(t.Context(), "a", blob(1)), two.Digest)
	must(t, f.DeleteManifest(t.Context(), "a", two.Digest, metadata.Deletion{}))
	f.wantUse(t, key, "blob")
	must(t, f.DeleteBlob(t.Context(), "a", blob(1)))
	f.wantDeadLater(t, key)
}

func testLastLink(t *testing.T, f *fixture) {
	key := f.push(t, "a", blob(1))
	must(t, f.MountBlob(t.Context(), "b", "a", blob(1)))
	must(t, f.DeleteBlob(t.Context(), "a", blob(1)))
	f.wantUse(t, key, "blob")
	must(t, f.DeleteBlob(t.Context(), "b", blob(1)))
	f.wantBlob(t, blob(1), "")
	f.wantDeadLater(t, key)

	f = newFixture(t, f.open, metadata.Config{Grace: time.Hour})
	f.push(t, "a", blob(1))
	must(t, f.DeleteBlob(t.Context(), "a", blob(1)))
	if after := f.number(t, `SELECT delete_after FROM dead_keys`); time.Until(time.UnixMilli(after)) > time.Hour {
		t.Error("the key stays longer than the grace")
	}
	f.audit(t)
}

// testPushAgain pushes what was deleted: the blob gets the new key, and the old one stays dead.
func testPushAgain(t *testing.T, f *fixture) {
	first := f.push(t, "a", blob(1))
	must(t, f.DeleteBlob(t.Context(), "a", blob(1)))
	second := f.push(t, "a", blob(1))
	f.wantBlob(t, blob(1), second, "a")
	f.wantDeadLater(t, first)
}

func testBlobRepositories(t *testing.T, f *fixture) {
	f.push(t, "a/b", blob(1))
	f.push(t, "other", blob(2))
	names := []string{"Z", "a", "a-b", "a/b", "a0", "é"}
	for _, name := range names {
		must(t, f.MountBlob(t.Context(), name, "a/b", blob(1)))
	}
	wantPages(t, names, func(last string, limit int) ([]string, error) {
		return f.BlobRepositories(t.Context(), blob(1), last, limit)
	})
	wantPages(t, nil, func(last string, limit int) ([]string, error) {
		return f.BlobRepositories(t.Context(), blob(3), last, limit)
	})
}

func testSHA512Blob(t *testing.T, f *fixture) {
	d := digest.SHA512.FromString("blob")
	key := f.push(t, "a", d)
	f.push(t, "a", blob(1))
	f.wantBlob(t, d, key, "a")
	f.put(t, "a", image("with sha512", blob(1), d))
	wantInUse(t, "delete", f.DeleteBlob(t.Context(), "a", d), image("with sha512").Digest)
}
