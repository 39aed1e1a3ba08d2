package storagetest

import (
	"context"
	"errors"
	"slices"
	"syscall"
	"testing"

	"berth/storage"
)

func TestRun(t *testing.T) {
	Run(t, func(*testing.T) storage.Blobs { return newMemory() })
}

// TestRunFaulty shows that Faulty without a fault is the backend that it wraps.
func TestRunFaulty(t *testing.T) {
	Run(t, func(*testing.T) storage.Blobs { return Faulty{Blobs: newMemory(), Faults: &Faults{}} })
}

// push stores and deletes an object, repeating what fails, and returns the errors that it met.
func push(ctx context.Context, blobs storage.Blobs, content []byte) (errs []error) {
	again := func(call func() error) {
		for range 3 {
			err := call()
			if err == nil {
				return
			}
			errs = append(errs, err)
		}
	}
	var c storage.Checkpoint
	again(func() (err error) {
		c, err = Append(ctx, blobs, storage.Checkpoint{Key: key}, content)
		return err
	})
	again(func() error { return blobs.Complete(ctx, c) })
	again(func() error { return Check(ctx, blobs, c, content) })
	again(func() error { return blobs.Delete(ctx, c.Key) })
	return errs
}

func TestSweep(t *testing.T) {
	var faults []*Faults
	Sweep(t, func(t *testing.T, f *Faults) {
		blobs := newMemory()
		errs := push(t.Context(), Faulty{Blobs: blobs, Faults: f}, Content(1, 100))
		if f.At == 0 && len(errs) != 0 || f.At != 0 && (len(errs) != 1 || !errors.Is(errs[0], ErrInjected)) {
			t.Errorf("errors: %v", errs)
		}
		if left := blobs.objects(""); len(left) != 0 {
			t.Errorf("left: %v", left)
		}
		faults = append(faults, f)
	})
	calls := []string{"Write", "Writer.Write", "Writer.Checkpoint", "Complete", "Delete"}
	if !slices.Equal(faults[0].Calls(), calls) || len(faults) != 1+2*len(calls) {
		t.Errorf("%d runs, the first with the calls %q", len(faults), faults[0].Calls())
	}
}

// TestModes looks at what a failed call did.
func TestModes(t *testing.T) {
	for _, test := range []struct {
		mode    Mode
		deleted bool
	}{{Refused, false}, {Unreported, true}} {
		t.Run(test.mode.String(), func(t *testing.T) {
			blobs := newMemory()
			c := mustPut(t, blobs, key, nil)
			faulty := Faulty{Blobs: blobs, Faults: &Faults{At: 1, Mode: test.mode, Err: syscall.ENOSPC}}
			wantError(t, "delete", faulty.Delete(t.Context(), c.Key), syscall.ENOSPC)
			if deleted := len(blobs.objects("")) == 0; deleted != test.deleted {
				t.Errorf("deleted: %t", deleted)
			}
		})
	}
}

// TestFailedWriter holds a caller to closing a writer that failed.
func TestFailedWriter(t *testing.T) {
	faulty := Faulty{Blobs: newMemory(), Faults: &Faults{At: 2, Mode: Unreported}}
	w, err := faulty.Write(t.Context(), storage.Checkpoint{Key: key})
	must(t, err)
	n, err := w.Write([]byte("abc"))
	wantError(t, "write", err, ErrInjected)
	if n != 3 {
		t.Errorf("%d bytes were written", n)
	}
	_, err = w.Checkpoint(t.Context())
	wantError(t, "checkpoint after a failed write", err, ErrInjected)
	must(t, w.Close())
}

func TestFaultyList(t *testing.T) {
	err := Faulty{Blobs: struct{ storage.Blobs }{newMemory()}}.List(t.Context(), "", nil)
	wantError(t, "list of a backend that can't", err, errors.ErrUnsupported)
}
