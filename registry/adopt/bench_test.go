package adopt_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"berth/registry/adopt"
	"berth/storage/filesystem"
	"berth/storage/metadata"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// BenchmarkAdopt takes over images of five blobs each.
func BenchmarkAdopt(b *testing.B) {
	for _, images := range []int{1000, 10_000} {
		b.Run(fmt.Sprint(images), func(b *testing.B) { benchmarkAdopt(b, images) })
	}
}

func benchmarkAdopt(b *testing.B, images int) {
	l := legacy{b, b.TempDir()}
	for i := range images {
		repository := fmt.Sprintf("team%d/app%d", i%7, i%50)
		m := v1.Manifest{MediaType: v1.MediaTypeImageManifest, Config: l.layer(repository, fmt.Sprintf(`{"os":"linux","architecture":"arm","rootfs":{},"n":%d}`, i))}
		m.SchemaVersion = 2
		m.Config.MediaType = v1.MediaTypeImageConfig
		for j := range 4 {
			m.Layers = append(m.Layers, l.layer(repository, fmt.Sprintf("layer %d of %d", j, i)))
		}
		l.put(repository, m.MediaType, m, fmt.Sprintf("v%d", i))
	}
	for b.Loop() {
		_ = os.Remove(l.path("adopted-by-berth.json"))
		facts, err := metadata.Open(b.Context(), metadata.Config{Path: filepath.Join(b.TempDir(), "metadata.sqlite")})
		must(b, err)
		blobs, err := filesystem.Open(filesystem.Config{Root: l.root})
		must(b, err)
		r, err := adopt.Run(b.Context(), adopt.Config{Metadata: facts, Blobs: blobs})
		if err != nil || r.Manifests != images || r.Blobs != 5*images || r.Problems > 0 {
			b.Fatalf("%+v, %v", r, err)
		}
		must(b, facts.Close())
	}
	b.ReportMetric(float64(images)*float64(b.N)/b.Elapsed().Seconds(), "manifests/s")
}
