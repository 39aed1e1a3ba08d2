package conformance

import (
	"io"
	"sync"
	"syscall"
	"testing"

	"berth/conformance/client"
	"berth/conformance/server"

	"github.com/opencontainers/go-digest"
)

// TestMemory pushes large blobs at the same time and pulls them at the same time, all over TLS. The registry's memory
// must not depend on their size.
func TestMemory(t *testing.T) {
	const (
		transfers  = 16
		size       = 512 << 20
		most       = 150 << 20
		repository = "memory/large"
	)
	dir := t.TempDir()
	needSpace(t, dir, (transfers+2)*size)
	b := start(t, options{root: dir, tls: true})
	var digests [transfers]digest.Digest
	together(t, transfers, func(i int) error {
		content := client.Content{Seed: uint64(i), Size: size}
		digests[i] = content.Digest()
		return pushStream(t, b.client(), repository, content, digests[i])
	})
	after := peak(t, b)
	together(t, transfers, func(i int) error {
		body, err := b.client().Blob(t.Context(), repository, digests[i])
		if err != nil {
			return err
		}
		defer body.Close()
		n, err := io.Copy(io.Discard, body)
		if err == nil && n != size {
			err = io.ErrUnexpectedEOF
		}
		return err
	})
	t.Logf("peak memory: %d MiB after %d pushes, %d MiB after as many pulls", after>>20, transfers, peak(t, b)>>20)
	if got := peak(t, b); got > most {
		t.Errorf("peak memory is %d MiB, more than %d", got>>20, most>>20)
	}
	b.stop()
}

// pushStream pushes a blob as docker does: POST, one PATCH with everything, PUT.
func pushStream(t *testing.T, c *client.Client, repository string, content client.Content, d digest.Digest) error {
	location, err := c.StartUpload(t.Context(), repository)
	if err != nil {
		return err
	}
	if location, err = c.WriteChunk(t.Context(), location, -1, content.Reader(0), -1); err != nil {
		return err
	}
	return c.FinishUpload(t.Context(), location, d, nil, 0)
}

// together runs n calls at the same time and reports their errors.
func together(t *testing.T, n int, call func(i int) error) {
	t.Helper()
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if err := call(i); err != nil {
				t.Errorf("transfer %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

func peak(t *testing.T, b *berth) int64 {
	t.Helper()
	bytes, err := server.PeakMemory(b.PID())
	if err != nil {
		t.Fatal(err)
	}
	return bytes
}

func needSpace(t *testing.T, dir string, bytes uint64) {
	t.Helper()
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		t.Fatal(err)
	}
	if free := fs.Bavail * uint64(fs.Bsize); free < bytes {
		unavailable(t, "this test needs more space on the disk of the temporary directory")
	}
}
