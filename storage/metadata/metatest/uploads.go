package metatest

import (
	"testing"
	"time"

	"berth/storage"
	"berth/storage/metadata"

	"github.com/opencontainers/go-digest"
)

func uploadTests() suite {
	return suite{
		{"Start", testStartUpload},
		{"Unknown", testUnknownUpload},
		{"Claim", testClaim},
		{"Checkpoint", testCheckpoint},
		{"Commit", testCommit},
		{"CommitKnown", testCommitKnown},
		{"Cancel", testCancel},
		{"Expire", testExpire},
		{"ExpireAfter", testExpireAfter},
		{"ExpirePage", testExpirePage},
		{"Pin", testPin},
		{"Unpin", testUnpin},
		{"Unclaimed", testUnclaimed},
	}
}

func testStartUpload(t *testing.T, f *fixture) {
	for _, algorithm := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
		id := f.newID()
		u, err := f.StartUpload(t.Context(), id, "a/b", algorithm, "")
		must(t, err)
		must(t, storage.CheckKey(u.Key))
		wantEqual(t, "start", u, metadata.Upload{ID: id, Repository: "a/b", Epoch: 1, Key: u.Key, Algorithm: algorithm})
		f.wantUpload(t, u)
		f.wantUse(t, u.Key, "upload")
		if _, err := f.StartUpload(t.Context(), id, "other", algorithm, ""); err == nil {
			t.Error("a second upload has the same id")
		}
	}
}

// wantUpload fails unless the session is as want says.
func (f *fixture) wantUpload(t *testing.T, want metadata.Upload) {
	t.Helper()
	got, err := f.Upload(t.Context(), want.Repository, want.ID)
	must(t, err)
	wantEqual(t, "upload", got, want)
}

func (f *fixture) claim(t *testing.T, u metadata.Upload, declared digest.Digest) metadata.Upload {
	t.Helper()
	claimed, err := f.ClaimUpload(t.Context(), u.Repository, u.ID, declared)
	must(t, err)
	return claimed
}

func testUnknownUpload(t *testing.T, f *fixture) {
	u := f.start(t, "a")
	f.start(t, "b")
	for _, where := range []struct{ repository, id string }{{"a", "nothing"}, {"b", u.ID}, {"nowhere", u.ID}} {
		_, err := f.Upload(t.Context(), where.repository, where.id)
		wantError(t, "look up", err, metadata.ErrNotFound)
		_, err = f.ClaimUpload(t.Context(), where.repository, where.id, "")
		wantError(t, "claim", err, metadata.ErrNotFound)
		wantError(t, "cancel", f.CancelUpload(t.Context(), where.repository, where.id), metadata.ErrNotFound)
	}
	f.wantUpload(t, u)
	wantError(t, "checkpoint", f.CheckpointUpload(t.Context(), metadata.Upload{ID: "nothing", Epoch: 1}), metadata.ErrSuperseded)
	wantError(t, "commit", f.CommitUpload(t.Context(), metadata.Upload{ID: "nothing", Epoch: 1}, blob(1)), metadata.ErrSuperseded)
}

func testClaim(t *testing.T, f *fixture) {
	first := f.start(t, "a")
	second := f.claim(t, first, "")
	want := first
	want.Epoch = 2
	wantEqual(t, "claim", second, want)
	third := f.claim(t, first, blob(1)) // not held
	want.Epoch = 3
	wantEqual(t, "claim again", third, want)
	for _, older := range []metadata.Upload{first, second} {
		older.Size = 5
		wantError(t, "checkpoint of an older claim", f.CheckpointUpload(t.Context(), older), metadata.ErrSuperseded)
		wantError(t, "commit of an older claim", f.CommitUpload(t.Context(), older, blob(1)), metadata.ErrSuperseded)
	}
	f.wantUpload(t, third)
	_, err := f.Blob(t.Context(), "a", blob(1))
	wantError(t, "blob of a refused commit", err, metadata.ErrNotFound)
	must(t, f.CommitUpload(t.Context(), third, blob(1)))
}

