package metadata_test

import (
	"path/filepath"
	"testing"

	"berth/storage/metadata"
	"berth/storage/metadata/metatest"
)

// open opens the store at c.Path, or a new one, and closes it when the test ends.
func open(t testing.TB, c metadata.Config) *metadata.Store {
	t.Helper()
	if c.Path == "" {
		c.Path = filepath.Join(t.TempDir(), "metadata.sqlite")
	}
	s, err := metadata.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

func TestContract(t *testing.T) {
	t.Parallel()
	template := filepath.Join(memoryDir(t), "metadata.sqlite")
	s, err := metadata.Open(t.Context(), metadata.Config{Path: template})
	must(t, err)
	must(t, s.Close())
	open := func(t testing.TB, c metadata.Config) *metadata.Store {
		c.Path = filepath.Join(memoryDir(t), "metadata.sqlite")
		mustCopy(t, template, c.Path) // to copy is faster than to migrate
		return open(t, c)
	}
	metatest.Run(t, open)
	t.Run("Interleave", func(t *testing.T) { metatest.Interleave(t, open) })
	t.Run("WholeObjects", func(t *testing.T) { metatest.RunWholeObjects(t, open) })
}

func BenchmarkStore(b *testing.B) { metatest.Benchmark(b, open) }
