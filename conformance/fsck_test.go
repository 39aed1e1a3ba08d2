package conformance

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"berth/conformance/client"
)

// TestFsckFindsDamage damages the store in ways that only a bad disk or a careless hand can, and expects fsck to name what
// is damaged, with the registry down and with it running. The other tests rely on fsck.
func TestFsckFindsDamage(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		damage func(path string) error
		flags  []string
	}{
		{"a changed byte", changeByte, []string{"--rehash"}},
		{"a truncated file", func(path string) error { return os.Truncate(path, 10) }, nil},
		{"a missing file", os.Remove, nil},
		{"a file too many", func(path string) error { return os.Link(path, path+"-2") }, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b, content := start(t, options{}), client.Content{Seed: 1, Size: 123457}
			if err := b.client().PushBlob(t.Context(), "fsck/damage", content.Digest(), content.Reader(0), content.Size); err != nil {
				t.Fatal(err)
			}
			b.fsck("--rehash")
			if err := tt.damage(fileOfSize(t, b.root, content.Size)); err != nil {
				t.Fatal(err)
			}
			expectFinding(t, b, tt.flags)
			b.stop()
			expectFinding(t, b, tt.flags)
		})
	}
}

func expectFinding(t *testing.T, b *berth, flags []string) {
	t.Helper()
	out, err := b.tryFsck(flags...)
	if err == nil {
		t.Errorf("fsck %s finds nothing (registry running: %v):\n%s", strings.Join(flags, " "), b.Running(), out)
	}
}

func fileOfSize(t *testing.T, root string, size int64) string {
	t.Helper()
	var found string
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if info, err := entry.Info(); err == nil && info.Mode().IsRegular() && info.Size() == size {
			found = path
		}
		return nil
	})
	if err != nil || found == "" {
		t.Fatalf("no file of %d bytes below %s: %v", size, root, err)
	}
	return found
}

func changeByte(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteAt([]byte("!"), 1000)
	return err
}
