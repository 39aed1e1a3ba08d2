package registry_test

import (
	"bytes"
	"io"
	"testing"

	"berth/registry"
	"berth/storage/storagetest"

	"github.com/opencontainers/go-digest"
)

// BenchmarkPush pushes new blobs as docker does: start, one chunk, finish.
func BenchmarkPush(b *testing.B) {
	for name, size := range map[string]int{"4KiB": 4 << 10, "64MiB": 64 << 20} {
		b.Run(name, func(b *testing.B) {
			f := newFixture(b)
			content := storagetest.Content(1, size)
			b.ReportAllocs()
			b.SetBytes(int64(size))
			for i := 0; b.Loop(); i++ {
				content[0], content[1], content[2] = byte(i), byte(i>>8), byte(i>>16)
				b.StopTimer()
				d := digest.FromBytes(content)
				b.StartTimer()
				u := start(b, f, "")
				if _, err := f.WriteUpload(b.Context(), "a/b", u.ID, chunk(content)); err != nil {
					b.Fatal(err)
				}
				finish(b, f, u.ID, nil, d)
				if size > 1<<20 {
					b.StopTimer()
					if err := f.DeleteBlob(b.Context(), "a/b", d); err != nil {
						b.Fatal(err)
					}
					b.StartTimer()
				}
			}
		})
	}
}

func BenchmarkPull(b *testing.B) {
	f := newFixture(b)
	content := storagetest.Content(1, 4<<10)
	d := f.push(b, "a/b", content)
	body := f.image(b, "a/b", config("linux", "amd64"), content)
	f.put(b, "a/b", "latest", "", body)
	b.Run("manifest", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			m, err := f.Manifest(b.Context(), "a/b", registry.Reference{Tag: "latest"})
			if err != nil || !bytes.Equal(m.Body, body) {
				b.Fatal(err)
			}
		}
	})
	b.Run("blob", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			r, err := f.OpenBlob(b.Context(), "a/b", d.Digest)
			if err != nil {
				b.Fatal(err)
			}
			if n, err := io.Copy(io.Discard, r); err != nil || n != d.Size {
				b.Fatal(n, err)
			}
			r.Close()
		}
	})
}
