package metatest

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"berth/storage/metadata"

	"github.com/opencontainers/go-digest"
)

func smallTests() suite {
	return suite{
		{"Checkpoint", testSmallCheckpoint},
		{"Keep", testKeepUpload},
		{"KeepHeld", testKeepHeld},
		{"Whole", testCommitWhole},
		{"WholeHeld", testCommitWholeHeld},
		{"WholeQuota", testCommitWholeQuota},
		{"Lists", testSmallLists},
		{"Each", testEachSmall},
	}
}

// wantSmall fails unless so many bytes are kept under a key. None is -1.
func (f *fixture) wantSmall(t *testing.T, key string, n int) {
	t.Helper()
	content, ok, err := f.SmallObject(t.Context(), key)
	must(t, err)
	if ok != (n >= 0) || ok && (content == nil || !bytes.Equal(content, small(n))) {
		t.Errorf("key %s: %d bytes, %t, want %d", key, len(content), ok, n)
	}
}

// small are n bytes, those of fewer among them.
func small(n int) []byte {
	content := make([]byte, n)
	for i := range content {
		content[i] = byte(i)
	}
	return content
}

func testSmallCheckpoint(t *testing.T, f *fixture) {
	u := f.start(t, "a")
	for _, n := range []int{0, 5, 4000, 3} {
		u.Size, u.Content = int64(n), small(n)
		must(t, f.CheckpointUpload(t.Context(), u))
		f.wantSmall(t, u.Key, n)
	}
	late := u
	late.Epoch, late.Content = 0, small(7)
	wantError(t, "an older claim", f.CheckpointUpload(t.Context(), late), metadata.ErrSuperseded)
	f.wantSmall(t, u.Key, 3)
	u.Content = nil
	must(t, f.CheckpointUpload(t.Context(), u)) // which says nothing of the bytes
	f.wantSmall(t, u.Key, 3)
	u.Size, u.Outgrown = 100, true
	late.Outgrown = true
	wantError(t, "an older claim that grew", f.CheckpointUpload(t.Context(), late), metadata.ErrSuperseded)
	f.wantSmall(t, u.Key, 3)
	must(t, f.CheckpointUpload(t.Context(), u))
	must(t, f.CheckpointUpload(t.Context(), u))
	f.wantSmall(t, u.Key, -1)
	u.Content, u.Outgrown = small(blobSize), false
	u.Size = blobSize
	must(t, f.CommitUpload(t.Context(), u, blob(1)))
	got, err := f.Blob(t.Context(), "a", blob(1))
	must(t, err)
	if got.Key == u.Key {
		t.Error("the blob store may have something under that key")
	}
	f.wantUse(t, u.Key, "dead")
	f.wantUse(t, got.Key, "blob")
	f.wantSmall(t, got.Key, blobSize)
	// A push of what is there keeps nothing more.
	v := f.start(t, "a")
	v.Size, v.Content = blobSize, small(blobSize)
	must(t, f.CommitUpload(t.Context(), v, blob(1)))
	f.wantSmall(t, v.Key, -1)
	f.wantUse(t, v.Key, "dead")
	must(t, f.DeleteSmallObject(t.Context(), got.Key))
	must(t, f.DeleteSmallObject(t.Context(), got.Key))
	f.wantSmall(t, got.Key, -1)
}

func (f *fixture) young(content []byte) metadata.Upload {
	return metadata.Upload{ID: f.newID(), Repository: "new/one", Algorithm: digest.SHA256, Size: int64(len(content)), Content: content}
}

