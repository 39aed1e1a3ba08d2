package registry_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"berth/registry"
	"berth/storage"
	"berth/storage/metadata"
	"berth/storage/small"
	"berth/storage/storagetest"

	"github.com/opencontainers/go-digest"
)

// recorded reports whether there is a row of an upload.
func (f *fixture) recorded(t *testing.T, id string) bool {
	t.Helper()
	_, err := f.facts.Upload(t.Context(), "a/b", id)
	if err != nil && !errors.Is(err, metadata.ErrNotFound) {
		t.Fatal(err)
	}
	return err == nil
}

// TestPending follows small uploads from their begin over a crash in each of their states.
func TestPending(t *testing.T) {
	f := newInlineFixture(t)
	status := func(id string, size int64, want error) {
		t.Helper()
		f = f.restart(t)
		if got, err := f.UploadStatus(t.Context(), "a/b", id); !errors.Is(err, want) || got.Size != size {
			t.Errorf("%+v, %v; want %d bytes, %v", got, err, size, want)
		}
	}
	u, cancelled, large := start(t, f, ""), start(t, f, ""), start(t, f, "")
	status(u.ID, 0, nil)
	write(t, f, u.ID, []byte("hello "))
	write(t, f, cancelled.ID, []byte("hello "))
	status(u.ID, 6, nil)
	write(t, f, u.ID, nil)
	status(u.ID, 6, nil)
	if err := f.CancelUpload(t.Context(), "a/b", cancelled.ID); err != nil {
		t.Fatal(err)
	}
	status(cancelled.ID, 0, registry.ErrUploadUnknown)
	content := storagetest.Content(1, small.Limit+1)
	write(t, f, large.ID, content[:10])
	write(t, f, large.ID, content[10:])
	status(large.ID, small.Limit+1, nil)
	if f.recorded(t, u.ID) || f.recorded(t, cancelled.ID) || !f.recorded(t, large.ID) || f.PendingUploads() != 1 {
		t.Errorf("%d uploads are pending", f.PendingUploads())
	}
	for range 2 { // whose first answer may have been lost
		finish(t, f, u.ID, []byte("world"), digest.FromString("hello world"))
		status(u.ID, 0, registry.ErrUploadUnknown)
	}
	finish(t, f, large.ID, nil, digest.FromBytes(content))
	if got := f.read(t, "a/b", digest.FromString("hello world")); string(got) != "hello world" {
		t.Errorf("read %q", got)
	}
	if f.PendingUploads() != 0 {
		t.Errorf("%d uploads are pending", f.PendingUploads())
	}
}

// TestSmallAfterLarge sends more than is kept inline, which fails, and then less: nothing is left of the first.
func TestSmallAfterLarge(t *testing.T) {
	f := newInlineFixture(t)
	large := storagetest.Content(1, 300<<10)
	wrong, short := chunk(large), chunk(large)
	short.Length++
	for i, fail := range []func(id string) error{
		func(id string) error {
			_, err := f.FinishUpload(t.Context(), "a/b", id, wrong, digest.FromString("other"))
			return err
		},
		func(id string) error {
			_, err := f.WriteUpload(t.Context(), "a/b", id, short)
			return err
		},
	} {
		for _, begin := range []string{"", "begin "} {
			u := start(t, f, "")
			write(t, f, u.ID, []byte(begin))
			if fail(u.ID) == nil {
				t.Fatal("it did not fail")
			}
			end := fmt.Sprint(i)
			finish(t, f, u.ID, []byte(end), digest.FromString(begin+end))
			if got := f.read(t, "a/b", digest.FromString(begin+end)); string(got) != begin+end {
				t.Errorf("read %q", got)
			}
			wrong, short.Body = chunk(large), chunk(large).Body
		}
	}
	f.reap(t)
	if report := f.checkClean(t); report.Blobs != 4 || report.Objects != 4 {
		t.Errorf("%+v", report)
	}
	if n := f.objectsOf(t, f.files); n != 0 {
		t.Errorf("%d files are left", n)
	}
}

