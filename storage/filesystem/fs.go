package filesystem

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"syscall"
)

// FS is what a Store asks of a file system, with the names, flags and errors of package os. Tests put their own below a
// Store, to make calls fail or to lose what was not synced.
type FS interface {
	// OpenFile opens or makes a file as os.OpenFile does. A new entry of a directory is durable after SyncDir.
	OpenFile(name string, flag int, perm fs.FileMode) (File, error)
	// Mkdir makes a directory as os.Mkdir does.
	Mkdir(name string, perm fs.FileMode) error
	// Remove removes a file, but never a directory.
	Remove(name string) error
	// SyncDir makes the entries that were made in and removed from a directory durable.
	SyncDir(name string) error
	// ReadDir lists a directory as os.ReadDir does.
	ReadDir(name string) ([]fs.DirEntry, error)
}

// File is an open file of an FS. An *os.File is one.
type File interface {
	io.ReadSeekCloser
	io.ReaderAt
	io.Writer
	Stat() (fs.FileInfo, error)
	Truncate(size int64) error
	// Sync makes the content and the size durable, but not the file's entry in its directory.
	Sync() error
}

// OS is the file system of the operating system. Its files are of type *os.File, so that a server can send them without
// copying, and are synced with fsync: fdatasync would save nothing, because between two syncs a Store always changes
// the size, which it has to write too.
type OS struct{}

// OpenFile is os.OpenFile.
func (OS) OpenFile(name string, flag int, perm fs.FileMode) (File, error) {
	f, err := os.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err // not f: a nil *os.File is no nil File
	}
	return f, nil
}

// Mkdir is os.Mkdir.
func (OS) Mkdir(name string, perm fs.FileMode) error { return os.Mkdir(name, perm) }

// Remove unlinks a file. Unlike os.Remove it fails for a directory.
func (OS) Remove(name string) error {
	err := syscall.Unlink(name)
	for errors.Is(err, syscall.EINTR) {
		err = syscall.Unlink(name)
	}
	if err != nil {
		return &fs.PathError{Op: "unlink", Path: name, Err: err}
	}
	return nil
}

// SyncDir syncs a directory. EINVAL is how a file system says that its directories have no sync.
func (OS) SyncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	err = d.Sync()
	if errors.Is(err, syscall.EINVAL) {
		err = nil
	}
	return errors.Join(err, d.Close())
}

// ReadDir is os.ReadDir.
func (OS) ReadDir(name string) ([]fs.DirEntry, error) { return os.ReadDir(name) }