func testKeepUpload(t *testing.T, f *fixture) {
	for _, n := range []int{0, 5} {
		u := f.young(small(n))
		if n > 0 {
			u.HashState = []byte("state")
		}
		kept, err := f.KeepUpload(t.Context(), u, "")
		must(t, err)
		u.Epoch, u.Key = 1, kept.Key
		wantEqual(t, "kept", kept, u)
		f.wantUse(t, u.Key, "upload")
		u.Content = nil
		f.wantUpload(t, u)
		f.wantSmall(t, u.Key, map[int]int{0: -1, 5: 5}[n])
		another, err := f.KeepUpload(t.Context(), f.young(small(n)), "")
		must(t, err)
		if another.Key == u.Key {
			t.Error("two uploads have the same key")
		}
		first := u.Key
		u.Size, u.Content, u.HashState = 7, small(7), []byte("later")
		again, err := f.KeepUpload(t.Context(), u, "") // whose first answer was lost
		must(t, err)
		u.Key = again.Key
		wantEqual(t, "kept again", again, u)
		u.Content = nil
		f.wantUpload(t, u)
		f.wantSmall(t, u.Key, 7)
		f.wantUse(t, first, "dead")
		f.wantUpload(t, f.claim(t, u, ""))
		_, err = f.KeepUpload(t.Context(), u, "")
		wantError(t, "keep what others know", err, metadata.ErrSuperseded)
		f.expire(t, u)
		f.wantExpired(t, u)
	}
}

func testKeepHeld(t *testing.T, f *fixture) {
	f.push(t, "a", blob(1))
	kept, err := f.KeepUpload(t.Context(), f.young(small(0)), blob(1))
	must(t, err)
	if kept.Pinned != blob(1) || kept.Key != "" {
		t.Errorf("%+v", kept)
	}
	kept, err = f.KeepUpload(t.Context(), f.young(small(3)), blob(1)) // some of its bytes were stored before it was declared
	must(t, err)
	if kept.Pinned != "" || kept.Key == "" {
		t.Errorf("%+v", kept)
	}
}

func testCommitWhole(t *testing.T, f *fixture) {
	u := f.young(small(blobSize))
	u.Config = &metadata.ImageConfig{OS: "linux", Architecture: "arm"}
	must(t, f.CommitWhole(t.Context(), u, blob(1)))
	got, err := f.Blob(t.Context(), u.Repository, blob(1))
	must(t, err)
	wantEqual(t, "blob", got, metadata.Blob{Digest: blob(1), Key: got.Key, Size: blobSize})
	f.wantUse(t, got.Key, "blob")
	f.wantSmall(t, got.Key, blobSize)
	finished := metadata.Upload{ID: u.ID, Repository: u.Repository, Epoch: 1, Size: blobSize, Algorithm: digest.SHA256, Committed: blob(1)}
	f.wantUpload(t, finished)
	if n := f.number(t, `SELECT count(*) FROM blobs WHERE os = 'linux' AND architecture = 'arm'`); n != 1 {
		t.Error("the config is not recorded")
	}

	must(t, f.CommitWhole(t.Context(), u, blob(1))) // whose first answer was lost
	wantError(t, "as another blob", f.CommitWhole(t.Context(), u, blob(2)), metadata.ErrSuperseded)
	elsewhere := u
	elsewhere.Repository = "other"
	wantError(t, "in another repository", f.CommitWhole(t.Context(), elsewhere, blob(1)), metadata.ErrSuperseded)
	open, err := f.KeepUpload(t.Context(), f.young(small(5)), "")
	must(t, err)
	wantError(t, "of one that others know", f.CommitWhole(t.Context(), open, blob(1)), metadata.ErrSuperseded)
	f.wantUse(t, open.Key, "upload")
	if n := f.number(t, `SELECT count(*) FROM small_objects`); n != 2 {
		t.Errorf("%d small objects", n)
	}

	// When it is deleted, its bytes go as all others do.
	must(t, f.DeleteBlob(t.Context(), u.Repository, blob(1)))
	f.wantDeadLater(t, got.Key)
	f.wantSmall(t, got.Key, blobSize)
}

