package metatest

import (
	"errors"
	"testing"
	"time"

	"berth/storage/metadata"

	"github.com/opencontainers/go-digest"
)

func trashTests() suite {
	return suite{
		{"History", testHistory},
		{"Restore", testRestore},
		{"RestoreIndex", testRestoreIndex},
		{"RestoreReferrers", testRestoreReferrers},
		{"PushAgain", testPushFromTrash},
		{"Invisible", testTrashInvisible},
		{"Purge", testPurge},
		{"PurgeKeepsChildren", testPurgeKeepsChildren},
		{"Now", testDeleteNow},
		{"Sparse", testDeleteSparse},
		{"Immutable", testImmutable},
		{"Untagged", testUntaggedInTrash},
		{"Repository", testDeleteRepository},
		{"Counts", testTrashCounts},
	}
}

// remove deletes a manifest into the trash.
func (f *fixture) remove(t *testing.T, repository string, d digest.Digest) {
	t.Helper()
	must(t, f.DeleteManifest(t.Context(), repository, d, metadata.Deletion{User: "remover"}))
}

func (f *fixture) restore(t *testing.T, repository, tag string, d digest.Digest) {
	t.Helper()
	must(t, f.RestoreTag(t.Context(), repository, tag, d, "restorer", false))
}

// endTrash lets the time pass of all that is in the trash, and empties it.
func (f *fixture) endTrash(t *testing.T) (done metadata.Purged) {
	t.Helper()
	_, err := f.sql.ExecContext(t.Context(), `UPDATE manifests SET deleted_at = 1 WHERE deleted_at IS NOT NULL`)
	must(t, err)
	_, err = f.sql.ExecContext(t.Context(), `UPDATE tag_history SET ended_at = 1`)
	must(t, err)
	for {
		some, err := f.PurgeTrash(t.Context(), 1)
		must(t, err)
		if some == (metadata.Purged{}) {
			return done
		}
		done.Manifests, done.States = done.Manifests+some.Manifests, done.States+some.States
	}
}

func (f *fixture) history(t *testing.T, repository, tag string) []metadata.TagState {
	t.Helper()
	states, err := f.TagHistory(t.Context(), repository, tag, 100)
	must(t, err)
	return states
}

func testHistory(t *testing.T, f *fixture) {
	one, two := tagged(image("one"), "x"), tagged(image("two"), "x", "y")
	two.User = "other"
	began := time.Now().Add(-time.Minute)
	for _, m := range []metadata.NewManifest{one, one, two, one} { // the same again is no change
		f.put(t, "a", m)
	}
	must(t, f.DeleteTag(t.Context(), "a", "x", metadata.Deletion{User: "remover"}))
	states := f.history(t, "a", "x")
	for i := range states {
		for _, at := range []time.Time{states[i].Set, states[i].Ended} {
			if at.Before(began) || at.After(time.Now().Add(time.Minute)) {
				t.Errorf("state %d has the time %s", i, at)
			}
		}
		states[i].Set, states[i].Ended = time.Time{}, time.Time{}
	}
	wantEqual(t, "history", states, []metadata.TagState{
		{Digest: one.Digest, SetBy: "tester", EndedBy: "remover", Deleted: true, Kept: true},
		{Digest: two.Digest, SetBy: "other", EndedBy: "tester", Kept: true},
		{Digest: one.Digest, SetBy: "tester", EndedBy: "other", Kept: true},
	})
	states = f.history(t, "a", "y")
	if len(states) != 1 || !states[0].Ended.IsZero() || states[0].Digest != two.Digest {
		t.Errorf("history of a tag that did not move: %+v", states)
	}
	if states, err := f.TagHistory(t.Context(), "a", "x", 2); err != nil || len(states) != 2 {
		t.Errorf("the last two states: %+v, %v", states, err)
	}
	_, err := f.TagHistory(t.Context(), "a", "z", 100)
	wantError(t, "history of no tag", err, metadata.ErrNotFound)
	_, err = f.TagHistory(t.Context(), "b", "x", 100)
	wantError(t, "history in no repository", err, metadata.ErrNotFound)
	f.endTrash(t)
	_, err = f.TagHistory(t.Context(), "a", "x", 100)
	wantError(t, "history that is over", err, metadata.ErrNotFound)
}

