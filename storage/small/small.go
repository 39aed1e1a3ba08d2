// Package small finds small objects in the metadata, and all others in a backend that is slower at small ones.
//
// A file of its own costs a small object far more than its bytes do: file and directory are made and synced, apart from the transaction that
// records them. In the metadata its bytes are part of that transaction. Whoever writes decides: small objects get there with the facts that
// name them, and what Write writes is the backend's, whatever its size. Here both are read and deleted, and only the backend is listed: what
// the metadata keeps got there with what names it, so that nobody has to look for orphans among it. An object in the metadata is as durable as what names it, and as gone as what forgets it, since both are in one log.
package small

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"berth/storage"
)

// Limit is the most bytes that an object has which is kept in the metadata. Most configs of images have fewer, and so have signatures,
// attestations and layers of a few copied files.
const Limit = 16 << 10

// Facts keeps small objects.
type Facts interface {
	// SmallObject returns the bytes under a key, and whether there are any.
	SmallObject(ctx context.Context, key string) (content []byte, ok bool, err error)
	// DeleteSmallObject removes them, if there are any. A power loss may bring them back together with the fact that they are to be deleted.
	DeleteSmallObject(ctx context.Context, key string) error
	// EachSmallObject calls fn for all whose keys begin with prefix, and stops at its first error.
	EachSmallObject(ctx context.Context, prefix string, fn func(key string, size int64, kept time.Time) error) error
}

// Backend keeps all other objects.
type Backend interface {
	storage.Blobs
	storage.Lister
	storage.Limited
}

// Store implements storage.Blobs, and storage.Lister and storage.Limited for its backend.
type Store struct {
	Backend
	facts Facts
}

// New returns a store of the objects in facts and in backend.
func New(backend Backend, facts Facts) *Store { return &Store{backend, facts} }

// Open implements storage.Blobs.
func (s *Store) Open(ctx context.Context, key string, size int64) (io.ReadSeekCloser, error) {
	if size > Limit {
		return s.Backend.Open(ctx, key, size)
	}
	content, small, err := s.facts.SmallObject(ctx, key)
	switch {
	case err != nil:
		return nil, fmt.Errorf("open object %s: %w", key, err)
	case !small:
		return s.Backend.Open(ctx, key, size)
	case int64(len(content)) < size:
		return nil, fmt.Errorf("open object %s: %w: it has %d bytes of %d", key, storage.ErrShort, len(content), size)
	}
	return reader{bytes.NewReader(content[:size])}, nil
}

type reader struct{ *bytes.Reader }

func (reader) Close() error { return nil }

// Delete implements storage.Blobs. Both may have something under a key: an upload that grows is in the backend before the facts say so.
func (s *Store) Delete(ctx context.Context, key string) error {
	if err := s.facts.DeleteSmallObject(ctx, key); err != nil {
		return fmt.Errorf("delete object %s: %w", key, err)
	}
	return s.Backend.Delete(ctx, key)
}

// Move moves all objects out of facts to blobs, for a blob store that is to have all of them. Progress is called after each. A move that ended
// early goes on with the next.
func Move(ctx context.Context, facts Facts, blobs storage.Blobs, progress func(done, all int)) error {
	var keys []string
	err := facts.EachSmallObject(ctx, "", func(key string, _ int64, _ time.Time) error {
		keys = append(keys, key)
		return nil
	})
	if err != nil {
		return fmt.Errorf("list small objects: %w", err)
	}
	for i, key := range keys {
		if err := move(ctx, facts, blobs, key); err != nil {
			return fmt.Errorf("move object %s: %w", key, err)
		}
		progress(i+1, len(keys))
	}
	return nil
}

func move(ctx context.Context, facts Facts, blobs storage.Blobs, key string) error {
	content, ok, err := facts.SmallObject(ctx, key)
	if err != nil || !ok {
		return err
	}
	if err := put(ctx, blobs, key, content); err != nil {
		return err
	}
	return facts.DeleteSmallObject(ctx, key)
}

func put(ctx context.Context, blobs storage.Blobs, key string, content []byte) (err error) {
	w, err := blobs.Write(ctx, storage.Checkpoint{Key: key})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	if _, err := w.Write(content); err != nil {
		return err
	}
	c, err := w.Checkpoint(ctx)
	if err != nil {
		return err
	}
	return blobs.Complete(ctx, c)
}
