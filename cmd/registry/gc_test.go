package main

import (
	"encoding/json"
	"io/fs"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// blobFiles returns how many files with bytes of blobs a data directory has.
func blobFiles(t *testing.T, directory string) (n int) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(directory, "blobs"), func(_ string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			n++
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestGarbageCollect deletes images and has their bytes collected: by a server that serves meanwhile, and without one.
func TestGarbageCollect(t *testing.T) {
	directory := t.TempDir()
	r := serve(t, directory, "REGISTRY_AUTH=none", "REGISTRY_HTTP_TLS_MODE=off", "REGISTRY_GC_INTERVAL=1h", "REGISTRY_GC_LEASE=1s", "REGISTRY_GC_GRACE=1ms",
		"REGISTRY_TRASH_RETAIN=0s")
	v := visitor{t: t, url: r.url()}
	for _, image := range [][2]string{{"a", "amd64"}, {"b", "arm64"}, {"moved", "s390x"}, {"moved", "riscv64"}} {
		v.pushLarge("app", image[0], image[1])
	}
	_, _, head := v.do(http.MethodHead, "/v2/app/manifests/b", "", "")
	if status, body, _ := v.do(http.MethodDelete, "/v2/app/manifests/"+head.Get("Docker-Content-Digest"), "", ""); status != http.StatusAccepted {
		t.Fatalf("%d %s", status, body)
	}
	do := func(args ...string) string {
		t.Helper()
		out, errOut, err := command(t, r.environ, args...)
		if err != nil {
			t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, errOut)
		}
		return out
	}
	status := func() (s gcStatus) {
		t.Helper()
		if err := json.Unmarshal([]byte(do("gc", "status", "--json")), &s); err != nil {
			t.Fatal(err)
		}
		return s
	}
	do("gc", "pause")
	for deadline := time.Now().Add(time.Minute); status().Unused != 1; time.Sleep(20 * time.Millisecond) { // until the leases are over
		if time.Now().After(deadline) {
			t.Fatalf("%+v", status())
		}
	}
	if out := do("gc", "status"); !strings.Contains(out, "paused: registry gc resume") || !strings.Contains(out, "1 blobs, ") {
		t.Error(out)
	}
	if out := do("garbage-collect"); !strings.Contains(out, "is paused") || blobFiles(t, directory) != 4 {
		t.Errorf("%s%d files", out, blobFiles(t, directory))
	}
	do("gc", "resume")
	if out := do("garbage-collect", "--dry-run", "--delete-untagged"); !strings.Contains(out, "would delete app@sha256:") || !strings.Contains(out, "would collect 1 blobs, ") {
		t.Error(out)
	}
	if out := do("garbage-collect"); !strings.Contains(out, "collected 1 blobs, ") || blobFiles(t, directory) != 4 && blobFiles(t, directory) != 3 {
		t.Errorf("%s%d files", out, blobFiles(t, directory))
	}
	if out := do("garbage-collect", "-m"); !strings.Contains(out, "\ncollected 1 blobs, ") {
		t.Error(out)
	}
	var last collectResult
	for deadline := time.Now().Add(time.Minute); last.Waiting > 0 || last.Blobs > 0 || blobFiles(t, directory) != 2; { // until the grace is over
		last = collectResult{}
		if err := json.Unmarshal([]byte(do("garbage-collect", "--json")), &last); err != nil || time.Now().After(deadline) {
			t.Fatalf("%+v, %d files, %v", last, blobFiles(t, directory), err)
		}
	}
	if s := status(); s.CollectedBlobs != 2 || s.DeletedKeys != 2 || s.CollectedBytes == 0 || s.Round == nil || s.Error != "" {
		t.Errorf("%+v", s)
	}
	for _, tag := range []string{"a", "moved"} {
		if status, body, _ := v.do(http.MethodGet, "/v2/app/manifests/"+tag, "", ""); status != http.StatusOK {
			t.Errorf("%s: %d %s", tag, status, body)
		}
	}
	do("fsck", "--rehash")
	r.end(t)

	if out := do("garbage-collect"); !strings.Contains(out, "collected 0 blobs") {
		t.Error(out)
	}
	if s := status(); s.Paused || s.Round != nil {
		t.Errorf("without a server: %+v", s)
	}
}