func testCommitWholeHeld(t *testing.T, f *fixture) {
	first := f.push(t, "a", blob(1))
	u := f.young(small(blobSize))
	must(t, f.CommitWhole(t.Context(), u, blob(1)))
	got, err := f.Blob(t.Context(), u.Repository, blob(1))
	must(t, err)
	wantEqual(t, "key", got.Key, first)
	if n := f.number(t, `SELECT count(*) FROM small_objects`) + f.number(t, `SELECT count(*) FROM dead_keys`); n != 0 {
		t.Errorf("%d rows for bytes that are there", n)
	}
	if done, err := f.Quarantine(t.Context(), blob(1), first); err != nil || !done {
		t.Fatalf("%t, %v", done, err)
	}
	must(t, f.CommitWhole(t.Context(), f.young(small(blobSize)), blob(1)))
	got, err = f.Blob(t.Context(), "a", blob(1))
	must(t, err)
	f.wantSmall(t, got.Key, blobSize)
	f.wantUse(t, got.Key, "blob")
	f.wantDeadLater(t, first)
}

func testCommitWholeQuota(t *testing.T, f *fixture) {
	f.setQuotas(t, quota("new/", blobSize, 0))
	must(t, f.CommitWhole(t.Context(), f.young(small(blobSize)), blob(1)))
	u := f.young(small(blobSize))
	var exceeded *metadata.QuotaError
	if err := f.CommitWhole(t.Context(), u, blob(2)); !errors.As(err, &exceeded) {
		t.Errorf("above the quota: %v", err)
	}
	_, err := f.Upload(t.Context(), u.Repository, u.ID)
	wantError(t, "the session", err, metadata.ErrNotFound)
	if n := f.number(t, `SELECT count(*) FROM small_objects`); n != 1 {
		t.Errorf("%d small objects", n)
	}
}

func testSmallLists(t *testing.T, f *fixture) {
	f.push(t, "a", blob(1))
	must(t, f.CommitWhole(t.Context(), f.young(small(blobSize)), blob(2)))
	grown := f.start(t, "a")
	grown.Size, grown.Content = 5, small(5)
	must(t, f.CheckpointUpload(t.Context(), grown))
	grown.Size, grown.Content, grown.Outgrown = blobSize, nil, true
	must(t, f.CommitUpload(t.Context(), grown, blob(3)))
	f.wantSmall(t, grown.Key, -1)
	all, err := f.Blobs(t.Context(), "", 10)
	must(t, err)
	for _, b := range all {
		if b.Inline != (b.Digest == blob(2)) {
			t.Errorf("%+v", b)
		}
	}
	if len(all) != 3 {
		t.Errorf("%d blobs", len(all))
	}
}

func testEachSmall(t *testing.T, f *fixture) {
	began := time.Now().Add(-time.Minute)
	want := map[string][]string{"": nil, "blobs/a/": nil, "blobs/a": nil, "blobs/": nil, "blobs/ab/0001": {"blobs/ab/0001"}, "x": nil}
	add := func(key string, n int, prefixes ...string) {
		f.exec(t, 1, `INSERT INTO small_objects (key, kept_at, content) VALUES ($1, $2, $3)`, key, time.Now().UnixMilli(), small(n))
		for _, p := range prefixes {
			want[p] = append(want[p], key)
		}
	}
	for i := range 1100 { // more than are read at once
		add(fmt.Sprintf("blobs/a/%04d", i), i%7, "", "blobs/a/", "blobs/a", "blobs/")
	}
	add("blobs/ab/0001", 9, "", "blobs/a", "blobs/")
	add("blobs/b/0001", 9, "", "blobs/")
	for prefix, keys := range want {
		var got []string
		must(t, f.EachSmallObject(t.Context(), prefix, func(key string, size int64, kept time.Time) error {
			got = append(got, key)
			if size > 9 || kept.Before(began) {
				t.Errorf("%s: %d bytes since %v", key, size, kept)
			}
			return nil
		}))
		if slices.Sort(got); !slices.Equal(got, keys) {
			t.Errorf("with prefix %q there are %d, not %d", prefix, len(got), len(keys))
		}
	}
	stop, calls := errors.New("stop"), 0
	err := f.EachSmallObject(t.Context(), "", func(string, int64, time.Time) error {
		calls++
		return stop
	})
	if !errors.Is(err, stop) || calls != 1 {
		t.Errorf("%v after %d calls", err, calls)
	}
}
