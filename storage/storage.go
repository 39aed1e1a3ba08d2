// Package storage is the contract for blob bytes under opaque keys.
//
// A backend guarantees that bytes which it reported as durable (Checkpoint, Complete) are still there after kill -9 and
// after a power loss, and that a key which was deleted stays deleted. It does not guarantee that an object holds any
// particular digest, that a key is used only once, or that keys which nobody deleted go away: those are the facts of
// package metadata, which allocates every key before its first byte is written and never hands it out again.
//
// A failed call leaves earlier durable bytes as they were. Callers may repeat any call that failed.
package storage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

var (
	// ErrNotFound says that there is no object under a key.
	ErrNotFound = errors.New("no such object")
	// ErrShort says that the object under a key has fewer bytes than it should.
	ErrShort = errors.New("the object is too short")
	// ErrNoSpace says that the backend has no room for more bytes. Reads and deletes go on.
	ErrNoSpace = errors.New("no space left in the blob store")
	// ErrTooLarge says that the backend can't hold an object of so many bytes.
	ErrTooLarge = errors.New("more bytes than an object may have in the blob store")
	// ErrUnavailable says that the backend can't be reached, or refuses all for now. Whether the call had its effect is not known.
	ErrUnavailable = errors.New("the blob store does not answer")
)

// Checkpoint says how many bytes of an object are durable and how its backend goes on from there.
type Checkpoint struct {
	// Key is the object's key. It is never empty.
	Key string
	// Size is the number of durable bytes.
	Size int64
	// State belongs to the backend that made the checkpoint: a backend that can append to an object needs none.
	State []byte
	// Spare is a key that nothing was ever written under, or empty. A backend that can't append to what is under Key goes on
	// under Spare: then that is the Key of its checkpoints, and what is under the old one is the caller's to delete.
	Spare string
}

// Object is what List knows of an object.
type Object struct {
	Key      string
	Size     int64 // bytes
	Modified time.Time
}

// Blobs holds the bytes of blobs. Its methods may be called at the same time, but for one key there is at most one
// Writer at a time: the caller sees to that.
type Blobs interface {
	// Write opens the object of a checkpoint to append to it, after dropping whatever an earlier writer left behind
	// its Size. A Checkpoint with nothing but a Key begins a new object. It fails with ErrNoSpace when the backend is
	// full, and with ErrNotFound when Size is above zero and the object holds less than that. The writer may use ctx
	// until it is closed. A backend that is WholeObjects needs Spare where Size is above zero.
	Write(ctx context.Context, from Checkpoint) (Writer, error)
	// Complete makes the object of a checkpoint readable under its Key; whether Open finds it before is up to the
	// backend. What was written behind the checkpoint is dropped. Completing again what is complete does nothing. It
	// fails with ErrNotFound when the object holds less than Size; a backend that is WholeObjects may take the checkpoint's
	// word for an object that was whole then.
	Complete(ctx context.Context, c Checkpoint) error
	// Open reads a complete object of size bytes. It fails with ErrNotFound, and with ErrShort when the object has fewer; of more,
	// the first are read. Reads that follow may fail for any reason of the backend.
	Open(ctx context.Context, key string, size int64) (io.ReadSeekCloser, error)
	// Delete removes an object, complete or not, durably: a nil error means that it will not come back. Deleting what is
	// not there is no error.
	Delete(ctx context.Context, key string) error
}

// Writer appends to one object. After an error of Write or Checkpoint it can only be closed.
type Writer interface {
	// Write appends p.
	io.Writer
	// Checkpoint makes everything that was written durable and says so. Writing may go on afterwards.
	Checkpoint(ctx context.Context) (Checkpoint, error)
	// Close ends the writer. What was written after the last checkpoint may or may not be kept.
	Close() error
}

// WholeObjects is a backend that writes objects whole or in numbered parts, from several processes: a writer that lost its claim in
// another process could still replace what a newer one wrote, so that each claim has to write under keys of its own.
type WholeObjects interface {
	// WholeObjects marks such a backend.
	WholeObjects()
}

// Parted is a backend that keeps a large object in parts, which have to have some size.
type Parted interface {
	// MinPart is how many bytes there should be before each checkpoint but an object's last. Going on after fewer works too, but has
	// the backend read back what is there.
	MinPart() int64
}

// Linker is a backend from which clients can read by themselves.
type Linker interface {
	// Link returns a URL under which anybody reads a complete object with GET for some minutes, with that Content-Type.
	Link(ctx context.Context, key, contentType string) (url string, err error)
}

// Limited is a backend whose space runs out, shared with whatever else is kept beside it: who writes there asks first.
type Limited interface {
	// Room fails with ErrNoSpace when what is left is to be kept for deletes.
	Room() error
}

// Lister finds objects without knowing their keys. Only recovery after an unclean stop and fsck use it.
type Lister interface {
	// List calls fn for every object whose key begins with prefix, in no particular order, and stops at fn's first
	// error. Objects that are made or deleted meanwhile may be missed.
	List(ctx context.Context, prefix string, fn func(Object) error) error
}

// CheckKey reports why a key can't be used: keys are made of slash-separated segments of the characters a-z, A-Z, 0-9,
// '.', '_' and '-', no segment is empty or begins with a dot, and the whole is at most 512 bytes.
func CheckKey(key string) error {
	if key == "" || len(key) > 512 {
		return fmt.Errorf("storage key of %d bytes: between 1 and 512 are allowed", len(key))
	}
	for segment := range strings.SplitSeq(key, "/") {
		if segment == "" || segment[0] == '.' || strings.ContainsFunc(segment, notInKey) {
			return fmt.Errorf("storage key %q: bad segment %q", key, segment)
		}
	}
	return nil
}

func notInKey(r rune) bool {
	switch {
	case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', r == '.', r == '_', r == '-':
		return false
	}
	return true
}
