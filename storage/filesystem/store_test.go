package filesystem_test

import (
	"errors"
	"io"
	"io/fs"
	"math"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"berth/storage"
	"berth/storage/filesystem"
	"berth/storage/storagetest"
)

func open(t testing.TB, c filesystem.Config) *filesystem.Store {
	t.Helper()
	if c.Root == "" {
		c.Root = t.TempDir()
	}
	s, err := filesystem.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestContract(t *testing.T) {
	storagetest.Run(t, func(t *testing.T) storage.Blobs { return open(t, filesystem.Config{MinFree: 1}) })
}

func TestFiles(t *testing.T) {
	root := filepath.Join(t.TempDir(), "new", "root")
	s := open(t, filesystem.Config{Root: root})
	c := put(t, s, "a/b", "content")
	for name, want := range map[string]fs.FileMode{".": 0o700, "a": 0o700, "a/b": 0o600} {
		info, err := os.Stat(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got&0o707 != want {
			t.Errorf("%s has mode %v: only its owner and group may use it", name, got)
		}
	}
	r, err := s.Open(t.Context(), c.Key, c.Size)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, ok := r.(*os.File); !ok {
		t.Errorf("the reader is a %T, which can't be sent without copying", r)
	}
	if entries, err := os.ReadDir(root); err != nil || len(entries) != 1 {
		t.Errorf("the root holds %v, %v", entries, err)
	}
}

func put(t *testing.T, s *filesystem.Store, key, content string) storage.Checkpoint {
	t.Helper()
	c, err := storagetest.Put(t.Context(), s, key, []byte(content))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestNotRegular puts things in the way that are no files. A pipe must not block.
func TestNotRegular(t *testing.T) {
	root := t.TempDir()
	s := open(t, filesystem.Config{Root: root})
	outside := filepath.Join(t.TempDir(), "secret")
	socket, err := net.Listen("unix", filepath.Join(root, "socket"))
	if err := errors.Join(err,
		os.WriteFile(outside, []byte("secret"), 0o600),
		os.Symlink(outside, filepath.Join(root, "link")),
		os.Mkdir(filepath.Join(root, "directory"), 0o750),
		syscall.Mkfifo(filepath.Join(root, "pipe"), 0o640),
	); err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	for _, key := range []string{"link", "directory", "pipe", "socket"} {
		for _, size := range []int64{0, 6} {
			if _, err := s.Open(t.Context(), key, size); err == nil || errors.Is(err, storage.ErrNotFound) {
				t.Errorf("open %s: %v", key, err)
			}
			if _, err := s.Write(t.Context(), storage.Checkpoint{Key: key, Size: size}); err == nil {
				t.Errorf("write %s: no error", key)
			}
		}
	}
	if err := s.Delete(t.Context(), "directory"); err == nil {
		t.Error("a directory was deleted")
	}
	if got, err := os.ReadFile(outside); err != nil || string(got) != "secret" {
		t.Errorf("behind the link: %q, %v", got, err)
	}
	list(t, s, "")
}

// list fails unless exactly these keys are there.
func list(t *testing.T, s *filesystem.Store, prefix string, want ...string) {
	t.Helper()
	var got []string
	err := s.List(t.Context(), prefix, func(o storage.Object) error {
		got = append(got, o.Key)
		return nil
	})
	if err != nil || strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("list %q: %q, %v, want %q", prefix, got, err, want)
	}
}

func TestListPassesOver(t *testing.T) {
	root := t.TempDir()
	s := open(t, filesystem.Config{Root: root})
	put(t, s, "a/b", "")
	put(t, s, "c", "")
	for _, name := range []string{".writable", "a/.hidden", "a/with space"} {
		if err := os.WriteFile(filepath.Join(root, name), nil, 0o640); err != nil {
			t.Fatal(err)
		}
	}
	list(t, s, "", "a/b", "c")
	list(t, s, "a", "a/b")
	list(t, s, "c/d")
	for _, bad := range []string{"../", "a/../", ".a/"} {
		if err := s.List(t.Context(), bad, nil); err == nil {
			t.Errorf("list %q: no error", bad)
		}
	}
}

// TestLeftover reads no more than an object's bytes from a file that has more, and completing cuts the file.
func TestLeftover(t *testing.T) {
	root := t.TempDir()
	s := open(t, filesystem.Config{Root: root})
	content := storagetest.Content(1, 5000)
	c := put(t, s, "a", string(content))
	if err := os.WriteFile(filepath.Join(root, "a"), append(content, "left behind"...), 0o640); err != nil {
		t.Fatal(err)
	}
	for _, wantFile := range []bool{false, true} {
		if err := storagetest.Check(t.Context(), s, c, content); err != nil {
			t.Error(err)
		}
		r, err := s.Open(t.Context(), c.Key, c.Size)
		if err != nil {
			t.Fatal(err)
		}
		if end, err := r.Seek(0, io.SeekEnd); end != c.Size || err != nil {
			t.Errorf("the end is at %d, %v", end, err)
		}
		if _, isFile := r.(*os.File); isFile != wantFile {
			t.Errorf("the reader is a %T", r)
		}
		if err := errors.Join(r.Close(), s.Complete(t.Context(), c)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTooShort(t *testing.T) {
	root := t.TempDir()
	s := open(t, filesystem.Config{Root: root})
	c := put(t, s, "a", "content")
	if err := os.Truncate(filepath.Join(root, "a"), c.Size-1); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Open(t.Context(), c.Key, c.Size); !errors.Is(err, storage.ErrShort) {
		t.Errorf("open: %v", err)
	}
	if err := s.Complete(t.Context(), c); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("complete: %v", err)
	}
}

// TestHuge goes on behind the reach of 32 bits, in a hole.
func TestHuge(t *testing.T) {
	const size = 5 << 30
	root := t.TempDir()
	s := open(t, filesystem.Config{Root: root})
	put(t, s, "a", "x")
	if err := os.Truncate(filepath.Join(root, "a"), size+100); err != nil {
		t.Fatal(err)
	}
	c, err := storagetest.Append(t.Context(), s, storage.Checkpoint{Key: "a", Size: size}, []byte("tail"))
	if err != nil || c.Size != size+4 {
		t.Fatalf("%+v, %v", c, err)
	}
	r, err := s.Open(t.Context(), "a", c.Size)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	_, err = r.Seek(size-1, io.SeekStart)
	got, readErr := io.ReadAll(r)
	if err := errors.Join(err, readErr); err != nil || string(got) != "\x00tail" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestOpenFails(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o640); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name   string
		config filesystem.Config
		says   []string
	}{
		{"no root", filesystem.Config{}, []string{"storage.filesystem.rootdirectory"}},
		{"file", filesystem.Config{Root: file}, []string{file, "not a directory", "storage.filesystem.rootdirectory"}},
		{"below a file", filesystem.Config{Root: file + "/a/b"}, []string{file + "/a/b", "not a directory"}},
		{"read-only", filesystem.Config{Root: t.TempDir(), FS: failing{syscall.EROFS}}, []string{"read-only", "rootdirectory", syscall.EROFS.Error()}},
		{"forbidden", filesystem.Config{Root: t.TempDir(), FS: failing{syscall.EACCES}}, []string{"not writable by user", "chown", syscall.EACCES.Error()}},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := filesystem.Open(test.config)
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range test.says {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %q", err, want)
				}
			}
		})
	}
}

