package diskcache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"berth/storage"
)

func TestLeaving(t *testing.T) {
	for blocks, kept := range map[int64]bool{0: false, 4: false, 6: true} {
		t.Run(fmt.Sprint(blocks, " of 10 blocks"), func(t *testing.T) {
			b := newBench(t, gib)
			o := b.put("blobs/left", 10*blockSize)
			release := b.backend.holdAt(t, blocks*blockSize)
			ctx, cancel := context.WithCancel(t.Context())
			r, err := b.Open(ctx, o.key, o.size())
			must(t, err)
			_, err = io.CopyN(io.Discard, r, blocks*blockSize)
			must(t, err)
			cancel() // as a server does when its client goes away
			if _, err := r.Read(make([]byte, 1)); !errors.Is(err, context.Canceled) {
				t.Errorf("read of who went away: %v", err)
			}
			must(t, r.Close())
			if !kept {
				eventually(t, "it is given up", func() bool { return !b.busy() })
			}
			release()
			eventually(t, "it is over", func() bool { return !b.busy() })
			if got := b.kept(o); got != kept {
				t.Errorf("kept: %t, want %t", got, kept)
			}
			b.backend.opens.Store(0)
			must(t, b.read(o))
			b.wantOpens("the next read", map[bool]int64{true: 0, false: 1}[kept])
		})
	}
}

// TestLeavingFirst has the one go away for whom the fetch began.
func TestLeavingFirst(t *testing.T) {
	b := newBench(t, gib)
	o := b.put("blobs/first", 10*blockSize)
	release := b.backend.holdAt(t, blockSize)
	ctx, cancel := context.WithCancel(t.Context())
	first, err := b.Open(ctx, o.key, o.size())
	must(t, err)
	_, err = io.CopyN(io.Discard, first, blockSize)
	must(t, err)
	second := make(chan error)
	go func() { second <- b.read(o) }()
	eventually(t, "two readers", func() bool { return b.readers(o) == 2 })
	cancel()
	must(t, first.Close())
	release()
	must(t, <-second)
	b.wantOpens("in all", 1)
}

// TestLeavingEarly has readers go away before the backend has answered: the first of two, and then the only one.
func TestLeavingEarly(t *testing.T) {
	b := newBench(t, gib)
	o := b.put("blobs/early", 5000)
	release := b.backend.holdAt(t, beforeOpen)
	open := func() (cancel func(), done chan error) {
		ctx, cancel := context.WithCancel(t.Context())
		done = make(chan error, 1)
		readers := b.readers(o)
		go func() {
			r, err := b.Open(ctx, o.key, o.size())
			if err == nil {
				err = r.Close()
			}
			done <- err
		}()
		eventually(t, "one reader more", func() bool { return b.readers(o) == readers+1 })
		return cancel, done
	}
	cancel, first := open()
	second := make(chan error, 1)
	go func() { second <- b.read(o) }()
	eventually(t, "two readers", func() bool { return b.readers(o) == 2 })
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("who went away got %v", err)
	}
	release()
	must(t, <-second)
	b.wantOpens("two readers", 1)

	b.forget(o.key)
	b.backend.holdAt(t, beforeOpen)
	cancel, only := open()
	cancel()
	if err := <-only; !errors.Is(err, context.Canceled) {
		t.Errorf("who went away got %v", err)
	}
	b.running.Wait() // the backend is not asked any more
	b.wantOpens("one reader", 1)
	if b.readers(o) != 0 || len(b.files()) != 0 {
		t.Errorf("%d readers and %v are left", b.readers(o), b.files())
	}
}

// TestDeleteEarly deletes a blob before the backend has answered those who want to read it.
func TestDeleteEarly(t *testing.T) {
	b := newBench(t, gib)
	o := b.put("blobs/early", 5000)
	b.backend.holdAt(t, beforeOpen)
	read := make(chan error, 2)
	for range 2 {
		go func() { read <- b.read(o) }()
	}
	eventually(t, "two readers", func() bool { return b.readers(o) == 2 })
	b.backend.mu.Lock()
	clear(b.backend.hold) // for those who ask from now on
	b.backend.mu.Unlock()
	must(t, b.Delete(t.Context(), o.key))
	for range 2 {
		if err := <-read; !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("a reader got %v", err)
		}
	}
}

// TestRefusedTogether has many readers of what is not there share the answer.
func TestRefusedTogether(t *testing.T) {
	b := newBench(t, gib)
	o := blob{"blobs/nothing", []byte("nothing")}
	release := b.backend.holdAt(t, beforeOpen)
	read := make(chan error, 5)
	for range cap(read) {
		go func() { read <- b.read(o) }()
	}
	eventually(t, "five readers", func() bool { return b.readers(o) == 5 })
	release()
	for range cap(read) {
		if err := <-read; !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("a reader got %v", err)
		}
	}
	b.wantOpens("five readers", 1)
	b.wantLines("five readers")
}

func TestDelete(t *testing.T) {
	b := newBench(t, gib)
	kept, fetched, parked := b.put("blobs/kept", 5000), b.put("blobs/fetched", 4*blockSize), b.put("blobs/parked", 5000)
	must(t, b.read(kept))
	b.backend.holdAt(t, blockSize)
	r, waiting := b.reader(fetched), b.reader(parked)
	defer r.Close()
	defer waiting.Close()
	_, err := io.CopyN(io.Discard, r, blockSize)
	must(t, err)
	for _, o := range []blob{kept, fetched, parked} {
		must(t, b.Delete(t.Context(), o.key))
		if _, err := b.Open(t.Context(), o.key, o.size()); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("open of %s, which was deleted: %v", o.key, err)
		}
	}
	if _, err := io.ReadAll(r); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("read of what was deleted meanwhile: %v", err)
	}
	eventually(t, "nothing is kept", func() bool { return !b.busy() && len(b.files()) == 0 && b.Stats().Bytes == 0 })
}
