package metatest

import (
	"testing"
	"time"

	"berth/storage/metadata"

	"github.com/opencontainers/go-digest"
)

func quarantineTests() suite {
	return suite{
		{"Absent", testQuarantineAbsent},
		{"References", testQuarantineReferences},
		{"Heal", testQuarantineHeal},
		{"HealConfig", testQuarantineHealConfig},
		{"End", testQuarantineEnd},
		{"Replaced", testQuarantineReplaced},
		{"Pinned", testQuarantinePinned},
		{"Collect", testQuarantineCollect},
		{"Snapshot", testQuarantineSnapshot},
	}
}

// quarantine quarantines a blob.
func (f *fixture) quarantine(t *testing.T, d digest.Digest, key string) {
	t.Helper()
	done, err := f.Quarantine(t.Context(), d, key)
	must(t, err)
	if !done {
		t.Fatalf("%s is not quarantined", d)
	}
}

// wantAbsent fails unless a blob is quarantined for all who ask for it in a repository that has it.
func (f *fixture) wantAbsent(t *testing.T, repository string, d digest.Digest) {
	t.Helper()
	_, err := f.Blob(t.Context(), repository, d)
	wantError(t, "blob", err, metadata.ErrQuarantined)
	wantError(t, "blob", err, metadata.ErrNotFound)
	_, err = f.LeaseBlob(t.Context(), repository, d)
	wantError(t, "lease", err, metadata.ErrQuarantined)
	wantError(t, "mount", f.MountBlob(t.Context(), "mounted", repository, d), metadata.ErrNotFound)
	_, err = f.ConfigPlatform(t.Context(), repository, d)
	wantError(t, "platform", err, metadata.ErrNotFound)
	u, err := f.StartUpload(t.Context(), f.newID(), repository, digest.SHA256, d)
	must(t, err)
	if u.Pinned != "" || u.Key == "" {
		t.Errorf("an upload pins what is quarantined: %+v", u)
	}
	if u = f.claim(t, u, d); u.Pinned != "" || u.Key == "" {
		t.Errorf("a claim pins what is quarantined: %+v", u)
	}
}

func testQuarantineAbsent(t *testing.T, f *fixture) {
	key := f.push(t, "a", blob(1))
	other := f.push(t, "a", blob(2))
	must(t, f.MountBlob(t.Context(), "b", "a", blob(1)))
	before := f.number(t, `SELECT max(stored_at) FROM blobs`)
	f.quarantine(t, blob(1), key)
	f.wantAbsent(t, "a", blob(1))
	f.wantAbsent(t, "b", blob(1))
	_, err := f.Blob(t.Context(), "c", blob(1))
	if wantError(t, "in another repository", err, metadata.ErrNotFound); err == metadata.ErrQuarantined {
		t.Error("a repository tells of a blob that it does not have")
	}
	f.wantBlob(t, blob(2), other, "a")
	f.wantUse(t, key, "blob")
	all, err := f.Blobs(t.Context(), "", 10)
	must(t, err)
	for _, b := range all {
		if quarantined := b.Digest == blob(1); quarantined == b.Quarantined.IsZero() || quarantined && b.Quarantined.UnixMilli() < before {
			t.Errorf("%+v", b)
		}
	}
	names, err := f.BlobRepositories(t.Context(), blob(1), "", 10)
	must(t, err)
	wantEqual(t, "repositories", names, []string{"a", "b"})
}

