package storagetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"berth/storage"
)

func testRead(t *testing.T, blobs storage.Blobs) {
	content := Content(1, 300<<10)
	c := mustPut(t, blobs, key, content)
	r, err := blobs.Open(t.Context(), c.Key, c.Size)
	must(t, err)
	defer r.Close()
	other, err := blobs.Open(t.Context(), c.Key, c.Size)
	must(t, err)
	defer other.Close()

	size := c.Size
	for _, test := range []struct {
		offset int64
		whence int
		at     int64 // where that is
		n      int
	}{
		{size, io.SeekStart, size, 0},
		{0, io.SeekStart, 0, 1},
		{0, io.SeekCurrent, 1, 4095},
		{100, io.SeekCurrent, 4196, 200000},
		{-1, io.SeekEnd, size - 1, 1},
		{-size, io.SeekEnd, 0, int(size)},
		{4097, io.SeekStart, 4097, 1},
	} {
		at, err := r.Seek(test.offset, test.whence)
		if err != nil || at != test.at {
			t.Fatalf("seek to %d from %d: %d, %v, want %d", test.offset, test.whence, at, err, test.at)
		}
		got := make([]byte, test.n)
		if _, err := io.ReadFull(r, got); err != nil || !bytes.Equal(got, content[at:at+int64(test.n)]) {
			t.Fatalf("read of %d bytes at %d: other bytes, or %v", test.n, at, err)
		}
	}
	testReadEnds(t, r)
	if got, err := io.ReadAll(other); err != nil || !bytes.Equal(got, content) {
		t.Errorf("second reader: other bytes, or %v", err)
	}
}

func testReadEnds(t *testing.T, r io.ReadSeeker) {
	if _, err := r.Seek(-1, io.SeekStart); err == nil {
		t.Error("seek before the begin: no error")
	}
	if _, err := r.Seek(0, io.SeekEnd); err != nil {
		t.Error(err)
	}
	if n, err := r.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("read at the end: %d, %v", n, err)
	}
}

func testDelete(t *testing.T, blobs storage.Blobs) {
	complete := mustPut(t, blobs, key+"-complete", Content(1, 5000))
	empty := mustPut(t, blobs, key+"-empty", nil)
	incomplete := mustAppend(t, blobs, storage.Checkpoint{Key: key + "-incomplete"}, Content(2, 5000))
	stays := mustPut(t, blobs, key, Content(3, 5000))
	for _, c := range []storage.Checkpoint{complete, empty, incomplete, {Key: key + "-never"}, {Key: "no/such/directory"}} {
		for range 2 {
			must(t, blobs.Delete(t.Context(), c.Key))
		}
		_, err := blobs.Open(t.Context(), c.Key, c.Size)
		wantError(t, "open "+c.Key, err, storage.ErrNotFound)
	}
	must(t, Check(t.Context(), blobs, stays, Content(3, 5000)))
	if got := slices.Collect(maps.Keys(mustList(t, blobs, ""))); !slices.Equal(got, []string{stays.Key}) {
		t.Errorf("left: %q", got)
	}
}

func testNotFound(t *testing.T, blobs storage.Blobs) {
	mustPut(t, blobs, key, Content(1, 10))
	for _, missing := range []string{"nothing", key + "0", strings.TrimSuffix(key, "f")} {
		for _, size := range []int64{0, 10} {
			_, err := blobs.Open(t.Context(), missing, size)
			wantError(t, "open "+missing, err, storage.ErrNotFound)
		}
		_, err := blobs.Write(t.Context(), withSpare(storage.Checkpoint{Key: missing, Size: 10}))
		wantError(t, "resume "+missing, err, storage.ErrNotFound)
	}
}

// testShort opens objects as if they had to have more bytes, or fewer.
func testShort(t *testing.T, blobs storage.Blobs) {
	content := Content(1, 5000)
	whole, empty := mustPut(t, blobs, key, content), mustPut(t, blobs, key+"-empty", nil)
	for _, c := range []storage.Checkpoint{whole, empty} {
		_, err := blobs.Open(t.Context(), c.Key, c.Size+1)
		wantError(t, "open "+c.Key, err, storage.ErrShort)
		if errors.Is(err, storage.ErrNotFound) || errors.Is(err, storage.ErrUnavailable) {
			t.Errorf("what is too short is something else, too: %v", err)
		}
	}
	whole.Size = 10
	must(t, Check(t.Context(), blobs, whole, content[:10]))
}

