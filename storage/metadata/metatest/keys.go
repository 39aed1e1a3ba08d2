package metatest

import (
	"errors"
	"slices"
	"testing"
	"time"

	"berth/storage/metadata"

	"github.com/opencontainers/go-digest"
)

func keyTests() suite {
	return suite{
		{"Differ", testKeysDiffer},
		{"Uses", testKeyUses},
		{"Dead", testDeadKeys},
		{"Forget", testForgetKeys},
		{"Kept", testKeptKeys},
		{"Move", testMoveBlob},
		{"BuryOrphans", testBuryOrphans},
		{"Generations", testGenerations},
		{"WrittenUploads", testWrittenUploads},
	}
}

func testKeysDiffer(t *testing.T, f *fixture) {
	seen := make(map[string]bool)
	for range 30 {
		u := f.start(t, "a")
		if seen[u.Key] {
			t.Fatalf("key %s is given out twice", u.Key)
		}
		seen[u.Key] = true
		must(t, f.CancelUpload(t.Context(), "a", u.ID))
		must(t, f.ForgetKeys(t.Context(), []string{u.Key}))
	}
}

func testKeyUses(t *testing.T, f *fixture) {
	stored := f.push(t, "a", blob(1))
	dead := f.push(t, "a", blob(1))
	open := f.start(t, "a")
	open.Size = 5
	must(t, f.CheckpointUpload(t.Context(), open))
	uses, err := f.KeyUses(t.Context(), []string{"nothing", dead, open.Key, stored, ""})
	must(t, err)
	wantEqual(t, "uses", uses, []metadata.KeyUse{
		{Key: dead, Use: "dead"},
		{Key: open.Key, Use: "upload", Size: 5},
		{Key: stored, Use: "blob", Size: blobSize},
	})
}

// kill cancels an upload and returns its key, which may be deleted since so long ago.
func (f *fixture) kill(t *testing.T, since time.Duration) string {
	t.Helper()
	u := f.start(t, "a")
	must(t, f.CancelUpload(t.Context(), "a", u.ID))
	f.exec(t, 1, `UPDATE dead_keys SET delete_after = delete_after - $1 WHERE key = $2`, since.Milliseconds(), u.Key)
	return u.Key
}

func testDeadKeys(t *testing.T, f *fixture) {
	second, third, first := f.kill(t, time.Hour), f.kill(t, time.Minute), f.kill(t, day)
	f.kill(t, -time.Hour) // not yet
	claim := func(limit int, want ...string) {
		t.Helper()
		got, err := f.ClaimDeadKeys(t.Context(), limit)
		must(t, err)
		wantEqual(t, "dead keys", got, want)
	}
	claim(0)
	claim(1, first)
	claim(1, second) // the first is somebody's for a while
	claim(5, third)
	claim(5)
	f.exec(t, 4, `UPDATE dead_keys SET delete_after = delete_after - $1`, (30 * time.Minute).Milliseconds())
	got, err := f.ClaimDeadKeys(t.Context(), 5)
	must(t, err)
	want := []string{first, second, third}
	slices.Sort(got)
	slices.Sort(want)
	wantEqual(t, "dead keys that somebody claimed long ago", got, want)
}

// testKeptKeys keeps the bytes of blobs that a snapshot names.
func testKeptKeys(t *testing.T, f *fixture) {
	remove := func(d digest.Digest) { must(t, f.DeleteBlob(t.Context(), "a", d)) }
	before, within := f.push(t, "a", blob(1)), f.push(t, "a", blob(2))
	remove(blob(1))
	time.Sleep(2 * time.Millisecond) // the clock has milliseconds
	name, err := f.StartBackup(t.Context())
	must(t, err)
	wantEqual(t, "use of the snapshot's key", f.uses(t, name), "backup")
	time.Sleep(2 * time.Millisecond)
	remove(blob(2)) // while the snapshot is made: it may be in there
	must(t, f.FinishBackup(t.Context(), name, 10))
	time.Sleep(2 * time.Millisecond)
	late := f.push(t, "a", blob(3))
	remove(blob(3))
	canceled := f.kill(t, 0)
	claim := func(want ...string) {
		t.Helper()
		_, err := f.sql.ExecContext(t.Context(), `UPDATE dead_keys SET delete_after = 0`)
		must(t, err)
		got, err := f.ClaimDeadKeys(t.Context(), 10)
		must(t, err)
		slices.Sort(got)
		slices.Sort(want)
		wantEqual(t, "keys to delete", got, want)
	}
	claim(before, late, canceled)
	if n, err := f.BuryOrphans(t.Context(), []string{"blobs/found/1", name}, 0); err != nil || n != 1 {
		t.Errorf("%d orphans, %v", n, err) // and a snapshot is none
	}
	claim(before, late, canceled)
	all, err := f.Backups(t.Context())
	must(t, err)
	if len(all) != 1 || all[0].Name != name || all[0].Size != 10 || all[0].Finished.IsZero() {
		t.Errorf("backups: %+v", all)
	}
	must(t, f.ForgetBackup(t.Context(), name))
	claim(before, within, late, canceled, "blobs/found/1")
	for range 2 {
		must(t, f.AdoptBackup(t.Context(), name, 20))
	}
	claim(canceled) // of one that was found it is not known how long it took
	if f.AdoptBackup(t.Context(), metadata.BackupPrefix+"something", 1) == nil {
		t.Error("something is adopted as a snapshot")
	}
}

