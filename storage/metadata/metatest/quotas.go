package metatest

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"berth/storage/metadata"

	"github.com/opencontainers/go-digest"
)

func quotaTests() suite {
	return suite{
		{"Bytes", testQuotaBytes},
		{"Tags", testQuotaTags},
		{"Shared", testQuotaShared},
		{"Overlap", testQuotaOverlap},
		{"Trash", testQuotaTrash},
		{"Healed", testQuotaHealed},
		{"Set", testSetQuotas},
		{"Early", testCheckQuota},
		{"Fold", testFoldQuotas},
		{"Crowd", testQuotaCrowd},
	}
}

// quota is one for the repositories whose names begin with prefix.
func quota(prefix string, bytes, tags int64) metadata.Quota {
	return metadata.Quota{
		Repositories: []string{prefix}, Bytes: bytes, Tags: tags,
		Match: func(repository string) bool { return strings.HasPrefix(repository, prefix) },
	}
}

// wideQuotas count everything and refuse nothing: an audit finds what is counted wrongly.
func wideQuotas() []metadata.Quota {
	return []metadata.Quota{quota("", 1<<40, 1<<40), quota("a", 1<<40, 0)}
}

func (f *fixture) setQuotas(t *testing.T, quotas ...metadata.Quota) {
	t.Helper()
	must(t, f.SetQuotas(t.Context(), quotas))
}

// tryPush pushes a blob, and leaves the upload behind when that is refused.
func (f *fixture) tryPush(t *testing.T, repository string, d digest.Digest) (metadata.Upload, error) {
	t.Helper()
	u := f.start(t, repository)
	u.Size = blobSize
	must(t, f.CheckpointUpload(t.Context(), u))
	return u, f.CommitUpload(t.Context(), u, d)
}

// wantRefused expects a QuotaError that says how much was used, and how much was to be added.
func wantRefused(t *testing.T, what string, err error, prefix string, bytes, tags, addedBytes, addedTags int64) {
	t.Helper()
	var refused *metadata.QuotaError
	if !errors.As(err, &refused) {
		t.Errorf("%s: %v", what, err)
		return
	}
	got := fmt.Sprint(refused.Repositories, refused.UsedBytes, refused.UsedTags, refused.AddedBytes, refused.AddedTags)
	if want := fmt.Sprint([]string{prefix}, bytes, tags, addedBytes, addedTags); got != want {
		t.Errorf("%s: refused with %s, not %s", what, got, want)
	}
}

func (f *fixture) wantUsed(t *testing.T, what string, bytes, tags int64) {
	t.Helper()
	all, err := f.Quotas(t.Context(), "")
	must(t, err)
	if len(all) == 0 || all[0].UsedBytes != bytes || all[0].UsedTags != tags {
		t.Errorf("%s: %+v, not %d bytes and %d tags", what, all, bytes, tags)
	}
}

func testQuotaBytes(t *testing.T, f *fixture) {
	f.setQuotas(t, quota("team/", 2*blobSize, 0))
	f.push(t, "team/a", blob(1))
	f.push(t, "team/b", blob(2))
	u, err := f.tryPush(t, "team/a", blob(3))
	wantRefused(t, "one more", err, "team/", 2*blobSize, 0, blobSize, 0)
	wantError(t, "what was refused", failed(f.Blob(t.Context(), "team/a", blob(3))), metadata.ErrNotFound)
	f.push(t, "other", blob(3))
	wantRefused(t, "a mount", f.MountBlob(t.Context(), "team/a", "other", blob(3)), "team/", 2*blobSize, 0, blobSize, 0)
	f.put(t, "team/a", tagged(image("one", blob(1)), "x", "y")) // of what is there already
	must(t, f.DeleteBlob(t.Context(), "team/b", blob(2)))
	f.wantUsed(t, "after a delete", blobSize, 2)
	must(t, f.CommitUpload(t.Context(), u, blob(3))) // which was there to be tried again
	f.wantUsed(t, "at the end", 2*blobSize, 2)
}

func failed[T any](_ T, err error) error { return err }

func testQuotaTags(t *testing.T, f *fixture) {
	f.setQuotas(t, quota("team/", 0, 2))
	one, two := image("one"), image("two")
	f.put(t, "team/a", tagged(one, "x"))
	f.put(t, "team/b", tagged(one, "x"))
	wantRefused(t, "a third tag", f.PutManifest(t.Context(), "team/a", tagged(two, "y")), "team/", 0, 2, 0, 1)
	wantError(t, "what was refused", third(f.Manifest(t.Context(), "team/a", two.Digest, false)), metadata.ErrNotFound)
	f.put(t, "team/a", tagged(two, "x")) // which only moves
	f.put(t, "team/a", image("three"))
	must(t, f.DeleteTag(t.Context(), "team/b", "x", metadata.Deletion{}))
	f.put(t, "team/a", tagged(one, "y"))
	wantRefused(t, "a tag that was deleted", f.RestoreTag(t.Context(), "team/b", "x", one.Digest, "", false), "team/", 0, 2, 0, 1)
	must(t, f.DeleteManifest(t.Context(), "team/a", one.Digest, metadata.Deletion{})) // with its tag
	f.wantUsed(t, "after a delete", 0, 1)
	f.restore(t, "team/b", "x", one.Digest)
}