func testRestore(t *testing.T, f *fixture) {
	key := f.push(t, "a", blob(1))
	one := tagged(image("one", blob(1)), "x")
	f.put(t, "a", one)
	f.remove(t, "a", one.Digest)
	f.wantNoManifest(t, "a", one)
	f.endLease(t, "a", blob(1))
	f.wantCollected(t, 0, 0)
	f.wantUse(t, key, "blob")
	f.restore(t, "a", "x", one.Digest)
	f.wantManifest(t, "a", one)
	f.wantBlob(t, blob(1), key, "a")
	states := f.history(t, "a", "x")
	if len(states) != 2 || states[0].SetBy != "restorer" || states[1].EndedBy != "remover" || !states[1].Deleted {
		t.Errorf("history: %+v", states)
	}
	wantError(t, "restore what never was", f.RestoreTag(t.Context(), "a", "x", blob(7), "", false), metadata.ErrNotFound)
	wantError(t, "restore in no repository", f.RestoreTag(t.Context(), "b", "x", one.Digest, "", false), metadata.ErrNotFound)
}

// testRestoreIndex brings the children back that were deleted after their index.
func testRestoreIndex(t *testing.T, f *fixture) {
	f.push(t, "a", blob(1))
	f.push(t, "a", blob(2))
	amd, arm := image("amd", blob(1)), image("arm", blob(2))
	list := tagged(index("list", amd.Digest, arm.Digest), "x")
	for _, m := range []metadata.NewManifest{amd, arm, list} {
		f.put(t, "a", m)
	}
	f.remove(t, "a", list.Digest)
	f.remove(t, "a", amd.Digest)
	f.remove(t, "a", arm.Digest)
	f.restore(t, "a", "x", list.Digest)
	for _, m := range []metadata.NewManifest{amd, arm, list} {
		f.wantManifest(t, "a", m)
	}
	f.wantChildren(t, "a", list)
	wantInUse(t, "delete a child that is back", f.DeleteManifest(t.Context(), "a", amd.Digest, metadata.Deletion{}), list.Digest)
}

// testRestoreReferrers brings back what was deleted with its subject, and not what was deleted before.
func testRestoreReferrers(t *testing.T, f *fixture) {
	subject, before, with := tagged(image("subject"), "x"), image("before"), image("with")
	before.Subject, with.Subject = subject.Digest, subject.Digest
	for _, m := range []metadata.NewManifest{subject, before, with} {
		f.put(t, "a", m)
	}
	f.remove(t, "a", before.Digest)
	f.exec(t, 1, `UPDATE manifests SET deleted_at = deleted_at - 1000 WHERE digest = $1`, encoded(before.Digest))
	f.remove(t, "a", subject.Digest)
	f.remove(t, "a", with.Digest)
	f.restore(t, "a", "x", subject.Digest)
	f.wantManifest(t, "a", with)
	f.wantNoManifest(t, "a", before)
}

// testPushFromTrash pushes what is in the trash: only what it needs has to be there.
func testPushFromTrash(t *testing.T, f *fixture) {
	f.push(t, "a", blob(1))
	child := image("child", blob(1))
	list := tagged(index("list", child.Digest), "x")
	f.put(t, "a", child)
	f.put(t, "a", list)
	f.remove(t, "a", list.Digest)
	f.remove(t, "a", child.Digest)
	var missing *metadata.MissingError
	if err := f.PutManifest(t.Context(), "a", list); !errors.As(err, &missing) || len(missing.Manifests) != 1 {
		t.Errorf("an index whose child is in the trash: %v", err)
	}
	f.endLease(t, "a", blob(1))
	f.wantCollected(t, 0, 0) // and now nobody sees the blob
	if err := f.PutManifest(t.Context(), "a", child); !errors.As(err, &missing) || len(missing.Blobs) != 1 {
		t.Errorf("an image whose blob is in the trash: %v", err)
	}
	f.push(t, "a", blob(1))
	f.put(t, "a", child)
	f.put(t, "a", list)
	f.wantManifest(t, "a", child)
	f.wantManifest(t, "a", list)
	f.wantChildren(t, "a", list)
	wantEqual(t, "manifests in the trash", f.number(t, `SELECT count(*) FROM manifests WHERE deleted_at IS NOT NULL`), int64(0))
}