// testQuarantineReferences keeps what references the blob, and accepts nothing new that needs it.
func testQuarantineReferences(t *testing.T, f *fixture) {
	key := f.push(t, "a", blob(1))
	other := f.push(t, "a", blob(2))
	one := tagged(image("one", blob(1)), "latest")
	f.put(t, "a", one)
	f.quarantine(t, blob(1), key)
	f.wantManifest(t, "a", one)
	f.put(t, "a", tagged(one, "again")) // it is there
	wantInUse(t, "delete", f.DeleteBlob(t.Context(), "a", blob(1)), one.Digest)
	two := image("two", blob(2), blob(1), blob(3), blob(1))
	wantEqual(t, "put", f.PutManifest(t.Context(), "a", two), error(&metadata.MissingError{Blobs: []digest.Digest{blob(1), blob(3)}}))
	f.wantNoManifest(t, "a", two)
	sparse := image("sparse", blob(2), blob(1))
	sparse.Blobs[1].Optional = true
	f.put(t, "a", sparse)
	wantInUse(t, "delete", f.DeleteBlob(t.Context(), "a", blob(1)), one.Digest, sparse.Digest)
	f.wantUse(t, other, "blob")
}

// testQuarantineHeal pushes the content again, to one repository: it is back in all.
func testQuarantineHeal(t *testing.T, f *fixture) {
	first := f.push(t, "a", blob(1))
	must(t, f.MountBlob(t.Context(), "b", "a", blob(1)))
	f.quarantine(t, blob(1), first)
	second := f.push(t, "c", blob(1))
	f.wantBlob(t, blob(1), second, "a", "b", "c")
	f.wantDeadLater(t, first)
	third := f.push(t, "a", blob(1)) // which is a push of what is there, as ever
	f.wantBlob(t, blob(1), second, "a", "b", "c")
	f.wantDeadNow(t, third)
	f.quarantine(t, blob(1), second) // and again
	f.wantAbsent(t, "a", blob(1))
	fourth := f.push(t, "a", blob(1))
	f.wantBlob(t, blob(1), fourth, "a", "b", "c")
	f.wantDeadLater(t, second)
}

// testQuarantineHealConfig records what the new bytes are, whatever was recorded of those that they replace.
func testQuarantineHealConfig(t *testing.T, f *fixture) {
	first := f.push(t, "a", blob(1))
	f.exec(t, 1, `UPDATE blobs SET size = 7, stored_at = 8`)
	f.quarantine(t, blob(1), first)
	f.pushConfig(t, "a", blob(1), &metadata.ImageConfig{OS: "linux", Architecture: "arm", Variant: "v7", Created: time.UnixMilli(9)})
	p, err := f.ConfigPlatform(t.Context(), "a", blob(1))
	must(t, err)
	wantEqual(t, "platform", p, metadata.Platform{OS: "linux", Architecture: "arm", Variant: "v7"})
	if f.number(t, `SELECT count(*) FROM blobs WHERE size = $1 AND stored_at > 8 AND created = 9`, blobSize) != 1 {
		t.Error("size and times are those of the bytes that were replaced")
	}
	if f.number(t, `SELECT stored_at FROM dead_keys WHERE key = $1`, first) != 8 {
		t.Error("the dead key does not say since when it was a blob's")
	}
}

func testQuarantineEnd(t *testing.T, f *fixture) {
	key := f.push(t, "a", blob(1))
	end := func(d digest.Digest, key string, want bool) {
		t.Helper()
		done, err := f.EndQuarantine(t.Context(), d, key)
		must(t, err)
		wantEqual(t, "ended", done, want)
	}
	end(blob(1), key, false)
	f.quarantine(t, blob(1), key)
	end(blob(1), "other", false)
	end(blob(2), key, false)
	f.wantAbsent(t, "a", blob(1))
	end(blob(1), key, true)
	end(blob(1), key, false)
	f.wantBlob(t, blob(1), key, "a")
}

