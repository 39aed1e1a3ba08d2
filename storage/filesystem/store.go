package filesystem

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"berth/storage"
)

// Write implements storage.Blobs.
func (s *Store) Write(ctx context.Context, from storage.Checkpoint) (storage.Writer, error) {
	w, err := s.write(ctx, from)
	if err != nil {
		return nil, wrap("write", from.Key, err)
	}
	return w, nil
}

func (s *Store) write(ctx context.Context, from storage.Checkpoint) (*writer, error) {
	if err := begin(ctx, from.Key); err != nil {
		return nil, err
	}
	if err := s.Room(); err != nil {
		return nil, err
	}
	w := &writer{store: s, key: from.Key, size: from.Size, durable: from.Size, flushed: from.Size}
	var err error
	if from.Size == 0 {
		w.file, err = s.create(from.Key)
		w.fresh = true
	} else {
		w.file, err = s.resume(from)
	}
	return w, err
}

// create makes an empty object, or empties what an earlier writer left.
func (s *Store) create(key string) (File, error) {
	const flag = os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	f, _, err := s.open(key, flag)
	if errors.Is(err, storage.ErrNotFound) {
		if err := makeDirs(s.fs, filepath.Dir(s.path(key)), s.root); err != nil {
			return nil, err
		}
		f, _, err = s.open(key, flag)
	}
	return f, err
}

// resume opens an object to append to its first from.Size bytes.
func (s *Store) resume(from storage.Checkpoint) (File, error) {
	f, size, err := s.open(from.Key, os.O_WRONLY)
	if err != nil {
		return nil, err
	}
	if err = cut(f, size, from.Size); err == nil {
		_, err = f.Seek(from.Size, io.SeekStart)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Complete implements storage.Blobs. There is nothing to do but to drop what a writer left behind the checkpoint.
func (s *Store) Complete(ctx context.Context, c storage.Checkpoint) error {
	return wrap("complete", c.Key, s.complete(ctx, c))
}

func (s *Store) complete(ctx context.Context, c storage.Checkpoint) error {
	if err := begin(ctx, c.Key); err != nil {
		return err
	}
	f, size, err := s.open(c.Key, os.O_WRONLY)
	if err != nil {
		return err
	}
	return errors.Join(cut(f, size, c.Size), f.Close())
}

// cut shortens a file of size bytes to want, and fails with ErrNotFound when it has less. A power loss may undo that, but
// nothing depends on it: who resumes cuts again, and who reads looks no further than the object's size.
func cut(f File, size, want int64) error {
	switch {
	case size < want:
		return fmt.Errorf("%w: %d bytes of %d", storage.ErrNotFound, size, want)
	case size > want:
		return f.Truncate(want)
	}
	return nil
}

// section reads the first bytes of a file that has more.
type section struct {
	*io.SectionReader
	io.Closer
}

// Open implements storage.Blobs. Over OS the reader is an *os.File, unless a power loss left more in the file than the
// object's bytes.
func (s *Store) Open(ctx context.Context, key string, size int64) (io.ReadSeekCloser, error) {
	r, err := s.read(ctx, key, size)
	return r, wrap("open", key, err)
}

func (s *Store) read(ctx context.Context, key string, size int64) (io.ReadSeekCloser, error) {
	if err := begin(ctx, key); err != nil {
		return nil, err
	}
	f, have, err := s.open(key, os.O_RDONLY)
	switch {
	case err != nil:
		return nil, err
	case have < size:
		return nil, errors.Join(fmt.Errorf("%w: it has %d bytes of %d", storage.ErrShort, have, size), f.Close())
	case have > size:
		return section{io.NewSectionReader(f, 0, size), f}, nil
	}
	return f, nil
}

// open opens an object's file and returns its size. It fails with ErrNotFound.
func (s *Store) open(key string, flag int) (File, int64, error) {
	f, err := s.fs.OpenFile(s.path(key), flag|openFlags, fileMode)
	if isMissing(err) {
		return nil, 0, fmt.Errorf("%w: %w", storage.ErrNotFound, err)
	}
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errNotRegular
	}
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, info.Size(), nil
}

// Delete implements storage.Blobs. It syncs the directory also when there is no such file: whoever removed it may have
// been killed before the sync.
func (s *Store) Delete(ctx context.Context, key string) error {
	return wrap("delete", key, s.remove(ctx, key))
}

func (s *Store) remove(ctx context.Context, key string) error {
	if err := begin(ctx, key); err != nil {
		return err
	}
	name := s.path(key)
	if err := s.fs.Remove(name); err != nil && !isMissing(err) {
		return err
	}
	if err := s.dirs.sync(filepath.Dir(name)); !isMissing(err) {
		return err
	}
	return nil
}

// List implements storage.Lister. What is no object, like a link or a file whose name is no key, is passed over.
func (s *Store) List(ctx context.Context, prefix string, fn func(storage.Object) error) error {
	dir := strings.TrimSuffix(prefix[:strings.LastIndexByte(prefix, '/')+1], "/")
	if dir != "" {
		if err := storage.CheckKey(dir); err != nil {
			return err
		}
	}
	return s.list(ctx, dir, prefix, fn)
}

func (s *Store) list(ctx context.Context, dir, prefix string, fn func(storage.Object) error) error {
	entries, err := s.fs.ReadDir(s.path(dir))
	if err != nil && !isMissing(err) {
		return wrap("list", dir, err)
	}
	for _, entry := range entries {
		key := path.Join(dir, entry.Name())
		if !strings.HasPrefix(key, prefix) || storage.CheckKey(key) != nil {
			continue
		}
		if err := s.visit(ctx, key, entry, fn); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) visit(ctx context.Context, key string, entry os.DirEntry, fn func(storage.Object) error) error {
	if err := ctx.Err(); err != nil {
		return wrap("list", key, err)
	}
	if entry.IsDir() {
		return s.list(ctx, key, key, fn)
	}
	if !entry.Type().IsRegular() {
		return nil
	}
	info, err := entry.Info()
	if isMissing(err) {
		return nil
	}
	if err != nil {
		return wrap("list", key, err)
	}
	return fn(storage.Object{Key: key, Size: info.Size(), Modified: info.ModTime()})
}
