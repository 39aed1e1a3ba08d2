package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"

	"berth/conformance/client"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// unique makes blobs of a size, each unlike any other, whose digest costs next to nothing: only their last bytes differ,
// and all before them is hashed once.
type unique struct {
	head   client.Content
	hashed func() hash.Cloner
	next   atomic.Uint64
}

// item is one of the blobs.
type item struct {
	digest digest.Digest
	tail   []byte
}

const tailSize = 8

func newUnique(size int64) *unique {
	u := &unique{head: client.Content{Seed: rand.Uint64(), Size: size - tailSize}}
	u.hashed = sync.OnceValue(func() hash.Cloner {
		h := sha256.New()
		_, _ = io.Copy(h, u.head.Reader(0)) // neither side fails
		return h.(hash.Cloner)
	})
	return u
}

func (u *unique) size() int64 { return u.head.Size + tailSize }

func (u *unique) take() item {
	tail := binary.LittleEndian.AppendUint64(nil, u.next.Add(1))
	h, _ := u.hashed().Clone() // SHA-256 can be cloned
	h.Write(tail)
	return item{digest: digest.NewDigest(digest.SHA256, h), tail: tail}
}

func (u *unique) body(one item) io.Reader {
	return io.MultiReader(u.head.Reader(0), bytes.NewReader(one.tail))
}

func (u *unique) push(ctx context.Context, c *client.Client, repository string) (v1.Descriptor, error) {
	next := u.take()
	return v1.Descriptor{Digest: next.digest, Size: u.size()}, push(ctx, c, repository, next.digest, u.body(next), u.size())
}

// push pushes a blob as docker does.
func push(ctx context.Context, c *client.Client, repository string, d digest.Digest, body io.Reader, size int64) error {
	location, err := c.StartUpload(ctx, repository)
	if err != nil {
		return err
	}
	if location, err = c.WriteChunk(ctx, location, -1, body, size); err != nil {
		return err
	}
	return c.FinishUpload(ctx, location, d, nil, 0)
}
