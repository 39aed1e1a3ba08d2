package filesystem

import (
	"bytes"
	"fmt"
	"io"
	"testing"
	"time"

	"berth/storage"
	"berth/storage/storagetest"
)

// TestDirect writes pieces of all kinds of lengths around the place from which a writer goes past the page cache, also where it goes on
// at an odd one, and where the file system turns out to refuse it.
func TestDirect(t *testing.T) {
	s, err := Open(Config{Root: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	s.direct.possible = true // whatever the file system is
	const large, odd = 128 << 10, 1001
	for name, lengths := range map[string][]int{
		"all large":      {directFrom, large, large, large},
		"odd end":        {directFrom, large, large, odd},
		"odd in between": {directFrom, large, odd, large, directUnit - odd, large},
		"odd begin":      {directFrom - odd, large, odd, large},
		"small":          {directFrom, directUnit, 1},
	} {
		for _, shift := range []int{0, 1} { // of the bytes in memory
			for _, again := range []int{-1, 1, 2} { // before which piece another writer goes on
				t.Run(fmt.Sprintf("%s, shifted by %d, again at %d", name, shift, again), func(t *testing.T) {
					total := 0
					for _, n := range lengths {
						total += n
					}
					content := storagetest.Content(1, total+shift)[shift:]
					if got := writePieces(t, s, content, lengths, again); !bytes.Equal(got, content) {
						t.Errorf("%d bytes of %d are there, or others", len(got), len(content))
					}
				})
			}
		}
	}
}

func writePieces(t *testing.T, s *Store, content []byte, lengths []int, again int) []byte {
	t.Helper()
	at := storage.Checkpoint{Key: "object"}
	w, err := s.Write(t.Context(), at)
	if err != nil {
		t.Fatal(err)
	}
	rest := content
	for i, n := range lengths {
		if i == again {
			if at, err = w.Checkpoint(t.Context()); err != nil {
				t.Fatal(err)
			}
			w.Close()
			if w, err = s.Write(t.Context(), at); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := w.Write(rest[:n]); err != nil {
			t.Fatal(err)
		}
		rest = rest[n:]
	}
	if at, err = w.Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.Close()
	r, err := s.Open(t.Context(), at.Key, at.Size)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	got, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// TestSlowDisk gives up writes past the page cache on a disk that takes few of them in a second, whether one writes or many, and tries again
// later.
func TestSlowDisk(t *testing.T) {
	const n = 128 << 10
	now := time.Now()
	for name, tt := range map[string]struct {
		running int64
		took    time.Duration
		pays    bool
	}{
		"fast":            {1, 100 * time.Microsecond, true},
		"fast, many":      {8, 3 * time.Millisecond, true},
		"150 a second":    {1, 6700 * time.Microsecond, false},
		"150, many":       {8, 53 * time.Millisecond, false},
		"as a hard disk":  {1, 800 * time.Microsecond, false},
		"a disk of a VM":  {1, 500 * time.Microsecond, true},
		"in no time":      {1, 0, true},
		"in eternal time": {1, time.Hour, false},
	} {
		d := newDirectWrites(true)
		for range 500 {
			d.note(now, n, tt.running, tt.took)
		}
		if d.pay(now) != tt.pays || !d.pay(now.Add(directAgain)) {
			t.Errorf("%s: it pays: %t, later %t", name, d.pay(now), d.pay(now.Add(directAgain)))
		}
	}
	for name, slow := range map[string]func(i int) bool{
		"at first":      func(i int) bool { return i < 20 },
		"now and then":  func(i int) bool { return i%20 == 19 },  // while the disk did something else
		"many in a row": func(i int) bool { return i%200 > 180 }, // while others had the processor
	} {
		d := newDirectWrites(true)
		for i := range 1000 {
			took := 100 * time.Microsecond
			if slow(i) {
				took = 20 * time.Millisecond
			}
			if d.note(now, n, 1, took); !d.pay(now) {
				t.Fatalf("given up after %d writes, few of which were slow: %s", i, name)
			}
		}
	}
	if never := newDirectWrites(false); never.pay(now) {
		t.Error("it pays where it is not possible")
	}
}