// testTrashInvisible has nothing show what only the trash keeps.
func testTrashInvisible(t *testing.T, f *fixture) {
	f.push(t, "a", blob(1))
	one := tagged(image("one", blob(1)), "x")
	referrer := image("referrer", blob(1))
	referrer.Subject = one.Digest
	f.put(t, "a", one)
	f.put(t, "a", referrer)
	f.remove(t, "a", one.Digest)
	f.remove(t, "a", referrer.Digest)
	f.endLease(t, "a", blob(1))
	f.wantCollected(t, 0, 0)
	_, err := f.Blob(t.Context(), "a", blob(1))
	wantError(t, "blob", err, metadata.ErrNotFound)
	_, err = f.LeaseBlob(t.Context(), "a", blob(1))
	wantError(t, "lease", err, metadata.ErrNotFound)
	_, err = f.ConfigPlatform(t.Context(), "a", blob(1))
	wantError(t, "platform of the config", err, metadata.ErrNotFound)
	wantError(t, "mount", f.MountBlob(t.Context(), "b", "a", blob(1)), metadata.ErrNotFound)
	wantError(t, "delete blob", f.DeleteBlob(t.Context(), "a", blob(1)), metadata.ErrNotFound)
	wantError(t, "delete manifest", f.DeleteManifest(t.Context(), "a", one.Digest, metadata.Deletion{}), metadata.ErrNotFound)
	wantError(t, "delete tag", f.DeleteTag(t.Context(), "a", "x", metadata.Deletion{}), metadata.ErrNotFound)
	repositories, err := f.BlobRepositories(t.Context(), blob(1), "", 10)
	must(t, err)
	wantEqual(t, "repositories of the blob", len(repositories), 0)
	all, _, err := f.Referrers(t.Context(), "a", one.Digest, "", "", 10)
	must(t, err)
	wantEqual(t, "referrers", len(all), 0)
	repositories, err = f.Repositories(t.Context(), "", 10)
	must(t, err)
	wantEqual(t, "repositories", len(repositories), 0)
	f.wantNoManifest(t, "a", one)
}

func testPurge(t *testing.T, f *fixture) {
	key := f.push(t, "a", blob(1))
	one := tagged(image("one", blob(1)), "x")
	f.put(t, "a", one)
	f.remove(t, "a", one.Digest)
	f.endLease(t, "a", blob(1))
	f.wantCollected(t, 0, 0)
	if done, err := f.PurgeTrash(t.Context(), 10); err != nil || done != (metadata.Purged{}) {
		t.Errorf("before its time: %+v, %v", done, err)
	}
	wantEqual(t, "purged", f.endTrash(t), metadata.Purged{Manifests: 1, States: 1})
	wantError(t, "restore", f.RestoreTag(t.Context(), "a", "x", one.Digest, "", false), metadata.ErrNotFound)
	f.wantCollected(t, 1, 1)
	f.wantUse(t, key, "dead")
}

// testPurgeKeepsChildren keeps what an index in the trash lists for as long as that is there, though it was deleted before.
func testPurgeKeepsChildren(t *testing.T, f *fixture) {
	child := image("child")
	list := tagged(index("list", child.Digest), "x")
	f.put(t, "a", child)
	f.put(t, "a", list)
	f.remove(t, "a", list.Digest)
	f.remove(t, "a", child.Digest)
	f.exec(t, 1, `UPDATE manifests SET deleted_at = 1 WHERE digest = $1`, encoded(child.Digest))
	if done, err := f.PurgeTrash(t.Context(), 10); err != nil || done.Manifests != 0 {
		t.Errorf("%+v, %v", done, err)
	}
	f.restore(t, "a", "x", list.Digest)
	f.wantManifest(t, "a", child)
}

