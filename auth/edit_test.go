package auth

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

func TestEdit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "htpasswd")
	want := func(content string) {
		t.Helper()
		data, err := os.ReadFile(path)
		if err != nil || string(data) != content {
			t.Errorf("got %q, %v, want %q", data, err, content)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(AddUser(path, "ann", hashA))
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the new file is %v, %v", info.Mode(), err)
	}
	must(os.WriteFile(path, []byte("# the team\n  ann:"+hashA+"\n\n#bob:"+hashA), 0o600))
	must(os.Chmod(path, 0o640))
	must(AddUser(path, "bob", hashB))
	want("# the team\n  ann:" + hashA + "\n\n#bob:" + hashA + "\nbob:" + hashB + "\n")
	must(SetPassword(path, "ann", hashY))
	must(RemoveUser(path, "bob"))
	want("# the team\nann:" + hashY + "\n\n#bob:" + hashA + "\n")
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("the file became %v, %v", info.Mode(), err)
	}
	for _, test := range []struct {
		err  error
		want error
	}{
		{AddUser(path, "ann", hashA), ErrUserExists}, {SetPassword(path, "eve", hashA), ErrNoUser}, {RemoveUser(path, "eve"), ErrNoUser},
	} {
		if !errors.Is(test.err, test.want) {
			t.Errorf("got %v, want %v", test.err, test.want)
		}
	}
	for name, hash := range map[string]string{"": hashA, "eve": "plain", "e\x00": hashA, "#eve": hashA, " eve": hashA, "eve ": hashA} {
		if err := AddUser(path, name, hash); err == nil {
			t.Errorf("user %q with %q: %v", name, hash, err)
		}
	}
	if err := RemoveUser(path, "#bob"); !errors.Is(err, ErrNoUser) {
		t.Errorf("a comment was removed: %v", err)
	}
	must(RemoveUser(path, "ann"))
	want("# the team\n\n#bob:" + hashA + "\n")
}

func TestEditBehindAMark(t *testing.T) {
	path := filepath.Join(t.TempDir(), "htpasswd")
	if err := os.WriteFile(path, []byte("\ufeffann:"+hashA+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := RemoveUser(path, "ann"); err != nil {
		t.Error(err)
	}
}

func TestEditKeepsLinks(t *testing.T) {
	directory := t.TempDir()
	path, link := filepath.Join(directory, "htpasswd"), filepath.Join(directory, "link")
	if err := errors.Join(AddUser(path, "ann", hashA), os.Symlink(path, link), AddUser(link, "bob", hashB)); err != nil {
		t.Fatal(err)
	}
	if users, err := OpenHtpasswd(path); err != nil || len(users.Names()) != 2 {
		t.Errorf("got %v, %v", users, err)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode().Type() != os.ModeSymlink {
		t.Errorf("the link became %v, %v", info.Mode(), err)
	}
}

func TestEditAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "htpasswd")
	var running sync.WaitGroup
	for i := range 30 {
		running.Go(func() {
			if err := AddUser(path, fmt.Sprint("user", i), hashA); err != nil {
				t.Error(err)
			}
		})
	}
	running.Wait()
	if users, err := OpenHtpasswd(path); err != nil || len(users.Names()) != 30 {
		t.Errorf("got %d users, %v", len(users.Names()), err)
	}
}
