package filesystemtest

import (
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"berth/storage/filesystem"
)

// script does steps like "make a/b", "append a/b", "sync a/b", "syncdir a" below a root.
type script struct {
	t     *testing.T
	root  string
	power *PowerLoss
	files map[string]filesystem.File
}

func newScript(t *testing.T, c Config) *script {
	s := &script{t: t, root: t.TempDir(), files: map[string]filesystem.File{}}
	s.write("old", "old")
	power, err := New(s.root, c)
	if err != nil {
		t.Fatal(err)
	}
	s.power = power
	t.Cleanup(func() {
		for _, f := range s.files {
			_ = f.Close()
		}
	})
	return s
}

func (s *script) path(name string) string { return filepath.Join(s.root, name) }

func (s *script) write(name, content string) {
	if err := os.WriteFile(s.path(name), []byte(content), 0o640); err != nil {
		s.t.Fatal(err)
	}
}

func (s *script) run(step string) error {
	verb, name, _ := strings.Cut(step, " ")
	if s.files[name] == nil && slices.Contains([]string{"append", "shorten", "sync"}, verb) {
		return fs.ErrClosed // an earlier step failed
	}
	switch verb {
	case "mkdir":
		return s.power.Mkdir(s.path(name), 0o750)
	case "open":
		return s.open(name, os.O_RDWR)
	case "make":
		return s.open(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC)
	case "append":
		_, seek := s.files[name].Seek(0, io.SeekEnd)
		_, write := s.files[name].Write([]byte("new"))
		return errors.Join(seek, write)
	case "shorten":
		return s.files[name].Truncate(1)
	case "sync":
		return s.files[name].Sync()
	case "remove":
		return s.power.Remove(s.path(name))
	case "syncdir":
		return s.power.SyncDir(s.path(name))
	}
	return errors.New("unknown step " + step)
}

func (s *script) open(name string, flag int) error {
	f, err := s.power.OpenFile(s.path(name), flag, 0o640)
	if err == nil {
		s.files[name] = f
	}
	return err
}

