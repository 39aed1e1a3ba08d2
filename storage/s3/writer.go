package s3

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"berth/storage"
)

// parallel is how many parts of one object are sent at the same time.
const parallel = 4

var errParts = fmt.Errorf("%w: the object needs more than the %d parts that S3 takes: "+
	"make storage.s3.memory and storage.s3.chunksize larger", storage.ErrTooLarge, maxParts)

// writer implements storage.Writer. The part that is being filled waits in memory until there are bytes behind it or a checkpoint
// needs it, so that an object that fits one part is never a multipart upload.
type writer struct {
	store *Store
	key   string
	// ctx is that of the call that made the writer: it ends waiting for memory. What is being sent has a context of its own, which
	// only Close ends: a checkpoint has to save what arrived before a client went away.
	ctx     context.Context
	sending context.Context
	stop    context.CancelFunc

	upload     upload // with an ID once there is one; its Parts are guarded by mu while some are being sent
	number     int32  // the last part number that was used
	step, lane int32  // numbers to use are lane modulo step
	sent       int64  // bytes in Parts
	buffer     buffer
	put        bool  // whether there is an object under key, of saved bytes
	saved      int64 // bytes of buffer that are in that object or in tail
	tail       part  // the buffer's bytes as the last checkpoint sent them

	slots chan struct{} // one for each part that is being sent
	group sync.WaitGroup
	mu    sync.Mutex
	lost  error // why a part could not be sent

	err error // what ended the writer
}

func (s *Store) newWriter(ctx context.Context, key string) *writer {
	w := &writer{store: s, key: key, ctx: ctx, step: 1, slots: make(chan struct{}, parallel)}
	w.sending, w.stop = context.WithCancel(context.WithoutCancel(ctx))
	w.buffer.budget = s.budget
	return w
}

// Write implements storage.Writer. It waits while there is no memory, or while enough parts are being sent.
func (w *writer) Write(p []byte) (n int, err error) {
	for w.err == nil && n < len(p) {
		if w.buffer.size == w.buffer.limit {
			if w.fail(w.flush()) != nil {
				break
			}
		}
		copied, err := w.buffer.add(w.ctx, p[n:])
		n += copied
		w.fail(err)
	}
	return n, w.err
}

// flush begins to send the full part.
func (w *writer) flush() error {
	if err := w.failed(); err != nil {
		return err
	}
	number, err := w.begin()
	if err != nil {
		return err
	}
	if err := w.slot(w.ctx); err != nil {
		return err
	}
	i, c := len(w.upload.Parts), w.buffer.detach()
	w.mu.Lock()
	w.upload.Parts = append(w.upload.Parts, part{Number: number, Size: c.size})
	w.mu.Unlock()
	w.sent += c.size
	w.saved, w.tail = 0, part{}
	w.buffer.reset(w.store.partSize(number))
	w.send(number, c, func(p part) { w.upload.Parts[i] = p }, c.free)
	return nil
}

// begin returns the number of the next part. Before the first there has to be a multipart upload.
func (w *writer) begin() (number int32, err error) {
	number = w.number + 1
	number += ((w.lane-number)%w.step + w.step) % w.step
	if number > maxParts {
		return 0, errParts
	}
	if w.upload.ID == "" {
		if w.upload, err = w.store.createUpload(w.sending, w.key, w.store.config.Checksum); err != nil {
			return 0, err
		}
	}
	w.number = number
	return number, nil
}

// slot waits until another part may be sent. A free one is taken whatever ctx says.
func (w *writer) slot(ctx context.Context) error {
	select {
	case w.slots <- struct{}{}:
		return nil
	default:
	}
	select {
	case w.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// send sends a part, keeps what the server says of it, and then calls done. It needs a slot.
func (w *writer) send(number int32, c content, keep func(part), done func()) {
	id, checksum := w.upload.ID, w.upload.Checksum
	w.group.Go(func() {
		p, err := w.store.sendPart(w.sending, w.key, id, checksum, number, c)
		done()
		w.mu.Lock()
		if err == nil {
			keep(p)
		} else if w.lost == nil {
			w.lost = err
			w.stop() // the others are of no use any more
		}
		w.mu.Unlock()
		<-w.slots
	})
}

// failed returns why a part could not be sent.
func (w *writer) failed() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lost
}

// Checkpoint implements storage.Writer. What is in the buffer stays there: a small part can't be followed by others, so that
// writing on sends it again, larger and under another number. Nothing that an earlier checkpoint names is ever replaced.
func (w *writer) Checkpoint(ctx context.Context) (storage.Checkpoint, error) {
	if w.err != nil {
		return storage.Checkpoint{}, w.err
	}
	if w.fail(w.save(ctx)) != nil {
		return storage.Checkpoint{}, w.err
	}
	c := storage.Checkpoint{Key: w.key, Size: w.sent + w.buffer.size}
	if w.upload.ID != "" {
		u := w.upload
		if w.tail.Size > 0 {
			u.Parts = append(slices.Clip(u.Parts), w.tail)
		}
		var err error
		if c.State, err = u.encode(); w.fail(err) != nil {
			return storage.Checkpoint{}, w.err
		}
	}
	return c, nil
}

// save makes all bytes durable.
func (w *writer) save(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	switch fresh := w.buffer.size > w.saved; {
	case w.upload.ID == "" && !w.put:
		if err := w.store.putObject(ctx, w.key, w.buffer.content()); err != nil {
			return err
		}
		w.put, w.saved = true, w.buffer.size
		return nil
	case !fresh:
		return w.wait(ctx)
	}
	number, err := w.begin()
	if err != nil {
		return err
	}
	if err := w.slot(ctx); err != nil {
		return err
	}
	w.saved = w.buffer.size
	w.send(number, w.buffer.content(), func(p part) { w.tail = p }, func() {})
	return w.wait(ctx)
}

// wait waits for the parts that are being sent.
func (w *writer) wait(ctx context.Context) error {
	for n := range parallel {
		select {
		case w.slots <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		if n == parallel-1 {
			for range parallel {
				<-w.slots
			}
		}
	}
	return w.failed()
}

// Close implements storage.Writer.
func (w *writer) Close() error {
	w.stop()
	w.group.Wait()
	w.buffer.detach().free()
	w.fail(errClosed)
	return nil
}

var errClosed = errors.New("the writer is closed")

// fail ends the writer with its first error.
func (w *writer) fail(err error) error {
	if err != nil && w.err == nil {
		w.err = wrap("write", w.key, err)
	}
	return w.err
}
