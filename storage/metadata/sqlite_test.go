package metadata_test

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"berth/filelock"
	"berth/storage/metadata"

	_ "modernc.org/sqlite"
)

// raw opens a database around the store.
func raw(t *testing.T, path string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", path+"?_pragma=busy_timeout(10000)")
	must(t, err)
	t.Cleanup(func() { must(t, db.Close()) })
	return db
}

func TestReopen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "metadata.sqlite")
	s, err := metadata.Open(t.Context(), metadata.Config{Path: path})
	must(t, err)
	must(t, push(t.Context(), s, "a", "1", blob(1)))
	must(t, s.PutManifest(t.Context(), "a", image("one", []string{"x"}, blob(1))))
	must(t, s.Close())
	s = open(t, metadata.Config{Path: path})
	must(t, manifestExists("a", image("one", nil), "x")(t.Context(), s))
	if left, err := s.UnclosedGenerations(t.Context()); len(left) != 0 || err != nil {
		t.Errorf("unclosed generations after a clean stop: %q, %v", left, err)
	}
	mustAudit(t, s)
}

// TestShorten has a lease and a grace that were made shorter count for what was leased and dead before, and longer ones not.
func TestShorten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "metadata.sqlite")
	s, err := metadata.Open(t.Context(), metadata.Config{Path: path, Lease: time.Hour, Grace: time.Hour})
	must(t, err)
	must(t, push(t.Context(), s, "a", "1", blob(1)))
	must(t, push(t.Context(), s, "a", "2", blob(2)))
	must(t, s.DeleteBlob(t.Context(), "a", blob(2)))
	must(t, s.Close())
	for _, c := range []struct {
		lease, grace time.Duration
		links, keys  int
	}{{time.Hour, time.Hour, 0, 0}, {2 * time.Hour, 2 * time.Hour, 0, 0}, {2 * time.Hour, time.Millisecond, 0, 1}, {time.Millisecond, time.Millisecond, 1, 0}} {
		s, err := metadata.Open(t.Context(), metadata.Config{Path: path, Lease: c.lease, Grace: c.grace})
		must(t, err)
		time.Sleep(5 * time.Millisecond)
		keys, err := s.ClaimDeadKeys(t.Context(), 10)
		must(t, err)
		must(t, s.ForgetKeys(t.Context(), keys))
		done, err := s.Collect(t.Context(), 10)
		must(t, err)
		if done.Links != c.links || len(keys) != c.keys {
			t.Errorf("with a lease of %s and a grace of %s: %d links collected and %d keys dead, want %d and %d", c.lease, c.grace, done.Links, len(keys), c.links, c.keys)
		}
		mustAudit(t, s)
		must(t, s.Close())
	}
}

// TestKilled opens what is on the disk while the store is running, as after a kill: all that was committed is there, and
// the start that was cut off is known.
func TestKilled(t *testing.T) {
	path, copied := filepath.Join(t.TempDir(), "metadata.sqlite"), filepath.Join(t.TempDir(), "metadata.sqlite")
	s := open(t, metadata.Config{Path: path})
	must(t, push(t.Context(), s, "a", "1", blob(1)))
	must(t, s.PutManifest(t.Context(), "a", image("one", []string{"x"}, blob(1))))
	u, err := s.StartUpload(t.Context(), "2", "a", "sha256", "")
	must(t, err)
	mustCopy(t, path, copied)
	mustCopy(t, path+"-wal", copied+"-wal")

	s = open(t, metadata.Config{Path: copied})
	must(t, manifestExists("a", image("one", nil), "x")(t.Context(), s))
	if _, err := s.Upload(t.Context(), "a", "2"); err != nil {
		t.Errorf("the upload: %v", err)
	}
	left, err := s.UnclosedGenerations(t.Context())
	if err != nil || len(left) != 1 || !strings.HasPrefix(u.Key, left[0]+"/") {
		t.Errorf("unclosed generations %q, %v: key %s is of one", left, err, u.Key)
	}
	next, err := s.StartUpload(t.Context(), "3", "a", "sha256", "")
	if err != nil || strings.HasPrefix(next.Key, left[0]) {
		t.Errorf("key %s after the restart, %v", next.Key, err)
	}
	must(t, s.CloseGeneration(t.Context(), left[0]))
	mustAudit(t, s)
}

