// Package filesystem keeps blobs as plain files: the object of a key is the file Root/key.
//
// A nil error of Checkpoint or Complete means that kill -9 and a power loss leave the object's bytes, and a nil error of
// Delete that they leave it gone. A small object costs two syncs, of its file and of its directory, and writers that
// make objects in one directory at the same time share the second. A failed call leaves the durable bytes as they were.
//
// It does not tell a complete object from one that is still written (Open finds both), does not notice bytes that rot on
// the disk, leaves empty directories behind, and relies on the file system below for sync to mean what it says. A file
// system that can't sync directories at all is taken to need no such sync. It does not keep two processes from writing
// one key: keys are never used twice.
//
// It fails with the errors of package storage (ErrNoSpace when the disk or the quota is full or less than MinFree is
// left) or with those of the operating system, wrapped with the key. Reads and deletes go on when there is no space.
package filesystem

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"syscall"

	"berth/storage"
)

// Others must not read what may be private. The group may, so that a backup needs no root.
const (
	dirMode  fs.FileMode = 0o750
	fileMode fs.FileMode = 0o640
)

var errNotRegular = errors.New("not a regular file")

// Config says where a Store keeps its files. Only Root is needed.
type Config struct {
	// Root is the directory of the store. It is made when it is missing.
	Root string
	// MinFree is how many bytes must be free below Root to write. Zero is no limit. Free space is known on Linux only.
	MinFree int64
	// FS is where the files are. Nil is OS.
	FS FS
}

// Store implements storage.Blobs and storage.Lister. It needs no closing.
type Store struct {
	root    string
	minFree int64
	fs      FS
	dirs    *directories
	free    func() (int64, error) // bytes that may be written below root
	stride  int64                 // bytes between two starts of write-back
	atOnce  bool                  // a file and its directory are synced at once
	direct  *directWrites
}

// Open returns the store below c.Root after checking that it can be written.
func Open(c Config) (*Store, error) {
	if c.Root == "" {
		return nil, errors.New("blob store: no root directory: set storage.filesystem.rootdirectory")
	}
	root, err := filepath.Abs(c.Root)
	if err != nil {
		return nil, fmt.Errorf("blob store %s: %w", c.Root, err)
	}
	if c.FS == nil {
		c.FS = OS{}
	}
	if err := prepare(c.FS, root); err != nil {
		return nil, fmt.Errorf("blob store %s: %w", root, err)
	}
	_, isOS := c.FS.(OS) // others may count calls
	return &Store{
		root:    root,
		minFree: c.MinFree,
		fs:      c.FS,
		dirs:    newDirectories(c.FS, root),
		free:    func() (int64, error) { return FreeBytes(root) },
		stride:  writeBackStride,
		atOnce:  isOS,
		direct:  newDirectWrites(writesDirect(root)),
	}, nil
}

// prepare makes root where it is missing and tries to write there. A full disk is no reason to refuse: reading and
// deleting work.
func prepare(fsys FS, root string) error {
	err := makeDirs(fsys, root, filepath.VolumeName(root)+string(filepath.Separator))
	if err == nil {
		err = probe(fsys, filepath.Join(root, ".writable"))
	}
	switch {
	case err == nil, isNoSpace(err):
		return nil
	case errors.Is(err, syscall.EROFS):
		return fmt.Errorf("on a read-only file system: mount it for writing or set storage.filesystem.rootdirectory to another directory: %w", err)
	case errors.Is(err, syscall.ENOTDIR):
		return fmt.Errorf("not a directory: set storage.filesystem.rootdirectory to one: %w", err)
	}
	return fmt.Errorf("not writable by user %d: give that user the directory (chown -R %[1]d %s) "+
		"or set storage.filesystem.rootdirectory to another: %w", os.Geteuid(), root, err)
}

// probe makes and removes a file. Its name can't be a key's, and List does not see it should it stay.
func probe(fsys FS, name string) error {
	f, err := fsys.OpenFile(name, os.O_WRONLY|os.O_CREATE|openFlags, fileMode)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Close(), fsys.Remove(name)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil // another process opened the store at the same moment
}

func (s *Store) path(key string) string {
	return s.root + string(filepath.Separator) + filepath.FromSlash(key)
}

// begin checks what every call needs: a key that stays below root, and a caller who still wants the answer.
func begin(ctx context.Context, key string) error {
	if err := storage.CheckKey(key); err != nil {
		return err
	}
	return ctx.Err()
}

// Room implements storage.Limited: it fails with ErrNoSpace when less than Config.MinFree is free.
func (s *Store) Room() error {
	if s.minFree <= 0 {
		return nil
	}
	free, err := s.free()
	if err != nil {
		return fmt.Errorf("free space of %s: %w", s.root, err)
	}
	if free < s.minFree {
		return fmt.Errorf("%w: %d MiB are free, and storage.filesystem.minfree keeps %d MiB", storage.ErrNoSpace, free>>20, s.minFree>>20)
	}
	return nil
}

// wrap gives an error its operation and key, and ErrNoSpace where that is the reason.
func wrap(op, key string, err error) error {
	if err == nil {
		return nil
	}
	if isNoSpace(err) && !errors.Is(err, storage.ErrNoSpace) {
		err = fmt.Errorf("%w: %w", storage.ErrNoSpace, err)
	}
	return fmt.Errorf("%s object %s: %w", op, key, err)
}

func isNoSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

func isMissing(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}

// unlimited is the free space where it is not known.
const unlimited = math.MaxInt64