func testCheckpoint(t *testing.T, f *fixture) {
	created := time.Date(2021, 2, 3, 4, 5, 6, 789, time.UTC)
	u := f.start(t, "a")
	for _, c := range []metadata.Upload{
		{Size: 1},
		{Size: 1 << 40, State: []byte("parts"), HashState: []byte{0, 1, 255}},
		{Size: 10, Config: &metadata.ImageConfig{}},
		{Size: 11, Config: &metadata.ImageConfig{OS: "linux", Architecture: "arm", Variant: "v7", Created: created}},
		{Size: 0},
	} {
		u.Size, u.State, u.HashState, u.Config = c.Size, c.State, c.HashState, c.Config
		must(t, f.CheckpointUpload(t.Context(), u))
		must(t, f.CheckpointUpload(t.Context(), u)) // again
		f.wantUpload(t, u)
		u.Epoch++
		wantEqual(t, "claim", f.claim(t, u, ""), u)
	}
}

func testCommit(t *testing.T, f *fixture) {
	u := f.start(t, "a")
	u.Size, u.State, u.HashState, u.Config = 7, []byte("s"), []byte("h"), &metadata.ImageConfig{OS: "linux"}
	must(t, f.CheckpointUpload(t.Context(), u))
	u.Size = 9
	must(t, f.CommitUpload(t.Context(), u, blob(1)))
	got, err := f.Blob(t.Context(), "a", blob(1))
	must(t, err)
	wantEqual(t, "blob", got, metadata.Blob{Digest: blob(1), Key: u.Key, Size: 9})
	f.wantUse(t, u.Key, "blob")

	finished := metadata.Upload{ID: u.ID, Repository: "a", Epoch: 1, Size: 9, Algorithm: digest.SHA256, Committed: blob(1)}
	f.wantUpload(t, finished)
	wantEqual(t, "claim of a finished upload", f.claim(t, u, blob(1)), finished)
	wantError(t, "checkpoint", f.CheckpointUpload(t.Context(), u), metadata.ErrSuperseded)
	wantError(t, "commit again", f.CommitUpload(t.Context(), u, blob(1)), metadata.ErrSuperseded)
	wantError(t, "commit to another digest", f.CommitUpload(t.Context(), u, blob(2)), metadata.ErrSuperseded)
	wantError(t, "cancel", f.CancelUpload(t.Context(), "a", u.ID), metadata.ErrNotFound)
	f.wantUpload(t, finished)

	// Its time comes too.
	f.expire(t, u)
	f.wantExpired(t, u)
	f.wantUse(t, u.Key, "blob")
}

func testCommitKnown(t *testing.T, f *fixture) {
	first := f.push(t, "a", blob(1))
	second := f.push(t, "b", blob(1))
	third := f.push(t, "b", blob(1))
	for _, repository := range []string{"a", "b"} {
		got, err := f.Blob(t.Context(), repository, blob(1))
		must(t, err)
		wantEqual(t, "blob", got, metadata.Blob{Digest: blob(1), Key: first, Size: blobSize})
	}
	f.wantUse(t, first, "blob")
	f.wantDeadNow(t, second, third) // nobody can be reading these
}

func testCancel(t *testing.T, f *fixture) {
	u := f.start(t, "a")
	must(t, f.CancelUpload(t.Context(), "a", u.ID))
	f.wantDeadNow(t, u.Key)
	_, err := f.Upload(t.Context(), "a", u.ID)
	wantError(t, "look up", err, metadata.ErrNotFound)
	_, err = f.ClaimUpload(t.Context(), "a", u.ID, "")
	wantError(t, "claim", err, metadata.ErrNotFound)
	wantError(t, "cancel again", f.CancelUpload(t.Context(), "a", u.ID), metadata.ErrNotFound)
	wantError(t, "checkpoint", f.CheckpointUpload(t.Context(), u), metadata.ErrSuperseded)
	wantError(t, "commit", f.CommitUpload(t.Context(), u, blob(1)), metadata.ErrSuperseded)
}

// expire lets the time of a session pass.
func (f *fixture) expire(t *testing.T, u metadata.Upload) {
	t.Helper()
	f.exec(t, 1, `UPDATE uploads SET expires_at = started_at WHERE id = $1`, u.ID)
}

func (f *fixture) wantExpired(t *testing.T, u metadata.Upload) {
	t.Helper()
	n, err := f.ExpireUploads(t.Context(), false, 10)
	must(t, err)
	if n != 1 {
		t.Errorf("%d uploads expired instead of one", n)
	}
	_, err = f.Upload(t.Context(), u.Repository, u.ID)
	wantError(t, "look up", err, metadata.ErrNotFound)
}

