package storagetest

import (
	"fmt"
	"slices"
	"sync"
	"testing"

	"berth/storage"
)

const key = "blobs/3f9a01c2/0001/0123456789abcdef0123456789abcdef"

// shapes are sizes around the borders of pages and of common buffers.
var shapes = []int{0, 1, 511, 4095, 4096, 4097, 32 << 10, 1<<20 + 1}

func testCreate(t *testing.T, blobs storage.Blobs) {
	for i, n := range shapes {
		content := Content(uint64(i), n)
		c := mustPut(t, blobs, fmt.Sprintf("%s-%d", key, n), content)
		must(t, Check(t.Context(), blobs, c, content))
	}
}

// testAppend checkpoints one writer many times, also when nothing is new.
func testAppend(t *testing.T, blobs storage.Blobs) {
	w, err := blobs.Write(t.Context(), storage.Checkpoint{Key: key})
	must(t, err)
	var (
		content []byte
		c       storage.Checkpoint
	)
	for i, n := range shapes {
		piece := Content(uint64(i), n)
		content = append(content, piece...)
		if got, err := w.Write(piece); got != n || err != nil {
			t.Fatalf("write of %d bytes: %d, %v", n, got, err)
		}
		if c, err = w.Checkpoint(t.Context()); err != nil || c.Size != int64(len(content)) || c.Key == "" {
			t.Fatalf("checkpoint after %d bytes: %+v, %v", len(content), c, err)
		}
	}
	must(t, w.Close())
	mustComplete(t, blobs, c, content)
}

// testResume goes on with a new writer at every shape of offset, by every shape of length.
func testResume(t *testing.T, blobs storage.Blobs) {
	for i, first := range shapes {
		t.Run(fmt.Sprint(first), func(t *testing.T) {
			content := Content(uint64(i), first)
			c := mustAppend(t, blobs, storage.Checkpoint{Key: fmt.Sprintf("%s-%d", key, first)}, content)
			for j, n := range shapes {
				piece := Content(uint64(100+j), n)
				content = append(content, piece...)
				c = mustAppend(t, blobs, c, piece)
			}
			mustComplete(t, blobs, c, content)
		})
	}
}

// testResumeOlder goes back behind what a later writer left, with and without a checkpoint of it.
func testResumeOlder(t *testing.T, blobs storage.Blobs) {
	for i, n := range shapes {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			content := Content(uint64(i), n)
			c := mustAppend(t, blobs, storage.Checkpoint{Key: fmt.Sprintf("%s-%d", key, n)}, content)
			if c.Size > 0 {
				mustAppend(t, blobs, c, Content(1, 5000))
				mustAbandon(t, blobs, c, Content(2, 9000))
			}
			tail := Content(3, 100) // shorter than what it replaces
			c = mustAppend(t, blobs, c, tail)
			mustComplete(t, blobs, c, slices.Concat(content, tail))
		})
	}
}

// mustAbandon writes without a checkpoint.
func mustAbandon(t *testing.T, blobs storage.Blobs, from storage.Checkpoint, piece []byte) {
	t.Helper()
	w, err := blobs.Write(t.Context(), withSpare(from))
	must(t, err)
	_, err = w.Write(piece)
	must(t, err)
	must(t, w.Close())
}

func testResumeMissing(t *testing.T, blobs storage.Blobs) {
	c := mustAppend(t, blobs, storage.Checkpoint{Key: key}, Content(1, 5000))
	beyond := c
	beyond.Size++
	_, err := blobs.Write(t.Context(), withSpare(beyond))
	wantError(t, "resume behind the object's end", err, storage.ErrNotFound)

	must(t, blobs.Delete(t.Context(), c.Key))
	_, err = blobs.Write(t.Context(), withSpare(c))
	wantError(t, "resume a deleted object", err, storage.ErrNotFound)
	err = blobs.Complete(t.Context(), c)
	if _, ok := blobs.(storage.WholeObjects); ok && err == nil {
		// The checkpoint was of a whole object, and its word may be taken for that. But nothing comes back.
		_, err = blobs.Open(t.Context(), c.Key, c.Size)
	}
	wantError(t, "complete a deleted object", err, storage.ErrNotFound)
}

// testRestart begins an object anew whose first writer got further.
func testRestart(t *testing.T, blobs storage.Blobs) {
	mustAppend(t, blobs, storage.Checkpoint{Key: key}, Content(1, 5000))
	mustAbandon(t, blobs, storage.Checkpoint{Key: key}, Content(2, 6000))
	content := Content(3, 4000)
	must(t, Check(t.Context(), blobs, mustPut(t, blobs, key, content), content))
}

func testComplete(t *testing.T, blobs storage.Blobs) {
	for _, n := range []int{0, 5000} {
		content := Content(uint64(n), n)
		c := mustPut(t, blobs, fmt.Sprintf("%s-%d", key, n), content)
		mustComplete(t, blobs, c, content) // again
	}
}

// testCompleteLeftover completes a checkpoint that is not the last thing that was written.
func testCompleteLeftover(t *testing.T, blobs storage.Blobs) {
	content := Content(1, 5000)
	c := mustAppend(t, blobs, storage.Checkpoint{Key: key}, content)
	mustAbandon(t, blobs, c, Content(2, 70000))
	mustComplete(t, blobs, c, content)
}

func testLarge(t *testing.T, blobs storage.Blobs) {
	content := Content(1, 20<<20+12345)
	const first = 11<<20 + 17
	c := mustAppend(t, blobs, storage.Checkpoint{Key: key}, slices.Collect(slices.Chunk(content[:first], 99991))...)
	c = mustAppend(t, blobs, c, slices.Collect(slices.Chunk(content[first:], 1<<20))...)
	mustComplete(t, blobs, c, content)
}

func testConcurrent(t *testing.T, blobs storage.Blobs) {
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 4 {
				content := Content(uint64(i), 3000*j)
				c, err := Append(t.Context(), blobs, storage.Checkpoint{Key: fmt.Sprintf("%s-%d-%d", key, i, j)}, content)
				if err == nil {
					err = blobs.Complete(t.Context(), c)
				}
				if err == nil {
					err = Check(t.Context(), blobs, c, content)
				}
				if err == nil && j%2 == 1 {
					err = blobs.Delete(t.Context(), c.Key)
				}
				if err != nil {
					t.Errorf("writer %d, object %d: %v", i, j, err)
				}
			}
		})
	}
	wg.Wait()
	if got := len(mustList(t, blobs, "blobs/")); got != 8*2 {
		t.Errorf("%d objects are left, want %d", got, 8*2)
	}
}
