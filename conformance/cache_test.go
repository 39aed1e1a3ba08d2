package conformance

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"berth/conformance/client"
	"berth/conformance/server"
	"berth/storage/s3/s3test"
)

// withCache is the environment of a registry from which clients read blobs that are in a bucket, by way of a cache.
func withCache(t *testing.T, s *s3test.Server, p *s3test.Proxy, root, cache string) []string {
	t.Helper()
	return append(bucket(t, s, p, root), "REGISTRY_STORAGE_REDIRECT_DISABLE=true",
		"REGISTRY_STORAGE_CACHE_DISK_DIRECTORY="+cache, "REGISTRY_STORAGE_CACHE_DISK_SIZE=256MiB")
}

// countedPulls counts what pulls ask of S3.
type countedPulls struct {
	t *testing.T
	b *berth
	p *s3test.Proxy
}

// want has so many clients pull a blob at the same time, which has to take so many GETs and nothing else.
func (c countedPulls) want(what string, content client.Content, clients, gets int) {
	c.t.Helper()
	c.p.Calls()
	var wg sync.WaitGroup
	for range clients {
		one := c.b.client()
		wg.Go(func() {
			if err := verifyBlob(c.t.Context(), one, name{"a", content.Digest().String()}, content); err != nil {
				c.t.Errorf("%s: %v", what, err)
			}
		})
	}
	wg.Wait()
	got := c.p.Calls()
	delete(got, "ListObjectsV2")        // with these two a start looks for
	delete(got, "ListMultipartUploads") // what an unclean stop left
	if total := got["GetObject"]; total != gets || len(got) > min(gets, 1) {
		c.t.Errorf("%s: %d clients took the calls %v, want %d GETs", what, clients, got, gets)
	}
}

// TestDiskCache counts what pulls ask of S3 with a cache on disk: with many at once, after a restart, and after kill -9 in the
// middle of a fetch.
func TestDiskCache(t *testing.T) {
	t.Parallel()
	s := s3test.Start(t, s3test.Versity)
	p, root, cache := s3test.NewProxy(t, s), t.TempDir(), filepath.Join(t.TempDir(), "cache")
	b := start(t, options{root: root, env: withCache(t, s, p, root, cache)})
	c := b.client()
	small, large, other := client.Content{Seed: 1, Size: 4 << 10}, client.Content{Seed: 2, Size: 64 << 20}, client.Content{Seed: 3, Size: 32 << 20}
	for _, content := range []client.Content{small, large, other} {
		if err := pushStream(t, c, "a", content, content.Digest()); err != nil {
			t.Fatal(err)
		}
	}
	calls := countedPulls{t, b, p}
	calls.want("first pull", small, 1, 1)
	calls.want("second pull", small, 1, 0)
	calls.want("first pulls at once", large, 8, 1)
	calls.want("pulls at once", large, 8, 0)
	if got := part(t, c, large, large.Size-100); got != nil || len(p.Calls()) != 0 {
		t.Errorf("the end of a blob: %v", got)
	}
	b.stop()
	b.restart()
	calls.want("pull after a restart", small, 1, 0)
	calls.want("pulls after a restart", large, 2, 0)

	p.Fail("GetObject", s3test.Stalled, 1)
	pulled := make(chan error, 1)
	go func() { pulled <- verifyBlob(t.Context(), c, name{"a", other.Digest().String()}, other) }()
	p.Arrived()
	waitForPart(t, cache, other.Size)
	b.Kill()
	p.Release()
	if err := <-pulled; err == nil {
		t.Error("a pull ended well whose registry was killed")
	}
	b.restart()
	if left := parts(t, cache); len(left) != 2 {
		t.Errorf("after kill -9 the cache has files of %v bytes", left)
	}
	calls.want("pull after kill -9", other, 1, 1)
	calls.want("second pull after kill -9", other, 1, 0)
	calls.want("pull of what was there before", large, 1, 0)
	b.stop()
	b.fsck("--rehash")
	if got := p.Calls()["GetObject"]; got != 3 {
		t.Errorf("fsck --rehash read %d objects of the bucket, want all 3", got)
	}
}

// part pulls a blob from an offset on.
func part(t *testing.T, c *client.Client, content client.Content, offset int64) error {
	t.Helper()
	answer, err := c.Do(t.Context(), client.Request{Method: http.MethodGet, Target: "/v2/a/blobs/" + content.Digest().String(),
		Header: http.Header{"Range": {fmt.Sprintf("bytes=%d-", offset)}}}, http.StatusPartialContent)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	got, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	want, err := io.ReadAll(content.Reader(offset))
	if err == nil && string(got) != string(want) {
		err = fmt.Errorf("%d other bytes", len(got))
	}
	return err
}

// parts returns the sizes of the files in a cache.
func parts(t *testing.T, cache string) (sizes []int64) {
	t.Helper()
	files, err := os.ReadDir(cache)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		info, err := f.Info()
		if err != nil {
			t.Fatal(err)
		}
		if f.Name() != "lock" {
			sizes = append(sizes, info.Size())
		}
	}
	return sizes
}

// waitForPart waits until a file is there with a good part of a blob of size bytes, but not all.
func waitForPart(t *testing.T, cache string, size int64) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if slices.ContainsFunc(parts(t, cache), func(n int64) bool { return size/4 < n && n < size }) {
			return
		}
	}
	t.Fatalf("there is no part of a blob: %v", parts(t, cache))
}

// TestDiskCacheOfAnother starts a registry with the cache of one that runs.
func TestDiskCacheOfAnother(t *testing.T) {
	t.Parallel()
	s := s3test.Start(t, s3test.Versity)
	p, cache := s3test.NewProxy(t, s), t.TempDir()
	first := t.TempDir()
	start(t, options{root: first, env: withCache(t, s, p, first, cache)})
	second := t.TempDir()
	other, err := server.Launch(configure(t, options{root: second, env: withCache(t, s, p, second, cache)}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(other.Kill)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := other.Wait(ctx); err == nil || !strings.Contains(other.Printed(), "another registry is using "+cache+": set storage.cache.disk.directory") {
		t.Errorf("it ended with %v and printed\n%s", err, other.Printed())
	}
}
