package api

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	"berth/registry"
)

// leastProgress is how many bytes of a body have to come within the timeout. A client that sends a byte now and then would hold
// its connection, and memory that others need, for ever.
const leastProgress = 64 << 10

// LimitBodies serves requests with bodies that keep coming: a Read of one that brings less than 64 KiB within the timeout fails with
// os.ErrDeadlineExceeded, and a body that the handler leaves alone holds its connection no longer than that. Time in which the handler
// does not read doesn't count. Without a timeout it is a minute.
func LimitBodies(next http.Handler, timeout time.Duration) http.Handler {
	if timeout <= 0 {
		timeout = time.Minute
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength == 0 {
			next.ServeHTTP(w, r)
			return
		}
		b := newBody(w, r, timeout)
		defer b.release()
		limited := *r // the server looks at its own request's body, to see what is left
		limited.Body = b
		next.ServeHTTP(w, &limited)
	})
}

// body is the body of a request, which another request may cut off while this one is served, and which ends when its client
// stops sending.
type body struct {
	io.ReadCloser
	length  int64
	timeout time.Duration
	header  http.Header // of the answer

	// Of the goroutine that reads:
	patience time.Duration // how much longer it waits until there was progress
	progress int           // bytes since patience was full

	// timer ends a Read over HTTP/2, where a deadline that passes while nobody reads ends the body for good. Nil for HTTP/1.
	timer *time.Timer

	mu    sync.Mutex
	conn  *http.ResponseController // nil when the request is served: then the connection is no longer its own
	until time.Time                // the deadline of reading
	cut   bool
}

func newBody(w http.ResponseWriter, r *http.Request, timeout time.Duration) *body {
	b := &body{
		ReadCloser: r.Body, length: r.ContentLength, timeout: timeout, patience: timeout,
		header: w.Header(), conn: http.NewResponseController(w),
	}
	if r.ProtoMajor == 2 {
		b.timer = time.AfterFunc(timeout, b.expire)
		b.timer.Stop()
		return b
	}
	b.extend(time.Now()) // for what the server reads when nobody else does
	return b
}

// body returns the request's body. One of no bytes has no time to keep.
func (c *call) body() *body {
	if b, ok := c.r.Body.(*body); ok {
		return b
	}
	return &body{ReadCloser: c.r.Body, length: c.r.ContentLength, header: c.w.Header()}
}

// Read implements io.Reader. It waits no longer than the timeout.
func (b *body) Read(p []byte) (int, error) {
	begin := time.Now()
	b.extend(begin)
	n, err := b.ReadCloser.Read(p)
	if b.timer != nil {
		b.timer.Stop()
	}
	switch {
	case err == nil:
		b.note(n, time.Since(begin))
	case b.stalled(err):
		err = fmt.Errorf("less than %d bytes came in %s: %w", leastProgress, b.timeout, err)
	default:
		b.end()
	}
	return n, err
}

// note counts what came and how long that took.
func (b *body) note(n int, took time.Duration) {
	b.progress += n
	b.patience -= took
	if b.progress >= leastProgress {
		b.progress, b.patience = 0, b.timeout
		b.mu.Lock()
		b.until = time.Time{}
		b.mu.Unlock()
	}
}

// extend moves the deadline to where patience ends, when it is nearer: because there was progress, or because nobody read.
func (b *body) extend(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.conn == nil || b.cut:
	case b.timer != nil:
		b.timer.Reset(b.patience)
	case b.until.Sub(now) < b.patience*3/4:
		b.until = now.Add(b.patience)
		_ = b.conn.SetReadDeadline(b.until) // without it, it works too
	}
}

// expire has a Read over HTTP/2 end as at its deadline.
func (b *body) expire() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.conn != nil && !b.cut {
		_ = b.conn.SetReadDeadline(time.Unix(1, 0))
	}
}

// end is when there is nothing more to read, and so nothing to cut off: Close does nothing from then on. The server of HTTP/1, which takes
// the deadline off, goes on to read from the connection to see whether the client is still there, and gives it up when that fails because of
// the cut: then it is not to be used again.
func (b *body) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.conn = nil
	if b.cut {
		b.header.Set("Connection", "close")
	}
}

// stalled reports whether an error is that of the deadline, which stays then: the server would go on to read what is left.
func (b *body) stalled(err error) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cut || !errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	b.conn = nil
	return true
}

// Close makes a blocked Read return.
func (b *body) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.conn == nil {
		return nil
	}
	b.cut = true
	return b.conn.SetReadDeadline(time.Unix(1, 0))
}

// release ends the time in which Close does anything. The deadline stays for what the server reads of the rest.
func (b *body) release() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.conn = nil
}

// chunk returns the body as a chunk that goes where the upload ends.
func (b *body) chunk() registry.Chunk {
	c := registry.Chunk{Body: b, Offset: -1, Length: b.length}
	if b.length == 0 {
		c.Body = nil
	}
	return c
}

// chunkInRange returns the body as the chunk that the Content-Range header says it is. A header that can't be read is
// answered like one that does not fit: the client is told where to go on.
func (b *body) chunkInRange(r *http.Request) (registry.Chunk, error) {
	chunk, header := b.chunk(), r.Header.Get("Content-Range")
	if header == "" {
		return chunk, nil
	}
	part, ok := parseContentRange(header)
	if !ok {
		return chunk, registry.ErrUploadRange.Withf("malformed Content-Range: expected <first byte>-<last byte>")
	}
	if chunk.Length >= 0 && chunk.Length != part.length {
		return chunk, registry.ErrSizeInvalid.Withf("Content-Range has %d bytes, Content-Length %d", part.length, chunk.Length)
	}
	chunk.Offset, chunk.Length = part.start, part.length
	return chunk, nil
}
