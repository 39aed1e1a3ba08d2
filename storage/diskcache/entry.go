package diskcache

import (
	"container/list"
	"context"
	"errors"
	"io"
	"os"
)

// state is how far an entry has come.
type state int

const (
	// asking is while the backend has not answered.
	asking state = iota
	// parked is when the source is open and nobody has read yet: it may be only the end that they want.
	parked
	// filling is while the source is copied to the file.
	filling
	// settled is an entry that is whole, or was given up.
	settled
)

// entry is a blob that is kept, or on its way. From state on its fields need Cache.mu, except that a reader may use file where
// progress says that there are bytes.
type entry struct {
	id, key  string // key is empty where an earlier process made the entry
	name     string // of the file
	size     int64
	cancel   context.CancelFunc // ends what is asked of the backend
	progress progress

	state   state
	readers int
	dropped bool
	held    int64         // bytes that count for the file, if there is one
	place   *list.Element // in the list of those that nobody reads
	file    *os.File      // nil while nobody needs it
	source  io.ReadSeekCloser
}

var errNoRoom = errors.New("the disk cache has no room beside what is being read")

// diskError is an error of the disk, as opposed to the backend.
type diskError struct{ error }

// ask opens an entry's source.
func (c *Cache) ask(ctx context.Context, e *entry) {
	source, err := c.Backend.Open(ctx, e.key, e.size)
	c.mu.Lock()
	if err == nil && !e.dropped {
		e.state, e.source = parked, source
		e.progress.set(0)
		c.mu.Unlock()
		return
	}
	if e.dropped && (err == nil || ctx.Err() != nil) {
		err = errGone // nobody's fault: whoever still waits asks for it without the cache
	}
	e.state = settled
	c.drop(e)
	c.rest(e)
	e.progress.fail(err)
	c.mu.Unlock()
	if source != nil {
		_ = source.Close() // nothing was read
	}
	e.cancel()
}

// start has the source of an entry copied to its file, if it isn't yet. When it can't be, the entry is given up.
func (c *Cache) start(e *entry) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e.state != parked {
		return nil
	}
	err := c.makeFile(e)
	if err != nil {
		c.drop(e)
		e.progress.fail(err)
		return err
	}
	e.state = filling
	c.running.Go(func() { c.fill(e) })
	return nil
}

func (c *Cache) makeFile(e *entry) error {
	if e.dropped {
		return errGone
	}
	if !c.reserve(e) {
		return errNoRoom
	}
	f, err := c.root.OpenFile(e.name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		c.refuse(err)
		return err
	}
	e.file = f
	return nil
}

// fill copies the source of an entry to its file.
func (c *Cache) fill(e *entry) {
	err := e.copy()
	_ = e.source.Close() // all was read, or it failed before
	e.cancel()
	c.mu.Lock()
	defer c.mu.Unlock()
	e.state, e.source = settled, nil
	if err != nil {
		if disk := (diskError{}); errors.As(err, &disk) {
			c.refuse(disk.error)
		}
		c.drop(e)
		e.progress.fail(err)
	}
	c.rest(e)
}

func (e *entry) copy() error {
	buffer := make([]byte, min(blockSize, e.size)+sumSize)
	for number, at := int64(0), int64(0); at < e.size; number++ {
		n := int(min(blockSize, e.size-at))
		if _, err := io.ReadFull(e.source, buffer[:n]); err != nil {
			return err
		}
		if err := writeBlock(e.file, e.name, number, buffer, n); err != nil {
			return diskError{err}
		}
		at += int64(n)
		e.progress.set(at)
	}
	return nil
}

// leave ends a reader's use of an entry. Who was the last before anything was fetched gets the source. A fetch that nobody
// waits for goes on when at least half is there, so that it costs no more than what was read; else it was in vain.
func (c *Cache) leave(e *entry) (source io.ReadSeekCloser) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e.readers--
	if e.readers == 0 {
		switch {
		case e.state == parked:
			c.drop(e)
			source, e.source, e.state = e.source, nil, settled
		case e.state == asking, e.state == filling && (e.dropped || 2*e.progress.fetched() < e.size):
			c.stop(e)
		}
	}
	c.rest(e)
	return source
}
