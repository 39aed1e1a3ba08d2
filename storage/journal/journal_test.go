package journal

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
)

func open(t *testing.T, path string, want ...string) *Journal {
	t.Helper()
	j, records, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	var got []string
	for _, r := range records {
		got = append(got, string(r))
	}
	if !slices.Equal(got, want) {
		t.Errorf("there are %d records %.200q, want %.200q", len(got), got, want)
	}
	return j
}

func add(t *testing.T, j *Journal, records ...string) {
	t.Helper()
	for _, r := range records {
		if err := j.Append([]byte(r)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestJournal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	large := strings.Repeat("x", MaxRecord)
	j := open(t, path)
	add(t, j, "one", large, "three")
	for _, bad := range [][]byte{nil, {}, make([]byte, MaxRecord+1)} {
		if j.Append(bad) == nil {
			t.Errorf("a record of %d bytes was taken", len(bad))
		}
	}
	add(t, open(t, path, "one", large, "three"), "four") // as after kill -9
	j = open(t, path, "one", large, "three", "four")
	if err := j.Replace([][]byte{[]byte("a"), []byte("b")}); err != nil {
		t.Fatal(err)
	}
	add(t, j, "c")
	if info, err := os.Stat(path); err != nil || info.Size() != j.Size() || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v, %d bytes", info, err, j.Size())
	}
	j = open(t, path, "a", "b", "c")
	if err := j.Replace(nil); err != nil {
		t.Fatal(err)
	}
	open(t, path)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if err := j.Append([]byte("late")); !errors.Is(err, os.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if err := j.Replace([][]byte{[]byte("late")}); !errors.Is(err, os.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	open(t, path)
	if _, _, err := Open(filepath.Join(path, "x")); err == nil {
		t.Error("a journal in a file was opened")
	}
}

// TestDamage cuts the file at each place, and changes each byte: the records before it are there, and what comes later goes on after them.
func TestDamage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	add(t, open(t, path), "first", "second", "third")
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	ends := []int{header + 5, 2*header + 11, 3*header + 16}
	for at := range content {
		changed := bytes.Clone(content)
		changed[at] ^= 0xff
		whole := []string{"first", "second", "third"}[:slices.IndexFunc(ends, func(end int) bool { return at < end })]
		for _, damaged := range [][]byte{content[:at], changed} {
			if err := os.WriteFile(path, damaged, 0o600); err != nil {
				t.Fatal(err)
			}
			add(t, open(t, path, whole...), "more")
			open(t, path, append(slices.Clone(whole), "more")...)
		}
	}
}

// TestFullDisk appends until the file may not grow any more: what was refused is not there, and smaller records still fit.
func TestFullDisk(t *testing.T) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "journal")
	j := open(t, path)
	add(t, j, "first")
	less := limit
	less.Cur = 1000
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &less); err != nil {
		t.Fatal(err)
	}
	err := j.Append(make([]byte, 2000)) // of which a part is written
	if restored := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); restored != nil {
		t.Fatal(restored)
	}
	if err == nil {
		t.Error("there was no limit")
	}
	add(t, j, "second")
	open(t, path, "first", "second")
}

func TestConcurrent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j := open(t, path)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for n := range 50 {
				if err := j.Append(fmt.Appendf(nil, "%d %d", i, n)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	again, records, err := Open(path)
	if err != nil || len(records) != 400 {
		t.Fatalf("%d records, %v", len(records), err)
	}
	_ = again.Close()
}

func FuzzParse(f *testing.F) {
	f.Add(frame(frame(nil, []byte("one")), []byte("two")))
	f.Add([]byte{1, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, content []byte) {
		records, size := parse(content)
		var again []byte
		for _, r := range records {
			again = frame(again, r)
		}
		if !bytes.Equal(again, content[:size]) {
			t.Errorf("%d records of %d bytes make %d", len(records), size, len(again))
		}
	})
}
