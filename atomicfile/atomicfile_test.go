package atomicfile

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// want checks what a directory holds: one file.
func want(t *testing.T, path, content string, mode fs.FileMode) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil || string(data) != content {
		t.Errorf("got %q, %v, want %q", data, err, content)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != mode {
		t.Errorf("got mode %v, %v", info.Mode(), err)
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
		t.Errorf("the directory has %v, %v", entries, err)
	}
}

func TestWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	for _, content := range []string{"first", "second, longer", ""} {
		if err := Write(path, []byte(content), 0o640); err != nil {
			t.Fatal(err)
		}
		want(t, path, content, 0o640)
	}
	if os.Getuid() == 0 {
		if err := os.Chown(path, 12345, 54321); err != nil {
			t.Fatal(err)
		}
		if err := Write(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if uid, gid := owner(t, path); uid != 12345 || gid != 54321 {
			t.Errorf("the owner became %d:%d", uid, gid)
		}
	}
	if err := Write(filepath.Join(path, "below"), nil, 0o600); err == nil {
		t.Error("a file was made below a file")
	}
}

func TestWriteFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "directory")
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Write(path, []byte("x"), 0o600); err == nil {
		t.Error("a directory was replaced")
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
		t.Errorf("the directory has %v, %v", entries, err)
	}
}

func TestWriteAll(t *testing.T) {
	directory := t.TempDir()
	one, other := filepath.Join(directory, "one"), filepath.Join(directory, "other")
	if err := WriteAll(File{one, []byte("1"), 0o600}, File{other, []byte("2"), 0o644}); err != nil {
		t.Fatal(err)
	}
	// The second can't be written: the first stays.
	if err := WriteAll(File{one, []byte("3"), 0o600}, File{filepath.Join(directory, "none", "x"), nil, 0o600}); err == nil {
		t.Error("a file was made in no directory")
	}
	for path, want := range map[string]string{one: "1", other: "2"} {
		if data, err := os.ReadFile(path); err != nil || string(data) != want {
			t.Errorf("%s has %q, %v", path, data, err)
		}
	}
	if entries, err := os.ReadDir(directory); err != nil || len(entries) != 2 {
		t.Errorf("the directory has %v, %v", entries, err)
	}
}

// TestOverwrite is the way of files that are mounted by themselves.
func TestOverwrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	for _, content := range []string{"first", "second, longer", "", "x"} {
		if err := os.WriteFile(path, []byte("before"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := overwrite(path, []byte(content)); err != nil {
			t.Fatal(err)
		}
		want(t, path, content, 0o600)
	}
}

func TestSweep(t *testing.T) {
	directory := t.TempDir()
	for name, age := range map[string]time.Duration{".new-1": 2 * time.Hour, ".new-2": 0, "file": 2 * time.Hour} {
		path := filepath.Join(directory, name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, time.Time{}, time.Now().Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	if err := Sweep(directory); err != nil {
		t.Fatal(err)
	}
	var left []string
	entries, err := os.ReadDir(directory)
	for _, e := range entries {
		left = append(left, e.Name())
	}
	if err != nil || !slices.Equal(left, []string{".new-2", "file"}) {
		t.Errorf("left are %v, %v", left, err)
	}
}

func TestCreate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	var made atomic.Int64
	var running sync.WaitGroup
	for range 8 {
		running.Go(func() {
			created, err := Create(path, []byte("one"), 0o600)
			if err != nil {
				t.Error(err)
			}
			if created {
				made.Add(1)
			}
		})
	}
	running.Wait()
	if made.Load() != 1 {
		t.Errorf("%d made it", made.Load())
	}
	want(t, path, "one", 0o600)
}
func owner(t *testing.T, path string) (uid, gid uint32) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	stat := info.Sys().(*syscall.Stat_t)
	return stat.Uid, stat.Gid
}
