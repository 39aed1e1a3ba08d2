package metatest

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"berth/storage/metadata"
)

// Benchmark measures a store: what a pull looks up, a page of a list, a push, and how durable commits share their syncs.
func Benchmark(b *testing.B, open Open) {
	b.Run("Tag", func(b *testing.B) { benchmarkTag(b, newFixture(b, open, metadata.Config{})) })
	b.Run("Blob", func(b *testing.B) { benchmarkBlob(b, newFixture(b, open, metadata.Config{})) })
	b.Run("TagsPage", func(b *testing.B) { benchmarkTagsPage(b, newFixture(b, open, metadata.Config{})) })
	b.Run("RepositoriesPage", func(b *testing.B) { benchmarkRepositoriesPage(b, newFixture(b, open, metadata.Config{})) })
	b.Run("PutManifest", func(b *testing.B) { benchmarkPutManifest(b, newFixture(b, open, metadata.Config{})) })
	b.Run("Commits", func(b *testing.B) { benchmarkCommits(b, newFixture(b, open, metadata.Config{})) })
}

// tagMany puts a manifest with n tags.
func tagMany(b *testing.B, f *fixture, n int) {
	b.Helper()
	m := image("m")
	m.Body = make([]byte, 1<<10)
	for i := range n {
		m.Tags = append(m.Tags, fmt.Sprintf("tag-%d", i))
	}
	must(b, f.PutManifest(b.Context(), "library/app", m))
}

func benchmarkTag(b *testing.B, f *fixture) {
	tagMany(b, f, 4000)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := f.TaggedManifest(b.Context(), "library/app", "tag-2000", true); err != nil {
			b.Fatal(err)
		}
	}
}

func benchmarkBlob(b *testing.B, f *fixture) {
	for i := range 1000 {
		u, err := f.StartUpload(b.Context(), f.newID(), "library/app", "sha256", "")
		must(b, err)
		must(b, f.CommitUpload(b.Context(), u, blob(i)))
	}
	d := blob(500)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := f.LeaseBlob(b.Context(), "library/app", d); err != nil {
			b.Fatal(err)
		}
	}
}

func benchmarkTagsPage(b *testing.B, f *fixture) {
	tagMany(b, f, 4000)
	b.ReportAllocs()
	for b.Loop() {
		page, err := f.Tags(b.Context(), "library/app", "tag-2000", 100)
		if err != nil || len(page) != 100 {
			b.Fatal(len(page), err)
		}
	}
}

func benchmarkRepositoriesPage(b *testing.B, f *fixture) {
	for i := range 400 {
		must(b, f.PutManifest(b.Context(), fmt.Sprintf("library/app-%03d", i), image("m")))
	}
	b.ReportAllocs()
	for b.Loop() {
		page, err := f.Repositories(b.Context(), "library/app-200", 100)
		if err != nil || len(page) != 100 {
			b.Fatal(len(page), err)
		}
	}
}

// benchmarkPutManifest puts manifests of a config and four layers.
func benchmarkPutManifest(b *testing.B, f *fixture) {
	ready := image("layers", blob(0), blob(1), blob(2), blob(3), blob(4))
	for _, e := range ready.Blobs {
		u, err := f.StartUpload(b.Context(), f.newID(), "library/app", "sha256", "")
		must(b, err)
		must(b, f.CommitUpload(b.Context(), u, e.Digest))
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		m := image(fmt.Sprint(i))
		m.Config, m.Blobs, m.Tags = ready.Config, ready.Blobs, []string{"latest"}
		if err := f.PutManifest(b.Context(), "library/app", m); err != nil {
			b.Fatal(err)
		}
	}
}

// benchmarkCommits makes rounds of small durable commits, by as many goroutines at once as the name says, and reports how
// their rate compares to that of one.
func benchmarkCommits(b *testing.B, f *fixture) {
	u, err := f.StartUpload(b.Context(), f.newID(), "a", "sha256", "")
	must(b, err)
	must(b, f.CommitUpload(b.Context(), u, blob(1)))
	var alone time.Duration // for a round
	for _, parallel := range []int{1, 8, 64} {
		b.Run(fmt.Sprint(parallel), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				commitRound(b, f, parallel)
			}
			round := b.Elapsed() / time.Duration(b.N)
			if parallel == 1 {
				alone = round
			}
			if alone > 0 {
				b.ReportMetric(float64(alone)/float64(round), "x-alone")
			}
		})
	}
}

// commitRound makes 64 commits.
func commitRound(b *testing.B, f *fixture, parallel int) {
	done := make(chan error, parallel)
	for range parallel {
		go func() {
			var err error
			for range 64 / parallel {
				err = errors.Join(err, f.MountBlob(b.Context(), "a", "a", blob(1)))
			}
			done <- err
		}()
	}
	for range parallel {
		must(b, <-done)
	}
}
