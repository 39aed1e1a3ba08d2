package diskcache

import (
	"cmp"
	"container/list"
	"context"
	"errors"
	"io/fs"
	"os"
	"slices"
	"time"
)

// pause is how long nothing is written after an error of the disk.
const pause = time.Minute

// index knows the entries, and counts what they take of the disk by diskSize. Its fields need Cache.mu, and so do usable, begin,
// reserve, drop, stop, rest and refuse.
type index struct {
	entries map[string]*entry // by id
	idle    *list.List        // whole entries that nobody reads, the one used last first
	unused  int64             // bytes of those
	used    int64             // bytes of all files, also of those that are removed but still read
	refused time.Time         // until when nothing is written
	closed  bool

	hits, misses uint64
}

func newIndex() index { return index{entries: map[string]*entry{}, idle: list.New()} }

// acquire returns the entry of a blob for one reader more, who has to leave it. It is nil when the blob is not to be kept.
func (c *Cache) acquire(ctx context.Context, key string, size int64) *entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	id := identify(key)
	e := c.entries[id]
	if e != nil && !c.usable(e, size) {
		c.stop(e)
		e = nil
	}
	if e != nil {
		c.hits++
	} else {
		c.misses++
		if size <= 0 || size > maxSize || diskSize(size) > c.size || c.closed || time.Now().Before(c.refused) {
			return nil
		}
		e = c.begin(ctx, id, key, size)
	}
	if e.place != nil {
		c.idle.Remove(e.place)
		e.place = nil
		c.unused -= e.held
	}
	e.readers++
	return e
}

// usable opens the file of an entry where it isn't. An entry of another size is that of an upload that has grown since.
func (c *Cache) usable(e *entry, size int64) bool {
	if e.size != size {
		return false
	}
	if e.state != settled || e.file != nil {
		return true
	}
	f, err := c.root.Open(e.name)
	if err != nil {
		c.log.Warn("a file of the disk cache can't be opened: the blob is read from the blob store", "file", e.name, "error", err)
		return false
	}
	e.file = f
	return true
}

// begin makes an entry and asks the backend for it. That goes on when the first reader leaves, as long as there is another.
func (c *Cache) begin(ctx context.Context, id, key string, size int64) *entry {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	e := &entry{id: id, key: key, name: fileName(id, size), size: size, cancel: cancel, progress: progress{have: -1}}
	c.entries[id] = e
	c.running.Go(func() { c.ask(ctx, e) })
	return e
}

// reserve makes room for an entry's file.
func (c *Cache) reserve(e *entry) bool {
	need := diskSize(e.size)
	if c.used-c.unused+need > c.size {
		return false
	}
	for c.used+need > c.size {
		c.drop(c.idle.Back().Value.(*entry))
	}
	c.used += need
	e.held = need
	return true
}

// drop takes an entry out of the index and removes its file. Whoever has it open reads on; the bytes count until then.
func (c *Cache) drop(e *entry) {
	if e.dropped {
		return
	}
	e.dropped = true
	delete(c.entries, e.id)
	if e.held > 0 {
		if err := c.root.Remove(e.name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			c.refuse(err)
		}
	}
	if e.place != nil {
		c.idle.Remove(e.place)
		e.place = nil
		c.unused -= e.held
		c.used -= e.held
	}
}

// stop drops an entry and ends what is being asked for it. A source that is parked may still go to a reader.
func (c *Cache) stop(e *entry) {
	c.drop(e)
	if e.state == asking || e.state == filling {
		e.cancel()
	}
}

// rest puts an entry aside that nobody needs open any more.
func (c *Cache) rest(e *entry) {
	if e.readers > 0 || e.state != settled {
		return
	}
	if e.file != nil {
		_ = e.file.Close() // what it could not write, its checksums tell
		e.file = nil
	}
	if e.dropped {
		c.used -= e.held
		e.held = 0
		return
	}
	e.place = c.idle.PushFront(e)
	c.unused += e.held
	now := time.Now()
	_ = c.root.Chtimes(e.name, now, now) // else it is only taken for older after a restart
}

// forget drops the entry of a key. Its readers go on with the backend.
func (c *Cache) forget(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.entries[identify(key)]; e != nil {
		c.stop(e)
	}
}

// damaged drops an entry whose file does not give back what was written.
func (c *Cache) damaged(e *entry, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e.dropped {
		return
	}
	c.log.Warn("a file of the disk cache is damaged: the blob is read from the blob store", "file", e.name, "error", err)
	c.drop(e)
}

// refuse notes that the disk did not take something.
func (c *Cache) refuse(err error) {
	now := time.Now()
	if now.Before(c.refused) {
		return
	}
	c.refused = now.Add(pause)
	c.log.Warn("the disk cache can't be written: blobs are read from the blob store for a while", "error", err, "pause", pause)
}

// takeOver finds the files that an earlier process left, and removes those that are not whole.
func (c *Cache) takeOver() error {
	files, err := fs.ReadDir(c.root.FS(), ".")
	if err != nil {
		return err
	}
	var found []fs.FileInfo
	for _, f := range files {
		info, err := f.Info()
		if _, _, ok := parseName(f.Name()); ok && err == nil && info.Mode().IsRegular() {
			found = append(found, info)
		}
	}
	slices.SortFunc(found, func(a, b fs.FileInfo) int {
		return cmp.Or(a.ModTime().Compare(b.ModTime()), cmp.Compare(a.Name(), b.Name()))
	})
	for _, info := range found {
		if err := c.adopt(info); err != nil {
			return err
		}
	}
	for c.used > c.size {
		c.drop(c.idle.Back().Value.(*entry))
	}
	return nil
}

// adopt makes an entry of a file.
func (c *Cache) adopt(info os.FileInfo) error {
	id, size, _ := parseName(info.Name())
	if info.Size() != fileSize(size) {
		return c.root.Remove(info.Name())
	}
	if older := c.entries[id]; older != nil {
		c.drop(older)
	}
	e := &entry{id: id, name: info.Name(), size: size, state: settled, held: diskSize(size), progress: progress{have: size}}
	c.entries[id] = e
	e.place = c.idle.PushFront(e)
	c.used += e.held
	c.unused += e.held
	return nil
}
