package diskcache

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"berth/filelock"
	"berth/storage"
	"berth/storage/storagetest"
)

const gib = 1 << 30

func TestContract(t *testing.T) {
	for name, size := range map[string]int64{"roomy": gib, "small": 64 << 10, "no room": 1} {
		t.Run(name, func(t *testing.T) {
			storagetest.Run(t, func(t *testing.T) storage.Blobs { return newBench(t, size).Cache })
		})
	}
}

// sizes are blobs of less than a block, of some blocks, and of a part of one more.
var sizes = []int{1, 4096, blockSize - 1, blockSize, blockSize + 1, 3*blockSize + 77}

func TestOneFetch(t *testing.T) {
	b := newBench(t, gib)
	var blobs []blob
	for _, size := range sizes {
		o := b.put(fmt.Sprint("blobs/", size), size)
		blobs = append(blobs, o)
		must(t, b.read(o))
		b.wantOpens("first read", 1)
		must(t, b.read(o))
		b.wantOpens("second read", 0)
	}
	eventually(t, "all are kept", func() bool { return !b.busy() })
	want := Stats{Hits: uint64(len(sizes)), Misses: uint64(len(sizes)), Bytes: b.used}
	if got := b.Stats(); got != want || got.Bytes == 0 {
		t.Errorf("stats are %+v, want %+v", got, want)
	}
	b.restart()
	for _, o := range blobs {
		must(t, b.read(o))
	}
	b.wantOpens("after a restart", 0)
	b.wantLines("in all")
	if got := b.Stats(); got.Bytes != want.Bytes || got.Misses != 0 {
		t.Errorf("stats after a restart are %+v", got)
	}
}

// TestReadersShare has many readers open a blob before its first byte comes, and many more when half of it is there.
func TestReadersShare(t *testing.T) {
	b := newBench(t, gib)
	o := b.put("blobs/shared", 20*blockSize+5)
	release, rest := b.backend.holdAt(t, 0), b.backend.holdAt(t, 10*blockSize)
	var wg sync.WaitGroup
	read := func() {
		wg.Go(func() {
			if err := b.read(o); err != nil {
				t.Error(err)
			}
		})
	}
	for range 8 {
		read()
	}
	eventually(t, "eight readers", func() bool { return b.readers(o) == 8 })
	release()
	half := b.reader(o)
	defer half.Close()
	_, err := io.CopyN(io.Discard, half, 10*blockSize)
	must(t, err)
	for range 8 {
		read()
	}
	eventually(t, "seventeen readers", func() bool { return b.readers(o) == 17 })
	rest()
	wg.Wait()
	b.wantOpens("17 readers", 1)
	if got := b.backend.bytes.Load(); got != o.size() {
		t.Errorf("%d bytes were fetched of a blob of %d", got, o.size())
	}
}

// TestRange reads ends only: that takes what it takes without the cache, and keeps nothing.
func TestRange(t *testing.T) {
	b := newBench(t, gib)
	o := b.put("blobs/range", reach+10*blockSize)
	end := func() {
		t.Helper()
		r := b.reader(o)
		defer r.Close()
		_, err := r.Seek(-100, io.SeekEnd)
		must(t, err)
		got, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(got, o.content[o.size()-100:]) {
			t.Errorf("%d bytes came, %v", len(got), err)
		}
	}
	end()
	b.wantOpens("the end", 1)
	if got := b.backend.bytes.Swap(0); got != 100 || len(b.files()) != 0 {
		t.Errorf("%d bytes were read, and %v is kept", got, b.files())
	}
	// Beside a fetch that stands still, it does not wait for that one.
	release := b.backend.holdAt(t, blockSize)
	first := b.reader(o)
	defer first.Close()
	_, err := io.CopyN(io.Discard, first, blockSize)
	must(t, err)
	b.backend.mu.Lock()
	clear(b.backend.hold) // for readers that come now
	b.backend.mu.Unlock()
	end()
	b.wantOpens("the end beside a fetch", 2)
	release()
	_, err = io.Copy(io.Discard, first)
	must(t, err)
	end()
	b.wantOpens("the end of what was fetched", 0)
}

func TestMiddle(t *testing.T) {
	b := newBench(t, gib)
	o := b.put("blobs/middle", 3*blockSize+100)
	for range 2 { // from the fetch, and from the file
		r := b.reader(o)
		for _, at := range []int64{0, 1, blockSize - 1, blockSize, blockSize + 1, 3*blockSize - 10, 3*blockSize + 99, 5} {
			for _, n := range []int64{1, 50, blockSize, 2 * blockSize, blockSize + sumSize, blockSize + sumSize - 1} {
				n = min(n, o.size()-at)
				_, err := r.Seek(at, io.SeekStart)
				must(t, err)
				got := make([]byte, n)
				if _, err := io.ReadFull(r, got); err != nil || !bytes.Equal(got, o.content[at:at+n]) {
					t.Fatalf("%d bytes at %d: other bytes, or %v", n, at, err)
				}
			}
		}
		must(t, r.Close())
	}
	b.wantOpens("in all", 1)
}

