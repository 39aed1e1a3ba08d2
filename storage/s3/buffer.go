package s3

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"hash/crc32"
	"io"
)

// buffer is the part that a writer is filling, in slabs of the store's budget.
type buffer struct {
	budget  *budget
	account account
	slabs   [][]byte
	size    int64
	limit   int64 // bytes that the part may have
}

// reset makes the buffer the next part's, of at most limit bytes. It has to be empty.
func (b *buffer) reset(limit int64) {
	b.limit = limit
	b.account.part = slabs(limit)
}

// add copies as much of p as the part has room for. It waits for memory.
func (b *buffer) add(ctx context.Context, p []byte) (n int, err error) {
	p = p[:min(int64(len(p)), b.limit-b.size)]
	for n < len(p) {
		at := int(b.size % slabSize)
		if at == 0 {
			slab, err := b.budget.take(ctx, &b.account)
			if err != nil {
				return n, err
			}
			b.slabs = append(b.slabs, slab)
		}
		copied := copy(b.slabs[len(b.slabs)-1][at:], p[n:])
		n += copied
		b.size += int64(copied)
	}
	return n, nil
}

// detach takes the content out of the buffer, whose memory goes back with content.free.
func (b *buffer) detach() content {
	c := b.content()
	b.budget.detach(&b.account)
	b.slabs, b.size = nil, 0
	return c
}

// content is what the buffer holds. It is valid until more is added.
func (b *buffer) content() content { return content{b.budget, b.slabs, b.size} }

// content is the bytes of a part.
type content struct {
	budget *budget
	slabs  [][]byte
	size   int64
}

// free gives the memory back. Nobody may read the content any more.
func (c content) free() { c.budget.release(c.slabs) }

// pieces calls fn for all bytes in their order.
func (c content) pieces(fn func([]byte)) {
	left := c.size
	for _, slab := range c.slabs {
		n := min(left, slabSize)
		fn(slab[:n])
		left -= n
	}
}

// sum returns the content's checksum as its header has it, or nothing when there is none.
func (c content) sum(algorithm string) string {
	switch algorithm {
	case ChecksumCRC32:
		h := crc32.NewIEEE()
		c.pieces(func(p []byte) { _, _ = h.Write(p) })
		return base64.StdEncoding.EncodeToString(h.Sum(nil))
	case ChecksumSHA256:
		h := sha256.New()
		c.pieces(func(p []byte) { _, _ = h.Write(p) })
		return base64.StdEncoding.EncodeToString(h.Sum(nil))
	}
	return ""
}

// reader returns an io.ReadSeeker of the content, which the SDK needs to repeat a request.
func (c content) reader() io.ReadSeeker { return &contentReader{content: c} }

type contentReader struct {
	content content
	at      int64
}

func (r *contentReader) Read(p []byte) (int, error) {
	if r.at >= r.content.size {
		return 0, io.EOF
	}
	n := copy(p, r.rest())
	r.at += int64(n)
	return n, nil
}

// rest is what is left of the slab that is read.
func (r *contentReader) rest() []byte {
	end := min(slabSize, r.content.size-r.at/slabSize*slabSize)
	return r.content.slabs[r.at/slabSize][r.at%slabSize : end]
}

// WriteTo implements io.WriterTo, so that what hashes the content for its signature does that in place.
func (r *contentReader) WriteTo(w io.Writer) (n int64, err error) {
	for r.at < r.content.size && err == nil {
		var m int
		m, err = w.Write(r.rest())
		r.at += int64(m)
		n += int64(m)
	}
	return n, err
}

func (r *contentReader) Seek(offset int64, whence int) (int64, error) {
	at, err := seek(r.at, r.content.size, offset, whence)
	if err == nil {
		r.at = at
	}
	return at, err
}

// seek is where a reader is after a Seek.
func seek(at, size, offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekStart:
	case io.SeekCurrent:
		offset += at
	case io.SeekEnd:
		offset += size
	default:
		return 0, errors.New("seek: bad whence")
	}
	if offset < 0 {
		return 0, errors.New("seek: before the begin")
	}
	return offset, nil
}