func testDeleteNow(t *testing.T, f *fixture) {
	f.push(t, "a", blob(1))
	one, two := tagged(image("one", blob(1)), "x"), tagged(image("two", blob(1)), "y")
	f.put(t, "a", one)
	f.put(t, "a", two)
	must(t, f.DeleteManifest(t.Context(), "a", one.Digest, metadata.Deletion{Now: true}))
	must(t, f.DeleteTag(t.Context(), "a", "y", metadata.Deletion{Now: true}))
	for _, tag := range []string{"x", "y"} {
		_, err := f.TagHistory(t.Context(), "a", tag, 10)
		wantError(t, "history of "+tag, err, metadata.ErrNotFound)
	}
	wantError(t, "restore", f.RestoreTag(t.Context(), "a", "x", one.Digest, "", false), metadata.ErrNotFound)
	must(t, f.DeleteManifest(t.Context(), "a", two.Digest, metadata.Deletion{Now: true}))
	f.endLease(t, "a", blob(1))
	f.wantCollected(t, 1, 1)
}

// testDeleteSparse takes a manifest from under its index, and brings it back there.
func testDeleteSparse(t *testing.T, f *fixture) {
	child := image("child")
	list := index("list", child.Digest)
	f.put(t, "a", child)
	f.put(t, "a", list)
	wantInUse(t, "delete", f.DeleteManifest(t.Context(), "a", child.Digest, metadata.Deletion{}), list.Digest)
	must(t, f.DeleteManifest(t.Context(), "a", child.Digest, metadata.Deletion{Sparse: true}))
	f.wantNoManifest(t, "a", child)
	f.wantManifest(t, "a", list)
	sparse := index("list", child.Digest)
	sparse.Children[0].Optional = true
	f.wantChildren(t, "a", sparse)
	f.restore(t, "a", "x", child.Digest)
	f.wantChildren(t, "a", list)
}

func testImmutable(t *testing.T, f *fixture) {
	one, two := tagged(image("one"), "x"), tagged(image("two"), "y", "x")
	one.Immutable = func(tag string) bool { return tag == "x" }
	two.Immutable = one.Immutable
	f.put(t, "a", one)
	f.put(t, "a", one)
	var immutable *metadata.ImmutableError
	for what, err := range map[string]error{
		"push":    f.PutManifest(t.Context(), "a", two),
		"restore": f.RestoreTag(t.Context(), "a", "x", two.Digest, "", true),
	} {
		if what == "restore" {
			wantError(t, what, err, metadata.ErrNotFound) // nothing of the push happened
		} else if !errors.As(err, &immutable) || *immutable != (metadata.ImmutableError{Tag: "x", Digest: one.Digest}) {
			t.Errorf("%s: %v", what, err)
		}
	}
	f.put(t, "a", tagged(image("two"), "y"))
	if err := f.RestoreTag(t.Context(), "a", "x", two.Digest, "", true); !errors.As(err, &immutable) {
		t.Errorf("restore: %v", err)
	}
	f.wantManifest(t, "a", one)
	must(t, f.DeleteTag(t.Context(), "a", "x", metadata.Deletion{}))
	f.put(t, "a", two)
	f.wantManifest(t, "a", two)
}

