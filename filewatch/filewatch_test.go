package filewatch

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"
)

type report struct {
	data string
	err  error
}

// follow returns what Follow reports of a file.
func follow(t *testing.T, path, known string) <-chan report {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	reports, done := make(chan report), make(chan struct{})
	go func() {
		defer close(done)
		Follow(ctx, path, []byte(known), func(data []byte, err error) {
			select {
			case reports <- report{string(data), err}:
			case <-ctx.Done():
			}
		})
	}()
	t.Cleanup(func() { cancel(); <-done })
	return reports
}

func next(t *testing.T, reports <-chan report) report {
	t.Helper()
	select {
	case r := <-reports:
		return r
	case <-time.After(30 * time.Second):
		t.Fatal("a change went unseen")
		return report{}
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestFollow(t *testing.T) {
	directory := t.TempDir()
	path, other, link := filepath.Join(directory, "file"), filepath.Join(directory, "other"), filepath.Join(directory, "link")
	write(t, path, "one")
	write(t, other, "renamed")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	reports := follow(t, link, "one")

	write(t, path, "two")
	if r := next(t, reports); r.data != "two" || r.err != nil {
		t.Errorf("written in place: %+v", r)
	}
	if err := os.Rename(other, path); err != nil {
		t.Fatal(err)
	}
	if r := next(t, reports); r.data != "renamed" {
		t.Errorf("renamed over: %+v", r)
	}
	write(t, other, "swapped")
	if err := os.Symlink(other, link+".new"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(link+".new", link); err != nil {
		t.Fatal(err)
	}
	if r := next(t, reports); r.data != "swapped" {
		t.Errorf("swapped: %+v", r)
	}
	if err := os.Remove(other); err != nil {
		t.Fatal(err)
	}
	if r := next(t, reports); r.err == nil {
		t.Errorf("removed: %+v", r)
	}
	write(t, other, "swapped")
	if r := next(t, reports); r.data != "swapped" || r.err != nil {
		t.Errorf("back: %+v", r)
	}
}

func TestSettled(t *testing.T) {
	var f follower
	for i, look := range []struct {
		data string
		want bool
	}{
		{"", false}, {"half", false}, {"half a word", false}, {"half a word", true}, {"half a word", false},
		{"other", false}, {"half a word", false}, {"half a word", false}, {"other", false}, {"other", true},
	} {
		if got := f.settled([]byte(look.data), nil); got != look.want {
			t.Errorf("look %d at %q: %t", i, look.data, got)
		}
	}
}
