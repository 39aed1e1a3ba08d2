package metatest

import (
	"slices"
	"testing"
	"time"

	"berth/storage/metadata"
)

func keyTests() suite {
	return suite{
		{"Differ", testKeysDiffer},
		{"Uses", testKeyUses},
		{"Dead", testDeadKeys},
		{"Forget", testForgetKeys},
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
	for limit, want := range [][]string{nil, {first}, {first, second}, {first, second, third}, {first, second, third}} {
		got, err := f.DeadKeys(t.Context(), limit)
		must(t, err)
		wantEqual(t, "dead keys", got, want)
	}
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
		if n, err := f.BuryOrphans(t.Context(), keys); n != want || err != nil {
			t.Errorf("%d orphans buried instead of %d: %v", n, want, err)
		}
	}
	f.wantDeadNow(t, "blobs/x/1", "blobs/x/2")
	f.wantDeadLater(t, dead)
	f.wantUse(t, stored, "blob")
	f.wantUse(t, open, "upload")
	if n, err := f.BuryOrphans(t.Context(), nil); n != 0 || err != nil {
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