// testList knows the sizes of complete objects only, but every object has to be found: recovery looks for those that an
// unclean stop left incomplete.
func testList(t *testing.T, blobs storage.Blobs) {
	begun := time.Now().Add(-time.Minute) // clocks of backends differ
	for _, name := range []string{"blobs/3f9a01c2/0001/a", "blobs/3f9a01c2/0001/b", "blobs/3f9a01c2/0002/a", "blobs/3f9a01c3/0001/a", "other"} {
		mustPut(t, blobs, name, []byte(name))
	}
	incomplete := mustAppend(t, blobs, storage.Checkpoint{Key: "blobs/3f9a01c2/0001/incomplete"}, Content(1, 100))
	for prefix, want := range map[string][]string{
		"":                      {"blobs/3f9a01c2/0001/a", "blobs/3f9a01c2/0001/b", incomplete.Key, "blobs/3f9a01c2/0002/a", "blobs/3f9a01c3/0001/a", "other"},
		"blobs/3f9a01c2/":       {"blobs/3f9a01c2/0001/a", "blobs/3f9a01c2/0001/b", incomplete.Key, "blobs/3f9a01c2/0002/a"},
		"blobs/3f9a01c":         {"blobs/3f9a01c2/0001/a", "blobs/3f9a01c2/0001/b", incomplete.Key, "blobs/3f9a01c2/0002/a", "blobs/3f9a01c3/0001/a"},
		"blobs/3f9a01c3/0001/a": {"blobs/3f9a01c3/0001/a"},
		"blobs/0":               nil,
		"nothing/":              nil,
		"o":                     {"other"},
	} {
		got := mustList(t, blobs, prefix)
		if names := slices.Sorted(maps.Keys(got)); !slices.Equal(names, slices.Sorted(slices.Values(want))) {
			t.Errorf("list %q: %q, want %q", prefix, names, want)
		}
		for name, o := range got {
			if name != incomplete.Key && o.Size != int64(len(name)) || o.Modified.Before(begun) {
				t.Errorf("list %q: %+v", prefix, o)
			}
		}
	}
	testListStops(t, blobs)
}

func testListStops(t *testing.T, blobs storage.Blobs) {
	stop, calls := errors.New("stop"), 0
	err := lister(t, blobs).List(t.Context(), "blobs/", func(storage.Object) error {
		calls++
		return stop
	})
	if !errors.Is(err, stop) || calls != 1 {
		t.Errorf("list whose function fails: %v after %d calls", err, calls)
	}
}

func lister(t *testing.T, blobs storage.Blobs) storage.Lister {
	t.Helper()
	l, ok := blobs.(storage.Lister)
	if !ok {
		t.Fatalf("%T does not implement storage.Lister: there is no recovery after an unclean stop", blobs)
	}
	return l
}

func mustList(t *testing.T, blobs storage.Blobs, prefix string) map[string]storage.Object {
	t.Helper()
	objects := map[string]storage.Object{}
	must(t, lister(t, blobs).List(t.Context(), prefix, func(o storage.Object) error {
		if _, twice := objects[o.Key]; twice {
			return fmt.Errorf("list %q: %s comes twice", prefix, o.Key)
		}
		objects[o.Key] = o
		return nil
	}))
	return objects
}

func testBadKeys(t *testing.T, blobs storage.Blobs) {
	for _, bad := range []string{"", "/", "a/", "/a", "a//b", ".", "..", "../a", "a/../b", "a/.b", "a b", "a\x00", "ä", `a\b`, strings.Repeat("a", 513)} {
		if w, err := blobs.Write(t.Context(), storage.Checkpoint{Key: bad}); err == nil {
			t.Errorf("write %q: no error (close: %v)", bad, w.Close())
		}
		if r, err := blobs.Open(t.Context(), bad, 0); err == nil {
			t.Errorf("open %q: no error (close: %v)", bad, r.Close())
		}
		if blobs.Complete(t.Context(), storage.Checkpoint{Key: bad}) == nil {
			t.Errorf("complete %q: no error", bad)
		}
		if blobs.Delete(t.Context(), bad) == nil {
			t.Errorf("delete %q: no error", bad)
		}
	}
}

// testCancelled lets a backend finish what it was asked for too late or fail, but the failure has to name the reason and
// to leave what was durable.
func testCancelled(t *testing.T, blobs storage.Blobs) {
	content := Content(1, 5000)
	c := mustAppend(t, blobs, storage.Checkpoint{Key: key}, content)
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()

	checkCancelled(t, "append", func() error {
		_, err := Append(cancelled, blobs, c, Content(2, 100))
		return err
	})
	checkCancelled(t, "checkpoint", func() error { return cancelledCheckpoint(t, blobs, c) })
	checkCancelled(t, "complete", func() error { return blobs.Complete(cancelled, c) })
	mustComplete(t, blobs, c, content)
	checkCancelled(t, "open", func() error { return Check(cancelled, blobs, c, content) })
	checkCancelled(t, "list", func() error {
		return lister(t, blobs).List(cancelled, "", func(storage.Object) error { return nil })
	})
	must(t, Check(t.Context(), blobs, c, content))
	checkCancelled(t, "delete", func() error { return blobs.Delete(cancelled, c.Key) })
	must(t, blobs.Delete(t.Context(), c.Key))
}

func checkCancelled(t *testing.T, what string, call func() error) {
	t.Helper()
	if err := call(); err != nil {
		wantError(t, "cancelled "+what, err, context.Canceled)
	}
}

// cancelledCheckpoint cancels between the writing and the checkpoint.
func cancelledCheckpoint(t *testing.T, blobs storage.Blobs, from storage.Checkpoint) error {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w, err := blobs.Write(ctx, withSpare(from))
	must(t, err)
	_, err = w.Write(Content(2, 100))
	must(t, err)
	cancel()
	_, err = w.Checkpoint(ctx)
	return errors.Join(err, w.Close())
}
