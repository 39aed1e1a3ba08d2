package filesystem

import (
	"errors"
	"io/fs"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"berth/storage"
)

// slowSync counts the syncs of directories and files, and lets a directory's take as long as it likes.
type slowSync struct {
	OS
	sync func(name string) error
}

func (f slowSync) SyncDir(name string) error { return f.sync(name) }

// TestSharedSync starts one sync and lets others come while it runs: it may have missed them, so that they need a second
// one, but all the same one, and share its error.
func TestSharedSync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const late = 10
		release := make(chan error)
		var begun atomic.Int32
		d := newDirectories(slowSync{sync: func(string) error {
			begun.Add(1)
			return <-release
		}}, "/")

		var wg sync.WaitGroup
		first, failed := errors.New("first"), errors.New("failed")
		wg.Go(func() {
			if err := d.sync("/a"); err != first {
				t.Errorf("first: %v", err)
			}
		})
		synctest.Wait()
		for range late {
			wg.Go(func() {
				if err := d.sync("/a"); err != failed {
					t.Errorf("late: %v", err)
				}
			})
		}
		synctest.Wait()
		if n := begun.Load(); n != 1 {
			t.Errorf("%d syncs of one directory at a time", n)
		}
		release <- first
		release <- failed
		wg.Wait()
		if n := begun.Load(); n != 2 || len(d.latest) != 0 {
			t.Errorf("%d syncs for %d callers, %d rounds left", n, 1+late, len(d.latest))
		}
	})
}

// TestSyncsApart lets the sync of one directory not wait for another's.
func TestSyncsApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan error)
		d := newDirectories(slowSync{sync: func(name string) error {
			if name == "/slow" {
				return <-release
			}
			return nil
		}}, "/")
		var wg sync.WaitGroup
		wg.Go(func() { _ = d.sync("/slow") })
		synctest.Wait()
		if err := d.sync("/fast"); err != nil {
			t.Error(err)
		}
		release <- nil
		wg.Wait()
	})
}

// TestSyncCovers checks the promise itself: whoever returns was covered by a sync that began after its change.
func TestSyncCovers(t *testing.T) {
	var changes, covered atomic.Int64
	d := newDirectories(slowSync{sync: func(string) error {
		seen := changes.Load()
		covered.Store(seen) // only one sync of a directory runs at a time
		return nil
	}}, "/")
	const goroutines, each = 8, 500
	var wg sync.WaitGroup
	for range goroutines {
		wg.Go(func() {
			for range each {
				mine := changes.Add(1)
				if err := d.sync("/a"); err != nil || covered.Load() < mine {
					t.Errorf("change %d: synced up to %d, %v", mine, covered.Load(), err)
				}
			}
		})
	}
	wg.Wait()
}

// counts is an FS that counts the syncs below it.
type counts struct {
	OS
	files int
	dirs  []string
}

type countedFile struct {
	File
	counts *counts
}

func (c *counts) OpenFile(name string, flag int, perm fs.FileMode) (File, error) {
	f, err := c.OS.OpenFile(name, flag, perm)
	return countedFile{f, c}, err
}

func (c *counts) SyncDir(name string) error {
	c.dirs = append(c.dirs, filepath.Base(name))
	return nil
}

func (f countedFile) Sync() error {
	f.counts.files++
	return nil
}

// TestSyncs counts what each step costs.
func TestSyncs(t *testing.T) {
	var syncs counts
	s, err := Open(Config{Root: filepath.Join(t.TempDir(), "root"), FS: &syncs})
	if err != nil {
		t.Fatal(err)
	}
	var w storage.Writer
	begin := func(from storage.Checkpoint) (err error) {
		w, err = s.Write(t.Context(), from)
		return err
	}
	write := func() error {
		_, err := w.Write([]byte("abc"))
		return err
	}
	checkpoint := func() error {
		_, err := w.Checkpoint(t.Context())
		return err
	}
	for _, test := range []struct {
		name  string
		do    func() error
		files int
		dirs  int
	}{
		{"make directories", func() error { return begin(storage.Checkpoint{Key: "a/b/1"}) }, 0, 2},
		{"first object of a process in a directory", checkpoint, 1, 3},
		{"nothing new", checkpoint, 0, 0},
		{"write", write, 0, 0},
		{"more bytes", checkpoint, 1, 0},
		{"close", func() error { return w.Close() }, 0, 0},
		{"resume", func() error { return begin(storage.Checkpoint{Key: "a/b/1", Size: 2}) }, 0, 0},
		{"resumed, nothing new", checkpoint, 0, 0},
		{"write", write, 0, 0},
		{"resumed, more bytes", checkpoint, 1, 0},
		{"close", func() error { return w.Close() }, 0, 0},
		{"complete", func() error { return s.Complete(t.Context(), storage.Checkpoint{Key: "a/b/1", Size: 5}) }, 0, 0},
		{"next object", func() error { return begin(storage.Checkpoint{Key: "a/b/2"}) }, 0, 0},
		{"write", write, 0, 0},
		{"next object durable", checkpoint, 1, 1},
		{"close", func() error { return w.Close() }, 0, 0},
		{"delete", func() error { return s.Delete(t.Context(), "a/b/1") }, 0, 1},
		{"delete again", func() error { return s.Delete(t.Context(), "a/b/1") }, 0, 1},
	} {
		syncs.files, syncs.dirs = 0, nil
		if err := test.do(); err != nil {
			t.Fatalf("%s: %v", test.name, err)
		}
		if syncs.files != test.files || len(syncs.dirs) != test.dirs {
			t.Errorf("%s: %d syncs of files and %q of directories, want %d and %d", test.name, syncs.files, syncs.dirs, test.files, test.dirs)
		}
	}
}

// TestRoomWhileWriting fills the disk while an object is written.
func TestRoomWhileWriting(t *testing.T) {
	s, err := Open(Config{Root: t.TempDir(), MinFree: 100})
	if err != nil {
		t.Fatal(err)
	}
	free := int64(100)
	s.stride, s.free = 1000, func() (int64, error) { return free, nil }
	w, err := s.Write(t.Context(), storage.Checkpoint{Key: "a"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	piece := make([]byte, 600)
	for range 3 { // looks once on the way
		if _, err := w.Write(piece); err != nil {
			t.Fatal(err)
		}
	}
	free = 99
	written := 0
	for err == nil && written < 5 {
		_, err = w.Write(piece)
		written++
	}
	if !errors.Is(err, storage.ErrNoSpace) || written > 2 {
		t.Errorf("write %d: %v", written, err)
	}
	if _, err := w.Checkpoint(t.Context()); !errors.Is(err, storage.ErrNoSpace) {
		t.Errorf("checkpoint of a writer that failed: %v", err)
	}
	unknown := errors.New("unknown")
	s.free = func() (int64, error) { return 0, unknown }
	if _, err := s.Write(t.Context(), storage.Checkpoint{Key: "b"}); !errors.Is(err, unknown) {
		t.Errorf("free space unknown: %v", err)
	}
}
