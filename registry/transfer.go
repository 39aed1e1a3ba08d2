package registry

import (
	"fmt"
	"hash"
	"io"
	"sync"
	"sync/atomic"
)

const (
	// bufferSize is how many bytes are written at once: past the page cache, with writes of half the size pushes are a fifth slower.
	bufferSize = 512 << 10
	// partBufferSize is that for stores which collect parts of an object by themselves.
	partBufferSize = 128 << 10
	// buffersEach is how many buffers one transfer uses: one that is filled, one that is written and one that is hashed.
	buffersEach = 3
)

// readError is an error of the side that sends.
type readError struct{ error }

func (e readError) Unwrap() error { return e.error }

// transfer copies body to out and hashes it, and returns how many bytes it copied. What fits one buffer is handled in
// place; of more, one buffer is written and another hashed while the next is read. Errors of body come as readError: then all
// bytes that came before were written and hashed.
func (b *buffers) transfer(out io.Writer, sum hash.Hash, body io.Reader) (int64, error) {
	buf := b.get()
	n, readErr := fill(body, buf)
	if readErr != nil {
		defer b.put(buf)
		sum.Write(buf[:n])
		if _, err := out.Write(buf[:n]); err != nil {
			return 0, err
		}
		return int64(n), asReadError(readErr)
	}
	l := b.startLine(out, sum)
	readErr = l.feed(body, buf)
	if err := l.finish(b); err != nil {
		return l.total, err
	}
	return l.total, asReadError(readErr)
}

// line is goroutines that write buffers, hash them and give them back.
type line struct {
	full, written, free chan []byte
	done                sync.WaitGroup
	failed              atomic.Bool

	// Of the goroutine that writes, until done:
	total int64
	err   error
}

func (b *buffers) startLine(out io.Writer, sum hash.Hash) *line {
	l := &line{full: make(chan []byte, buffersEach), written: make(chan []byte, buffersEach), free: make(chan []byte, buffersEach)}
	for range buffersEach - 1 {
		l.free <- b.get()
	}
	l.done.Go(func() { l.write(out) })
	l.done.Go(func() {
		for p := range l.written {
			sum.Write(p)
			l.free <- p[:b.size]
		}
	})
	return l
}

// write writes until that fails, and passes on what comes.
func (l *line) write(out io.Writer) {
	defer close(l.written)
	for p := range l.full {
		if l.err == nil {
			if _, l.err = out.Write(p); l.err == nil {
				l.total += int64(len(p))
			}
			l.failed.Store(l.err != nil)
		}
		l.written <- p
	}
}

// feed reads until body or the writing fails. buf is full already.
func (l *line) feed(body io.Reader, buf []byte) (readErr error) {
	for n := len(buf); ; {
		l.full <- buf[:n]
		if readErr != nil || l.failed.Load() {
			return readErr
		}
		buf = <-l.free
		n, readErr = fill(body, buf)
	}
}

// finish waits until everything was written and hashed, gives the buffers back and returns the error of writing.
func (l *line) finish(b *buffers) error {
	close(l.full)
	l.done.Wait()
	close(l.free)
	for p := range l.free {
		b.put(p)
	}
	return l.err
}

// fill reads until p is full or body fails. io.ReadFull would make io.ErrUnexpectedEOF of the body's end, and that is
// what a body that was cut off says.
func fill(body io.Reader, p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var m int
		m, err = body.Read(p[n:])
		n += m
	}
	return n, err
}

func asReadError(err error) error {
	if err == io.EOF {
		return nil
	}
	return readError{fmt.Errorf("read body: %w", err)}
}
