// Package diskcache keeps on a local disk what was read from a blob store that is elsewhere.
//
// A blob is fetched once, however many read it meanwhile: the readers share what is there and wait for the rest. Files take no more
// than Size, those that are being filled included; what was used least recently goes first, and nothing that is being read. They
// survive a restart. A key names the same bytes for ever, so that no entry is ever stale; one whose object another process
// deleted stays until it is the oldest.
//
// Each block of a file ends with a checksum of the bytes, of their place and of whose they are, and no byte is handed out before it
// was checked. That is why files are never synced: what a power loss, a kill -9 or a bad disk left of one is noticed when it is
// read, or, where the length is wrong, at the start. Nothing is read at the start.
//
// A cache never makes a read fail. What the disk does not take or give back, a file that is damaged, and a fetch that broke are
// reasons to go on with the blob store from where the reader is; so is a place that is far beyond what was fetched, and a blob that
// there is no room for. After an error of the disk, nothing is written to it for a minute. It does not notice that the disk is slow.
package diskcache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"berth/filelock"
	"berth/storage"
)

// Backend is a blob store that is worth a cache. It lists what else such a store can do, so that a Cache can do it too.
type Backend interface {
	storage.Blobs
	storage.Lister
	storage.Linker
	storage.Parted
	storage.WholeObjects
}

// Config says what a Cache keeps, and where. All but LockWait and Log have to be set.
type Config struct {
	Backend Backend
	// Directory is made when it is missing. It belongs to one process; files in it that are not the cache's are left alone.
	Directory string
	// Size bounds the files, in bytes. Larger blobs are not kept.
	Size int64
	// LockWait is how long Open waits for another process to let go of Directory.
	LockWait time.Duration
	// Log gets a line for each file that is damaged, and for each time that the disk refuses. Nil is nowhere.
	Log *slog.Logger
}

// Stats count since a Cache was opened.
type Stats struct {
	// Hits are reads of what was there or being fetched; Misses are all others.
	Hits, Misses uint64
	// Bytes is what the files take now.
	Bytes int64
}

// Cache is a Backend whose Open looks on the disk first. Its other methods are the Backend's. Make it with Open, and close it when
// nobody reads any more.
type Cache struct {
	Backend
	size    int64
	log     *slog.Logger
	lock    *filelock.Lock
	root    *os.Root
	running sync.WaitGroup // fetches

	mu sync.Mutex
	index
}

// Open takes over what an earlier process left in the directory. It fails with filelock.ErrHeld while another one uses it.
func Open(ctx context.Context, c Config) (_ *Cache, err error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(c.Directory, 0o700); err != nil {
		return nil, fmt.Errorf("disk cache: %w", err)
	}
	lock, err := filelock.Take(ctx, filepath.Join(c.Directory, "lock"), c.LockWait)
	if err != nil {
		return nil, fmt.Errorf("disk cache: %w", err)
	}
	root, err := os.OpenRoot(c.Directory)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("disk cache: %w", err), lock.Close())
	}
	cache := &Cache{Backend: c.Backend, size: c.Size, log: c.Log, lock: lock, root: root, index: newIndex()}
	if err := cache.takeOver(); err != nil {
		return nil, errors.Join(fmt.Errorf("disk cache: %w", err), root.Close(), lock.Close())
	}
	return cache, nil
}

// Close stops what is being fetched and lets go of the directory.
func (c *Cache) Close() error {
	c.mu.Lock()
	c.closed = true
	for _, e := range c.entries {
		if e.state != settled {
			c.stop(e)
		}
	}
	c.mu.Unlock()
	c.running.Wait()
	return errors.Join(c.root.Close(), c.lock.Close())
}

// Stats returns the counts.
func (c *Cache) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return Stats{Hits: c.hits, Misses: c.misses, Bytes: c.used}
}

// Open implements storage.Blobs. The reader uses ctx until it is closed.
func (c *Cache) Open(ctx context.Context, key string, size int64) (io.ReadSeekCloser, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("open object %s: %w", key, err)
	}
	e := c.acquire(ctx, key, size)
	if e == nil {
		return c.Backend.Open(ctx, key, size)
	}
	r := &reader{cache: c, ctx: ctx, key: key, size: size, entry: e, number: -1}
	err := e.progress.await(ctx, 0, 0)
	switch {
	case err == nil:
		return r, nil
	case errors.Is(err, errGone):
		_ = r.Close() // it has nothing to close
		return c.Backend.Open(ctx, key, size)
	}
	return nil, errors.Join(err, r.Close())
}

// Write implements storage.Blobs. An upload that was read back before it was complete is forgotten.
func (c *Cache) Write(ctx context.Context, from storage.Checkpoint) (storage.Writer, error) {
	c.forget(from.Key)
	return c.Backend.Write(ctx, from)
}

// Delete implements storage.Blobs. Whoever opens the object afterwards does not find it.
func (c *Cache) Delete(ctx context.Context, key string) error {
	err := c.Backend.Delete(ctx, key)
	c.forget(key) // also after an error, which may be that of a lost answer
	return err
}