// tree lists the files below the root as name=content and the directories as name/.
func (s *script) tree() []string {
	var tree []string
	err := filepath.WalkDir(s.root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == s.root {
			return err
		}
		name, err := filepath.Rel(s.root, path)
		if entry.IsDir() {
			tree = append(tree, name+"/")
			return err
		}
		content, err := os.ReadFile(path)
		tree = append(tree, name+"="+string(content))
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return tree
}

func TestPowerLoss(t *testing.T) {
	for _, test := range []struct{ steps, want string }{
		{"", "old=old"},
		{"open old; append old", "old=old"},
		{"open old; append old; sync old", "old=oldnew"},
		{"open old; append old; sync old; append old", "old=oldnew"},
		{"open old; shorten old", "old=old"},
		{"open old; shorten old; append old; sync old", "old=onew"},
		{"make old", "old=old"},
		{"make old; append old; sync old", "old=new"},
		{"remove old", "old=old"},
		{"remove old; syncdir .", ""},
		{"remove old; make old; append old; sync old", "old=old"},
		{"remove old; make old; append old; sync old; syncdir .", "old=new"},
		{"make a; append a; sync a", "old=old"},
		{"make a; append a; syncdir .", "a= old=old"},
		{"make a; append a; syncdir .; sync a", "a=new old=old"},
		{"mkdir d", "old=old"},
		{"mkdir d; syncdir .", "d/ old=old"},
		{"mkdir d; make d/a; append d/a; sync d/a; syncdir d", "old=old"},
		{"mkdir d; make d/a; append d/a; sync d/a; syncdir .", "d/ old=old"},
		{"mkdir d; make d/a; append d/a; sync d/a; syncdir .; syncdir d", "d/ d/a=new old=old"},
		{"mkdir d; make d/a; syncdir d; syncdir .; remove d/a", "d/ d/a= old=old"},
		{"make a; syncdir .; remove a; syncdir .", "old=old"},
	} {
		t.Run(test.steps, func(t *testing.T) {
			s := newScript(t, Config{})
			for step := range strings.SplitSeq(test.steps, "; ") {
				if step == "" {
					continue
				}
				if err := s.run(step); err != nil {
					t.Fatalf("%s: %v", step, err)
				}
			}
			if err := s.power.Cut(); err != nil {
				t.Fatal(err)
			}
			if got := s.tree(); !slices.Equal(got, strings.Fields(test.want)) {
				t.Errorf("left: %q, want %q", got, test.want)
			}
		})
	}
}

func TestPowerIsOff(t *testing.T) {
	s := newScript(t, Config{})
	for _, step := range []string{"open old", "mkdir d"} {
		if err := s.run(step); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := s.power.Cut(); err != nil {
			t.Fatal(err)
		}
	}
	for _, step := range []string{"append old", "shorten old", "sync old", "open old", "make a", "mkdir e", "remove old", "syncdir ."} {
		if err := s.run(step); !errors.Is(err, ErrPowerLoss) {
			t.Errorf("%s: %v", step, err)
		}
	}
	f := s.files["old"]
	_, read := f.Read(make([]byte, 1))
	_, readAt := f.ReadAt(make([]byte, 1), 0)
	_, stat := f.Stat()
	_, list := s.power.ReadDir(s.root)
	for _, err := range []error{read, readAt, stat, list, f.Close()} {
		if !errors.Is(err, ErrPowerLoss) {
			t.Errorf("got %v", err)
		}
	}
}

// TestCutAt cuts before each call of a script in turn: what was durable by then is there and nothing else.
func TestCutAt(t *testing.T) {
	steps := []string{"make a", "append a", "sync a", "syncdir .", "remove a", "syncdir ."}
	wants := []string{"old=old", "old=old", "old=old", "old=old", "a=new old=old", "a=new old=old", "old=old"}
	for i, want := range wants {
		s := newScript(t, Config{CutAt: i + 1})
		for j, step := range steps {
			if err := s.run(step); (err == nil) != (j < i) {
				t.Errorf("cut at %d, call %d: %v", i+1, j+1, err)
			}
		}
		if calls := s.power.Calls(); calls != min(i+1, len(steps)) {
			t.Errorf("cut at %d: %d calls", i+1, calls)
		}
		if err := s.power.Cut(); err != nil {
			t.Fatal(err)
		}
		if got := s.tree(); !slices.Equal(got, strings.Fields(want)) {
			t.Errorf("cut at %d: left %q, want %q", i+1, got, want)
		}
	}
}

// TestKeep expects to see, over some seeds, everything that a power loss may leave of a few changes, and nothing else.
func TestKeep(t *testing.T) {
	possible := []string{
		"old=old", "old=oldnew", // nothing or everything of the file, nothing of the directory
		"a= old=old", "a= old=oldnew", "a=new old=old", "a=new old=oldnew",
	}
	seen := map[string]bool{}
	for seed := range uint64(100) {
		s := newScript(t, Config{Keep: rand.New(rand.NewPCG(seed, 0))})
		for _, step := range []string{"open old", "append old", "make a", "append a"} {
			if err := s.run(step); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.power.Cut(); err != nil {
			t.Fatal(err)
		}
		seen[strings.Join(s.tree(), " ")] = true
	}
	for _, one := range possible {
		if !seen[one] {
			t.Errorf("never left: %s", one)
		}
		delete(seen, one)
	}
	if len(seen) > 0 {
		t.Errorf("left, but impossible: %v", seen)
	}
}

// TestTornWrite expects the blocks of one write to be lost from the end.
func TestTornWrite(t *testing.T) {
	torn := false
	for seed := range uint64(20) {
		s := newScript(t, Config{Keep: rand.New(rand.NewPCG(seed, 0))})
		if err := s.run("make a"); err != nil {
			t.Fatal(err)
		}
		written := strings.Repeat("0123456789abcdef", 10*block/16)
		if _, err := s.files["a"].Write([]byte(written)); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(s.run("syncdir ."), s.power.Cut()); err != nil {
			t.Fatal(err)
		}
		left, err := os.ReadFile(s.path("a"))
		if err != nil || !strings.HasPrefix(written, string(left)) || len(left)%block != 0 {
			t.Fatalf("left %d bytes, %v", len(left), err)
		}
		torn = torn || 0 < len(left) && len(left) < len(written)
	}
	if !torn {
		t.Error("no write was ever torn")
	}
}

func TestNewFails(t *testing.T) {
	if _, err := New(filepath.Join(t.TempDir(), "missing"), Config{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}
