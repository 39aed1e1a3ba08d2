package small_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"berth/storage"
	"berth/storage/filesystem"
	"berth/storage/metadata"
	"berth/storage/small"
	"berth/storage/storagetest"

	"github.com/opencontainers/go-digest"
)

// shelf are facts that keep objects in memory. Calls about failing fail.
type shelf struct {
	mu      sync.Mutex
	objects map[string][]byte
	failing string
}

var errShelf = errors.New("the facts are not there")

func (s *shelf) SmallObject(ctx context.Context, key string) ([]byte, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if key == s.failing {
		return nil, false, errShelf
	}
	content, ok := s.objects[key]
	return content, ok, ctx.Err()
}

func (s *shelf) DeleteSmallObject(ctx context.Context, key string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if key == s.failing {
		return errShelf
	}
	delete(s.objects, key)
	return ctx.Err()
}

func (s *shelf) EachSmallObject(ctx context.Context, prefix string, fn func(string, int64, time.Time) error) error {
	s.mu.Lock()
	all := maps.Clone(s.objects)
	s.mu.Unlock()
	for key, content := range all {
		if strings.HasPrefix(key, prefix) {
			if err := fn(key, int64(len(content)), time.Now()); err != nil {
				return err
			}
		}
	}
	return ctx.Err()
}

func files(t *testing.T) *filesystem.Store {
	t.Helper()
	s, err := filesystem.Open(filesystem.Config{Root: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestContract holds what Write writes to the contract of all blob stores.
func TestContract(t *testing.T) {
	storagetest.Run(t, func(t *testing.T) storage.Blobs { return small.New(files(t), &shelf{}) })
}

// TestInline reads and deletes objects that are in the facts, in files, and in both.
func TestInline(t *testing.T) {
	ctx, facts, backend := t.Context(), &shelf{objects: map[string][]byte{}}, files(t)
	s := small.New(backend, facts)
	facts.objects["blobs/a/empty"], facts.objects["blobs/a/full"] = []byte{}, storagetest.Content(1, small.Limit)
	facts.objects["blobs/a/grown"] = []byte("begin") // which grows, and nobody has recorded that yet
	grown := storagetest.Content(2, small.Limit+1)
	for key, content := range map[string][]byte{"blobs/a/grown": grown, "blobs/a/file": []byte("file")} {
		if _, err := storagetest.Put(ctx, s, key, content); err != nil {
			t.Fatal(err)
		}
	}
	for key, want := range map[string][]byte{
		"blobs/a/empty": {}, "blobs/a/full": facts.objects["blobs/a/full"], "blobs/a/grown": []byte("begin"), "blobs/a/file": []byte("file"),
	} {
		if err := storagetest.Check(ctx, s, storage.Checkpoint{Key: key, Size: int64(len(want))}, want); err != nil {
			t.Error(err)
		}
	}
	if err := storagetest.Check(ctx, s, storage.Checkpoint{Key: "blobs/a/grown", Size: int64(len(grown))}, grown); err != nil {
		t.Error(err)
	}
	r, err := s.Open(ctx, "blobs/a/full", 100)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Seek(90, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, facts.objects["blobs/a/full"][90:100]) {
		t.Errorf("the last of 100 bytes: %x, %v", got, err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	for key, want := range map[string]error{"blobs/a/empty": storage.ErrShort, "blobs/a/file": storage.ErrShort, "blobs/a/nothing": storage.ErrNotFound} {
		if _, err := s.Open(ctx, key, 10); !errors.Is(err, want) || errors.Is(want, storage.ErrShort) == errors.Is(err, storage.ErrNotFound) {
			t.Errorf("open %s: %v, want %v", key, err, want)
		}
	}
	var listed []string
	err = s.List(ctx, "blobs/a/", func(o storage.Object) error {
		listed = append(listed, o.Key)
		return nil
	})
	if slices.Sort(listed); err != nil || !slices.Equal(listed, []string{"blobs/a/file", "blobs/a/grown"}) {
		t.Errorf("listed %q, %v", listed, err)
	}
	for _, key := range []string{"blobs/a/empty", "blobs/a/file", "blobs/a/full", "blobs/a/grown"} {
		if err := s.Delete(ctx, key); err != nil {
			t.Error(err)
		}
	}
	if err := s.List(ctx, "", func(o storage.Object) error { return errors.New(o.Key) }); err != nil || len(facts.objects) > 0 {
		t.Errorf("left are %v and %v", err, facts.objects)
	}
}

// TestFactsFail has errors of the facts be errors, and nothing else.
func TestFactsFail(t *testing.T) {
	ctx, facts, backend := t.Context(), &shelf{failing: "blobs/a/x"}, files(t)
	s := small.New(backend, facts)
	c, err := storagetest.Put(ctx, s, "blobs/a/x", []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Open(ctx, "blobs/a/x", 1); !errors.Is(err, errShelf) || errors.Is(err, storage.ErrNotFound) {
		t.Errorf("open: %v", err)
	}
	if err := s.Delete(ctx, "blobs/a/x"); !errors.Is(err, errShelf) {
		t.Errorf("delete: %v", err)
	}
	if err := storagetest.Check(ctx, backend, c, []byte("x")); err != nil {
		t.Errorf("after a delete that failed: %v", err)
	}
}

// TestMove moves what real facts keep to files, in spite of failures on the way.
func TestMove(t *testing.T) {
	ctx, backend := t.Context(), files(t)
	facts, err := metadata.Open(ctx, metadata.Config{Path: filepath.Join(t.TempDir(), "metadata.sqlite")})
	if err != nil {
		t.Fatal(err)
	}
	defer facts.Close()
	contents := map[digest.Digest][]byte{}
	for n := range 5 {
		content := storagetest.Content(uint64(n), 100*n)
		d := digest.FromBytes(content)
		contents[d] = content
		u := metadata.Upload{ID: d.Encoded(), Repository: "a", Algorithm: digest.SHA256, Size: int64(len(content)), Content: content}
		if err := facts.CommitWhole(ctx, u, d); err != nil {
			t.Fatal(err)
		}
	}
	moved, failed := 0, 0
	for at := 1; ; at++ {
		f := &storagetest.Faults{At: at, Mode: storagetest.Mode(at % 2)}
		err := small.Move(ctx, facts, storagetest.Faulty{Blobs: backend, Faults: f}, func(done, all int) {
			if moved++; done > all || all > len(contents) {
				t.Errorf("%d of %d", done, all)
			}
		})
		if err == nil {
			break
		}
		if failed++; !errors.Is(err, storagetest.ErrInjected) {
			t.Fatal(err)
		}
	}
	if moved != len(contents) || failed < 4 {
		t.Errorf("%d moved, %d failures", moved, failed)
	}
	for d, content := range contents {
		b, err := facts.Blob(ctx, "a", d)
		if err != nil {
			t.Fatal(err)
		}
		if err := storagetest.Check(ctx, backend, storage.Checkpoint{Key: b.Key, Size: b.Size}, content); err != nil {
			t.Error(err)
		}
		if _, ok, err := facts.SmallObject(ctx, b.Key); ok || err != nil {
			t.Errorf("%s is still there, %v", d, err)
		}
	}
}
