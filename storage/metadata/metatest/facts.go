package metatest

import (
	"context"
	"strings"
	"testing"
	"time"

	"berth/storage/metadata"
)

func factTests() suite {
	return suite{
		{"Ping", func(t *testing.T, f *fixture) { must(t, f.Ping(t.Context())) }},
		{"Settings", testSettings},
		{"Clock", testClock},

		{"Cancelled", testCancelled},
		{"Audit", testAudit},
		{"Mend", testMend},
	}
}

func testSettings(t *testing.T, f *fixture) {
	got, err := f.Setting(t.Context(), "x")
	must(t, err)
	wantEqual(t, "a setting that nobody made", got, []byte(nil))
	for _, value := range []string{"first", "second"} {
		got, err := f.SetSettingOnce(t.Context(), "x", []byte(value))
		must(t, err)
		wantEqual(t, "set once", string(got), "first")
	}
	got, err = f.Setting(t.Context(), "x")
	must(t, err)
	wantEqual(t, "setting", string(got), "first")
}

// wantNoted reads the clock and fails unless want was noted last.
func (f *fixture) wantNoted(t *testing.T, want time.Time) (now time.Time) {
	t.Helper()
	now, noted, err := f.Clock(t.Context())
	must(t, err)
	if !noted.Equal(want) {
		t.Errorf("%s is noted, want %s", noted, want)
	}
	return now
}

func testClock(t *testing.T, f *fixture) {
	first := f.wantNoted(t, time.Time{})
	if time.Since(first).Abs() > time.Minute {
		t.Errorf("the clock says %s", first)
	}
	if second := f.wantNoted(t, time.Time{}); second.Before(first) { // looking notes nothing
		t.Errorf("%s after %s", second, first)
	}
	for _, noted := range []time.Time{first, first.Add(time.Hour), first} { // a wrong one can be taken back
		must(t, f.NoteClock(t.Context(), noted))
		f.wantNoted(t, noted)
	}
	f.exec(t, 1, `UPDATE settings SET value = $1 WHERE name = 'clock'`, []byte("x"))
	if _, _, err := f.Clock(t.Context()); err == nil || !strings.Contains(err.Error(), "clock") {
		t.Errorf("a clock that is no number: %v", err)
	}
}

// testCancelled has nothing happen for a caller who is gone.
func testCancelled(t *testing.T, f *fixture) {
	f.push(t, "a", blob(1))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := f.Blob(ctx, "a", blob(1))
	wantError(t, "read", err, context.Canceled)
	wantError(t, "write", f.PutManifest(ctx, "a", image("one")), context.Canceled)
	f.wantNoManifest(t, "a", image("one"))
}

// testAudit makes contradictions, each of which the audit has to find, and takes them back.
func testAudit(t *testing.T, f *fixture) {
	key := f.push(t, "a", blob(1))
	f.push(t, "a", blob(2))
	u := f.start(t, "a")
	f.put(t, "a", image("one", blob(2)))
	f.put(t, "a", index("two", image("one").Digest))
	for _, test := range []struct {
		name            string
		contradict, fix string
		arg             any
	}{
		{"a key in two places",
			`INSERT INTO dead_keys (key, delete_after) VALUES ($1, 0)`, `DELETE FROM dead_keys WHERE key = $1`, key},
		{"an upload without a key",
			`UPDATE uploads SET key = NULL WHERE id = $1`, `UPDATE uploads SET key = 'x' WHERE id = $1`, u.ID},
		{"a link that is not queued",
			`UPDATE gc_queue SET repository = -repository WHERE digest = $1`,
			`UPDATE gc_queue SET repository = -repository WHERE digest = $1`, encoded(blob(1))},
		{"an edge that waits for a blob that is there",
			`UPDATE manifest_blobs SET linked = NULL WHERE digest = $1`,
			`UPDATE manifest_blobs SET linked = digest WHERE digest = $1`, encoded(blob(2))},
		{"an edge that waits for a manifest that is there",
			`UPDATE manifest_children SET child = NULL WHERE digest = $1`,
			`UPDATE manifest_children SET child = (SELECT id FROM manifests WHERE digest = $1)`, encoded(image("one").Digest)},
		{"a blob that nobody has",
			`INSERT INTO blobs (digest, key, size, stored_at) VALUES ($1, 'unused', 0, 0)`,
			`DELETE FROM blobs WHERE digest = $1`, encoded(blob(3))},
		{"a manifest without a body",
			`INSERT INTO manifests (id, repository, digest, media_type, artifact_type, size, total_size, pushed_at, pushed_by)
			 SELECT 1000, id, $1, '', '', 0, 0, 0, '' FROM repositories`,
			`DELETE FROM manifests WHERE digest = $1`, encoded(blob(4))},
	} {
		f.audit(t)
		f.exec(t, 1, test.contradict, test.arg)
		problems, err := f.Audit(t.Context(), 10)
		must(t, err)
		if len(problems) != 1 {
			t.Errorf("%s: %q", test.name, problems)
		}
		f.exec(t, 1, test.fix, test.arg)
	}
	f.exec(t, 2, `DELETE FROM gc_queue`)
	problems, err := f.Audit(t.Context(), 1)
	must(t, err)
	wantEqual(t, "problems, up to one of a kind", len(problems), 1)
	must(t, f.DeleteBlob(t.Context(), "a", blob(1)))
}

// testMend makes contradictions and has them put right: those that can be.
func testMend(t *testing.T, f *fixture) {
	key := f.push(t, "a", blob(1))
	f.push(t, "a", blob(2))
	f.push(t, "a", blob(3))
	f.put(t, "a", image("one", blob(2)))
	f.put(t, "a", index("two", image("one").Digest))
	mend := func(limit, want int) {
		t.Helper()
		mended, err := f.Mend(t.Context(), limit)
		must(t, err)
		wantEqual(t, "mended", len(mended), want)
		for _, m := range mended {
			if m.Problem == "" || m.Remedy == "" {
				t.Errorf("%+v", m)
			}
		}
	}
	mend(10, 0)
	for _, test := range []struct {
		contradict string
		arg        any
	}{
		{`DELETE FROM gc_queue WHERE digest = $1`, encoded(blob(1))},
		{`UPDATE manifest_blobs SET linked = NULL WHERE digest = $1`, encoded(blob(2))},
		{`UPDATE repository_blobs SET deleted_at = 1 WHERE digest = $1`, encoded(blob(2))},
		{`UPDATE manifest_children SET child = NULL WHERE digest = $1`, encoded(image("one").Digest)},
	} {
		f.exec(t, 1, test.contradict, test.arg)
		mend(10, 1)
		f.audit(t)
	}
	wantInUse(t, "delete", f.DeleteBlob(t.Context(), "a", blob(2)), image("one").Digest)
	wantInUse(t, "delete", f.DeleteManifest(t.Context(), "a", image("one").Digest, metadata.Deletion{}), index("two").Digest)
	f.exec(t, 3, `DELETE FROM gc_queue`)
	f.exec(t, 1, `INSERT INTO dead_keys (key, delete_after) VALUES ($1, 0)`, key) // nobody knows which is right
	_, err := f.sql.ExecContext(t.Context(), `UPDATE repository_blobs SET leased_until = 1`)
	must(t, err)
	mend(1, 1) // all are put right, and one of a kind is told of
	mend(10, 0)
	f.exec(t, 1, `DELETE FROM dead_keys WHERE key = $1`, key)
	f.wantCollected(t, 2, 2) // what was queued is
}