// objectsOf counts the blobs that a blob store lists.
func (f *fixture) objectsOf(t *testing.T, l storage.Lister) (n int) {
	t.Helper()
	err := l.List(t.Context(), metadata.BlobPrefix, func(storage.Object) error {
		n++
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// fullFiles are files for which there is no room.
type fullFiles struct{ small.Backend }

func (fullFiles) Room() error { return storage.ErrNoSpace }

// TestInlineFull refuses chunks of what began when there was room.
func TestInlineFull(t *testing.T) {
	f := newInlineFixture(t)
	u, full := start(t, f, ""), assembleInline(fullFiles{f.files}, f.facts)
	full.journal.records = f.journal.records
	full = full.restart(t)
	if _, err := full.WriteUpload(t.Context(), "a/b", u.ID, chunk([]byte("hello"))); !errors.Is(err, registry.ErrNoSpace) {
		t.Errorf("write: %v", err)
	}
	if _, err := full.FinishUpload(t.Context(), "a/b", u.ID, chunk([]byte("hello")), digest.FromString("hello")); !errors.Is(err, registry.ErrNoSpace) {
		t.Errorf("finish: %v", err)
	}
}

// TestPendingApart goes on with several uploads after a crash, and with one of which a chunk failed: none changes another.
func TestPendingApart(t *testing.T) {
	f := newInlineFixture(t)
	var ids []string
	for i := range 4 {
		u := start(t, f, "")
		write(t, f, u.ID, storagetest.Content(uint64(i), 100))
		ids = append(ids, u.ID)
	}
	f = f.restart(t)
	for i, id := range ids {
		wrong := storagetest.Content(99, 150)
		if _, err := f.FinishUpload(t.Context(), "a/b", id, chunk(wrong), digest.FromBytes(wrong)); !errors.Is(err, registry.ErrDigestInvalid) {
			t.Errorf("upload %d: %v", i, err)
		}
		write(t, f, id, []byte("more"))
	}
	for i, id := range ids {
		finish(t, f, id, nil, digest.FromBytes(append(storagetest.Content(uint64(i), 100), "more"...)))
	}
}

// TestPendingOfOtherVersion begins with a journal that has what nobody understands.
func TestPendingOfOtherVersion(t *testing.T) {
	f := newInlineFixture(t)
	u := start(t, f, "")
	f.journal.records = append(f.journal.records, []byte{77}, []byte{1, 200})
	f = f.restart(t)
	finish(t, f, u.ID, []byte("hello"), digest.FromString("hello"))
}

// TestKeepUploads records what is pending, which goes on from there.
func TestKeepUploads(t *testing.T) {
	f := newInlineFixture(t)
	for _, algorithm := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
		empty, begun := start(t, f, algorithm), start(t, f, algorithm)
		write(t, f, begun.ID, []byte(algorithm))
		keep(t, f, time.Hour)
		if f.recorded(t, empty.ID) || f.recorded(t, begun.ID) {
			t.Error("they are recorded before their time")
		}
		keep(t, f, 0)
		if !f.recorded(t, empty.ID) || !f.recorded(t, begun.ID) || f.PendingUploads() != 0 {
			t.Error("they are not recorded")
		}
		f = f.restart(t)
		write(t, f, begun.ID, []byte(" goes on"))
		finish(t, f, begun.ID, []byte(" and ends"), algorithm.FromString(string(algorithm)+" goes on and ends"))
		finish(t, f, empty.ID, []byte(algorithm), algorithm.FromString(string(algorithm)))
	}
	f.reap(t)
	if report := f.checkClean(t); report.Objects != 4 || report.Blobs != 4 {
		t.Errorf("%+v", report)
	}
}

func keep(t *testing.T, f *fixture, idle time.Duration) {
	t.Helper()
	if err := f.KeepUploads(t.Context(), idle); err != nil {
		t.Fatal(err)
	}
}

// TestKeepUploadsBesideRequests records uploads again and again while they are written to: no request notices.
func TestKeepUploadsBesideRequests(t *testing.T) {
	f := newInlineFixture(t)
	stopped, cancel := context.WithCancel(t.Context())
	var keeping, pushing sync.WaitGroup
	keeping.Go(func() {
		for stopped.Err() == nil {
			if err := f.KeepUploads(t.Context(), 0); err != nil {
				t.Error(err)
			}
		}
	})
	for i := range 4 {
		pushing.Go(func() {
			for n := range 40 {
				content := storagetest.Content(uint64(100*i+n), 4<<10<<(n%4)) // the largest don't stay small
				if err := f.pushBits(t.Context(), content); err != nil {
					t.Error(err)
				}
			}
		})
	}
	pushing.Wait()
	cancel()
	keeping.Wait()
	f.reap(t)
	if report := f.checkClean(t); report.Blobs != 160 || report.Objects < 160 {
		t.Errorf("%+v", report)
	}
}

// pushBits pushes content in four chunks, and asks for the status between them.
func (f *fixture) pushBits(ctx context.Context, content []byte) error {
	u, err := f.StartUpload(ctx, "a/b", "")
	if err != nil {
		return err
	}
	quarter := len(content) / 4
	for i := range 3 {
		if _, err := f.WriteUpload(ctx, "a/b", u.ID, chunk(content[i*quarter:(i+1)*quarter])); err != nil {
			return fmt.Errorf("chunk %d: %w", i, err)
		}
		if got, err := f.UploadStatus(ctx, "a/b", u.ID); err != nil || got.Size != int64((i+1)*quarter) {
			return fmt.Errorf("status after chunk %d: %+v, %w", i, got, err)
		}
	}
	_, err = f.FinishUpload(ctx, "a/b", u.ID, chunk(content[3*quarter:]), digest.FromBytes(content))
	return err
}

// TestPendingIsBounded begins more uploads than may be pending, and more bytes: the others are recorded at once.
func TestPendingIsBounded(t *testing.T) {
	f := newInlineFixture(t)
	full := storagetest.Content(1, small.Limit)
	for range 1024 {
		write(t, f, start(t, f, "").ID, full)
	}
	if n := f.PendingUploads(); n != 1024 {
		t.Errorf("%d are pending", n)
	}
	one := start(t, f, "")
	write(t, f, one.ID, full)
	if !f.recorded(t, one.ID) {
		t.Error("there is no bound of their bytes")
	}
	f = f.restart(t)
	finish(t, f, one.ID, nil, digest.FromBytes(full))
	for range 10_000 - 1024 {
		start(t, f, "")
	}
	if one = start(t, f, ""); !f.recorded(t, one.ID) || f.PendingUploads() != 10_000 {
		t.Error("there is no bound of their number")
	}
	finish(t, f, one.ID, full, digest.FromBytes(full))
}

// TestJournalIsBounded pushes more than the journal may have, of which a few are pending at a time.
func TestJournalIsBounded(t *testing.T) {
	f := newInlineFixture(t)
	open := start(t, f, "")
	write(t, f, open.ID, []byte("hello "))
	for i := range 600 {
		content := storagetest.Content(uint64(i), small.Limit)
		u := start(t, f, "")
		write(t, f, u.ID, content)
		if err := f.CancelUpload(t.Context(), "a/b", u.ID); err != nil {
			t.Fatal(err)
		}
	}
	if size := f.journal.Size(); size > 2<<20 {
		t.Errorf("the journal has %d bytes", size)
	}
	keep(t, f, time.Hour)
	if f.PendingUploads() != 1 {
		t.Errorf("%d are pending", f.PendingUploads())
	}
	f = f.restart(t)
	if size := f.journal.Size(); size > 1000 || f.PendingUploads() != 1 {
		t.Errorf("after a restart the journal has %d bytes, and %d are pending", size, f.PendingUploads())
	}
	for i := range 10 {
		u := start(t, f, "")
		write(t, f, u.ID, storagetest.Content(uint64(i), small.Limit))
		finish(t, f, u.ID, nil, digest.FromBytes(storagetest.Content(uint64(i), small.Limit)))
	}
	finish(t, f, open.ID, []byte("world"), digest.FromString("hello world"))
	before := f.journal.Size()
	if keep(t, f, 0); before < 100<<10 || f.journal.Size() > 0 {
		t.Errorf("the journal has %d bytes when nothing is pending, before it had %d", f.journal.Size(), before)
	}
}

// TestJournalFails has uploads be recorded when they can't be noted, and be what they were when that happens on the way.
func TestJournalFails(t *testing.T) {
	f := newInlineFixture(t)
	before := start(t, f, "")
	f.journal.fails = errors.New("the disk is full")
	write(t, f, before.ID, []byte("hello "))
	after := start(t, f, "")
	write(t, f, after.ID, []byte("hello "))
	if !f.recorded(t, before.ID) || !f.recorded(t, after.ID) {
		t.Error("they are recorded nowhere")
	}
	f.journal.fails = nil
	f = f.restart(t)
	for _, u := range []registry.Upload{before, after} {
		finish(t, f, u.ID, []byte("world"), digest.FromString("hello world"))
	}
}
