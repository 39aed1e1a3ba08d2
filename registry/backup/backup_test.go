package backup_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"berth/registry/backup"
	"berth/storage"
	"berth/storage/filesystem"
	"berth/storage/metadata"

	"github.com/opencontainers/go-digest"
)

// site is a registry's stores.
type site struct {
	directory, database string
	blobs               *filesystem.Store
	facts               *metadata.Store
}

func newSite(t testing.TB, directory string) *site {
	t.Helper()
	s := &site{directory: directory, database: filepath.Join(directory, "metadata.sqlite")}
	s.openBlobs(t)
	s.openFacts(t)
	return s
}

func (s *site) openBlobs(t testing.TB) {
	t.Helper()
	var err error
	if s.blobs, err = filesystem.Open(filesystem.Config{Root: s.directory}); err != nil {
		t.Fatal(err)
	}
}

func (s *site) openFacts(t testing.TB) {
	t.Helper()
	var err error
	if s.facts, err = metadata.Open(context.Background(), metadata.Config{Path: s.database, Grace: time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.facts.Close() })
}

func (s *site) keeper(c backup.Config) *backup.Keeper {
	c.Metadata, c.Blobs, c.Directory, c.Keep = s.facts, s.blobs, s.directory, 1
	return backup.New(c)
}

// push stores a blob in a repository and returns its digest.
func (s *site) push(t testing.TB, algorithm digest.Algorithm, content string) digest.Digest {
	t.Helper()
	d := algorithm.FromString(content)
	u, err := s.facts.StartUpload(t.Context(), d.Encoded(), "app", algorithm, "")
	if err != nil {
		t.Fatal(err)
	}
	u, err = s.facts.ClaimUpload(t.Context(), "app", u.ID, "")
	if err != nil {
		t.Fatal(err)
	}
	w, err := s.blobs.Write(t.Context(), storage.Checkpoint{Key: u.Key})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, content); err != nil {
		t.Fatal(err)
	}
	c, err := w.Checkpoint(t.Context())
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	u.Size = c.Size
	if err := s.facts.CommitUpload(t.Context(), u, d); err != nil {
		t.Fatal(err)
	}
	return d
}

// path is the file of a blob.
func (s *site) path(t testing.TB, d digest.Digest) string {
	t.Helper()
	b, err := s.facts.Blob(t.Context(), "app", d)
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(s.directory, b.Key)
}

// files are all blobs' files below a directory.
func files(t testing.TB, directory string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(directory, "blobs"), func(path string, entry os.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			names = append(names, strings.TrimPrefix(path, directory))
		}
		return err
	})
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return names
}

// contents has what the registry of the tests holds.
var contents = []struct {
	algorithm digest.Algorithm
	content   string
}{{digest.SHA256, "one"}, {digest.SHA512, "two"}, {digest.SHA256, ""}, {digest.SHA256, strings.Repeat("large", 100_000)}}

func filled(t testing.TB) *site {
	t.Helper()
	s := newSite(t, t.TempDir())
	for _, c := range contents {
		s.push(t, c.algorithm, c.content)
	}
	return s
}

const secret = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2Vw\n-----END PRIVATE KEY-----\n"

