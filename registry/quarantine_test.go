package registry_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"berth/registry"
	"berth/registry/fsck"
	"berth/storage"
	"berth/storage/filesystem"
	"berth/storage/metadata"

	"github.com/opencontainers/go-digest"
)

// damage cuts the file of a blob.
func (f *fixture) damage(t *testing.T, repository string, d digest.Digest) (key string) {
	t.Helper()
	b, err := f.facts.Blob(t.Context(), repository, d)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(filepath.Dir(f.database), b.Key), b.Size/2); err != nil {
		t.Fatal(err)
	}
	return b.Key
}

func (f *fixture) repair(t *testing.T) fsck.Report {
	t.Helper()
	report, err := fsck.Check(t.Context(), fsck.Config{Metadata: f.facts, Blobs: f.blobs, Repair: true})
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// wantUnknown fails unless err is what a client is told of a blob that is not there, with a message that says more.
func wantUnknown(t *testing.T, what string, err error, says string) {
	t.Helper()
	var told *registry.Error
	if !errors.As(err, &told) || !errors.Is(err, registry.ErrBlobUnknown) || !strings.Contains(told.Message, says) {
		t.Errorf("%s: %v", what, err)
	}
}

// TestLostBytes tells whoever pulls that the blob is not there, and the log why, though not each time.
func TestLostBytes(t *testing.T) {
	f := newFixture(t)
	var log bytes.Buffer
	f.Service = registry.New(registry.Config{Blobs: f.blobs, Metadata: f.facts, Log: slog.New(slog.NewTextHandler(&log, nil))})
	layer := []byte("a layer")
	d := f.push(t, "a/b", layer).Digest
	key := f.damage(t, "a/b", d)
	for range 50 {
		_, err := f.OpenBlob(t.Context(), "a/b", d)
		wantUnknown(t, "open what is cut", err, "lost the bytes")
	}
	if err := os.Remove(filepath.Join(filepath.Dir(f.database), key)); err != nil {
		t.Fatal(err)
	}
	_, err := f.OpenBlob(t.Context(), "a/b", d)
	wantUnknown(t, "open what is gone", err, "lost the bytes")
	for _, want := range []string{"level=ERROR", "registry fsck --repair", d.String(), key, "repository=a/b"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("%s is not in the log:\n%s", want, log.String())
		}
	}
	if n := strings.Count(log.String(), "\n"); n > 20 {
		t.Errorf("%d lines for 51 requests", n)
	}
	f.push(t, "other", []byte("which shows that the blob store is there"))
	f.repair(t)
	f.push(t, "a/b", layer)
}

// linked is a blob store from which clients read by themselves.
type linked struct{ *filesystem.Store }

func (linked) Link(context.Context, string, string) (string, error) { return "https://elsewhere", nil }

var _ storage.Linker = linked{}

