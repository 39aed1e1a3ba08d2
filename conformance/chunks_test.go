package conformance

import (
	"bytes"
	"net/http"
	"strconv"
	"testing"

	"berth/conformance/client"
	"berth/storage/s3/s3test"
)

// TestChunkMinLength pushes in chunks of the length that a registry with S3 asks for, for which it never has to read back what
// it wrote, and in shorter ones, which it takes all the same.
func TestChunkMinLength(t *testing.T) {
	t.Parallel()
	s := s3test.Start(t, s3test.Versity)
	p, root := s3test.NewProxy(t, s), t.TempDir()
	b := start(t, options{root: root, env: bucket(t, s, p, root)})
	c := b.client()
	answer, err := c.Do(t.Context(), client.Request{Method: http.MethodPost, Target: "/v2/a/blobs/uploads/"}, http.StatusAccepted)
	if err != nil {
		t.Fatal(err)
	}
	if err := answer.Body.Close(); err != nil {
		t.Fatal(err)
	}
	least, err := strconv.ParseInt(answer.Header.Get("OCI-Chunk-Min-Length"), 10, 64)
	if err != nil || least <= 0 {
		t.Fatalf("OCI-Chunk-Min-Length: %d, %v", least, err)
	}
	for seed, chunk := range []int64{least, 2 * least, least / 4, 1} {
		content := client.Content{Seed: uint64(seed), Size: 3*chunk + min(chunk, 100)}
		p.Calls()
		if err := pushChunks(t, c, content, chunk); err != nil {
			t.Fatalf("chunks of %d bytes: %v", chunk, err)
		}
		if calls := p.Calls(); chunk >= least && calls["GetObject"] != 0 {
			t.Errorf("chunks of %d bytes took the calls %v", chunk, calls)
		}
		if err := verifyBlob(t.Context(), c, name{"a", content.Digest().String()}, content); err != nil {
			t.Errorf("chunks of %d bytes: %v", chunk, err)
		}
	}
	b.stop()
	b.fsck("--rehash")
}

// pushChunks pushes a blob with a PATCH for each chunk.
func pushChunks(t *testing.T, c *client.Client, content client.Content, chunk int64) error {
	location, err := c.StartUpload(t.Context(), "a")
	for offset := int64(0); offset < content.Size && err == nil; offset += chunk {
		location, err = c.WriteChunk(t.Context(), location, offset, content.Reader(offset), min(chunk, content.Size-offset))
	}
	if err != nil {
		return err
	}
	return c.FinishUpload(t.Context(), location, content.Digest(), bytes.NewReader(nil), 0)
}