// testUntaggedInTrash leaves alone what a tag pointed to lately, and what something in the trash needs.
func testUntaggedInTrash(t *testing.T, f *fixture) {
	moved, plain, child, signature := tagged(image("moved"), "x"), image("plain"), image("child"), image("signature")
	list := index("list", child.Digest)
	signature.Subject = list.Digest
	for _, m := range []metadata.NewManifest{moved, plain, child, list, signature, tagged(image("new"), "x")} {
		f.put(t, "a", m)
	}
	f.remove(t, "a", list.Digest)
	f.exec(t, 6, `UPDATE manifests SET pushed_at = 1`)
	removed := func() (all []digest.Digest) {
		some, err := f.DeleteUntagged(t.Context(), false, metadata.Deletion{}, metadata.UntaggedManifest{}, 100)
		must(t, err)
		for _, m := range some {
			all = append(all, m.Digest)
		}
		return all
	}
	wantEqual(t, "removed", removed(), []digest.Digest{plain.Digest})
	f.restore(t, "a", "back", plain.Digest)
	f.endTrash(t)
	wantEqual(t, "removed when the trash is empty", removed(), []digest.Digest{moved.Digest, child.Digest, signature.Digest})
}

func testDeleteRepository(t *testing.T, f *fixture) {
	key := f.push(t, "a", blob(1))
	f.push(t, "a", blob(2))
	f.push(t, "b", blob(1))
	child := image("child", blob(1))
	list := tagged(index("list", child.Digest), "x", "y")
	for _, repository := range []string{"a", "b"} {
		f.put(t, repository, child)
		f.put(t, repository, list)
	}
	_, err := f.DeleteRepository(t.Context(), "c", metadata.Deletion{})
	wantError(t, "delete no repository", err, metadata.ErrNotFound)
	done, err := f.DeleteRepository(t.Context(), "a", metadata.Deletion{User: "remover"})
	must(t, err)
	wantEqual(t, "deleted", done, metadata.DeletedRepository{Tags: 2, Manifests: 2, Blobs: 2})
	_, err = f.DeleteRepository(t.Context(), "a", metadata.Deletion{})
	wantError(t, "delete again", err, metadata.ErrNotFound)
	f.wantNoManifest(t, "a", list)
	for _, d := range []digest.Digest{blob(1), blob(2)} {
		_, err := f.Blob(t.Context(), "a", d)
		wantError(t, "blob", err, metadata.ErrNotFound)
	}
	_, err = f.Tags(t.Context(), "a", "", 10)
	wantError(t, "tags", err, metadata.ErrNotFound)
	f.wantManifest(t, "b", list)
	f.restore(t, "a", "x", list.Digest)
	f.wantManifest(t, "a", child)
	f.wantBlob(t, blob(1), key, "a", "b")
	for _, repository := range []string{"a", "b"} {
		_, err := f.DeleteRepository(t.Context(), repository, metadata.Deletion{Now: true})
		must(t, err)
	}
	f.wantUse(t, key, "dead")
	wantEqual(t, "rows of manifests", f.number(t, `SELECT count(*) FROM manifests`), int64(0))
	wantEqual(t, "states of tags", f.number(t, `SELECT count(*) FROM tag_history`), int64(0))
}

func testTrashCounts(t *testing.T, f *fixture) {
	for i := range 3 {
		f.push(t, "a", blob(i))
	}
	one, two := tagged(image("one", blob(0), blob(1)), "x"), tagged(image("two", blob(1), blob(2)), "x")
	f.put(t, "a", one)
	f.put(t, "a", two)
	if k, err := f.Trash(t.Context()); err != nil || k != (metadata.Trash{States: 1}) {
		t.Errorf("%+v, %v", k, err)
	}
	f.remove(t, "a", one.Digest)
	k, err := f.Trash(t.Context())
	must(t, err)
	if left := time.Until(k.Next); left < 50*time.Minute || left > 70*time.Minute {
		t.Errorf("it leaves the trash in %s", left)
	}
	k.Next = time.Time{}
	wantEqual(t, "trash", k, metadata.Trash{Manifests: 1, States: 1, Bytes: blobSize})
	restorable, space := f.Returns(metadata.Deletion{})
	wantEqual(t, "restorable", restorable, time.Hour)
	wantEqual(t, "space", space, 48*time.Hour) // the lease and the grace
	if restorable, _ = f.Returns(metadata.Deletion{Now: true}); restorable != 0 {
		t.Errorf("deleted now, and restorable for %s", restorable)
	}
}