func third[A, B any](_ A, _ B, err error) error { return err }

// testQuotaShared counts a blob once however many of the repositories have it, until the last one lets go of it.
func testQuotaShared(t *testing.T, f *fixture) {
	f.setQuotas(t, quota("team/", blobSize, 0))
	f.push(t, "team/a", blob(1))
	f.push(t, "team/b", blob(1))
	must(t, f.MountBlob(t.Context(), "team/c", "team/a", blob(1)))
	f.push(t, "team/a", blob(1))
	for i, repository := range []string{"team/a", "team/b", "team/c"} {
		f.wantUsed(t, fmt.Sprint(3-i, " repositories have it"), blobSize, 0)
		must(t, f.DeleteBlob(t.Context(), repository, blob(1)))
	}
	f.wantUsed(t, "nobody has it", 0, 0)
}

func testQuotaOverlap(t *testing.T, f *fixture) {
	f.setQuotas(t, quota("team/", 2*blobSize, 0), quota("team/a", blobSize, 0))
	f.push(t, "team/a", blob(1))
	wantRefused(t, "the narrow one", failed(f.tryPush(t, "team/a", blob(2))), "team/a", blobSize, 0, blobSize, 0)
	f.push(t, "team/b", blob(2))
	wantRefused(t, "the wide one", failed(f.tryPush(t, "team/b", blob(3))), "team/", 2*blobSize, 0, blobSize, 0)
	f.push(t, "elsewhere", blob(3))
}

// testQuotaTrash counts what the trash keeps, until the collector has it.
func testQuotaTrash(t *testing.T, f *fixture) {
	f.setQuotas(t, quota("team/", blobSize, 1))
	one := tagged(image("one", blob(1)), "x")
	f.push(t, "team/a", blob(1))
	f.put(t, "team/a", one)
	f.remove(t, "team/a", one.Digest)
	f.endLease(t, "team/a", blob(1))
	f.wantUsed(t, "in the trash", blobSize, 0)
	u, err := f.tryPush(t, "team/a", blob(2))
	wantRefused(t, "beside the trash", err, "team/", blobSize, 0, blobSize, 0)
	f.endTrash(t)
	f.wantCollected(t, 1, 1)
	f.wantUsed(t, "collected", 0, 0)
	must(t, f.CommitUpload(t.Context(), u, blob(2)))
	f.put(t, "team/a", tagged(image("two", blob(2)), "x"))
	if _, err := f.DeleteRepository(t.Context(), "team/a", metadata.Deletion{Now: true}); err != nil {
		t.Error(err)
	}
	f.wantUsed(t, "the repository is gone", 0, 0)
}

// testQuotaHealed counts a blob as large as it is once it was adopted cut off, quarantined, and pushed again.
func testQuotaHealed(t *testing.T, f *fixture) {
	f.setQuotas(t, quota("team/", 100*blobSize, 0), quota("team/a", 100*blobSize, 0))
	id, err := f.StartAdoption(t.Context(), "adoption")
	must(t, err)
	cut := metadata.AdoptedBlob{Blob: metadata.Blob{Digest: blob(1), Key: metadata.AdoptedPrefix + "blobs/one/data", Size: 1}}
	must(t, f.Adopt(t.Context(), id, metadata.Adoption{Repository: "team/a", Blobs: []metadata.AdoptedBlob{cut}, Lease: time.Hour}))
	f.wantUsed(t, "cut off", 1, 0)
	_, err = f.Quarantine(t.Context(), blob(1), cut.Key)
	must(t, err)
	f.push(t, "team/a", blob(1))
	f.wantUsed(t, "healed", blobSize, 0)
	f.audit(t)
	must(t, f.DeleteBlob(t.Context(), "team/a", blob(1)))
	f.wantUsed(t, "deleted", 0, 0)
}

