package metadata_test

import (
	"context"
	"path/filepath"
	"testing"

	"berth/storage/metadata"
)

func open(t testing.TB, c metadata.Config) *metadata.Store {
	t.Helper()
	if c.Path == "" {
		c.Path = filepath.Join(t.TempDir(), "metadata.sqlite")
	}
	s, err := metadata.Open(context.Background(), c)
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

func TestOpen(t *testing.T) {
	s := open(t, metadata.Config{})
	if err := s.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	u, err := s.StartUpload(t.Context(), "x", "a/b", "sha256", "")
	t.Log(u, err)
	u, err = s.ClaimUpload(t.Context(), "a/b", "x", "")
	t.Log(u, err)
	err = s.CommitUpload(t.Context(), u, "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
	if err != nil {
		t.Fatal(err)
	}
	err = s.PutManifest(t.Context(), "a/b", metadata.NewManifest{Manifest: metadata.Manifest{Digest: "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", MediaType: "x"}, Body: []byte("x"), Config: "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", Tags: []string{"t"}, Blobs: []metadata.Edge{{Digest: "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}}})
	if err != nil {
		t.Fatal(err)
	}
	m, b, err := s.TaggedManifest(t.Context(), "a/b", "t", true)
	t.Log(m, b, err)
	t.Log(s.Referrers(t.Context(), "a/b", m.Digest, "", "", 10))
	t.Log(s.DeleteBlob(t.Context(), "a/b", m.Digest))
	t.Log(s.DeleteManifest(t.Context(), "a/b", m.Digest))
	t.Log(s.DeleteBlob(t.Context(), "a/b", m.Digest))
	t.Log(s.DeadKeys(t.Context(), 10))
	t.Log(s.ExpireUploads(t.Context(), 10))
	t.Log(s.Repositories(t.Context(), "", 10))
}
