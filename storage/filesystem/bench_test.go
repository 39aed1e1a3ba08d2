package filesystem

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"berth/storage"
	"berth/storage/storagetest"

	"golang.org/x/sync/errgroup"
)

func BenchmarkStore(b *testing.B) {
	storagetest.Benchmark(b, func(b *testing.B) storage.Blobs { return benchmarkStore(b) })
}

func benchmarkStore(b *testing.B) *Store {
	b.Helper()
	s, err := Open(Config{Root: b.TempDir(), MinFree: 1})
	if err != nil {
		b.Fatal(err)
	}
	return s
}

// benchmarkRatio runs one and other in turns, so that both meet the same weather, and reports the time of one as a
// multiple of the time of other.
func benchmarkRatio(b *testing.B, unit string, one, other func(i int) error) {
	var times [2]time.Duration
	for i := 0; b.Loop(); i++ {
		for j, f := range []func(int) error{one, other} {
			start := time.Now()
			if err := f(i); err != nil {
				b.Fatal(err)
			}
			times[j] += time.Since(start)
		}
	}
	b.ReportMetric(times[0].Seconds()/times[1].Seconds(), unit)
}

// BenchmarkPutFloor compares storing 4 KiB with the system calls that this takes at the least.
func BenchmarkPutFloor(b *testing.B) {
	s, bare := benchmarkStore(b), b.TempDir()
	piece := storagetest.Content(1, 4<<10)
	benchmarkRatio(b, "×bare", func(i int) error {
		_, err := storagetest.Put(b.Context(), s, fmt.Sprintf("d/%d", i), piece)
		return err
	}, func(i int) error { return putBare(bare, fmt.Sprint(i), piece) })
}

func putBare(dir, name string, piece []byte) error {
	f, err := os.Create(filepath.Join(dir, name))
	if err != nil {
		return err
	}
	_, err = f.Write(piece)
	return errors.Join(err, f.Sync(), f.Close(), OS{}.SyncDir(dir))
}

// BenchmarkReadFloor compares opening and reading 4 KiB with doing so without a store.
func BenchmarkReadFloor(b *testing.B) {
	s := benchmarkStore(b)
	c, err := storagetest.Put(b.Context(), s, "blobs/3f9a01c2/0001/a", storagetest.Content(1, 4<<10))
	if err != nil {
		b.Fatal(err)
	}
	buffer := make([]byte, c.Size)
	read := func(r io.ReadCloser, err error) error {
		if err != nil {
			return err
		}
		_, err = io.ReadFull(r, buffer)
		return errors.Join(err, r.Close())
	}
	benchmarkRatio(b, "×bare",
		func(int) error { return read(s.Open(b.Context(), c.Key, c.Size)) },
		func(int) error { return read(os.Open(s.path(c.Key))) })
}

// BenchmarkWriteBack compares storing 256 MiB with and without write-back on the way.
func BenchmarkWriteBack(b *testing.B) {
	s := benchmarkStore(b)
	piece := storagetest.Content(1, 1<<20)
	pieces := make([][]byte, 256)
	for i := range pieces {
		pieces[i] = piece
	}
	put := func(stride int64) func(int) error {
		return func(int) error {
			s.stride = stride
			c, err := storagetest.Append(b.Context(), s, storage.Checkpoint{Key: "a"}, pieces...)
			return errors.Join(err, s.Delete(b.Context(), c.Key))
		}
	}
	benchmarkRatio(b, "×without", put(writeBackStride), put(math.MaxInt64))
}

// BenchmarkWriteDirect compares storing 256 MiB past the page cache with storing it through that, in time and in processor time.
func BenchmarkWriteDirect(b *testing.B) {
	s := benchmarkStore(b)
	if !s.direct.possible {
		b.Skip("the file system is none on which that is done")
	}
	pieces := make([][]byte, 2048)
	for i := range pieces {
		pieces[i] = make([]byte, 128<<10)
	}
	var spent [2]time.Duration // on the processor: directly, and through the cache
	put := func(at int) func(int) error {
		return func(int) error {
			s.direct.possible = at == 0
			before := processorTime(b)
			c, err := storagetest.Append(b.Context(), s, storage.Checkpoint{Key: "a"}, pieces...)
			spent[at] += processorTime(b) - before
			return errors.Join(err, s.Delete(b.Context(), c.Key))
		}
	}
	benchmarkRatio(b, "×cached", put(0), put(1))
	b.ReportMetric(spent[0].Seconds()/spent[1].Seconds(), "×cached-CPU")
}

func processorTime(b *testing.B) time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// BenchmarkPutParallel shows what writers in one directory save when they share its sync.
func BenchmarkPutParallel(b *testing.B) {
	s := benchmarkStore(b)
	piece := storagetest.Content(1, 4<<10)
	const writers = 16
	benchmarkRatio(b, "×alone", func(i int) error {
		errs := make(chan error)
		for j := range writers {
			go func() {
				_, err := storagetest.Put(b.Context(), s, fmt.Sprintf("together/%d-%d", i, j), piece)
				errs <- err
			}()
		}
		var all error
		for range writers {
			all = errors.Join(all, <-errs)
		}
		return all
	}, func(i int) error {
		for j := range writers {
			if _, err := storagetest.Put(b.Context(), s, fmt.Sprintf("alone/%d-%d", i, j), piece); err != nil {
				return err
			}
		}
		return nil
	})
}

// BenchmarkSyncAtOnce compares storing 4 KiB from eight writers whose two syncs run at once with doing them one after the other.
func BenchmarkSyncAtOnce(b *testing.B) {
	s := benchmarkStore(b)
	piece := storagetest.Content(1, 4<<10)
	put := func(atOnce bool) func(int) error {
		return func(i int) error {
			s.atOnce = atOnce
			var group errgroup.Group
			for j := range 8 {
				group.Go(func() error {
					for n := range 10 {
						if _, err := storagetest.Put(b.Context(), s, fmt.Sprintf("d/%v-%d-%d-%d", atOnce, i, j, n), piece); err != nil {
							return err
						}
					}
					return nil
				})
			}
			return group.Wait()
		}
	}
	benchmarkRatio(b, "×serial", put(true), put(false))
}
