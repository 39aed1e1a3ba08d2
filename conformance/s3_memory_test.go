package conformance

import (
	"cmp"
	"crypto/sha256"
	"io"
	"os"
	"strconv"
	"testing"

	"berth/conformance/client"
	"berth/storage/s3/s3test"

	"github.com/opencontainers/go-digest"
)

// TestS3Memory pushes more large blobs to S3 at the same time than storage.s3.memory has room for: the registry may hold that much,
// and 100 MiB for all else. BERTH_LARGE is the size of a blob in MiB; the gateway needs twice that for each while it makes objects of
// parts.
func TestS3Memory(t *testing.T) {
	const (
		transfers = 32
		budget    = 256 << 20 // the default of storage.s3.memory
		most      = budget + 100<<20
	)
	size, err := strconv.ParseInt(cmp.Or(os.Getenv("BERTH_LARGE"), "64"), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	size <<= 20
	root := t.TempDir()
	needSpace(t, root, uint64(2*transfers*size))
	server := s3test.Start(t, s3test.Versity)
	b := start(t, options{root: root, tls: true, env: wholeParts(bucket(t, server, &s3test.Proxy{URL: server.URL}, root))})
	together(t, transfers, func(i int) error {
		c, content, hash := b.client(), client.Content{Seed: uint64(i), Size: size}, sha256.New()
		location, err := c.StartUpload(t.Context(), "memory/large")
		if err != nil {
			return err
		}
		if location, err = c.WriteChunk(t.Context(), location, -1, io.TeeReader(content.Reader(0), hash), -1); err != nil {
			return err
		}
		return c.FinishUpload(t.Context(), location, digest.NewDigest(digest.SHA256, hash), nil, 0)
	})
	held := peak(t, b)
	if t.Logf("peak memory: %d MiB after %d pushes of %d MiB", held>>20, transfers, size>>20); held > most {
		t.Errorf("that is more than %d MiB", most>>20)
	}
	if held < budget/2 {
		t.Error("the budget was never used: this test shows nothing")
	}
	b.stop()
}
