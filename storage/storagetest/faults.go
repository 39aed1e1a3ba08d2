package storagetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"berth/storage"
)

// ErrInjected is the error of a call that Faults made fail.
var ErrInjected = errors.New("injected fault")

// Mode says how an injected fault treats the call that it fails.
type Mode int

const (
	// Refused is a call that fails without having been done.
	Refused Mode = iota
	// Unreported is a call that is done but reported as failed: the answer was lost.
	Unreported
)

// String returns the mode's name.
func (m Mode) String() string {
	if m == Unreported {
		return "unreported"
	}
	return "refused"
}

// Faults numbers calls and makes one of them fail. The zero value fails none. Its methods may be called at the same time.
type Faults struct {
	// At is the number of the call that fails, counted from 1. Zero is none.
	At   int
	Mode Mode
	// Err is the error of the failing call. Nil is ErrInjected.
	Err error

	mu    sync.Mutex
	calls []string
}

// Do numbers a call, gives it a name for reports, and makes it unless it is the one to refuse.
func (f *Faults) Do(name string, call func() error) error {
	if !f.next(name) {
		return call()
	}
	if f.Mode == Unreported {
		if err := call(); err != nil {
			return err
		}
	}
	if f.Err != nil {
		return f.Err
	}
	return ErrInjected
}

func (f *Faults) next(name string) (fails bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, name)
	return len(f.calls) == f.At
}

// Calls returns the names of the calls so far, in their order.
func (f *Faults) Calls() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.calls)
}

// Sweep runs a scenario once without a fault, to count the calls that it makes through its Faults, and then once for each
// of these calls and each mode with that call failing. The scenario begins with fresh state each time, checks its own
// invariants after whatever error it meets, and repeats what failed: no more than one call fails. It has to make the
// same calls each time until one fails.
func Sweep(t *testing.T, scenario func(t *testing.T, f *Faults)) {
	var counted Faults
	if !t.Run("count", func(t *testing.T) { scenario(t, &counted) }) {
		return
	}
	if len(counted.Calls()) == 0 {
		t.Fatal("the scenario made no call that could fail")
	}
	for i, name := range counted.Calls() {
		for _, mode := range []Mode{Refused, Unreported} {
			t.Run(fmt.Sprintf("%d %s %s", i+1, name, mode), func(t *testing.T) {
				f := &Faults{At: i + 1, Mode: mode}
				scenario(t, f)
				if calls := f.Calls(); len(calls) <= i || calls[i] != name {
					t.Errorf("call %d is no %s: the scenario does not repeat itself", i+1, name)
				}
			})
		}
	}
}

// Faulty wraps a backend so that Faults sees its mutating calls: Write, Complete and Delete of the backend, Write and
// Checkpoint of its writers. A writer that failed refuses to go on.
type Faulty struct {
	storage.Blobs
	Faults *Faults
}

// Write implements storage.Blobs.
func (b Faulty) Write(ctx context.Context, from storage.Checkpoint) (storage.Writer, error) {
	var w storage.Writer
	err := b.Faults.Do("Write", func() (err error) {
		w, err = b.Blobs.Write(ctx, from)
		return err
	})
	if err == nil {
		return &faultyWriter{Writer: w, faults: b.Faults}, nil
	}
	if w != nil {
		err = errors.Join(err, w.Close())
	}
	return nil, err
}

// Complete implements storage.Blobs.
func (b Faulty) Complete(ctx context.Context, c storage.Checkpoint) error {
	return b.Faults.Do("Complete", func() error { return b.Blobs.Complete(ctx, c) })
}

// Delete implements storage.Blobs.
func (b Faulty) Delete(ctx context.Context, key string) error {
	return b.Faults.Do("Delete", func() error { return b.Blobs.Delete(ctx, key) })
}

// List implements storage.Lister where the wrapped backend does. It never fails on demand.
func (b Faulty) List(ctx context.Context, prefix string, fn func(storage.Object) error) error {
	l, ok := b.Blobs.(storage.Lister)
	if !ok {
		return fmt.Errorf("list %T: %w", b.Blobs, errors.ErrUnsupported)
	}
	return l.List(ctx, prefix, fn)
}

type faultyWriter struct {
	storage.Writer
	faults *Faults
	err    error
}

// Write implements storage.Writer.
func (w *faultyWriter) Write(p []byte) (n int, err error) {
	err = w.do("Writer.Write", func() (err error) {
		n, err = w.Writer.Write(p)
		return err
	})
	return n, err
}

// Checkpoint implements storage.Writer.
func (w *faultyWriter) Checkpoint(ctx context.Context) (c storage.Checkpoint, err error) {
	err = w.do("Writer.Checkpoint", func() (err error) {
		c, err = w.Writer.Checkpoint(ctx)
		return err
	})
	if err != nil {
		return storage.Checkpoint{}, err
	}
	return c, nil
}

func (w *faultyWriter) do(name string, call func() error) error {
	if w.err != nil {
		return fmt.Errorf("this writer failed before: %w", w.err)
	}
	w.err = w.faults.Do(name, call)
	return w.err
}
