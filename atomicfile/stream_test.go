package atomicfile

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
)

func TestStream(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	for _, content := range []string{"first", "second, longer", ""} {
		err := Stream(path, 0o600, func(w io.Writer) error {
			_, err := io.WriteString(w, content)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		want(t, path, content, 0o600)
	}
	// What fails in the middle leaves what there was.
	errHalf := errors.New("half")
	err := Stream(path, 0o600, func(w io.Writer) error {
		_, err := io.WriteString(w, "half of it")
		return errors.Join(err, errHalf)
	})
	if !errors.Is(err, errHalf) {
		t.Errorf("got %v", err)
	}
	want(t, path, "", 0o600)
}

// TestStreamRefuses keeps devices and directories where they are.
func TestStreamRefuses(t *testing.T) {
	directory := t.TempDir()
	link := filepath.Join(directory, "link")
	if err := os.Symlink("elsewhere", link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{directory, link, "/dev/null", filepath.Join(directory, "none", "file")} {
		before := fmt.Sprint(os.Lstat(path))
		if err := Stream(path, 0o600, func(io.Writer) error { return nil }); err == nil {
			t.Errorf("%s was replaced", path)
		}
		if after := fmt.Sprint(os.Lstat(path)); after != before {
			t.Errorf("%s was %s and is %s", path, before, after)
		}
	}
	if entries, err := os.ReadDir(directory); err != nil || len(entries) != 1 {
		t.Errorf("the directory has %v, %v", entries, err)
	}
}
