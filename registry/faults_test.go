package registry_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"berth/registry"
	"berth/registry/gc"
	"berth/storage"
	"berth/storage/filesystem"
	"berth/storage/metadata"
	"berth/storage/metadata/metatest"
	"berth/storage/storagetest"

	"github.com/opencontainers/go-digest"
)

// client does what a client does that repeats what failed, and remembers what it was told.
type client struct {
	*fixture
	t      *testing.T
	failed int
}

// try repeats a call once when a fault was injected into it. Other errors are the caller's to judge.
func (c *client) try(call func() error) error {
	err := call()
	if !errors.Is(err, storagetest.ErrInjected) {
		return err
	}
	c.failed++
	return call()
}

// must is try for calls that have to succeed in the end.
func (c *client) must(what string, call func() error) {
	c.t.Helper()
	if err := c.try(call); err != nil {
		c.t.Fatalf("%s: %v", what, err)
	}
}

// pushInChunks uploads content in two chunks and goes on after a failure where the registry says that the upload is.
func (c *client) pushInChunks(repository string, content []byte) {
	ctx := c.t.Context()
	var u registry.Upload
	c.must("start", func() (err error) {
		u, err = c.StartUpload(ctx, repository, "")
		return err
	})
	half := len(content) / 2
	c.must("write", func() error {
		now, err := c.UploadStatus(ctx, repository, u.ID)
		if err != nil {
			return err
		}
		_, err = c.WriteUpload(ctx, repository, u.ID, chunk(content[now.Size:half]))
		return err
	})
	c.must("keep", func() error { return c.KeepUploads(ctx, 0) })
	c.must("finish", func() error {
		_, err := c.FinishUpload(ctx, repository, u.ID, chunk(content[half:]), digest.FromBytes(content))
		return err
	})
}

// gone is for deletes: the repetition of one that happened finds nothing.
func gone(err error, absent error) error {
	if errors.Is(err, absent) {
		return nil
	}
	return err
}

// TestFaults fails every write of the blob store and of the database, before it happens and after, one at a time. The
// client repeats the call that failed. After that, and after a restart, everything that it was told is so.
func TestFaults(t *testing.T) {
	t.Parallel()
	for name, assemble := range map[string]assembling{"files": assembleFiles, "inline": assembleInline} {
		t.Run(name, func(t *testing.T) { testFaults(t, assemble) })
	}
}

// faultyFiles are files whose writes fail on demand.
type faultyFiles struct {
	storagetest.Faulty
	storage.Limited
}

func testFaults(t *testing.T, assemble assembling) {
	small, large := []byte("small"), storagetest.Content(1, 300<<10)
	empty := emptyDatabase(t)
	storagetest.Sweep(t, func(t *testing.T, f *storagetest.Faults) {
		directory := memoryDir(t)
		path := filepath.Join(directory, "metadata.sqlite")
		files := openBlobs(t, filesystem.Config{Root: directory})
		if err := os.WriteFile(path, empty, 0o600); err != nil {
			t.Fatal(err)
		}
		facts := openFaulty(t, path, f)
		c := &client{fixture: assemble(faultyFiles{storagetest.Faulty{Blobs: files, Faults: f}, files}, facts), t: t}
		manifest, body := c.session(small, large)
		if err := facts.Close(); err != nil && !errors.Is(err, storagetest.ErrInjected) {
			t.Errorf("close: %v", err)
		}
		after := assemble(files, openFacts(t, metadata.Config{Path: path, Grace: time.Nanosecond}))
		defer after.facts.Close()
		if err := gc.New(gc.Config{Metadata: after.facts, Blobs: after.blobs}).Recover(t.Context()); err != nil {
			t.Error(err)
		}
		after.reap(t)
		report := after.checkClean(t)
		if report.Unrecovered > 0 || report.Objects != report.Blobs || report.Blobs != 2 {
			t.Errorf("%+v", report)
		}
		if got := after.read(t, "a/b", digest.FromBytes(large)); !bytes.Equal(got, large) {
			t.Error("the large blob differs")
		}
		m, err := after.Manifest(t.Context(), "a/b", registry.Reference{Tag: "kept"})
		if err != nil || m.Digest != manifest || !bytes.Equal(m.Body, body) {
			t.Errorf("manifest: %s, %v", m.Digest, err)
		}
		if _, err := after.Manifest(t.Context(), "a/b", registry.Reference{Tag: "removed"}); !errors.Is(err, registry.ErrManifestUnknown) {
			t.Errorf("the removed tag: %v", err)
		}
		if _, err := after.Blob(t.Context(), "c", digest.FromBytes(small)); !errors.Is(err, registry.ErrBlobUnknown) {
			t.Errorf("the deleted blob: %v", err)
		}
	})
}

