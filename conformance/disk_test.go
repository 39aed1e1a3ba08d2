package conformance

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"berth/conformance/client"
)

// smallDisk returns a new file system of its own with size bytes.
func smallDisk(t *testing.T, size int64) string {
	t.Helper()
	needRoot(t)
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		unavailable(t, "this test has to mount a tmpfs: "+err.Error())
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
	return dir
}

// fill leaves a file system with no more than about spare bytes, and returns the file that takes the rest.
func fill(t *testing.T, dir string, spare int64) string {
	t.Helper()
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "ballast")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	size := int64(fs.Bavail)*int64(fs.Bsize) - spare
	if _, err := io.Copy(f, client.Content{Size: size}.Reader(0)); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestDiskFull fills the disk below a registry: beyond its reserve, so far that an upload reaches the reserve on its way,
// and to the last byte, as only another program can. Pushes are refused with a status that says so; pulls go on, and so do
// deletes thanks to the reserve; and when there is space again so do pushes.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		full fullDisk
	}{
		{"beyond the reserve", fullDisk{size: 400 << 20, spare: 200 << 20, reserve: "256MiB"}},
		{"in the middle of an upload", fullDisk{size: 128 << 20, spare: 48 << 20, reserve: "32MiB"}},
		{"to the last byte", fullDisk{size: 128 << 20, spare: 0, reserve: "0"}},
	} {
		t.Run(tt.name, tt.full.test)
	}
}

// fullDisk says how full a disk is to get.
type fullDisk struct {
	size, spare int64 // bytes
	reserve     string
}

func (d fullDisk) test(t *testing.T) {
	const repository = "disk/full"
	ctx, root := t.Context(), smallDisk(t, d.size)
	b := start(t, options{root: root, env: []string{"REGISTRY_STORAGE_FILESYSTEM_MINFREE=" + d.reserve}})
	c := b.client()
	push := func(content client.Content) error {
		return c.PushBlob(ctx, repository, content.Digest(), content.Reader(0), content.Size)
	}
	kept, large := client.Content{Seed: 1, Size: 1 << 20}, client.Content{Seed: 2, Size: 64 << 20}
	dropped := make([]client.Content, 50)
	for i := range dropped {
		dropped[i] = client.Content{Seed: 100 + uint64(i), Size: 1000}
	}
	for _, content := range append(dropped, kept) {
		if err := push(content); err != nil {
			t.Fatal(err)
		}
	}
	ballast := fill(t, root, d.spare)
	if err := push(large); client.Status(err) != http.StatusInsufficientStorage {
		t.Errorf("push to a full disk: %v, want status 507", err)
	}
	if err := verifyBlob(ctx, c, name{repository, kept.Digest().String()}, kept); err != nil {
		t.Errorf("pull from a full disk: %v", err)
	}
	for _, content := range dropped {
		err := c.DeleteBlob(ctx, repository, content.Digest())
		if err != nil && (d.spare > 0 || client.Status(err) != http.StatusInsufficientStorage) {
			t.Fatalf("delete on a full disk: %v", err)
		}
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if err := push(large); err != nil {
		t.Errorf("push when there is space again: %v", err)
	}
	b.stop()
	b.fsck("--rehash")
}
