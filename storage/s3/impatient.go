package s3

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"
)

// slow is the key of a context value: how many times longer than usual a request may take.
type slow struct{}

// takesLong returns a context for requests that have the server do much before it answers.
func takesLong(ctx context.Context) context.Context { return context.WithValue(ctx, slow{}, 20) }

// stalledError is the error of a request that made no progress.
type stalledError struct{ after time.Duration }

func (e stalledError) Error() string { return fmt.Sprintf("no progress for %s", e.after) }

// Timeout and Temporary are for the SDK, which repeats such requests.
func (stalledError) Timeout() bool   { return true }
func (stalledError) Temporary() bool { return true }

// impatient gives up requests that make no progress: no byte goes out, no answer begins, no byte comes in. A limit on a request's
// whole time would be too short for a large part on a slow line, or too long for a dead server.
type impatient struct {
	next     http.RoundTripper
	patience time.Duration
}

// RoundTrip implements http.RoundTripper.
func (t impatient) RoundTrip(r *http.Request) (*http.Response, error) {
	w := &watch{patience: t.patience}
	if factor, ok := r.Context().Value(slow{}).(int); ok {
		w.patience *= time.Duration(factor)
	}
	stalled := stalledError{w.patience}
	ctx, cancel := context.WithCancelCause(r.Context())
	w.timer = time.AfterFunc(w.patience, func() { cancel(stalled) })
	w.cancel = cancel

	r = r.Clone(ctx)
	if r.Body != nil && r.Body != http.NoBody {
		r.Body = &watchedBody{ReadCloser: r.Body, watch: w}
	}
	resp, err := t.next.RoundTrip(r)
	w.timer.Stop()
	if err != nil {
		cancel(nil)
		if context.Cause(ctx) == error(stalled) {
			err = stalled
		}
		return nil, err
	}
	resp.Body = &watchedAnswer{watchedBody{ReadCloser: resp.Body, watch: w}, ctx, stalled}
	return resp, nil
}

// watch is the timer of one request.
type watch struct {
	patience time.Duration
	timer    *time.Timer
	cancel   context.CancelCauseFunc
}

// watchedBody notes that a request's body is being read: whatever was read before is on its way.
type watchedBody struct {
	io.ReadCloser
	watch *watch
}

func (b *watchedBody) Read(p []byte) (int, error) {
	b.watch.timer.Reset(b.watch.patience)
	return b.ReadCloser.Read(p)
}

// watchedAnswer is impatient only while somebody waits for a byte: a reader may take its time.
type watchedAnswer struct {
	watchedBody
	ctx     context.Context // of this request
	stalled stalledError
}

func (b *watchedAnswer) Read(p []byte) (int, error) {
	n, err := b.watchedBody.Read(p)
	b.watch.timer.Stop()
	if err != nil && context.Cause(b.ctx) == error(b.stalled) {
		err = b.stalled
	}
	return n, err
}

func (b *watchedAnswer) Close() error {
	b.watch.timer.Stop()
	b.watch.cancel(nil)
	return b.ReadCloser.Close()
}
