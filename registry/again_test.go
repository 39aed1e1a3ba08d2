package registry_test

import (
	"errors"
	"io"
	"strings"
	"testing"

	"berth/registry"

	"github.com/opencontainers/go-digest"
)

// readHook calls a function when its bytes are read.
type readHook struct {
	io.Reader
	hook func()
}

func (r readHook) Read(p []byte) (int, error) {
	r.hook()
	return r.Reader.Read(p)
}

// TestPushAgain pushes what the repository has: it is checked all the same, and nothing is written.
func TestPushAgain(t *testing.T) { onBoth(t, testPushAgain) }

func testPushAgain(t *testing.T, f *fixture) {
	content := []byte("content")
	d := f.push(t, "a/b", content).Digest
	body := func(s string) registry.Chunk {
		return registry.Chunk{Body: io.NopCloser(strings.NewReader(s)), Offset: -1, Length: int64(len(content))}
	}
	for _, tt := range []struct {
		name string
		c    registry.Chunk
		want error
	}{
		{"the same", body("content"), nil},
		{"other bytes", body("CONTENT"), registry.ErrDigestInvalid},
		{"too few", body("conten"), registry.ErrSizeInvalid},
		{"too many", body("contents"), registry.ErrSizeInvalid},
		{"cut off", registry.Chunk{Body: io.NopCloser(cutOff{}), Offset: -1, Length: -1}, registry.ErrUploadInterrupted},
		{"nothing", registry.Chunk{Offset: -1}, registry.ErrDigestInvalid},
	} {
		if _, err := f.PushBlob(t.Context(), "a/b", d, tt.c); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
	if got := f.read(t, "a/b", d); string(got) != "content" {
		t.Errorf("the blob is %q now", got)
	}
	goes := body("content")
	goes.Body = io.NopCloser(readHook{strings.NewReader("content"), func() { _ = f.DeleteBlob(t.Context(), "a/b", d) }})
	if _, err := f.PushBlob(t.Context(), "a/b", d, goes); !errors.Is(err, registry.ErrUnavailable) {
		t.Errorf("a blob that went away: %v", err)
	}
	if got := f.push(t, "a/b", content); got.Digest != digest.FromBytes(content) {
		t.Errorf("pushed once more: %v", got)
	}
}
