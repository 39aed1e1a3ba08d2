package storagetest

import (
	"context"
	"fmt"
	"io"
	"testing"

	"berth/storage"
)

const (
	small = 4 << 10
	large = 256 << 20
)

// Benchmark measures a backend: storing, reading and deleting objects of 4 KiB and 256 MiB. What is stored is durable.
func Benchmark(b *testing.B, open func(b *testing.B) storage.Blobs) {
	piece := Content(1, 1<<20)
	b.Run("Put4KiB", func(b *testing.B) { benchmarkPut(b, open(b), piece[:small], 1) })
	b.Run("Put256MiB", func(b *testing.B) { benchmarkPut(b, open(b), piece, large/len(piece)) })
	b.Run("Read4KiB", func(b *testing.B) { benchmarkRead(b, open(b), piece[:small], 1) })
	b.Run("Read256MiB", func(b *testing.B) { benchmarkRead(b, open(b), piece, large/len(piece)) })
	b.Run("Delete4KiB", func(b *testing.B) { benchmarkDelete(b, open(b), piece[:small]) })
}

// put stores an object of n equal pieces.
func put(ctx context.Context, blobs storage.Blobs, key string, piece []byte, n int) (storage.Checkpoint, error) {
	pieces := make([][]byte, n)
	for i := range pieces {
		pieces[i] = piece
	}
	c, err := Append(ctx, blobs, storage.Checkpoint{Key: key}, pieces...)
	if err != nil {
		return c, err
	}
	return c, blobs.Complete(ctx, c)
}

// benchmarkPut deletes what it stored, off the clock when that could fill a disk.
func benchmarkPut(b *testing.B, blobs storage.Blobs, piece []byte, pieces int) {
	b.ReportAllocs()
	b.SetBytes(int64(len(piece) * pieces))
	for i := 0; b.Loop(); i++ {
		c, err := put(b.Context(), blobs, fmt.Sprintf("bench/%04x/%d", i>>10, i), piece, pieces)
		if err != nil {
			b.Fatal(err)
		}
		if pieces > 1 {
			b.StopTimer()
			if err := blobs.Delete(b.Context(), c.Key); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
	}
}

func benchmarkRead(b *testing.B, blobs storage.Blobs, piece []byte, pieces int) {
	c, err := put(b.Context(), blobs, key, piece, pieces)
	if err != nil {
		b.Fatal(err)
	}
	buffer := make([]byte, 32<<10)
	b.ReportAllocs()
	b.SetBytes(c.Size)
	for b.Loop() {
		if err := readAll(b.Context(), blobs, c, buffer); err != nil {
			b.Fatal(err)
		}
	}
}

func readAll(ctx context.Context, blobs storage.Blobs, c storage.Checkpoint, buffer []byte) error {
	r, err := blobs.Open(ctx, c.Key, c.Size)
	if err != nil {
		return err
	}
	defer r.Close()
	n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{r}, buffer)
	if err == nil && n != c.Size {
		err = io.ErrUnexpectedEOF
	}
	return err
}

func benchmarkDelete(b *testing.B, blobs storage.Blobs, piece []byte) {
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		c, err := put(b.Context(), blobs, fmt.Sprintf("bench/%04x/%d", i>>10, i), piece, 1)
		if err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		if err := blobs.Delete(b.Context(), c.Key); err != nil {
			b.Fatal(err)
		}
	}
}
