package client

import (
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"

	"github.com/opencontainers/go-digest"
)

// Content is bytes that nobody has to keep: the same seed and size always give the same ones.
type Content struct {
	Seed uint64
	Size int64
}

// blockSize is the length in bytes of the random block that a Content repeats. It is a prime number, so that a piece
// which some fault moves by a round number of bytes differs from what belongs there.
const blockSize = 1<<20 - 3

// Reader returns the bytes from offset on.
func (c Content) Reader(offset int64) io.Reader {
	var seed [32]byte
	binary.LittleEndian.PutUint64(seed[:], c.Seed)
	block := make([]byte, min(blockSize, max(c.Size, 1)))
	_, _ = rand.NewChaCha8(seed).Read(block) // never fails
	return io.LimitReader(&repeated{block: block, next: offset % int64(len(block))}, c.Size-offset)
}

// Digest returns the digest of the bytes.
func (c Content) Digest() digest.Digest {
	digester := digest.Canonical.Digester()
	_, _ = io.Copy(digester.Hash(), c.Reader(0)) // neither side fails
	return digester.Digest()
}

// Check reads r to its end and fails unless it holds the content.
func (c Content) Check(r io.Reader) error {
	digester := digest.Canonical.Digester()
	n, err := io.Copy(digester.Hash(), r)
	if err != nil {
		return fmt.Errorf("after %d of %d bytes: %w", n, c.Size, err)
	}
	if want := c.Digest(); digester.Digest() != want {
		return fmt.Errorf("%d bytes with digest %s instead of %d with %s", n, digester.Digest(), c.Size, want)
	}
	return nil
}

// repeated reads a block over and over.
type repeated struct {
	block []byte
	next  int64
}

func (r *repeated) Read(p []byte) (int, error) {
	n := copy(p, r.block[r.next:])
	r.next = (r.next + int64(n)) % int64(len(r.block))
	return n, nil
}
