package auth

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"berth/atomicfile"
)

var (
	// ErrUserExists and ErrNoUser say why a file was left as it was.
	ErrUserExists = errors.New("there is such a user already")
	ErrNoUser     = errors.New("there is no such user")
)

// AddUser adds a user with a hash of HashPassword to an htpasswd file, which is made if missing, readable by its owner only.
// It fails with ErrUserExists.
func AddUser(path, name, hash string) error {
	if _, err := SingleUser(name, hash); err != nil {
		return err
	}
	return edit(path, func(f *userFile) error {
		if f.line(name) >= 0 {
			return fmt.Errorf("%w: %s", ErrUserExists, name)
		}
		f.lines = append(f.lines, name+":"+hash)
		return nil
	})
}

// SetPassword gives a user of an htpasswd file another hash. It fails with ErrNoUser.
func SetPassword(path, name, hash string) error {
	return edit(path, func(f *userFile) error {
		i := f.line(name)
		if i < 0 {
			return fmt.Errorf("%w: %s", ErrNoUser, name)
		}
		f.lines[i] = name + ":" + hash
		return nil
	})
}

// RemoveUser takes a user out of an htpasswd file. It fails with ErrNoUser.
func RemoveUser(path, name string) error {
	return edit(path, func(f *userFile) error {
		i := f.line(name)
		if i < 0 {
			return fmt.Errorf("%w: %s", ErrNoUser, name)
		}
		f.lines = append(f.lines[:i], f.lines[i+1:]...)
		return nil
	})
}

// userFile is an htpasswd file as lines. Those that are not about a user stay as they are.
type userFile struct{ lines []string }

// line returns which line is a user's, or -1.
func (f *userFile) line(name string) int {
	for i, line := range f.lines {
		line = strings.TrimSpace(line)
		if found, _, ok := strings.Cut(line, ":"); ok && found == name && line[0] != '#' {
			return i
		}
	}
	return -1
}

// edit replaces a file by what change makes of it, one process after the other. It does not make a file that a registry would
// refuse of one that it would take.
func edit(path string, change func(*userFile) error) error {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	unlock, err := lockDirectory(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer unlock()
	data, mode, err := readUserFile(path)
	if err != nil {
		return err
	}
	f := &userFile{}
	if data = bytes.TrimPrefix(data, []byte("\ufeff")); len(data) > 0 {
		f.lines = strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")
	}
	if err := change(f); err != nil {
		return err
	}
	changed := ""
	if len(f.lines) > 0 {
		changed = strings.Join(f.lines, "\n") + "\n"
	}
	_, before := ParseHtpasswd(data)
	if _, err := ParseHtpasswd([]byte(changed)); err != nil && before == nil {
		return fmt.Errorf("htpasswd file %s: %w", path, err)
	}
	return atomicfile.Write(path, []byte(changed), mode)
}

func readUserFile(path string) ([]byte, fs.FileMode, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0o600, nil
	}
	if err != nil {
		return nil, 0, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, 0, err
	}
	return data, info.Mode().Perm(), nil
}

// lockDirectory keeps others from editing files in a directory. The directory itself is the lock: a file for it would stay.
func lockDirectory(path string) (unlock func(), err error) {
	d, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(d.Fd()), syscall.LOCK_EX); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return func() { d.Close() }, nil
}
