package filesystem_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"

	"berth/storage"
	"berth/storage/filesystem"
	"berth/storage/filesystem/filesystemtest"
	"berth/storage/storagetest"
)

// worker makes random calls for objects of its own and remembers what it was told.
type worker struct {
	id      int
	random  *rand.Rand
	made    int // objects so far: a key is never used twice
	objects []*object
}

// object is what a worker knows of one object. Of two checkpoints it trusts the one that it chose to go on from.
type object struct {
	key      string
	content  []byte             // what is written, as far as it goes
	from     storage.Checkpoint // durable
	promised bool               // from was reported as durable, and nothing was begun since that may end it
	complete bool
	deleted  bool
}

// live makes calls until one fails.
func (w *worker) live(ctx context.Context, store *filesystem.Store) error {
	for {
		if err := w.step(ctx, store); err != nil {
			return err
		}
	}
}

func (w *worker) step(ctx context.Context, store *filesystem.Store) error {
	o := w.pick()
	switch n := w.random.IntN(10); {
	case n < 6 && !o.complete:
		return w.append(ctx, store, o)
	case n < 8 && o.promised:
		err := store.Complete(ctx, o.from)
		o.complete = o.complete || err == nil
		return err
	case n == 9:
		o.promised = false
		err := store.Delete(ctx, o.key)
		o.deleted = err == nil
		return err
	}
	return nil
}

// pick returns an object that was not deleted, often a new one. Few directories make workers meet.
func (w *worker) pick() *object {
	if n := len(w.objects); n > 0 && w.random.IntN(3) > 0 {
		if o := w.objects[w.random.IntN(n)]; !o.deleted {
			return o
		}
	}
	w.made++
	o := &object{
		key:     fmt.Sprintf("blobs/%d/%d/%d-%d", w.random.IntN(2), w.random.IntN(3), w.id, w.made),
		content: storagetest.Content(w.random.Uint64(), 8000),
	}
	o.from.Key = o.key
	w.objects = append(w.objects, o)
	return o
}

// append writes a few pieces, some of them behind the last checkpoint. Now and then it begins anew.
func (w *worker) append(ctx context.Context, store *filesystem.Store, o *object) (err error) {
	if w.random.IntN(8) == 0 {
		o.from = storage.Checkpoint{Key: o.key}
	}
	if o.from.Size == 0 {
		o.promised = false
	}
	writer, err := store.Write(ctx, o.from)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, writer.Close()) }()
	at := o.from.Size
	for range w.random.IntN(4) {
		piece := o.content[at:][:w.random.IntN(min(3000, len(o.content)-int(at))+1)]
		if _, err := writer.Write(piece); err != nil {
			return err
		}
		at += int64(len(piece))
		if w.random.IntN(2) == 0 {
			continue
		}
		c, err := writer.Checkpoint(ctx)
		if err != nil {
			return err
		}
		o.from, o.promised = c, true
	}
	return nil
}

// check compares what is there with what the worker was told.
func (w *worker) check(ctx context.Context, store *filesystem.Store) error {
	for _, o := range w.objects {
		if o.deleted {
			if _, err := store.Open(ctx, o.key, 0); !errors.Is(err, storage.ErrNotFound) {
				return fmt.Errorf("object %s was deleted, but opening it says: %v", o.key, err)
			}
			continue
		}
		if o.promised {
			err := store.Complete(ctx, o.from)
			if err == nil {
				err = storagetest.Check(ctx, store, o.from, o.content[:o.from.Size])
			}
			if err != nil {
				return fmt.Errorf("durable object (complete: %t) is lost: %w", o.complete, err)
			}
		}
	}
	return nil
}

// forget gives up what the loss may have taken: the caller of a Store would read its own durable facts now.
func (w *worker) forget() {
	var kept []*object
	for _, o := range w.objects {
		if o.promised || o.deleted {
			kept = append(kept, o)
		}
	}
	w.objects = kept
}

