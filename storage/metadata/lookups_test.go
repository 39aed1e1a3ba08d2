package metadata_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"berth/storage/metadata"

	"github.com/opencontainers/go-digest"
)

// TestLookupsSeePushes has readers follow a tag that moves, and a list that grows: none sees less than what was told to be pushed before it
// asked, or than it saw before.
func TestLookupsSeePushes(t *testing.T) {
	t.Parallel()
	t.Run("SQLite", func(t *testing.T) {
		s := open(t, metadata.Config{Path: memoryDir(t) + "/metadata.sqlite"})
		followTag(t, s, s)
	})
	t.Run("PostgreSQL", func(t *testing.T) {
		dsn := postgresServer(t).NewDatabase(t, "")
		followTag(t, open(t, metadata.Config{DSN: dsn}), open(t, metadata.Config{DSN: dsn}))
	})
}

func followTag(t *testing.T, writes, reads *metadata.Store) {
	const pushes, readers = 200, 8
	images := make([]metadata.NewManifest, pushes)
	number := make(map[digest.Digest]int64)
	for i := range images {
		images[i] = image(fmt.Sprint(i), []string{"moving", fmt.Sprint(i)})
		number[images[i].Digest] = int64(i)
	}
	must(t, writes.PutManifest(t.Context(), "a", images[0]))
	var told atomic.Int64
	var all sync.WaitGroup
	for range readers {
		all.Go(func() {
			for seen := int64(0); seen < pushes-1 && !t.Failed(); {
				least := max(seen, told.Load())
				m, body, err := reads.TaggedManifest(t.Context(), "a", "moving", true)
				if err != nil || digest.FromBytes(body) != m.Digest {
					t.Errorf("%v, and the body of %s has the digest %s", err, m.Digest, digest.FromBytes(body))
					return
				}
				if seen = number[m.Digest]; seen < least {
					t.Errorf("saw push %d after push %d", seen, least)
				}
				tags, err := reads.Tags(t.Context(), "a", "", 2*pushes)
				if listed := int64(len(tags)) - 2; err != nil || listed < seen { // they are numbered from 0, and one moves
					t.Errorf("saw push %d, and of %d the tags, %v", seen, listed, err)
				}
			}
		})
	}
	for i, m := range images[1:] {
		if err := writes.PutManifest(t.Context(), "a", m); err != nil {
			t.Error(err)
			break
		}
		told.Store(int64(i + 1))
	}
	all.Wait()
}

// BenchmarkBlob asks for one blob over and over, while nothing is written.
func BenchmarkBlob(b *testing.B) {
	s := open(b, metadata.Config{Path: memoryDir(b) + "/metadata.sqlite"})
	d := digest.FromString("content")
	u, err := s.StartUpload(b.Context(), "id", "a", digest.SHA256, "")
	must(b, err)
	u.Size = 7
	must(b, s.CommitUpload(b.Context(), u, d))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Blob(b.Context(), "a", d); err != nil {
			b.Fatal(err)
		}
	}
}
