package gc_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"berth/registry"
	"berth/registry/fsck"
	"berth/registry/gc"
	"berth/storage"
	"berth/storage/filesystem"
	"berth/storage/metadata"
	"berth/storage/storagetest"

	"github.com/opencontainers/go-digest"
)

type site struct {
	directory string
	blobs     *filesystem.Store
	facts     *metadata.Store
	*registry.Service
}

func newSite(t *testing.T, c metadata.Config) *site {
	t.Helper()
	s := &site{directory: t.TempDir()}
	var err error
	if s.blobs, err = filesystem.Open(filesystem.Config{Root: s.directory}); err != nil {
		t.Fatal(err)
	}
	c.Path = filepath.Join(s.directory, "metadata.sqlite")
	if s.facts, err = metadata.Open(context.Background(), c); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.facts.Close() })
	s.Service = registry.New(registry.Config{Blobs: s.blobs, Metadata: s.facts})
	return s
}

func (s *site) push(t *testing.T, content string) digest.Digest {
	t.Helper()
	d := digest.FromString(content)
	chunk := registry.Chunk{Body: io.NopCloser(strings.NewReader(content)), Offset: -1, Length: -1}
	if _, err := s.PushBlob(t.Context(), "a/b", d, chunk); err != nil {
		t.Fatal(err)
	}
	return d
}

// begin leaves an upload with some bytes.
func (s *site) begin(t *testing.T) registry.Upload {
	t.Helper()
	u, err := s.StartUpload(t.Context(), "a/b", "")
	if err != nil {
		t.Fatal(err)
	}
	chunk := registry.Chunk{Body: io.NopCloser(strings.NewReader("begun")), Offset: -1, Length: -1}
	if u, err = s.WriteUpload(t.Context(), "a/b", u.ID, chunk); err != nil {
		t.Fatal(err)
	}
	return u
}

// objects fails the test unless fsck is content, and returns how many objects there are.
func (s *site) objects(t *testing.T) int {
	t.Helper()
	report, err := fsck.Check(t.Context(), fsck.Config{Metadata: s.facts, Blobs: s.blobs})
	if err != nil || len(report.Findings) > 0 {
		t.Errorf("fsck: %+v, %v", report.Findings, err)
	}
	return report.Objects
}

