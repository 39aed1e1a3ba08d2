package filesystem

import (
	"cmp"
	"context"
	"path/filepath"
	"sync"

	"berth/storage"
)

// writeBackStride is how far a writer gets before it looks for free space and starts write-back again. Without it a
// large object would wait in memory until its sync, while the disk idles.
const writeBackStride = 8 << 20

// writer implements storage.Writer. Its numbers count bytes from the object's begin.
type writer struct {
	store   *Store
	file    File
	key     string
	size    int64 // written
	durable int64 // synced
	flushed int64 // handed to write-back
	fresh   bool  // the file's entry in its directory may not be durable
	direct  bool  // writes go past the page cache
	refused bool  // they can't
	err     error // what ended the writer
}

// Write implements storage.Writer.
func (w *writer) Write(p []byte) (int, error) {
	if err := w.pace(); err != nil {
		return 0, err
	}
	n, err := w.put(p)
	w.size += int64(n)
	return n, w.fail(err)
}

// pace does what is due once per stride.
func (w *writer) pace() error {
	if w.err != nil || w.size-w.flushed < w.store.stride {
		return w.err
	}
	startWriteBack(w.file, w.flushed, w.size-w.flushed)
	w.flushed = w.size
	return w.fail(w.store.Room())
}

// Checkpoint implements storage.Writer.
func (w *writer) Checkpoint(ctx context.Context) (storage.Checkpoint, error) {
	if w.err == nil {
		w.fail(w.sync(ctx))
	}
	if w.err != nil {
		return storage.Checkpoint{}, w.err
	}
	return storage.Checkpoint{Key: w.key, Size: w.size}, nil
}

// sync makes the bytes durable and the way to them, both at once: where the file system has a journal, they are one commit of it then.
func (w *writer) sync(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var content, entry error
	var done sync.WaitGroup
	if w.fresh {
		sync := func() { entry = w.store.dirs.syncEntry(filepath.Dir(w.store.path(w.key))) }
		if w.store.atOnce {
			done.Go(sync)
		} else {
			sync()
		}
	}
	if w.fresh || w.size > w.durable {
		content = w.file.Sync()
	}
	done.Wait()
	if content == nil {
		w.durable = w.size
	}
	if entry == nil {
		w.fresh = false
	}
	return cmp.Or(content, entry)
}

// Close implements storage.Writer.
func (w *writer) Close() error { return wrap("close", w.key, w.file.Close()) }

// fail ends the writer with its first error. After a failed sync the kernel may take lost bytes for written ones, so that
// a second sync proves nothing: only a new writer, which cuts them off, can go on.
func (w *writer) fail(err error) error {
	if err != nil && w.err == nil {
		w.err = wrap("write", w.key, err)
	}
	return w.err
}