// emptyDatabase is one that has its schema, which takes longer to make than all else that a scenario does.
func emptyDatabase(t *testing.T) []byte {
	t.Helper()
	path := filepath.Join(memoryDir(t), "metadata.sqlite")
	if err := openFacts(t, metadata.Config{Path: path}).Close(); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// memoryDir is a directory whose syncs cost nothing, where there is one: this test is about what is done, not about what
// the disk keeps.
func memoryDir(t *testing.T) string {
	t.Helper()
	directory, err := os.MkdirTemp("/dev/shm", "berth-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(directory) })
	return directory
}

func openFaulty(t *testing.T, path string, f *storagetest.Faults) *metadata.Store {
	t.Helper()
	// Whatever was given up is over at once, so that the reaper can show that nothing is left of it.
	c := metadata.Config{Path: path, Wrap: metatest.Faults{Faults: f}.Wrap, Grace: time.Nanosecond, UploadExpiry: time.Nanosecond}
	facts, err := metadata.Open(context.Background(), c)
	if errors.Is(err, storagetest.ErrInjected) {
		facts, err = metadata.Open(context.Background(), c)
	}
	if err != nil {
		t.Fatal(err)
	}
	return facts
}

// session pushes an image and takes some of it back.
func (c *client) session(small, large []byte) (digest.Digest, []byte) {
	t, ctx := c.t, c.t.Context()
	c.pushInChunks("a/b", large)
	c.must("push", func() error {
		_, err := c.PushBlob(ctx, "c", digest.FromBytes(small), chunk(small))
		return err
	})
	c.must("push what is held", func() error {
		_, err := c.PushBlob(ctx, "d", digest.FromBytes(small), chunk(small))
		return err
	})
	imageConfig := config("linux", "arm")
	c.pushInChunks("a/b", imageConfig)
	c.must("mount", func() error {
		mounted, err := c.MountBlob(ctx, "e", registry.Mount{Digest: digest.FromBytes(large), From: "a/b", Readable: func(string) bool { return true }})
		if err == nil && !mounted {
			t.Error("not mounted")
		}
		return err
	})
	body := imageOf(imageConfig, large)
	for _, tag := range []string{"kept", "removed"} {
		c.must("put", func() error {
			_, err := c.PutManifest(ctx, "a/b", registry.ManifestPush{Reference: registry.Reference{Tag: tag}, Body: body})
			return err
		})
	}
	c.must("delete tag", func() error {
		return gone(c.DeleteTag(ctx, "a/b", "removed", registry.Deletion{}), registry.ErrManifestUnknown)
	})
	for _, repository := range []string{"c", "d"} {
		c.must("delete blob", func() error {
			return gone(c.DeleteBlob(ctx, repository, digest.FromBytes(small)), registry.ErrBlobUnknown)
		})
	}
	c.must("cancel", func() error {
		u, err := c.StartUpload(ctx, "a/b", "")
		if err != nil {
			return err
		}
		if _, err := c.WriteUpload(ctx, "a/b", u.ID, chunk(small)); err != nil {
			return err
		}
		return c.CancelUpload(ctx, "a/b", u.ID)
	})
	return digest.FromBytes(body), body
}