func testMoveBlob(t *testing.T, f *fixture) {
	old := f.push(t, "a", blob(1))
	key, err := f.MoveBlob(t.Context(), blob(1))
	must(t, err)
	b, err := f.Blob(t.Context(), "a", blob(1))
	must(t, err)
	wantEqual(t, "the blob", b, metadata.Blob{Digest: blob(1), Key: key, Size: blobSize})
	if uses, err := f.KeyUses(t.Context(), []string{old}); key == old || len(uses) > 0 || err != nil {
		t.Errorf("from %s to %s: %+v, %v", old, key, uses, err)
	}
	if _, err := f.MoveBlob(t.Context(), blob(2)); !errors.Is(err, metadata.ErrNotFound) {
		t.Errorf("a blob that is not there: %v", err)
	}
}

// uses returns what a key is used for.
func (f *fixture) uses(t *testing.T, key string) string {
	t.Helper()
	uses, err := f.KeyUses(t.Context(), []string{key})
	must(t, err)
	if len(uses) != 1 {
		t.Fatalf("uses of %s: %+v", key, uses)
	}
	return uses[0].Use
}

func testForgetKeys(t *testing.T, f *fixture) {
	one, two := f.kill(t, 0), f.kill(t, 0)
	stored, open := f.push(t, "a", blob(1)), f.start(t, "a").Key
	must(t, f.ForgetKeys(t.Context(), nil))
	for range 2 {
		must(t, f.ForgetKeys(t.Context(), []string{one, stored, open, "nothing"}))
	}
	f.wantUse(t, one, "")
	f.wantUse(t, two, "dead")
	f.wantUse(t, stored, "blob")
	f.wantUse(t, open, "upload")
}

func testBuryOrphans(t *testing.T, f *fixture) {
	stored, dead, open := f.push(t, "a", blob(1)), f.kill(t, -time.Hour), f.start(t, "a").Key
	keys := []string{"blobs/x/1", stored, dead, "blobs/x/2", open, "blobs/x/1"}
	for _, want := range []int{2, 0} {
		if n, err := f.BuryOrphans(t.Context(), keys, 0); n != want || err != nil {
			t.Errorf("%d orphans buried instead of %d: %v", n, want, err)
		}
	}
	f.wantDeadNow(t, "blobs/x/1", "blobs/x/2")
	f.wantDeadLater(t, dead)
	f.wantUse(t, stored, "blob")
	f.wantUse(t, open, "upload")
	if n, err := f.BuryOrphans(t.Context(), nil, 0); n != 0 || err != nil {
		t.Errorf("%d of no orphans buried: %v", n, err)
	}
}

func testGenerations(t *testing.T, f *fixture) {
	want := func(prefixes ...string) {
		t.Helper()
		got, err := f.UnclosedGenerations(t.Context())
		must(t, err)
		wantEqual(t, "unclosed generations", got, prefixes)
	}
	want() // its own is none of them
	for i, prefix := range []string{"blobs/second", "blobs/first"} {
		f.exec(t, 1, `INSERT INTO generations (prefix, opened_at) VALUES ($1, $2)`, prefix, 2-i)
	}
	f.exec(t, 1, `INSERT INTO generations (prefix, opened_at, closed_at) VALUES ('blobs/closed', 0, 1)`)
	want("blobs/first", "blobs/second")
	must(t, f.CloseGeneration(t.Context(), "blobs/first"))
	must(t, f.CloseGeneration(t.Context(), "blobs/nothing"))
	want("blobs/second")
	must(t, f.CloseGeneration(t.Context(), "blobs/second"))
	want()
}

func testWrittenUploads(t *testing.T, f *fixture) {
	f.push(t, "a", blob(1))
	f.start(t, "a") // nothing written
	var want []metadata.KeyUse
	for i := range 3 {
		u := f.start(t, "a")
		u.Size = int64(10 + i)
		must(t, f.CheckpointUpload(t.Context(), u))
		want = append(want, metadata.KeyUse{Key: u.Key, Use: "upload", Size: u.Size})
	}
	got, err := f.WrittenUploads(t.Context())
	must(t, err)
	slices.SortFunc(want, func(a, b metadata.KeyUse) int { return int(a.Size - b.Size) })
	slices.SortFunc(got, func(a, b metadata.KeyUse) int { return int(a.Size - b.Size) })
	wantEqual(t, "written uploads", got, want)
}
