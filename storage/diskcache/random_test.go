package diskcache

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// TestRandom has many readers do everything at once with a cache that is too small, some of whose fetches break.
func TestRandom(t *testing.T) {
	const limit = 12 * blockSize
	b := newBench(t, limit)
	var blobs []blob
	for i := range 20 {
		blobs = append(blobs, b.put(fmt.Sprint("blobs/", i), 1+i*blockSize/4))
	}
	b.backend.breakAt.Store(blockSize + 10)
	done := make(chan struct{})
	var watcher, wg sync.WaitGroup
	watcher.Go(func() {
		for {
			var total int64
			for _, size := range b.files() {
				total += size
			}
			if used := b.Stats().Bytes; total > limit || used > limit || used < 0 {
				t.Errorf("%d bytes are there and %d counted, more than %d", total, used, limit)
			}
			select {
			case <-done:
				return
			default:
			}
		}
	})
	for worker := range 8 {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(uint64(worker), 1))
			for range 150 {
				o := blobs[random.IntN(len(blobs))]
				if err := b.readSome(random, o); err != nil {
					t.Errorf("%s: %v", o.key, err)
				}
			}
		})
	}
	wg.Wait()
	close(done)
	watcher.Wait()
	eventually(t, "rest", func() bool { return !b.busy() })
	var total int64
	for name, size := range b.files() {
		_, of, ok := parseName(name)
		if !ok || size != fileSize(of) {
			t.Errorf("a file %s of %d bytes is left", name, size)
		}
		total += diskSize(of)
	}
	if got := b.Stats().Bytes; got != total {
		t.Errorf("%d bytes are counted and %d there", got, total)
	}
	for _, e := range b.entries {
		if e.file != nil {
			t.Errorf("%s is left open", e.name)
		}
	}
	b.wantLines("in all")
}

// readSome reads up to three parts of a blob, or forgets it. Some of the fetches that it causes break once.
func (b *bench) readSome(random *rand.Rand, o blob) error {
	switch random.IntN(10) {
	case 0:
		b.forget(o.key)
		return nil
	case 1:
		b.backend.breaks.Store(1)
	}
	r, err := b.Open(b.t.Context(), o.key, o.size())
	if err != nil {
		return err
	}
	for range random.IntN(4) {
		at := random.Int64N(o.size())
		got := make([]byte, 1+random.Int64N(o.size()-at))
		if _, err := r.Seek(at, io.SeekStart); err != nil {
			return errors.Join(err, r.Close())
		}
		if _, err := io.ReadFull(r, got); errors.Is(err, errBroken) {
			break // of a reader that went on with the backend
		} else if err != nil || !bytes.Equal(got, o.content[at:at+int64(len(got))]) {
			return errors.Join(fmt.Errorf("%d bytes at %d are others, or %w", len(got), at, err), r.Close())
		}
	}
	return r.Close()
}

// TestNoDirectoryAnyMore is of a disk that refuses every file.
func TestNoDirectoryAnyMore(t *testing.T) {
	b := newBench(t, gib)
	o := b.put("blobs/a", 3*blockSize)
	must(t, os.RemoveAll(b.config.Directory))
	for range 5 {
		must(t, b.read(o))
	}
	b.wantOpens("five reads", 5)
	b.wantLines("five reads", "can't be written")
}

// TestFullDisk fills a disk in the middle of a fetch.
func TestFullDisk(t *testing.T) {
	if os.Getuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("this test needs root, and in CI every test has to run")
		}
		t.Skip("this test needs root")
	}
	b := newBench(t, gib)
	small := b.put("blobs/small", 10<<10)
	must(t, b.Close())
	disk := t.TempDir()
	must(t, unix.Mount("tmpfs", disk, "tmpfs", 0, "size=512k"))
	t.Cleanup(func() { must(t, unix.Unmount(disk, unix.MNT_DETACH)) })
	b.config.Directory = filepath.Join(disk, "cache")
	b.open()
	t.Cleanup(func() { must(t, b.Close()) })
	o := b.put("blobs/large", 10*blockSize)
	release := b.backend.holdAt(t, 0)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if err := b.read(o); err != nil {
				t.Error(err)
			}
		})
	}
	eventually(t, "four readers", func() bool { return b.readers(o) == 4 })
	release()
	wg.Wait()
	b.wantOpens("four readers of a fetch that broke", 1+4)
	must(t, b.read(small))
	must(t, b.read(small))
	b.wantOpens("what would fit, in the minute after", 2)
	b.wantLines("in all", "no space left")
	eventually(t, "nothing is kept", func() bool { return !b.busy() && len(b.files()) == 0 })
	b.mu.Lock()
	b.refused = b.refused.Add(-pause)
	b.mu.Unlock()
	must(t, b.read(small))
	must(t, b.read(small))
	b.wantOpens("after that minute", 1)
}

func FuzzParseName(f *testing.F) {
	for _, seed := range []string{"", "lock", ".", fileName(identify("a"), 1), fileName(identify("a"), maxSize), fileName(identify("a"), 0),
		fileName(identify("a"), -1), identify("a") + ".01", identify("a") + ".+1", identify("a") + ".1.2", strings.ToUpper(identify("a")) + ".1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		id, size, ok := parseName(name)
		if !ok {
			return
		}
		if fileName(id, size) != name || !filepath.IsLocal(name) || strings.ContainsAny(name, "/\\") || fileSize(size) < size || diskSize(size) < fileSize(size) {
			t.Errorf("%q is %q and %d, whose file takes %d and %d", name, id, size, fileSize(size), diskSize(size))
		}
	})
}

func TestParseName(t *testing.T) {
	for name, want := range map[string]bool{
		fileName(identify("a"), 1):       true,
		fileName(identify("a"), maxSize): true,
		fileName(identify("a"), 0):       false,
		identify("a"):                    false,
		identify("a") + ".01":            false,
		identify("a")[1:] + ".1":         false,
		"g" + identify("a")[1:] + ".1":   false,
		"lock":                           false,
	} {
		if _, _, ok := parseName(name); ok != want {
			t.Errorf("%s: %t", name, ok)
		}
	}
}

// FuzzFile puts any content in the place of a blob's file. Reading gives the blob all the same.
func FuzzFile(f *testing.F) {
	f.Add([]byte{}, uint16(0), false)
	f.Add([]byte("x"), uint16(100), true)
	f.Fuzz(func(t *testing.T, content []byte, at uint16, restart bool) {
		b := newBench(t, gib)
		o := b.put("blobs/a", 1000)
		must(t, b.read(o))
		eventually(t, "it is kept", func() bool { return b.whole(o) })
		file, err := os.ReadFile(b.path(o))
		must(t, err)
		file = append(file[:min(int(at), len(file))], content...)
		must(t, os.WriteFile(b.path(o), file, 0o600))
		if restart {
			b.restart()
		}
		must(t, b.read(o))
	})
}
