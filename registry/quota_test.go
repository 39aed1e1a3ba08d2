package registry_test

import (
	"errors"
	"io"
	"math"
	"strings"
	"testing"

	"berth/registry"
	"berth/storage/metadata"

	"github.com/opencontainers/go-digest"
)

// untouched is a body that nobody may read.
type untouched struct{ t *testing.T }

func (u untouched) Read([]byte) (int, error) {
	u.t.Error("the body was read")
	return 0, io.EOF
}

func (u untouched) Close() error { return nil }

// endless counts what is read of it.
type endless struct{ read int64 }

func (e *endless) Read(p []byte) (int, error) {
	e.read += int64(len(p))
	return len(p), nil
}

// TestQuotaEarly refuses what says how large it is before a byte of it was read, and what does not once it is there.
func TestQuotaEarly(t *testing.T) {
	f := newFixture(t)
	everything := metadata.Quota{Repositories: []string{"**"}, Match: func(string) bool { return true }, Bytes: 1000}
	if err := f.facts.SetQuotas(t.Context(), []metadata.Quota{everything}); err != nil {
		t.Fatal(err)
	}
	content := strings.Repeat("x", 1001)
	d := digest.FromString(content)
	large := func(length int64) registry.Chunk {
		return registry.Chunk{Body: untouched{t}, Length: length, Offset: -1}
	}
	start := func() registry.Upload {
		u, err := f.StartUpload(t.Context(), "a", "")
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	whole := registry.Chunk{Body: io.NopCloser(strings.NewReader(content)), Length: -1, Offset: -1}
	for what, push := range map[string]func() error{
		"POST":  func() error { _, err := f.PushBlob(t.Context(), "a", d, large(1001)); return err },
		"PATCH": func() error { _, err := f.WriteUpload(t.Context(), "a", start().ID, large(1001)); return err },
		"PUT":   func() error { _, err := f.FinishUpload(t.Context(), "a", start().ID, large(1001), d); return err },
		"PUT after a PATCH": func() error {
			u := start()
			if _, err := f.WriteUpload(t.Context(), "a", u.ID, registry.Chunk{Body: io.NopCloser(strings.NewReader("x")), Length: 1, Offset: 0}); err != nil {
				return err
			}
			_, err := f.FinishUpload(t.Context(), "a", u.ID, large(1000), d)
			return err
		},
		"PATCH of more than a number holds": func() error {
			u := start()
			if _, err := f.WriteUpload(t.Context(), "a", u.ID, registry.Chunk{Body: io.NopCloser(strings.NewReader("x")), Length: 1, Offset: 0}); err != nil {
				return err
			}
			_, err := f.WriteUpload(t.Context(), "a", u.ID, large(math.MaxInt64))
			return err
		},
		"POST of as much as a number holds": func() error { _, err := f.PushBlob(t.Context(), "a", d, large(math.MaxInt64)); return err },
		"PUT of unknown length":             func() error { _, err := f.FinishUpload(t.Context(), "a", start().ID, whole, d); return err },
	} {
		var refused *registry.Error
		if err := push(); !errors.As(err, &refused) || refused.Kind() != registry.ErrDenied || !strings.Contains(refused.Message, "the quota for ** is 1000 B, and 0 B are used") {
			t.Errorf("%s: %v", what, err)
		}
	}
	endless := &endless{}
	if _, err := f.WriteUpload(t.Context(), "a", start().ID, registry.Chunk{Body: io.NopCloser(endless), Length: -1, Offset: -1}); !errors.Is(err, registry.ErrDenied) {
		t.Errorf("a PATCH without an end: %v", err)
	}
	if endless.read > 70<<20 {
		t.Errorf("%d bytes of it were read", endless.read)
	}
	if _, err := f.PushBlob(t.Context(), "a", digest.FromString(content[:1000]), registry.Chunk{Body: io.NopCloser(strings.NewReader(content[:1000])), Length: 1000, Offset: -1}); err != nil {
		t.Errorf("what fits: %v", err)
	}
	if _, err := f.StartUpload(t.Context(), "a", ""); !errors.Is(err, registry.ErrDenied) {
		t.Errorf("an upload where there is no room left: %v", err)
	}
}