// testSetQuotas counts what is there already, each time when quotas change.
func testSetQuotas(t *testing.T, f *fixture) {
	f.push(t, "team/a", blob(1))
	f.push(t, "team/a", blob(2))
	f.push(t, "team/b", blob(2))
	f.put(t, "team/b", tagged(image("one", blob(2)), "x", "y"))
	f.setQuotas(t, quota("team/", blobSize, 0))
	f.wantUsed(t, "what was there", 2*blobSize, 2)
	f.audit(t)
	wantRefused(t, "beyond it", failed(f.tryPush(t, "team/c", blob(3))), "team/", 2*blobSize, 2, blobSize, 0)
	f.push(t, "team/c", blob(2)) // which adds nothing
	f.setQuotas(t, quota("team/", 3*blobSize, 0))
	f.push(t, "team/c", blob(3))
	f.wantUsed(t, "with a higher limit", 3*blobSize, 2)
	f.setQuotas(t, quota("team/b", 1, 0), quota("nothing", 1, 0))
	f.wantUsed(t, "another", blobSize, 2)
	f.audit(t)
	all, err := f.Quotas(t.Context(), "")
	must(t, err)
	wantEqual(t, "all", len(all), 2)
	all, err = f.Quotas(t.Context(), "team/")
	must(t, err)
	wantEqual(t, "those that count something", len(all), 1)
	f.setQuotas(t)
	f.push(t, "team/b", blob(4))
	if n := f.number(t, `SELECT (SELECT count(*) FROM quotas) + (SELECT count(*) FROM quota_repositories) +
		(SELECT count(*) FROM quota_blobs) + (SELECT count(*) FROM quota_changes)`); n != 0 {
		t.Errorf("%d rows are left of quotas", n)
	}
}

func testCheckQuota(t *testing.T, f *fixture) {
	check := func(size int64, d digest.Digest) error { return f.CheckQuota(t.Context(), "team/a", size, d) }
	must(t, check(1<<40, ""))
	f.setQuotas(t, quota("team/", 2*blobSize, 0))
	must(t, check(2*blobSize, ""))
	wantRefused(t, "too much", check(2*blobSize+1, ""), "team/", 0, 0, 2*blobSize+1, 0)
	must(t, f.CheckQuota(t.Context(), "other", 1<<40, ""))
	f.push(t, "team/b", blob(1))
	must(t, check(0, ""))
	must(t, check(blobSize, blob(2)))
	f.push(t, "team/b", blob(2))
	wantRefused(t, "of unknown size", check(0, ""), "team/", 2*blobSize, 0, 0, 0)
	wantRefused(t, "another", check(blobSize, blob(3)), "team/", 2*blobSize, 0, blobSize, 0)
	must(t, check(blobSize, blob(1)))
	must(t, check(0, blob(1)))
}

func testFoldQuotas(t *testing.T, f *fixture) {
	f.setQuotas(t, quota("team/", 1<<40, 0), quota("none", 1, 0))
	for i := range 5 {
		f.push(t, "team/a", blob(i))
	}
	f.put(t, "team/a", tagged(image("one", blob(1)), "x"))
	if n := f.number(t, `SELECT count(*) FROM quota_changes`); n != 6 {
		t.Errorf("%d changes", n)
	}
	must(t, f.FoldQuotas(t.Context()))
	if n := f.number(t, `SELECT count(*) FROM quota_changes`); n != 0 {
		t.Errorf("%d changes were not added up", n)
	}
	f.wantUsed(t, "added up", 5*blobSize, 1)
}

// testQuotaCrowd has many push at once more than there is room for: just what fits is taken.
func testQuotaCrowd(t *testing.T, f *fixture) { crowdQuota(t, f, f.Store) }

// QuotaCrowd is the test for two stores over one database, which others may have opened.
func QuotaCrowd(t *testing.T, one, two *metadata.Store) {
	crowdQuota(t, &fixture{Store: one}, one, two)
}

func crowdQuota(t *testing.T, f *fixture, stores ...*metadata.Store) {
	const pushes, room = 40, 17
	for _, s := range stores {
		must(t, s.SetQuotas(t.Context(), []metadata.Quota{quota("", room*blobSize, 0), quota("team/", 0, room)}))
	}
	must(t, f.PutManifest(t.Context(), "team/a", image("one")))
	var all sync.WaitGroup
	var blobs, tags atomic.Int64
	taken := func(n *atomic.Int64, what string, err error) {
		var refused *metadata.QuotaError
		switch {
		case err == nil:
			n.Add(1)
		case !errors.As(err, &refused):
			t.Errorf("%s: %v", what, err)
		}
	}
	for i := range pushes {
		s := stores[i%len(stores)]
		all.Go(func() {
			u, err := s.StartUpload(t.Context(), fmt.Sprint("crowd-", i), fmt.Sprint("team/", i%3), digest.SHA256, "")
			if err != nil {
				t.Error(err)
				return
			}
			u.Size = blobSize
			taken(&blobs, "push", s.CommitUpload(t.Context(), u, blob(i)))
		})
		all.Go(func() {
			taken(&tags, "tag", s.PutManifest(t.Context(), "team/a", tagged(image("one"), fmt.Sprint("tag-", i))))
		})
	}
	all.Wait()
	if blobs.Load() != room || tags.Load() != room {
		t.Errorf("%d blobs and %d tags were taken, there was room for %d", blobs.Load(), tags.Load(), room)
	}
	f.audit(t)
}
