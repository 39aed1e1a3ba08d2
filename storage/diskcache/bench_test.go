package diskcache

import (
	"io"
	"testing"

	"berth/storage"
	"berth/storage/storagetest"
)

// BenchmarkCache reads from the cache what filesystem's own benchmark reads from there.
func BenchmarkCache(b *testing.B) {
	storagetest.Benchmark(b, func(b *testing.B) storage.Blobs { return newBench(b, gib).Cache })
}

// BenchmarkFetch reads 64 MiB that are not in the cache yet.
func BenchmarkFetch(b *testing.B) {
	c := newBench(b, gib)
	o := c.put("blobs/a", 64<<20)
	buffer := make([]byte, 256<<10)
	b.ReportAllocs()
	b.SetBytes(o.size())
	for b.Loop() {
		r := c.reader(o)
		if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{r}, buffer); err != nil {
			b.Fatal(err)
		}
		must(b, r.Close())
		c.forget(o.key)
	}
}
