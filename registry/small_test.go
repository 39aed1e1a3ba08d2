package registry

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/opencontainers/go-digest"
)

// source is a blob in a store.
type source struct {
	*bytes.Reader
	err    error // of reading
	closed bool
}

func (s *source) Read(p []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	return s.Reader.Read(p)
}

func (s *source) Close() error {
	s.closed = true
	return nil
}

func TestSmallBlobs(t *testing.T) {
	broken := errors.New("broken")
	large := bytes.Repeat([]byte{'x'}, smallBlob+1)
	for _, tt := range []struct {
		name       string
		content    []byte
		says       digest.Digest
		err        error
		remembered bool
	}{
		{"small", []byte("content"), digest.FromString("content"), nil, true},
		{"sha512", []byte("content"), digest.SHA512.FromString("content"), nil, true},
		{"empty", nil, digest.FromBytes(nil), nil, true},
		{"the largest", large[1:], digest.FromBytes(large[1:]), nil, true},
		{"large", large, digest.FromBytes(large), nil, false},
		{"damaged", []byte("Content"), digest.FromString("content"), nil, false},
		{"can't be read", []byte("content"), digest.FromString("content"), broken, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var s smallBlobs
			size := int64(len(tt.content))
			from := &source{Reader: bytes.NewReader(tt.content), err: tt.err}
			r, err := s.remember("key", tt.says, size, from)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(r); err != tt.err || tt.err == nil && !bytes.Equal(got, tt.content) {
				t.Errorf("read %d bytes, %v", len(got), err)
			}
			if from.closed != tt.remembered {
				t.Errorf("the source is closed: %v", from.closed)
			}
			again, ok := s.open("key", size)
			if ok != tt.remembered {
				t.Fatalf("remembered: %v", ok)
			}
			if !ok {
				return
			}
			if got, err := io.ReadAll(again); err != nil || !bytes.Equal(got, tt.content) {
				t.Errorf("remembered %d bytes, %v", len(got), err)
			}
		})
	}
}

func TestSmallBlobsAreBounded(t *testing.T) {
	var s smallBlobs
	for i := range 2000 {
		content := bytes.Repeat(fmt.Appendf(nil, "%08d", i), smallBlob/8)
		r, err := s.remember(fmt.Sprint(i), digest.FromBytes(content), smallBlob, &source{Reader: bytes.NewReader(content)})
		if err != nil {
			t.Fatal(err)
		}
		r.Close()
		if _, ok := s.open(fmt.Sprint(i), smallBlob); !ok {
			t.Fatalf("blob %d is not remembered", i)
		}
		if n := s.since.Load().bytes.Load(); n > smallBlobsBytes+2*smallBlob {
			t.Fatalf("%d bytes are remembered", n)
		}
	}
	if _, ok := s.open("0", smallBlob); ok {
		t.Error("the first is remembered still")
	}
}