// TestQuarantine hides a blob whose bytes are damaged from all who ask for it, and serves what references it, until it is pushed again.
func TestQuarantine(t *testing.T) {
	f := newFixture(t)
	imageConfig, layer := config("linux", "arm"), bytes.Repeat([]byte("a layer"), 100)
	body := f.image(t, "a/b", imageConfig, layer)
	pushed := f.put(t, "a/b", "latest", "", body)
	d := digest.FromBytes(layer)
	everywhere := func(string) bool { return true }
	if ok, err := f.MountBlob(t.Context(), "mounted", registry.Mount{Digest: d, From: "a/b", Readable: everywhere}); !ok || err != nil {
		t.Fatal(ok, err)
	}
	f.damage(t, "a/b", d)
	if report := f.repair(t); report.Left != 1 || report.Findings[0].Remedy != "push it again; it is in a/b, mounted" {
		t.Fatalf("%+v", report)
	}
	linking := registry.New(registry.Config{Blobs: linked{f.blobs.(*filesystem.Store)}, Metadata: f.facts, Redirect: true})
	for _, repository := range []string{"a/b", "mounted"} {
		_, err := f.Blob(t.Context(), repository, d)
		wantUnknown(t, "find", err, "push it again")
		_, err = f.OpenBlob(t.Context(), repository, d)
		wantUnknown(t, "open", err, "push it again")
		_, url, err := linking.LinkBlob(t.Context(), repository, d)
		if wantUnknown(t, "link", err, "push it again"); url != "" {
			t.Errorf("linked to %s", url)
		}
		for _, from := range []string{repository, ""} {
			if ok, err := f.MountBlob(t.Context(), "new", registry.Mount{Digest: d, From: from, Readable: everywhere}); ok || err != nil {
				t.Errorf("mounted from %q: %t, %v", from, ok, err)
			}
		}
	}
	if m, err := f.Manifest(t.Context(), "a/b", ref(t, "latest")); err != nil || m.Digest != pushed.Digest {
		t.Errorf("the manifest that references it: %v", err)
	}
	other := append(bytes.TrimSuffix(body, []byte("}")), []byte(`,"annotations":{"a":"b"}}`)...)
	_, err := f.PutManifest(t.Context(), "a/b", registry.ManifestPush{Reference: ref(t, "other"), Body: other})
	if !errors.Is(err, registry.ErrManifestBlobUnknown) || !strings.HasSuffix(err.Error(), ": blobs "+d.String()) {
		t.Errorf("a manifest that needs it: %v", err)
	}
	f.push(t, "third", layer) // by a client that declares what it sends
	for _, repository := range []string{"a/b", "mounted", "third"} {
		if got := f.read(t, repository, d); !bytes.Equal(got, layer) {
			t.Errorf("in %s there are other bytes", repository)
		}
	}
	f.put(t, "a/b", "other", "", other)
	f.reap(t)
	f.checkClean(t)
}

// hook is a body before whose first byte something happens.
type hook struct {
	io.Reader
	before func()
}

func (h *hook) Read(p []byte) (int, error) {
	if h.before != nil {
		h.before()
		h.before = nil
	}
	return h.Reader.Read(p)
}

// TestQuarantinedMeanwhile has a client send what the registry has, until that proves to be damaged: it is not told that it is stored,
// and the repetition heals it.
func TestQuarantinedMeanwhile(t *testing.T) {
	f := newFixture(t)
	layer := bytes.Repeat([]byte("a layer"), 100)
	d := f.push(t, "a/b", layer).Digest
	u, err := f.StartUpload(t.Context(), "c", "")
	if err != nil {
		t.Fatal(err)
	}
	body := &hook{bytes.NewReader(layer), func() {
		f.damage(t, "a/b", d)
		f.repair(t)
	}}
	_, err = f.FinishUpload(t.Context(), "c", u.ID, registry.Chunk{Body: io.NopCloser(body), Offset: -1, Length: -1}, d)
	if !errors.Is(err, registry.ErrUnavailable) {
		t.Errorf("finish: %v", err)
	}
	if _, err := f.Blob(t.Context(), "c", d); !errors.Is(err, registry.ErrBlobUnknown) {
		t.Errorf("the blob: %v", err)
	}
	if _, err := f.FinishUpload(t.Context(), "c", u.ID, chunk(layer), d); err != nil {
		t.Fatalf("finish again: %v", err)
	}
	for _, repository := range []string{"a/b", "c"} {
		if got := f.read(t, repository, d); !bytes.Equal(got, layer) {
			t.Errorf("in %s there are other bytes", repository)
		}
	}
}

// TestQuarantineOfDeleted deletes a blob that is quarantined, as any other.
func TestQuarantineOfDeleted(t *testing.T) {
	f := newFixture(t)
	d := f.push(t, "a/b", []byte("a layer")).Digest
	key := f.damage(t, "a/b", d)
	f.repair(t)
	if err := f.DeleteBlob(t.Context(), "a/b", d); err != nil {
		t.Fatal(err)
	}
	uses, err := f.facts.KeyUses(t.Context(), []string{key})
	if err != nil || len(uses) != 1 || uses[0].Use != "dead" {
		t.Errorf("%+v, %v", uses, err)
	}
	if _, err := f.facts.Blob(t.Context(), "a/b", d); !errors.Is(err, metadata.ErrNotFound) || errors.Is(err, metadata.ErrQuarantined) {
		t.Errorf("the blob: %v", err)
	}
}
