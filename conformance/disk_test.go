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

// TestDiskFull fills the disk below a registry, once down to its reserve and once for real, in the middle of an upload.
// Pushes are refused with a status that says so; pulls and deletes go on; and when there is space again so do pushes.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name        string
		disk, spare int64
		env         []string
	}{
		{"down to the reserve", 400 << 20, 200 << 20, nil},
		{"in the middle of an upload", 64 << 20, 8 << 20, []string{"REGISTRY_STORAGE_FILESYSTEM_MINFREE=1MiB"}},
	} {
		t.Run(tt.name, func(t *testing.T) { testDiskFull(t, tt.disk, tt.spare, tt.env) })
	}
}

func testDiskFull(t *testing.T, disk, spare int64, env []string) {
	const repository = "disk/full"
	ctx, root := t.Context(), smallDisk(t, disk)
	b := start(t, options{root: root, env: env})
	c := b.client()
	kept, dropped := client.Content{Seed: 1, Size: 1 << 20}, client.Content{Seed: 2, Size: 1 << 20}
	large := client.Content{Seed: 3, Size: 16 << 20}
	push := func(content client.Content) error {
		return c.PushBlob(ctx, repository, content.Digest(), content.Reader(0), content.Size)
	}
	for _, content := range []client.Content{kept, dropped} {
		if err := push(content); err != nil {
			t.Fatal(err)
		}
	}
	ballast := fill(t, root, spare)
	if err := push(large); client.Status(err) != http.StatusInsufficientStorage {
		t.Errorf("push to a full disk: %v, want status 507", err)
	}
	if err := verifyBlob(ctx, c, name{repository, kept.Digest().String()}, kept); err != nil {
		t.Errorf("pull from a full disk: %v", err)
	}
	if err := c.DeleteBlob(ctx, repository, dropped.Digest()); err != nil {
		t.Errorf("delete on a full disk: %v", err)
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
