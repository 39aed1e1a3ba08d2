package filesystem_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"berth/storage"
	"berth/storage/filesystem"
	"berth/storage/filesystem/filesystemtest"
	"berth/storage/storagetest"
)

// faultyFS lets Faults see every call of a Store to the file system.
type faultyFS struct {
	filesystem.FS
	faults *storagetest.Faults
}

func (f faultyFS) OpenFile(name string, flag int, perm fs.FileMode) (filesystem.File, error) {
	var opened filesystem.File
	err := f.faults.Do("OpenFile", func() (err error) {
		opened, err = f.FS.OpenFile(name, flag, perm)
		return err
	})
	if err == nil {
		return faultyFile{opened, f.faults}, nil
	}
	if opened != nil {
		err = errors.Join(err, opened.Close())
	}
	return nil, err
}

func (f faultyFS) Mkdir(name string, perm fs.FileMode) error {
	return f.faults.Do("Mkdir", func() error { return f.FS.Mkdir(name, perm) })
}

func (f faultyFS) Remove(name string) error {
	return f.faults.Do("Remove", func() error { return f.FS.Remove(name) })
}

func (f faultyFS) SyncDir(name string) error {
	return f.faults.Do("SyncDir", func() error { return f.FS.SyncDir(name) })
}

func (f faultyFS) ReadDir(name string) (entries []fs.DirEntry, err error) {
	err = f.faults.Do("ReadDir", func() (err error) {
		entries, err = f.FS.ReadDir(name)
		return err
	})
	return entries, err
}

// faultyFile leaves Read and Stat alone, which change nothing, and always closes.
type faultyFile struct {
	filesystem.File
	faults *storagetest.Faults
}

func (f faultyFile) Seek(offset int64, whence int) (at int64, err error) {
	err = f.faults.Do("Seek", func() (err error) {
		at, err = f.File.Seek(offset, whence)
		return err
	})
	return at, err
}

func (f faultyFile) Write(p []byte) (n int, err error) {
	err = f.faults.Do("File.Write", func() (err error) {
		n, err = f.File.Write(p)
		return err
	})
	return n, err
}

func (f faultyFile) Truncate(size int64) error {
	return f.faults.Do("Truncate", func() error { return f.File.Truncate(size) })
}

func (f faultyFile) Sync() error {
	return f.faults.Do("Sync", f.File.Sync)
}

func (f faultyFile) Close() error {
	closed := f.File.Close()
	return errors.Join(closed, f.faults.Do("Close", func() error { return nil }))
}

// state is what a caller of a Store was told, by the object's name.
type state struct {
	durable map[string]storage.Checkpoint
	content map[string][]byte
	deleted map[string]bool
}

// check fails unless store holds exactly what the caller was told. Of incomplete objects it completes what is durable.
func (s *state) check(ctx context.Context, store *filesystem.Store) error {
	for name, c := range s.durable {
		if err := store.Complete(ctx, c); err != nil {
			return err
		}
		if err := storagetest.Check(ctx, store, c, s.content[name][:c.Size]); err != nil {
			return err
		}
	}
	for name := range s.deleted {
		if _, err := store.Open(ctx, "blobs/"+name, 0); !errors.Is(err, storage.ErrNotFound) {
			return fmt.Errorf("%s was deleted, but opening it says: %v", name, err)
		}
	}
	return nil
}

// scenario is steps that each do one thing of which the caller is told.
func (s *state) scenario(ctx context.Context, store func() *filesystem.Store) []func() error {
	appendTo := func(name string, upTo int) func() error {
		return func() error {
			from := s.durable[name]
			from.Key = "blobs/" + name
			c, err := storagetest.Append(ctx, store(), from, s.content[name][from.Size:upTo])
			// What was appended may be durable although closing failed: the checkpoint says so.
			if c.Key != "" {
				s.durable[name] = c
			}
			return err
		}
	}
	remove := func(name string) func() error {
		return func() error {
			delete(s.durable, name)
			err := store().Delete(ctx, "blobs/"+name)
			if err == nil {
				s.deleted[name] = true
			}
			return err
		}
	}
	return []func() error{
		appendTo("new/1", 3000),
		appendTo("new/1", 5000),
		func() error { return store().Complete(ctx, s.durable["new/1"]) },
		appendTo("old/partial", 5000), // behind which something is left
		func() error { return store().Complete(ctx, s.durable["old/partial"]) },
		appendTo("new/2", 0),
		appendTo("new/2", 5000),
		remove("old/dead"),
		remove("new/1"),
		remove("old/dead"),
		func() error { return store().List(ctx, "blobs/", func(storage.Object) error { return nil }) },
	}
}

// prepare makes three old objects, one of them incomplete with something behind its checkpoint.
func prepare(t *testing.T, root string) *state {
	s := &state{durable: map[string]storage.Checkpoint{}, content: map[string][]byte{}, deleted: map[string]bool{}}
	for i, name := range []string{"old/whole", "old/dead", "old/partial", "new/1", "new/2"} {
		s.content[name] = storagetest.Content(uint64(i), 5000)
	}
	err := os.MkdirAll(filepath.Join(root, "blobs", "old"), 0o750)
	for name, left := range map[string]string{"old/whole": "", "old/dead": "", "old/partial": "left behind"} {
		key := "blobs/" + name
		s.durable[name] = storage.Checkpoint{Key: key, Size: 4000}
		err = errors.Join(err, os.WriteFile(filepath.Join(root, key), append(s.content[name][:4000:4000], left...), 0o640))
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestFaults fails each call to the file system in turn, before or after doing it. What a caller was told before stays
// true, and repeating the step that failed goes well, even if the power is lost at the end.
func TestFaults(t *testing.T) {
	storagetest.Sweep(t, func(t *testing.T, faults *storagetest.Faults) { sweepFault(t, faults, true) })
}

// TestFaultThenCut loses the power as soon as a call failed.
func TestFaultThenCut(t *testing.T) {
	storagetest.Sweep(t, func(t *testing.T, faults *storagetest.Faults) { sweepFault(t, faults, false) })
}

// sweepFault runs the scenario, until the end when it may repeat the step that met the fault and else until there, and
// checks what a power loss leaves.
func sweepFault(t *testing.T, faults *storagetest.Faults, repeat bool) {
	root := t.TempDir()
	s := prepare(t, root)
	power, err := filesystemtest.New(root, filesystemtest.Config{})
	if err != nil {
		t.Fatal(err)
	}
	var store *filesystem.Store
	openStore := func() (err error) {
		store, err = filesystem.Open(filesystem.Config{Root: root, FS: faultyFS{power, faults}})
		return err
	}
	steps := append([]func() error{openStore}, s.scenario(t.Context(), func() *filesystem.Store { return store })...)
	for i, step := range steps {
		err := step()
		if errors.Is(err, storagetest.ErrInjected) {
			if !repeat {
				break
			}
			if err := s.check(t.Context(), open(t, filesystem.Config{Root: root, FS: power})); err != nil {
				t.Errorf("after the fault: %v", err)
			}
			err = step()
		}
		if err != nil {
			t.Fatalf("step %d: %v", i+1, err)
		}
	}
	if err := power.Cut(); err != nil {
		t.Fatal(err)
	}
	if err := s.check(t.Context(), open(t, filesystem.Config{Root: root})); err != nil {
		t.Error(err)
	}
}
