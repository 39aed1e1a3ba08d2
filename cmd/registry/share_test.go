package main

import (
	"os"
	"path/filepath"
	"testing"

	"berth/config"
	"berth/storage/metadata"
)

// sharing is what shareTokenKeys needs of one of several servers of a database.
func sharing(t *testing.T, facts *metadata.Store, directory string) *sharedFile {
	t.Helper()
	c := config.Default()
	c.Metadata.Postgres.DSN = "set"
	f, err := shareTokenKeys(t.Context(), c, &stores{directory: directory, facts: facts})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *sharedFile) content(t *testing.T) string {
	t.Helper()
	if err := f.sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(f.path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// TestShareTokenKeys has servers with directories of their own and one database agree about the keys, whoever changes them.
func TestShareTokenKeys(t *testing.T) {
	facts, err := metadata.Open(t.Context(), metadata.Config{Path: filepath.Join(t.TempDir(), "facts")})
	if err != nil {
		t.Fatal(err)
	}
	defer facts.Close()
	directory := t.TempDir()
	one, two := sharing(t, facts, t.TempDir()), sharing(t, facts, directory)
	first := one.content(t)
	if got := two.content(t); got != first || first == "" {
		t.Fatalf("the second server has other keys")
	}
	for _, changed := range []*sharedFile{two, one} {
		if err := os.WriteFile(changed.path, []byte("changed at "+changed.path), 0o600); err != nil {
			t.Fatal(err)
		}
		want := changed.content(t)
		for _, f := range []*sharedFile{one, two} {
			if got := f.content(t); got != want {
				t.Errorf("after a change: %q, want %q", got, want)
			}
		}
	}
	// One that was away gets what the others have, whatever it had.
	if err := os.WriteFile(two.path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := sharing(t, facts, directory).content(t); got != one.content(t) {
		t.Errorf("after a restart: %q", got)
	}
	if info, err := os.Stat(two.path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode: %v, %v", info, err)
	}
}

func TestShareNothing(t *testing.T) {
	own := config.Default()
	own.Metadata.Postgres.DSN, own.Auth.Tokens.Key = "set", "own.pem"
	for name, c := range map[string]*config.Config{"SQLite": config.Default(), "keys of the configuration": own} {
		if f, err := shareTokenKeys(t.Context(), c, nil); f != nil || err != nil {
			t.Errorf("%s: %v, %v", name, f, err)
		}
	}
}