// TestFetchBreaks breaks the connection of the fetch, and then those of the readers too.
func TestFetchBreaks(t *testing.T) {
	for _, at := range []int64{0, 1, blockSize, 2*blockSize + 1} {
		for _, readers := range []int{1, 5} {
			t.Run(fmt.Sprint(at, " ", readers), func(t *testing.T) {
				b := newBench(t, gib)
				o := b.put("blobs/breaks", 3*blockSize)
				b.backend.breakAt.Store(at)
				for breaks, want := range map[int64]error{1: nil, 1 + int64(readers): errBroken} {
					b.backend.breaks.Store(breaks)
					release := b.backend.holdAt(t, 0)
					var wg sync.WaitGroup
					for range readers {
						wg.Go(func() {
							if err := b.read(o); !errors.Is(err, want) {
								t.Errorf("the connection broke %d times: %v", breaks, err)
							}
						})
					}
					eventually(t, "readers", func() bool { return b.readers(o) == readers })
					release()
					wg.Wait()
					b.wantOpens(fmt.Sprint(breaks, " breaks"), 1+int64(readers))
					eventually(t, "nothing is kept", func() bool { return !b.busy() && len(b.files()) == 0 })
				}
				b.backend.breaks.Store(0)
				must(t, b.read(o))
				must(t, b.read(o))
				b.wantOpens("afterwards", 1)
				b.wantLines("in all")
			})
		}
	}
}

func TestDamage(t *testing.T) {
	other := func(b *bench) blob { return b.put("blobs/otherone", 3*blockSize+77) }
	for name, damage := range map[string]func(b *bench, path string) error{
		"a bit in the first block": func(_ *bench, path string) error { return flip(path, 5) },
		"a bit in the last block":  func(_ *bench, path string) error { return flip(path, 3*(blockSize+sumSize)) },
		"a bit in a checksum":      func(_ *bench, path string) error { return flip(path, blockSize+1) },
		"cut off in a block":       func(_ *bench, path string) error { return os.Truncate(path, blockSize+100) },
		"cut off behind a block":   func(_ *bench, path string) error { return os.Truncate(path, blockSize+sumSize) },
		"empty":                    func(_ *bench, path string) error { return os.Truncate(path, 0) },
		"zeros":                    func(_ *bench, path string) error { return zero(path) },
		"gone":                     func(_ *bench, path string) error { return os.Remove(path) },
		"a directory in its place": func(_ *bench, path string) error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o700)) },
		"the file of another blob": func(b *bench, path string) error {
			o := other(b)
			return errors.Join(b.read(o), os.Rename(b.path(o), path))
		},
		"its blocks in another order": func(_ *bench, path string) error { return swap(path) },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, gib)
			o := b.put("blobs/damaged", 3*blockSize+77)
			must(t, b.read(o))
			eventually(t, "it is kept", func() bool { return b.whole(o) })
			must(t, damage(b, b.path(o)))
			b.backend.opens.Store(0)
			must(t, b.read(o))
			b.wantOpens("damaged", 1)
			b.wantLines("damaged", "file="+fileName(identify(o.key), o.size()))
			must(t, b.read(o))
			must(t, b.read(o))
			if name != "gone" && name != "a directory in its place" { // where the read before made a new entry
				b.wantOpens("afterwards", 1)
			}
		})
	}
}

func flip(path string, at int64) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	content[at] ^= 1
	return os.WriteFile(path, content, 0o600)
}

func zero(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	return os.WriteFile(path, make([]byte, info.Size()), 0o600)
}

func swap(path string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	const block = blockSize + sumSize
	return os.WriteFile(path, slices.Concat(content[block:2*block], content[:block], content[2*block:]), 0o600)
}

// TestGrown reads an upload back before it is complete.
func TestGrown(t *testing.T) {
	b := newBench(t, gib)
	c, err := storagetest.Append(t.Context(), b.Cache, storage.Checkpoint{Key: "blobs/grown"}, []byte("one"))
	must(t, err)
	must(t, b.read(blob{c.Key, []byte("one")}))
	c, err = storagetest.Append(t.Context(), b.Cache, c, []byte("two"))
	must(t, err)
	must(t, b.read(blob{c.Key, []byte("onetwo")}))
	_, err = storagetest.Append(t.Context(), b.Cache, storage.Checkpoint{Key: c.Key}, []byte("other!"))
	must(t, err)
	must(t, b.read(blob{c.Key, []byte("other!")}))
}

