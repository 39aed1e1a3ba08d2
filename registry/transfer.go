package registry

import (
	"fmt"
	"hash"
	"io"
	"sync"
)

const (
	bufferSize = 128 << 10
	// buffersEach is how many buffers one transfer uses: one that is filled or written, the others wait to be hashed.
	buffersEach = 4
)

// buffers are reused between transfers. The zero value is ready.
type buffers struct{ pool sync.Pool }

func (b *buffers) get() []byte {
	if p, ok := b.pool.Get().(*[]byte); ok {
		return *p
	}
	return make([]byte, bufferSize)
}

func (b *buffers) put(p []byte) {
	p = p[:bufferSize]
	b.pool.Put(&p)
}

// readError is an error of the side that sends.
type readError struct{ error }

func (e readError) Unwrap() error { return e.error }

// transfer copies body to out and hashes it, and returns how many bytes it copied. What fits one buffer is handled in
// place; of more, one buffer is hashed while others are read and written. Errors of body come as readError: then all
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
	t := b.startHashing(sum)
	total, err := t.copy(out, body, buf)
	t.finish(b)
	return total, err
}

// hashing is a goroutine that hashes buffers and gives them back.
type hashing struct {
	full chan []byte
	free chan []byte
	done sync.WaitGroup
}

func (b *buffers) startHashing(sum hash.Hash) *hashing {
	t := &hashing{full: make(chan []byte, buffersEach), free: make(chan []byte, buffersEach)}
	for range buffersEach - 1 {
		t.free <- b.get()
	}
	t.done.Go(func() {
		for p := range t.full {
			sum.Write(p)
			t.free <- p[:bufferSize]
		}
	})
	return t
}

// copy writes buf, which is full, and what follows it in body. A buffer comes back through free when it was hashed, and
// only this goroutine takes from there, after it wrote it.
func (t *hashing) copy(out io.Writer, body io.Reader, buf []byte) (total int64, err error) {
	n, readErr := len(buf), error(nil)
	for {
		t.full <- buf[:n]
		if _, err := out.Write(buf[:n]); err != nil {
			return total, err
		}
		total += int64(n)
		if readErr != nil {
			return total, asReadError(readErr)
		}
		buf = <-t.free
		n, readErr = fill(body, buf)
	}
}

// finish waits until everything was hashed and gives the buffers back.
func (t *hashing) finish(b *buffers) {
	close(t.full)
	t.done.Wait()
	close(t.free)
	for p := range t.free {
		b.put(p)
	}
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