func round(t *testing.T, c gc.Config) gc.Report {
	t.Helper()
	report, err := gc.New(c).Round(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func TestExpiredUploads(t *testing.T) {
	s := newSite(t, metadata.Config{UploadExpiry: time.Millisecond})
	for range 120 { // more than one batch
		s.begin(t)
	}
	u := s.begin(t)
	for start := time.Now(); time.Since(start) < 5*time.Millisecond; {
	}
	if got := round(t, gc.Config{Metadata: s.facts, Blobs: s.blobs, KeepUploads: true}); got.Uploads != 0 {
		t.Errorf("ended %d uploads that were to be kept", got.Uploads)
	}
	if got := round(t, gc.Config{Metadata: s.facts, Blobs: s.blobs}); got.Uploads != 121 || got.Keys != 121 {
		t.Errorf("ended %d uploads and deleted %d keys", got.Uploads, got.Keys)
	}
	if n := s.objects(t); n != 0 {
		t.Errorf("%d objects are left", n)
	}
	if _, err := s.UploadStatus(t.Context(), "a/b", u.ID); !errors.Is(err, registry.ErrUploadUnknown) {
		t.Errorf("status of an expired upload: %v", err)
	}
}

func TestYoungUploadsStay(t *testing.T) {
	s := newSite(t, metadata.Config{})
	u := s.begin(t)
	if got := round(t, gc.Config{Metadata: s.facts, Blobs: s.blobs}); got != (gc.Report{}) {
		t.Errorf("a round did %+v", got)
	}
	if got, err := s.UploadStatus(t.Context(), "a/b", u.ID); err != nil || got.Size != 5 {
		t.Errorf("status %+v, %v", got, err)
	}
}

func TestDeadBlobs(t *testing.T) {
	s := newSite(t, metadata.Config{Grace: time.Millisecond})
	d := s.push(t, "content")
	if err := s.DeleteBlob(t.Context(), "a/b", d); err != nil {
		t.Fatal(err)
	}
	for start := time.Now(); time.Since(start) < 5*time.Millisecond; {
	}
	if got := round(t, gc.Config{Metadata: s.facts, Blobs: s.blobs}); got.Keys != 1 {
		t.Errorf("deleted %d keys", got.Keys)
	}
	if n := s.objects(t); n != 0 {
		t.Errorf("%d objects are left", n)
	}
}

// A delete that fails, or that succeeds without saying so, is repeated by the next round.
func TestFailingDeletes(t *testing.T) {
	storagetest.Sweep(t, func(t *testing.T, f *storagetest.Faults) {
		s := newSite(t, metadata.Config{UploadExpiry: time.Millisecond})
		for range 3 {
			s.begin(t)
		}
		for start := time.Now(); time.Since(start) < 5*time.Millisecond; {
		}
		reaper := gc.New(gc.Config{Metadata: s.facts, Blobs: storagetest.Faulty{Blobs: s.blobs, Faults: f}})
		if _, err := reaper.Round(t.Context()); err != nil {
			if !errors.Is(err, storagetest.ErrInjected) {
				t.Fatal(err)
			}
			// Only what could not be deleted is left, and nothing waited behind it.
			if keys, err := s.facts.ClaimDeadKeys(t.Context(), 10); err != nil || len(keys) > 0 {
				t.Errorf("dead keys that nobody put off: %v, %v", keys, err)
			}
			s.comeBack(t)
			if _, err := reaper.Round(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if n := s.objects(t); n != 0 {
			t.Errorf("%d objects are left", n)
		}
	})
}

// comeBack ends the time for which keys were put off.
func (s *site) comeBack(t *testing.T) {
	t.Helper()
	s.sql(t, `UPDATE dead_keys SET delete_after = 0`)
}

func TestFinishedUploadsAreForgotten(t *testing.T) {
	s := newSite(t, metadata.Config{})
	s.push(t, "content")
	s.begin(t)
	s.sql(t, `UPDATE uploads SET expires_at = 0`)
	if got := round(t, gc.Config{Metadata: s.facts, Blobs: s.blobs, KeepUploads: true}); got.Uploads != 1 || got.Keys != 0 {
		t.Errorf("a round did %+v", got)
	}
}

// What an earlier start left without a row is found, and nothing else is touched.
func TestRecover(t *testing.T) {
	s := newSite(t, metadata.Config{})
	s.push(t, "content")
	s.begin(t)
	prefix := s.prefix(t)
	if err := s.facts.Close(); err != nil {
		t.Fatal(err)
	}
	unclose(t, filepath.Join(s.directory, "metadata.sqlite"))
	var err error
	if s.facts, err = metadata.Open(t.Context(), metadata.Config{Path: filepath.Join(s.directory, "metadata.sqlite")}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{prefix + "/0000/one", prefix + "/0001/two"} {
		if _, err := storagetest.Put(t.Context(), s.blobs, name, []byte("orphan")); err != nil {
			t.Fatal(err)
		}
	}
	reaper := gc.New(gc.Config{Metadata: s.facts, Blobs: s.blobs})
	for range 2 { // a second time does nothing
		if err := reaper.Recover(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if got := round(t, gc.Config{Metadata: s.facts, Blobs: s.blobs}); got.Keys != 2 || got.Uploads != 0 {
		t.Errorf("after recovery a round did %+v", got)
	}
	if n := s.objects(t); n != 2 {
		t.Errorf("%d objects are left", n)
	}
	if open, err := s.facts.UnclosedGenerations(t.Context()); err != nil || len(open) > 0 {
		t.Errorf("still to recover: %v, %v", open, err)
	}
}

// prefix is the key prefix of the site's generation.
func (s *site) prefix(t *testing.T) (prefix string) {
	t.Helper()
	err := s.blobs.List(t.Context(), "blobs/", func(o storage.Object) error {
		prefix = strings.Join(strings.Split(o.Key, "/")[:2], "/")
		return nil
	})
	if err != nil || prefix == "" {
		t.Fatalf("prefix %q, %v", prefix, err)
	}
	return prefix
}

// A recovery that can't look leaves the work for the next start.
func TestRecoverFails(t *testing.T) {
	s := newSite(t, metadata.Config{})
	s.push(t, "content")
	if err := s.facts.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(s.directory, "metadata.sqlite")
	unclose(t, path)
	var err error
	if s.facts, err = metadata.Open(t.Context(), metadata.Config{Path: path}); err != nil {
		t.Fatal(err)
	}
	if err := gc.New(gc.Config{Metadata: s.facts, Blobs: struct{ storage.Blobs }{s.blobs}}).Recover(t.Context()); err == nil {
		t.Error("recovered without listing anything")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := gc.New(gc.Config{Metadata: s.facts, Blobs: s.blobs}).Recover(ctx); err == nil {
		t.Error("recovered although it was stopped")
	}
	if open, err := s.facts.UnclosedGenerations(t.Context()); err != nil || len(open) != 1 {
		t.Errorf("to recover: %v, %v", open, err)
	}
}

func TestRunEnds(t *testing.T) {
	s := newSite(t, metadata.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		gc.New(gc.Config{Metadata: s.facts, Blobs: s.blobs, Interval: time.Millisecond}).Run(ctx)
	}()
	u := s.begin(t)
	if err := s.CancelUpload(t.Context(), "a/b", u.ID); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		left := 0
		if err := s.blobs.List(t.Context(), "blobs/", func(storage.Object) error { left++; return nil }); err != nil {
			t.Fatal(err)
		}
		if left == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the reaper never came")
		}
	}
	cancel()
	<-ended
	if entries, err := os.ReadDir(s.directory); err != nil || len(entries) == 0 {
		t.Errorf("%v, %v", entries, err)
	}
}
