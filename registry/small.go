package registry

import (
	"bytes"
	"errors"
	"io"
	"sync"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
)

const (
	// smallBlob is the most bytes of a blob that is remembered: the config of an image, as a rule, which every pull asks for.
	smallBlob = 16 << 10
	// smallBlobsBytes bounds what is remembered.
	smallBlobsBytes = 4 << 20
)

// smallBlobs remembers the bytes of small blobs by their keys. Keys are never used again (I1), so that nothing in it can be out of date; who
// asks has found the blob in the facts, which say whether it may be read. When it is full it begins anew. The zero value is ready.
type smallBlobs struct {
	since atomic.Pointer[rememberedBlobs]
}

type rememberedBlobs struct {
	blobs sync.Map // of []byte by key
	bytes atomic.Int64
}

// open returns the bytes of a blob of size bytes that are remembered.
func (s *smallBlobs) open(key string, size int64) (io.ReadSeekCloser, bool) {
	since := s.since.Load()
	if size > smallBlob || since == nil {
		return nil, false
	}
	known, ok := since.blobs.Load(key)
	if !ok {
		return nil, false
	}
	return memoryReader{bytes.NewReader(known.([]byte))}, true
}

// remember reads a small blob and returns a reader of its bytes. What can't be read, or is other than its digest says, is not remembered, and
// whoever reads r finds out.
func (s *smallBlobs) remember(key string, d digest.Digest, size int64, r io.ReadSeekCloser) (io.ReadSeekCloser, error) {
	if size > smallBlob {
		return r, nil
	}
	content := make([]byte, size)
	if _, err := io.ReadFull(r, content); err != nil || d.Algorithm().FromBytes(content) != d {
		if _, err := r.Seek(0, io.SeekStart); err != nil {
			return nil, errors.Join(err, r.Close())
		}
		return r, nil
	}
	since := s.since.Load()
	if since == nil || since.bytes.Load() > smallBlobsBytes {
		since = &rememberedBlobs{}
		s.since.Store(since)
	}
	if _, known := since.blobs.LoadOrStore(key, content); !known {
		since.bytes.Add(size + 512)
	}
	_ = r.Close() // all of it was read
	return memoryReader{bytes.NewReader(content)}, nil
}

type memoryReader struct{ *bytes.Reader }

func (memoryReader) Close() error { return nil }