func TestSecondOpen(t *testing.T) {
	c := metadata.Config{Path: filepath.Join(t.TempDir(), "metadata.sqlite")}
	first, err := metadata.Open(t.Context(), c)
	must(t, err)
	if _, err := metadata.Open(t.Context(), c); !errors.Is(err, filelock.ErrHeld) {
		t.Errorf("second: %v", err)
	}
	c.LockWait = time.Minute
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := metadata.Open(gone, c); !errors.Is(err, context.Canceled) {
		t.Errorf("second, given up: %v", err)
	}
	opened := make(chan error)
	go func() {
		second, err := metadata.Open(t.Context(), c)
		if err == nil {
			err = second.Close()
		}
		opened <- err
	}()
	select {
	case err := <-opened:
		t.Fatalf("opened beside the first: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	must(t, first.Ping(t.Context()))
	must(t, first.Close())
	must(t, <-opened)
}

func TestClosed(t *testing.T) {
	s, err := metadata.Open(t.Context(), metadata.Config{Path: filepath.Join(t.TempDir(), "metadata.sqlite")})
	must(t, err)
	must(t, s.Close())
	if err := s.Ping(t.Context()); err == nil {
		t.Error("a closed store answers")
	}
	if err := s.PutManifest(t.Context(), "a", image("one", nil)); err == nil {
		t.Error("a closed store writes")
	}
}

// TestNewerSchema is a downgrade: it is refused and changes nothing.
func TestNewerSchema(t *testing.T) {
	path := filepath.Join(t.TempDir(), "metadata.sqlite")
	s, err := metadata.Open(t.Context(), metadata.Config{Path: path})
	must(t, err)
	must(t, s.Close())
	db := raw(t, path)
	_, err = db.ExecContext(t.Context(), `INSERT INTO schema_versions (version_id, is_applied) VALUES (1000, 1)`)
	must(t, err)
	before := dump(t, db)
	_, err = metadata.Open(t.Context(), metadata.Config{Path: path})
	if err == nil || !strings.Contains(err.Error(), "1000") || !strings.Contains(err.Error(), "newer") || !strings.Contains(err.Error(), path) {
		t.Errorf("open: %v", err)
	}
	if after := dump(t, db); after != before {
		t.Errorf("the database changed from\n%s\nto\n%s", before, after)
	}
	_, err = db.ExecContext(t.Context(), `DELETE FROM schema_versions WHERE version_id = 1000`)
	must(t, err)
	open(t, metadata.Config{Path: path}) // the lock is free
}

// dump is the schema and the rows that every start has.
func dump(t *testing.T, db *sql.DB) (all string) {
	t.Helper()
	err := db.QueryRowContext(t.Context(), `
		SELECT (SELECT group_concat(sql, char(10)) FROM sqlite_schema)
		  || (SELECT group_concat(version_id || ' ' || is_applied || ' ' || tstamp, char(10)) FROM schema_versions)
		  || (SELECT group_concat(prefix, char(10)) FROM generations)`).Scan(&all)
	must(t, err)
	return all
}

// TestMigrateAgain starts twice: the second start has nothing to migrate.
func TestMigrateAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "metadata.sqlite")
	var schemas []string
	for range 2 {
		s, err := metadata.Open(t.Context(), metadata.Config{Path: path})
		must(t, err)
		must(t, s.Close())
		var schema string
		must(t, raw(t, path).QueryRowContext(t.Context(), `
			SELECT (SELECT group_concat(sql) FROM sqlite_schema) || (SELECT count(*) FROM schema_versions)`).Scan(&schema))
		schemas = append(schemas, schema)
	}
	if schemas[0] != schemas[1] {
		t.Errorf("the second start changed\n%s\nto\n%s", schemas[0], schemas[1])
	}
}

func TestFileModes(t *testing.T) {
	dir := t.TempDir()
	s := open(t, metadata.Config{Path: filepath.Join(dir, "metadata.sqlite")})
	must(t, push(t.Context(), s, "a", "1", blob(1)))
	files, err := os.ReadDir(dir)
	must(t, err)
	if len(files) < 3 {
		t.Errorf("only %v", files)
	}
	for _, f := range files {
		info, err := f.Info()
		must(t, err)
		if info.Mode() != 0o600 {
			t.Errorf("%s has mode %s", f.Name(), info.Mode())
		}
	}
}

func TestOpenFails(t *testing.T) {
	dir := t.TempDir()
	broken := filepath.Join(dir, "broken")
	must(t, os.WriteFile(broken, []byte(strings.Repeat("no database ", 1000)), 0o600))
	for name, path := range map[string]string{
		"a folder that is missing": filepath.Join(dir, "missing", "metadata.sqlite"),
		"no database":              broken,
		"a folder":                 dir,
	} {
		if _, err := metadata.Open(t.Context(), metadata.Config{Path: path}); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestOddPaths opens databases whose paths mean something in a URL.
func TestOddPaths(t *testing.T) {
	for _, name := range []string{"a b", "a%20b", "a?mode=memory", "a#b", "ü"} {
		path := filepath.Join(t.TempDir(), name)
		s := open(t, metadata.Config{Path: path})
		must(t, push(t.Context(), s, "a", "1", blob(1)))
		if info, err := os.Stat(path + "-wal"); err != nil || info.Size() == 0 {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// TestDamage has the audit find what only SQLite knows.
func TestDamage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "metadata.sqlite")
	s := open(t, metadata.Config{Path: path})
	must(t, push(t.Context(), s, "a", "1", blob(1)))
	db := raw(t, path) // does not enforce foreign keys
	_, err := db.ExecContext(t.Context(), `DELETE FROM blobs`)
	must(t, err)
	problems, err := s.Audit(t.Context(), 10)
	must(t, err)
	if len(problems) != 1 || !strings.Contains(problems[0], "a row of repository_blobs references a missing row of blobs") {
		t.Errorf("problems: %q", problems)
	}
}
