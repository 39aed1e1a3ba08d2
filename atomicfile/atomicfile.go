// Package atomicfile puts whole files in place: a reader finds the old content or the new one, and after a power loss so
// does the next start. What was written is synced, with its directory, before a call returns.
//
// It fails with the errors of package os, and leaves nothing behind then. A crash in the middle leaves a file whose name
// begins with .new-, which Sweep removes.
package atomicfile

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// File is a file to put in place.
type File struct {
	Path string
	Data []byte
	Mode fs.FileMode
}

// Write puts a file in place of whatever is there, whose owner it keeps where it may. A file that is mounted by itself, as
// containers have it, can't be replaced: it is written over, and a crash then may leave a part.
func Write(path string, data []byte, mode fs.FileMode) error {
	return WriteAll(File{path, data, mode})
}

// WriteAll is Write for files that belong together. All are written and synced beside their places before the first is
// put there: what can't be written changes none of them. A crash in between leaves some in place, the first ones.
func WriteAll(files ...File) (err error) {
	temporary := make([]string, len(files))
	for _, f := range files {
		if info, err := os.Lstat(f.Path); err == nil && info.IsDir() {
			return &fs.PathError{Op: "replace", Path: f.Path, Err: syscall.EISDIR}
		}
	}
	for i, f := range files {
		if temporary[i], err = writeTemporary(f.Path, f.Data, f.Mode); err != nil {
			return errors.Join(err, removeAll(temporary[:i]))
		}
		keepOwner(temporary[i], f.Path)
	}
	for i, f := range files {
		if err := replace(temporary[i], f); err != nil {
			return errors.Join(err, removeAll(temporary[i:]))
		}
	}
	return nil
}

// Stream is Write for what is too large to be held: write writes it. It fails where there is something that is no regular file, such as a
// device, and with the error of write.
func Stream(path string, mode fs.FileMode, write func(io.Writer) error) error {
	if info, err := os.Lstat(path); err == nil && !info.Mode().IsRegular() {
		return &fs.PathError{Op: "replace", Path: path, Err: errors.New("it is no regular file")}
	}
	temporary, err := streamTemporary(path, mode, write)
	if err != nil {
		return err
	}
	if err := os.Rename(temporary, path); err != nil {
		return errors.Join(err, os.Remove(temporary))
	}
	return syncDirectory(filepath.Dir(path))
}

// Rename is os.Rename of a file that was synced, within a directory. It survives a power loss.
func Rename(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return syncDirectory(filepath.Dir(to))
}

func replace(temporary string, f File) error {
	err := os.Rename(temporary, f.Path)
	if errors.Is(err, syscall.EBUSY) {
		return errors.Join(overwrite(f.Path, f.Data), os.Remove(temporary))
	}
	if err != nil {
		return err
	}
	return syncDirectory(filepath.Dir(f.Path))
}

func removeAll(paths []string) error {
	var errs []error
	for _, path := range paths {
		if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Sweep removes from a directory what crashes have left there, which may be a copy of a secret: the files that were begun
// an hour ago or earlier.
func Sweep(directory string) error {
	left, err := filepath.Glob(filepath.Join(directory, temporaryName))
	if err != nil {
		return err
	}
	var old []string
	for _, path := range left {
		if info, err := os.Lstat(path); err == nil && time.Since(info.ModTime()) > time.Hour {
			old = append(old, path)
		}
	}
	return removeAll(old)
}

// temporaryName is the pattern of the names of files that are not yet in place.
const temporaryName = ".new-*"

// keepOwner gives a new file to the owner of the one that it replaces. Without root that may fail: then it keeps the
// group at least, or the file is whose it is.
func keepOwner(temporary, path string) {
	info, err := os.Stat(path)
	if err != nil {
		return
	}
	if owner, ok := info.Sys().(*syscall.Stat_t); ok && os.Chown(temporary, int(owner.Uid), int(owner.Gid)) != nil {
		_ = os.Chown(temporary, -1, int(owner.Gid))
	}
}

// overwrite writes data over a file. Where that fails, as on a full disk, the file gets back what it had.
func overwrite(path string, data []byte) error {
	old, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	if err = fill(f, data); err != nil {
		err = errors.Join(err, fill(f, old))
	}
	return errors.Join(err, f.Sync(), f.Close())
}

// fill truncates last: until then a file keeps the blocks that it has.
func fill(f *os.File, data []byte) error {
	if _, err := f.WriteAt(data, 0); err != nil {
		return err
	}
	return f.Truncate(int64(len(data)))
}

// Create puts a file in place, or reports false when there is one: of several who try at once one succeeds.
func Create(path string, data []byte, mode fs.FileMode) (created bool, err error) {
	temporary, err := writeTemporary(path, data, mode)
	if err != nil {
		return false, err
	}
	defer os.Remove(temporary)
	err = os.Link(temporary, path)
	if errors.Is(err, syscall.EPERM) || errors.Is(err, errors.ErrUnsupported) {
		err = createPlainly(path, data, mode)
	}
	if errors.Is(err, fs.ErrExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, syncDirectory(filepath.Dir(path))
}

// createPlainly is for file systems without hard links, such as those of USB sticks. A crash may leave a part of the
// file, which the next start reports.
func createPlainly(path string, data []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

// writeTemporary writes and syncs a file beside path.
func writeTemporary(path string, data []byte, mode fs.FileMode) (string, error) {
	return streamTemporary(path, mode, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
}

func streamTemporary(path string, mode fs.FileMode, write func(io.Writer) error) (string, error) {
	f, err := os.CreateTemp(filepath.Dir(path), temporaryName)
	if err != nil {
		return "", err
	}
	err = write(f)
	if err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return "", errors.Join(err, os.Remove(f.Name()))
	}
	return f.Name(), nil
}

func syncDirectory(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