// testExpire has whatever shows that a session is in use prolong its life.
func testExpire(t *testing.T, f *fixture) {
	other := f.start(t, "a")
	for name, use := range map[string]func(metadata.Upload) error{
		"claim": func(u metadata.Upload) error {
			_, err := f.ClaimUpload(t.Context(), "a", u.ID, "")
			return err
		},
		"checkpoint": func(u metadata.Upload) error { return f.CheckpointUpload(t.Context(), u) },
		"commit":     func(u metadata.Upload) error { return f.CommitUpload(t.Context(), u, blob(1)) },
	} {
		u := f.start(t, "a")
		f.expire(t, u)
		must(t, use(u))
		if n, err := f.ExpireUploads(t.Context(), false, 10); n != 0 || err != nil {
			t.Errorf("%d uploads expired after a %s: %v", n, name, err)
		}
	}
	u := f.start(t, "a")
	f.expire(t, u)
	f.wantExpired(t, u)
	f.wantDeadNow(t, u.Key)
	f.wantUpload(t, other)
}

func testExpireAfter(t *testing.T, f *fixture) {
	f = newFixture(t, f.open, metadata.Config{UploadExpiry: time.Millisecond})
	u := f.start(t, "a")
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		n, err := f.ExpireUploads(t.Context(), false, 10)
		must(t, err)
		if n == 1 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the upload does not expire")
		}
	}
	f.wantDeadNow(t, u.Key)
	f.audit(t)
}

func testExpirePage(t *testing.T, f *fixture) {
	for range 5 {
		f.expire(t, f.start(t, "a"))
	}
	for _, want := range []int{2, 2, 1, 0} {
		if n, err := f.ExpireUploads(t.Context(), false, 2); n != want || err != nil {
			t.Errorf("%d uploads expired instead of %d: %v", n, want, err)
		}
	}
}

// testPin declares digests, held and not, where that is possible.
func testPin(t *testing.T, f *fixture) {
	held := f.push(t, "a", blob(1))
	start := func(declared digest.Digest) metadata.Upload {
		u, err := f.StartUpload(t.Context(), f.newID(), "b", digest.SHA256, declared)
		must(t, err)
		return u
	}
	written := f.start(t, "b")
	written.Size = 3
	must(t, f.CheckpointUpload(t.Context(), written))
	for _, test := range []struct {
		name        string
		u           metadata.Upload
		pinned      digest.Digest
		hasKey      bool
		keyOfCommit string // under which the blob is in the end
	}{
		{"start held", start(blob(1)), blob(1), false, held},
		{"start unknown", start(blob(2)), "", true, ""},
		{"claim held", f.claim(t, start(""), blob(1)), blob(1), true, held},
		{"claim unknown", f.claim(t, start(""), blob(3)), "", true, ""},
		{"claim with bytes", f.claim(t, written, blob(1)), "", true, held},
		{"claim the pinned again", f.claim(t, start(blob(1)), blob(1)), blob(1), false, held},
		{"claim without the pinned", f.claim(t, start(blob(1)), ""), "", true, held},
	} {
		t.Run(test.name, func(t *testing.T) {
			u := test.u
			if u.Pinned != test.pinned || (u.Key != "") != test.hasKey {
				t.Errorf("%+v", u)
			}
			f.wantUpload(t, u)
			f.commitPinned(t, u, held)
		})
	}
}

// commitPinned commits an upload, of the blob that it pins or of blob 1, which was pushed under the key held.
func (f *fixture) commitPinned(t *testing.T, u metadata.Upload, held string) {
	t.Helper()
	u.Size = blobSize
	must(t, f.CommitUpload(t.Context(), u, blob(1)))
	got, err := f.Blob(t.Context(), "b", blob(1))
	must(t, err)
	wantEqual(t, "blob", got, metadata.Blob{Digest: blob(1), Key: held, Size: blobSize})
	if u.Key != "" {
		f.wantUse(t, u.Key, "dead")
	}
	must(t, f.DeleteBlob(t.Context(), "b", blob(1)))
	f.wantUse(t, held, "blob")
}