// crash runs three lives over one directory, each ended by a power loss, and returns what was promised but not kept.
// Between the store and the file system that forgets it puts what wrap makes.
func crash(t *testing.T, seed uint64, wrap func(fs filesystem.FS, root string) filesystem.FS) error {
	random := rand.New(rand.NewPCG(seed, 1))
	root := t.TempDir()
	workers := make([]*worker, 1+seed%4)
	for i := range workers {
		workers[i] = &worker{id: i, random: rand.New(rand.NewPCG(seed, uint64(100+i)))}
	}
	for life := range 3 {
		config := filesystemtest.Config{CutAt: 1 + random.IntN(60*len(workers))}
		if random.IntN(2) == 0 {
			config.Keep = random
		}
		power, err := filesystemtest.New(root, config)
		if err != nil {
			return err
		}
		if err := liveOnce(t.Context(), filesystem.Config{Root: root, FS: wrap(power, root)}, workers); err != nil {
			return fmt.Errorf("life %d: %w", life+1, err)
		}
		if err := power.Cut(); err != nil {
			return err
		}
		after := open(t, filesystem.Config{Root: root})
		for _, w := range workers {
			if err := w.check(t.Context(), after); err != nil {
				return fmt.Errorf("after life %d: %w", life+1, err)
			}
			w.forget()
		}
	}
	return nil
}

// liveOnce lets the workers live until the power goes. Nothing else may end them.
func liveOnce(ctx context.Context, c filesystem.Config, workers []*worker) error {
	store, err := filesystem.Open(c)
	if errors.Is(err, filesystemtest.ErrPowerLoss) {
		return nil
	}
	if err != nil {
		return err
	}
	errs := make([]error, len(workers))
	var wg sync.WaitGroup
	for i, w := range workers {
		wg.Go(func() {
			if err := w.live(ctx, store); !errors.Is(err, filesystemtest.ErrPowerLoss) {
				errs[i] = err
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// seeds is how many random runs have to go well, and how many may pass before a fault is noticed.
const seeds = 40

func TestPowerLoss(t *testing.T) {
	for seed := range uint64(seeds) {
		if err := crash(t, seed, func(fs filesystem.FS, _ string) filesystem.FS { return fs }); err != nil {
			t.Errorf("seed %d: %v", seed, err)
		}
	}
}

// TestRootDurable loses the power after the first object of a store that made its root.
func TestRootDurable(t *testing.T) {
	above := t.TempDir()
	power, err := filesystemtest.New(above, filesystemtest.Config{})
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(above, "new", "root")
	c := put(t, open(t, filesystem.Config{Root: root, FS: power}), "blobs/a", "content")
	if err := power.Cut(); err != nil {
		t.Fatal(err)
	}
	if err := storagetest.Check(t.Context(), open(t, filesystem.Config{Root: root}), c, []byte("content")); err != nil {
		t.Error(err)
	}
}

// lazy is a file system that only says that it synced.
type lazy struct {
	filesystem.FS
	dir  func(name string) bool // which directories it does not sync
	file bool                   // whether it syncs no file
}

type lazyFile struct{ filesystem.File }

func (lazyFile) Sync() error { return nil }

func (l lazy) SyncDir(name string) error {
	if l.dir(name) {
		return nil
	}
	return l.FS.SyncDir(name)
}

func (l lazy) OpenFile(name string, flag int, perm fs.FileMode) (filesystem.File, error) {
	f, err := l.FS.OpenFile(name, flag, perm)
	if err == nil && l.file {
		f = lazyFile{f}
	}
	return f, err
}

// TestPowerLossNoticed leaves out one kind of sync at a time, which TestPowerLoss has to notice: else it proves nothing.
func TestPowerLossNoticed(t *testing.T) {
	none := func(string) bool { return false }
	for _, test := range []struct {
		name string
		lazy func(root string) lazy
	}{
		{"files", func(string) lazy { return lazy{dir: none, file: true} }},
		{"root", func(root string) lazy { return lazy{dir: func(name string) bool { return name == root }} }},
		{"parents", func(root string) lazy {
			return lazy{dir: func(name string) bool { return filepath.Dir(name) == filepath.Join(root, "blobs") }}
		}},
		{"directories of files", func(root string) lazy {
			return lazy{dir: func(name string) bool { return filepath.Dir(filepath.Dir(name)) == filepath.Join(root, "blobs") }}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			for seed := range uint64(seeds) {
				err := crash(t, seed, func(below filesystem.FS, root string) filesystem.FS {
					l := test.lazy(root)
					l.FS = below
					return l
				})
				if err != nil {
					t.Logf("seed %d: %v", seed, err)
					return
				}
			}
			t.Error("nobody noticed")
		})
	}
}
