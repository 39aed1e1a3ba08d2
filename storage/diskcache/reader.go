package diskcache

import (
	"context"
	"fmt"
	"io"
)

// reader reads a blob from its entry, and from the backend once that does not work out.
type reader struct {
	cache *Cache
	ctx   context.Context // of Open
	key   string
	size  int64
	at    int64 // where the next Read begins

	entry  *entry // nil from when on the backend is read
	number int64  // of the block in buffer, or -1
	buffer []byte

	source   io.ReadSeekCloser // of the backend, or nil
	sourceAt int64             // where it goes on
	release  func()            // for a source that was opened for the entry
}

// Read implements io.Reader.
func (r *reader) Read(p []byte) (int, error) {
	switch {
	case r.at >= r.size:
		return 0, io.EOF
	case len(p) == 0:
		return 0, nil
	}
	if r.entry != nil {
		n, err := r.readEntry(p)
		if err == nil {
			r.at += int64(n)
			return n, nil
		}
		if r.ctx.Err() != nil {
			return 0, fmt.Errorf("read object %s: %w", r.key, r.ctx.Err())
		}
		r.goOn()
	}
	return r.readSource(p[:min(int64(len(p)), r.size-r.at)])
}

// readEntry reads what is left of the block at the reader's place, straight into p where it fits there.
func (r *reader) readEntry(p []byte) (int, error) {
	number := r.at / blockSize
	begin := number * blockSize
	n := int(min(blockSize, r.size-begin))
	if number == r.number {
		return copy(p, r.buffer[r.at-begin:n]), nil
	}
	if err := r.await(begin + int64(n)); err != nil {
		return 0, err
	}
	if r.at == begin && len(p) >= n+sumSize {
		return n, r.check(p, number, n)
	}
	if r.buffer == nil {
		r.buffer = make([]byte, min(blockSize, r.size)+sumSize)
	}
	r.number = -1
	if err := r.check(r.buffer, number, n); err != nil {
		return 0, err
	}
	r.number = number
	return copy(p, r.buffer[r.at-begin:n]), nil
}

// await waits until the bytes up to end are in the file, and sees to it that somebody fetches them.
func (r *reader) await(end int64) error {
	p := &r.entry.progress
	if changed, err := p.look(r.at, end); changed == nil {
		return err
	}
	if err := r.cache.start(r.entry); err != nil {
		return err
	}
	return p.await(r.ctx, r.at, end)
}

// check reads a block of the file.
func (r *reader) check(buffer []byte, number int64, n int) error {
	err := readBlock(r.entry.file, r.entry.name, number, buffer, n)
	if err != nil {
		r.cache.damaged(r.entry, err)
	}
	return err
}

// goOn leaves the entry for the backend: with the source that was opened for the entry, where nobody else reads it.
func (r *reader) goOn() {
	e := r.entry
	r.entry, r.buffer = nil, nil
	r.source = r.cache.leave(e)
	if r.source != nil {
		stop := context.AfterFunc(r.ctx, e.cancel)
		r.release = func() { stop(); e.cancel() }
	}
}

func (r *reader) readSource(p []byte) (int, error) {
	if r.source == nil {
		source, err := r.cache.Backend.Open(r.ctx, r.key, r.size)
		if err != nil {
			return 0, err
		}
		r.source = source
	}
	if r.sourceAt != r.at {
		if _, err := r.source.Seek(r.at, io.SeekStart); err != nil {
			return 0, err
		}
		r.sourceAt = r.at
	}
	n, err := r.source.Read(p)
	r.at += int64(n)
	r.sourceAt = r.at
	return n, err
}

// Seek implements io.Seeker.
func (r *reader) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekStart:
	case io.SeekCurrent:
		offset += r.at
	case io.SeekEnd:
		offset += r.size
	default:
		return 0, fmt.Errorf("object %s: seek from %d, which is nowhere", r.key, whence)
	}
	if offset < 0 {
		return 0, fmt.Errorf("object %s: seek before the begin", r.key)
	}
	r.at = offset
	return offset, nil
}

// Close implements io.Closer.
func (r *reader) Close() error {
	if r.entry != nil {
		r.goOn()
	}
	var err error
	if r.source != nil {
		err = r.source.Close()
		r.source = nil
	}
	if r.release != nil {
		r.release()
		r.release = nil
	}
	return err
}