// export returns a file.
func export(t testing.TB, k *backup.Keeper, c backup.Contents) []byte {
	t.Helper()
	e, err := k.Export(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	var file bytes.Buffer
	if err := errors.Join(e.Write(t.Context(), &file), e.Close()); err != nil {
		t.Fatal(err)
	}
	return file.Bytes()
}

// restore brings a file back to a new directory, and removes what it stored when that fails.
func restore(t testing.TB, file []byte, directory string) (s *site, keys []backup.Key, err error) {
	t.Helper()
	in, err := backup.NewReader(bytes.NewReader(file))
	if err != nil {
		return nil, nil, err
	}
	s = &site{directory: directory, database: filepath.Join(directory, "metadata.sqlite")}
	s.openBlobs(t)
	if err := in.Database(t.Context(), s.database); err != nil {
		return nil, nil, err
	}
	if keys, err = in.Keys(); err != nil {
		return nil, nil, err
	}
	if s.facts, err = metadata.Open(t.Context(), metadata.Config{Path: s.database}); err != nil {
		return nil, nil, err
	}
	t.Cleanup(func() { _ = s.facts.Close() })
	if err = in.Restore(t.Context(), s.facts, s.blobs); err != nil {
		err = errors.Join(err, in.Discard(t.Context(), s.blobs))
	}
	return s, keys, err
}

// check compares all blobs with what they have to be.
func (s *site) check(t testing.TB) {
	t.Helper()
	for _, c := range contents {
		if got, err := os.ReadFile(s.path(t, c.algorithm.FromString(c.content))); err != nil || string(got) != c.content {
			t.Errorf("a blob of %d bytes came back as %d, %v", len(c.content), len(got), err)
		}
	}
	if problems, err := s.facts.Audit(t.Context(), 10); err != nil || len(problems) > 0 {
		t.Errorf("audit: %q, %v", problems, err)
	}
}

func TestFile(t *testing.T) {
	s := filled(t)
	if err := s.facts.SetSetting(t.Context(), "secret", []byte(secret)); err != nil {
		t.Fatal(err)
	}
	k := s.keeper(backup.Config{Secrets: []string{"secret", "another"}, Keys: func() ([]backup.Key, error) {
		return []backup.Key{{Name: "tls/key.pem", Mode: 0o600, Data: []byte(secret)}, {Name: "ca.pem", Mode: 0o644, Data: nil}}, nil
	}})
	for _, c := range []backup.Contents{{}, {Blobs: true}, {Keys: true}, {Blobs: true, Keys: true}} {
		file := export(t, k, c)
		restored, keys, err := restore(t, file, t.TempDir())
		if err != nil {
			t.Fatalf("%+v: %v", c, err)
		}
		if c.Blobs {
			restored.check(t)
		} else if left := files(t, restored.directory); len(left) > 0 {
			t.Errorf("%+v: there are %q", c, left)
		}
		setting, err := restored.facts.Setting(t.Context(), "secret")
		if err != nil {
			t.Fatal(err)
		}
		database, err := os.ReadFile(restored.database)
		if err != nil {
			t.Fatal(err)
		}
		trace := bytes.Contains(append(database, file...), []byte(secret[30:40]))
		switch {
		case c.Keys && (string(setting) != secret || len(keys) != 2 || keys[1].Mode != 0o644),
			c.Keys && (keys[0].Name != "tls/key.pem" || string(keys[0].Data) != secret),
			!c.Keys && (setting != nil || len(keys) > 0 || trace):
			t.Errorf("%+v: setting %q, keys %+v, a trace of them is there: %t", c, setting, keys, trace)
		}
	}
	if setting, err := s.facts.Setting(t.Context(), "secret"); err != nil || string(setting) != secret {
		t.Errorf("a backup took the secret away: %q, %v", setting, err)
	}
	if left, err := filepath.Glob(filepath.Join(s.directory, ".*")); err != nil || len(left) > 0 {
		t.Errorf("left are %q, %v", left, err)
	}
}

// TestFileByHand does without the program what a person could do with a file.
func TestFileByHand(t *testing.T) {
	for _, tool := range []string{"tar", "sha256sum", "gzip"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip(err)
		}
	}
	file := export(t, filled(t).keeper(backup.Config{}), backup.Contents{Blobs: true})
	command := exec.CommandContext(t.Context(), "sh", "-euc", `tar xf -; sha256sum -c backup.json.sha256; gzip -t metadata.sqlite.gz
		cd blobs/sha256; for blob in *; do echo "$blob  $blob"; done | sha256sum -c`)
	command.Dir, command.Stdin = t.TempDir(), bytes.NewReader(file)
	if out, err := command.CombinedOutput(); err != nil || strings.Count(string(out), ": OK") != 4 {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestBytesStay deletes a blob while a file is written, and another before. The one of the file stays until the file is done.
func TestBytesStay(t *testing.T) {
	s, ctx := filled(t), t.Context()
	dead := func() []string {
		t.Helper()
		time.Sleep(5 * time.Millisecond) // the grace
		keys, err := s.facts.ClaimDeadKeys(ctx, 10)
		if err != nil {
			t.Fatal(err)
		}
		return keys
	}
	remove := func(i int) {
		t.Helper()
		if err := s.facts.DeleteBlob(ctx, "app", contents[i].algorithm.FromString(contents[i].content)); err != nil {
			t.Fatal(err)
		}
	}
	remove(0)
	time.Sleep(2 * time.Millisecond) // the clock has milliseconds
	k := s.keeper(backup.Config{})
	e, err := k.Export(ctx, backup.Contents{Blobs: true})
	if err != nil {
		t.Fatal(err)
	}
	remove(1)
	if keys := dead(); len(keys) != 1 {
		t.Errorf("%d keys are given to be deleted, and one was dead before", len(keys))
	}
	if _, err := k.Take(ctx); err != nil { // which removes what nobody is at
		t.Fatal(err)
	}
	if all, err := s.facts.Backups(ctx); err != nil || len(all) != 2 {
		t.Errorf("backups: %+v, %v", all, err)
	}
	var file bytes.Buffer
	if err := errors.Join(e.Write(ctx, &file), e.Close()); err != nil {
		t.Fatal(err)
	}
	restored, _, err := restore(t, file.Bytes(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(restored.path(t, contents[1].algorithm.FromString(contents[1].content))); err != nil || string(got) != contents[1].content {
		t.Errorf("%q, %v", got, err)
	}
	all, err := s.facts.Backups(ctx)
	if err != nil || len(all) != 1 || all[0].Finished.IsZero() {
		t.Errorf("backups: %+v, %v", all, err)
	}
}

// TestSweep has a keeper remove what a crash left, and nothing else.
func TestSweep(t *testing.T) {
	s, ctx := filled(t), t.Context()
	crashed := s.keeper(backup.Config{})
	if _, err := crashed.Export(ctx, backup.Contents{Blobs: true}); err != nil { // which nobody closes
		t.Fatal(err)
	}
	cut, err := s.facts.StartBackup(ctx)
	if err != nil {
		t.Fatal(err)
	}
	w, err := s.blobs.Write(ctx, storage.Checkpoint{Key: cut})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("begun")); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	left := func() (n int) {
		t.Helper()
		temporary, err := filepath.Glob(filepath.Join(s.directory, ".snapshot-*"))
		if err != nil {
			t.Fatal(err)
		}
		rows, err := s.facts.Backups(ctx)
		if err != nil {
			t.Fatal(err)
		}
		objects, err := backup.List(ctx, s.blobs)
		if err != nil {
			t.Fatal(err)
		}
		return len(temporary) + len(rows) + len(objects)
	}
	if left() != 4 {
		t.Fatalf("%d things are left by the crash", left())
	}
	s.keeper(backup.Config{}).Run(ctx) // which ends, as it takes no snapshots
	if left() != 0 {
		t.Errorf("%d things are left", left())
	}
	e, err := s.keeper(backup.Config{}).Export(ctx, backup.Contents{})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil || left() != 0 {
		t.Errorf("%d things are left, %v", left(), err)
	}
}

// TestDamagedBlob has a backup fail that would have a blob which is not its digest's.
func TestDamagedBlob(t *testing.T) {
	for name, damage := range map[string]func(path string) error{
		"gone":    os.Remove,
		"cut off": func(path string) error { return os.Truncate(path, 1) },
		"changed": func(path string) error { return os.WriteFile(path, []byte("eno"), 0o600) },
	} {
		s := filled(t)
		d := digest.FromString("one")
		if err := damage(s.path(t, d)); err != nil {
			t.Fatal(err)
		}
		k := s.keeper(backup.Config{})
		e, err := k.Export(t.Context(), backup.Contents{Blobs: true})
		if err != nil {
			t.Fatal(err)
		}
		err = e.Write(t.Context(), io.Discard)
		if err == nil || !strings.Contains(err.Error(), d.String()) || !strings.Contains(err.Error(), "registry fsck --rehash") {
			t.Errorf("%s: %v", name, err)
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
		export(t, k, backup.Contents{}) // of the facts
	}
}

// TestOccupied restores to a place where some bytes are: those of a blob stay as they are, and others are not written over.
func TestOccupied(t *testing.T) {
	s := filled(t)
	file := export(t, s.keeper(backup.Config{}), backup.Contents{Blobs: true})
	whole, damaged := s.path(t, digest.FromString("one")), s.path(t, digest.SHA512.FromString("two"))
	cut := s.path(t, digest.FromString(contents[3].content))
	directory := t.TempDir()
	place := func(path, content string) string {
		t.Helper()
		path = filepath.Join(directory, strings.TrimPrefix(path, s.directory))
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(content), 0o400)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	there := map[string]string{place(whole, "one"): "one", place(damaged, "owt"): "owt", place(cut, "lar"): "lar"}
	before, err := os.Stat(filepath.Join(directory, strings.TrimPrefix(whole, s.directory)))
	if err != nil {
		t.Fatal(err)
	}
	restored, _, err := restore(t, file, directory)
	if err != nil {
		t.Fatal(err)
	}
	restored.check(t)
	for path, content := range there {
		if got, err := os.ReadFile(path); err != nil || string(got) != content {
			t.Errorf("%s: %.20q, %v", path, got, err)
		}
	}
	if after, err := os.Stat(restored.path(t, digest.FromString("one"))); err != nil || !os.SameFile(before, after) {
		t.Errorf("a blob that was there is elsewhere: %v", err)
	}
	if n := len(files(t, directory)); n != 4+2 {
		t.Errorf("there are %d files", n)
	}
	// When the file turns out to be damaged, what was there is still there and nothing else.
	directory = t.TempDir()
	there = map[string]string{place(whole, "one"): "one", place(damaged, "owt"): "owt"}
	if _, _, err := restore(t, file[:len(file)-2000], directory); !errors.Is(err, backup.ErrDamaged) {
		t.Errorf("a file that was cut off: %v", err)
	}
	for _, name := range files(t, directory) {
		if got, err := os.ReadFile(directory + name); err != nil || there[directory+name] != string(got) {
			t.Errorf("%s: %.20q, %v", name, got, err)
		}
	}
	if n := len(files(t, directory)); n != len(there) {
		t.Errorf("there are %d files", n)
	}
}

// TestSnapshots keeps as many snapshots in the blob store as it shall, the newest.
func TestSnapshots(t *testing.T) {
	s := filled(t)
	k := s.keeper(backup.Config{})
	var names []string
	for range 3 {
		b, err := k.Take(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, b.Name)
		time.Sleep(2 * time.Millisecond)
	}
	all, err := backup.List(t.Context(), s.blobs)
	if err != nil || len(all) != 1 || all[0].Key != slices.Max(names) {
		t.Fatalf("snapshots: %+v, %v", all, err)
	}
	path := filepath.Join(t.TempDir(), "metadata.sqlite")
	if err := backup.Fetch(t.Context(), s.blobs, all[0], path); err != nil {
		t.Fatal(err)
	}
	if err := metadata.CheckSnapshot(t.Context(), path); err != nil {
		t.Error(err)
	}
}