func TestBound(t *testing.T) {
	const size = 100 << 10
	b := newBench(t, 3*((size+sumSize+page-1)/page*page))
	var blobs []blob
	for i := range 6 {
		blobs = append(blobs, b.put(fmt.Sprint("blobs/", i), size))
	}
	read := func(i int) {
		t.Helper()
		must(t, b.read(blobs[i]))
		eventually(t, "it is kept", func() bool { return b.whole(blobs[i]) })
	}
	wantKept := func(want ...int) {
		t.Helper()
		for i, o := range blobs {
			if b.kept(o) != slices.Contains(want, i) {
				t.Errorf("blob %d: kept %t; want %v", i, b.kept(o), want)
			}
		}
	}
	for i := range 3 {
		read(i)
	}
	read(0)
	read(3)
	wantKept(0, 2, 3)
	open := b.reader(blobs[2]) // is the oldest, and in use
	read(4)
	read(5)
	wantKept(2, 4, 5)
	others := []io.Closer{b.reader(blobs[4]), b.reader(blobs[5]), open}
	b.backend.opens.Store(0)
	must(t, b.read(blobs[0])) // there is no room beside those
	b.wantOpens("without room", 1)
	wantKept(2, 4, 5)
	for _, r := range others {
		must(t, r.Close())
	}
	large := b.put("blobs/large", 4*size)
	must(t, b.read(large))
	must(t, b.read(large))
	b.backend.opens.Store(0)
	wantKept(2, 4, 5)
	read(0)
	wantKept(0, 2, 5) // 2 was closed last
	b.wantLines("in all")
}

func TestTakeOver(t *testing.T) {
	b := newBench(t, gib)
	var blobs []blob
	for i := range 4 {
		blobs = append(blobs, b.put(fmt.Sprint("blobs/", i), 100<<10))
		must(t, b.read(blobs[i]))
	}
	eventually(t, "all are kept", func() bool { return !b.busy() })
	must(t, b.Close())
	for i, o := range blobs { // the last is the oldest
		at := time.Now().Add(-time.Duration(i) * time.Hour)
		must(t, os.Chtimes(b.path(o), at, at))
	}
	must(t, os.Truncate(b.path(blobs[1]), 50<<10))
	for _, name := range []string{"photo.jpg", "0123.4", fileName(identify("x"), 7) + ".bak"} {
		must(t, os.WriteFile(filepath.Join(b.config.Directory, name), []byte("somebody's"), 0o600))
	}
	must(t, os.WriteFile(filepath.Join(b.config.Directory, fileName(identify("x"), 7)), []byte("part"), 0o600))
	must(t, os.Mkdir(filepath.Join(b.config.Directory, fileName(identify("y"), 7)), 0o700))
	b.config.Size = 2 * diskSize(100<<10)
	b.open()
	for i, want := range []bool{true, false, true, false} {
		if got := b.kept(blobs[i]); got != want {
			t.Errorf("blob %d: kept %t, want %t", i, got, want)
		}
	}
	if got := b.files(); len(got) != 2+3+1 || got["photo.jpg"] != 10 {
		t.Errorf("the files are %v", got)
	}
}

// TestOrderSurvives reads what is oldest, and has a later process with less room keep that.
func TestOrderSurvives(t *testing.T) {
	b := newBench(t, gib)
	blobs := []blob{b.put("blobs/0", 100<<10), b.put("blobs/1", 100<<10)}
	for _, o := range blobs {
		must(t, b.read(o))
	}
	eventually(t, "both are kept", func() bool { return !b.busy() })
	for i, o := range blobs {
		at := time.Now().Add(time.Duration(i-3) * time.Hour)
		must(t, os.Chtimes(b.path(o), at, at))
	}
	must(t, b.read(blobs[0]))
	must(t, b.Close())
	b.config.Size = diskSize(100 << 10)
	b.open()
	if !b.kept(blobs[0]) || b.kept(blobs[1]) {
		t.Errorf("kept: %v", b.files())
	}
}

func TestOneProcess(t *testing.T) {
	b := newBench(t, gib)
	if _, err := Open(t.Context(), b.config); !errors.Is(err, filelock.ErrHeld) {
		t.Errorf("a second cache in the same directory: %v", err)
	}
}

func TestNoDirectory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, nil, 0o600))
	if _, err := Open(t.Context(), Config{Directory: filepath.Join(file, "cache"), Size: gib}); err == nil {
		t.Error("a directory below a file is no error")
	}
}

// TestCloseWhileFetching closes a cache whose readers are not done.
func TestCloseWhileFetching(t *testing.T) {
	b := newBench(t, gib)
	o, parked := b.put("blobs/closed", 4*blockSize), b.put("blobs/parked", 10)
	b.backend.holdAt(t, blockSize)
	r, other := b.reader(o), b.reader(parked)
	_, err := io.CopyN(io.Discard, r, blockSize)
	must(t, err)
	must(t, b.Close())
	b.backend.mu.Lock()
	clear(b.backend.hold)
	b.backend.mu.Unlock()
	got, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(got, o.content[blockSize:]) {
		t.Errorf("%d bytes came, %v", len(got), err)
	}
	must(t, r.Close())
	must(t, other.Close())
	must(t, b.read(o))
	if len(b.files()) != 0 {
		t.Errorf("%v is kept", b.files())
	}
}