// testQuarantineReplaced leaves a blob alone that is not what was looked at.
func testQuarantineReplaced(t *testing.T, f *fixture) {
	first := f.push(t, "a", blob(1))
	f.quarantine(t, blob(1), first)
	second := f.push(t, "a", blob(1))
	for _, test := range []struct {
		name string
		d    digest.Digest
		key  string
	}{
		{"healed since", blob(1), first}, {"of another blob", blob(2), second}, {"of no blob", blob(1), ""},
	} {
		done, err := f.Quarantine(t.Context(), test.d, test.key)
		must(t, err)
		if done {
			t.Errorf("%s: quarantined", test.name)
		}
	}
	f.wantBlob(t, blob(1), second, "a")
	f.quarantine(t, blob(1), second)
	since := f.number(t, `SELECT quarantined_at FROM blobs`)
	if done, err := f.Quarantine(t.Context(), blob(1), second); done || err != nil {
		t.Errorf("quarantined again: %t, %v", done, err)
	}
	wantEqual(t, "since", f.number(t, `SELECT quarantined_at FROM blobs`), since)
}

// testQuarantinePinned has a blob quarantined while a client sends what it has already: those bytes were thrown away.
func testQuarantinePinned(t *testing.T, f *fixture) {
	first := f.push(t, "a", blob(1))
	declared, err := f.StartUpload(t.Context(), f.newID(), "b", digest.SHA256, blob(1))
	must(t, err)
	late := f.claim(t, f.start(t, "b"), blob(1)) // which has a key all the same
	if declared.Pinned != blob(1) || late.Pinned != blob(1) {
		t.Fatalf("not pinned: %+v, %+v", declared, late)
	}
	f.quarantine(t, blob(1), first)
	for _, u := range []metadata.Upload{declared, late} {
		u.Size = blobSize
		for range 2 { // the session is as it was
			wantError(t, "commit", f.CommitUpload(t.Context(), u, blob(1)), metadata.ErrQuarantined)
		}
		_, err := f.Blob(t.Context(), "b", blob(1))
		wantError(t, "blob", err, metadata.ErrNotFound)
	}
	again := f.claim(t, declared, blob(1))
	if again.Pinned != "" || again.Key == "" {
		t.Fatalf("the next claim is %+v", again)
	}
	again.Size = blobSize
	must(t, f.CommitUpload(t.Context(), again, blob(1)))
	f.wantBlob(t, blob(1), again.Key, "a", "b")
	f.wantDeadLater(t, first)
	late.Size = blobSize
	must(t, f.CommitUpload(t.Context(), late, blob(1))) // its bytes are there again
	f.wantBlob(t, blob(1), again.Key, "a", "b")
}

// testQuarantineCollect has the collector remove a blob that is quarantined as any other.
func testQuarantineCollect(t *testing.T, f *fixture) {
	key := f.push(t, "a", blob(1))
	one := image("one", blob(1))
	f.put(t, "a", one)
	f.quarantine(t, blob(1), key)
	f.endLease(t, "a", blob(1))
	f.wantCollected(t, 0, 0)
	must(t, f.DeleteManifest(t.Context(), "a", one.Digest, metadata.Deletion{}))
	f.wantCollected(t, 1, 1)
	f.wantDeadLater(t, key)
	second := f.push(t, "a", blob(1))
	f.wantBlob(t, blob(1), second, "a")
}

// testQuarantineSnapshot keeps the bytes that a push replaced while a snapshot names them, damaged as they may be.
func testQuarantineSnapshot(t *testing.T, f *fixture) {
	first := f.push(t, "a", blob(1))
	name, err := f.StartBackup(t.Context())
	must(t, err)
	must(t, f.FinishBackup(t.Context(), name, 10))
	time.Sleep(2 * time.Millisecond) // the clock has milliseconds
	f.quarantine(t, blob(1), first)
	f.push(t, "a", blob(1))
	claim := func(want ...string) {
		t.Helper()
		f.exec(t, 1, `UPDATE dead_keys SET delete_after = 0`)
		got, err := f.ClaimDeadKeys(t.Context(), 10)
		must(t, err)
		wantEqual(t, "keys to delete", got, want)
	}
	claim()
	must(t, f.ForgetBackup(t.Context(), name))
	claim(first)
}