// failing makes no files.
type failing struct{ err error }

func (f failing) OpenFile(name string, flag int, perm fs.FileMode) (filesystem.File, error) {
	if flag&os.O_CREATE != 0 {
		return nil, &fs.PathError{Op: "open", Path: name, Err: f.err}
	}
	return filesystem.OS{}.OpenFile(name, flag, perm)
}
func (failing) Mkdir(name string, perm fs.FileMode) error      { return filesystem.OS{}.Mkdir(name, perm) }
func (failing) Remove(name string) error                       { return filesystem.OS{}.Remove(name) }
func (failing) SyncDir(name string) error                      { return filesystem.OS{}.SyncDir(name) }
func (failing) ReadDir(name string) (d []fs.DirEntry, e error) { return filesystem.OS{}.ReadDir(name) }

// TestFull reads and deletes while there is no space to write, whether the disk says so or MinFree.
func TestFull(t *testing.T) {
	for _, test := range []struct {
		name   string
		config filesystem.Config
	}{
		{"disk", filesystem.Config{FS: failing{syscall.ENOSPC}}},
		{"quota", filesystem.Config{FS: failing{syscall.EDQUOT}}},
		{"minfree", filesystem.Config{MinFree: math.MaxInt64}},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.config.Root = t.TempDir()
			content := storagetest.Content(1, 5000)
			c := put(t, open(t, filesystem.Config{Root: test.config.Root}), "a/b", string(content))
			full := open(t, test.config)
			_, err := full.Write(t.Context(), storage.Checkpoint{Key: "a/c"})
			if !errors.Is(err, storage.ErrNoSpace) || !strings.Contains(err.Error(), "a/c") {
				t.Errorf("write: %v", err)
			}
			if err := storagetest.Check(t.Context(), full, c, content); err != nil {
				t.Error(err)
			}
			if err := full.Delete(t.Context(), c.Key); err != nil {
				t.Error(err)
			}
			list(t, full, "")
		})
	}
}

// TestRootVanishes must not make the root anew: the disk that it is on may not be mounted.
func TestRootVanishes(t *testing.T) {
	root := filepath.Join(t.TempDir(), "root")
	s := open(t, filesystem.Config{Root: root})
	if err := os.Remove(root); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Write(t.Context(), storage.Checkpoint{Key: "a/b/c"}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("write: %v", err)
	}
	if _, err := os.Stat(root); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the root is back: %v", err)
	}
}