// testUnpin deletes a blob that an upload pins: it stays, unseen, until the pin goes.
func testUnpin(t *testing.T, f *fixture) {
	for i, test := range []struct {
		name  string
		unpin func(u metadata.Upload) error
	}{
		{"cancel", func(u metadata.Upload) error { return f.CancelUpload(t.Context(), "b", u.ID) }},
		{"expire", func(u metadata.Upload) error {
			f.expire(t, u)
			_, err := f.ExpireUploads(t.Context(), false, 10)
			return err
		}},
		{"claim", func(u metadata.Upload) error {
			_, err := f.ClaimUpload(t.Context(), "b", u.ID, "")
			return err
		}},
		{"commit to another digest", func(u metadata.Upload) error { return f.CommitUpload(t.Context(), u, blob(100)) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := blob(i)
			key := f.push(t, "a", d)
			u := f.claim(t, f.start(t, "b"), d)
			_, err := f.Blob(t.Context(), "b", d)
			wantError(t, "a pinned blob", err, metadata.ErrNotFound)
			must(t, f.DeleteBlob(t.Context(), "a", d))
			f.wantUse(t, key, "blob")
			must(t, test.unpin(u))
			f.wantDeadLater(t, key)
		})
	}
	t.Run("commit", func(t *testing.T) {
		key := f.push(t, "a", blob(50))
		u := f.claim(t, f.start(t, "b"), blob(50))
		must(t, f.DeleteBlob(t.Context(), "a", blob(50)))
		must(t, f.CommitUpload(t.Context(), u, blob(50)))
		f.wantUse(t, key, "blob")
		got, err := f.Blob(t.Context(), "b", blob(50))
		must(t, err)
		wantEqual(t, "key", got.Key, key)
	})
}

// wantDeadNow fails unless keys may be deleted at once.
func (f *fixture) wantDeadNow(t *testing.T, keys ...string) {
	t.Helper()
	for _, key := range keys {
		f.wantUse(t, key, "dead")
		if !f.deadNow(t, key) {
			t.Errorf("key %s is dead but may not be deleted yet", key)
		}
	}
}

// wantDeadLater fails unless keys may be deleted after Config.Grace and not before.
func (f *fixture) wantDeadLater(t *testing.T, keys ...string) {
	t.Helper()
	for _, key := range keys {
		f.wantUse(t, key, "dead")
		if f.deadNow(t, key) {
			t.Errorf("key %s may be deleted at once", key)
		}
		f.exec(t, 1, `UPDATE dead_keys SET delete_after = delete_after - $1 WHERE key = $2`, day.Milliseconds(), key)
		if !f.deadNow(t, key) {
			t.Errorf("key %s may not be deleted after the grace", key)
		}
	}
}

// day is the default of Config.Lease and Config.Grace.
const day = 24 * time.Hour

func (f *fixture) deadNow(t *testing.T, key string) bool {
	t.Helper()
	return f.number(t, `SELECT count(*) FROM dead_keys WHERE key = $1 AND delete_after <= $2`, key, time.Now().UnixMilli()) == 1
}

// testUnclaimed commits a session that was read and not claimed: it is as it was read, or the commit fails.
func testUnclaimed(t *testing.T, f *fixture) {
	ctx := t.Context()
	begun := func() metadata.Upload {
		u := f.start(t, "a")
		u.Size, u.HashState = 10, []byte("so far")
		must(t, f.CheckpointUpload(ctx, u))
		read, err := f.Upload(ctx, "a", u.ID)
		must(t, err)
		read.Unclaimed = true
		return read
	}
	u := begun()
	must(t, f.CommitUpload(ctx, u, blob(1)))
	f.wantUse(t, u.Key, "blob")
	wantError(t, "commit again", f.CommitUpload(ctx, u, blob(1)), metadata.ErrSuperseded)

	u = begun()
	more := u
	more.Size = 20
	must(t, f.CheckpointUpload(ctx, more))
	wantError(t, "commit after a checkpoint", f.CommitUpload(ctx, u, blob(2)), metadata.ErrSuperseded)

	u = begun()
	claimed, err := f.ClaimUpload(ctx, "a", u.ID, "")
	must(t, err)
	wantError(t, "commit after a claim", f.CommitUpload(ctx, u, blob(3)), metadata.ErrSuperseded)
	must(t, f.CommitUpload(ctx, claimed, blob(3)))
}
