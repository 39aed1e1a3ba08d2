// Package storagetest is the contract of package storage as a test suite and as benchmarks for any backend, and a backend
// whose calls fail on demand.
//
// The suite asks for nothing that an object store can't do: it goes on under the key that a checkpoint names, with a spare key for
// who needs one, opens no object before it is complete, and never appends to a complete one. It does not cut the power; a backend
// that keeps files itself has to test that on its own.
package storagetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"

	"berth/storage"
)

// Run checks a backend against the contract. Each test opens one of its own, which has to be empty and has to implement
// storage.Lister too. What open needs to clean up, it leaves to t.Cleanup.
func Run(t *testing.T, open func(t *testing.T) storage.Blobs) {
	for _, test := range []struct {
		name string
		run  func(t *testing.T, blobs storage.Blobs)
	}{
		{"Create", testCreate},
		{"Append", testAppend},
		{"Resume", testResume},
		{"ResumeOlder", testResumeOlder},
		{"ResumeMissing", testResumeMissing},
		{"Restart", testRestart},
		{"Complete", testComplete},
		{"CompleteLeftover", testCompleteLeftover},
		{"Large", testLarge},
		{"Read", testRead},
		{"Delete", testDelete},
		{"NotFound", testNotFound},
		{"Short", testShort},
		{"List", testList},
		{"BadKeys", testBadKeys},
		{"Cancelled", testCancelled},
		{"Concurrent", testConcurrent},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, open(t)) })
	}
}

// Content returns n bytes that depend on seed and do not repeat.
func Content(seed uint64, n int) []byte {
	var key [32]byte
	key[0], key[1], key[2], key[3] = byte(seed), byte(seed>>8), byte(seed>>16), byte(seed>>24)
	content := make([]byte, n)
	_, _ = rand.NewChaCha8(key).Read(content) // never fails
	return content
}

// Put stores an object in one piece and returns its checkpoint.
func Put(ctx context.Context, blobs storage.Blobs, key string, content []byte) (storage.Checkpoint, error) {
	c, err := Append(ctx, blobs, storage.Checkpoint{Key: key}, content)
	if err != nil {
		return c, err
	}
	return c, blobs.Complete(ctx, c)
}

// Append appends pieces to the object of a checkpoint, with a spare key when it has none, and returns the next checkpoint.
func Append(ctx context.Context, blobs storage.Blobs, from storage.Checkpoint, pieces ...[]byte) (storage.Checkpoint, error) {
	w, err := blobs.Write(ctx, withSpare(from))
	if err != nil {
		return storage.Checkpoint{}, err
	}
	for _, piece := range pieces {
		if _, err := w.Write(piece); err != nil {
			return storage.Checkpoint{}, errors.Join(err, w.Close())
		}
	}
	c, err := w.Checkpoint(ctx)
	return c, errors.Join(err, w.Close())
}

// withSpare gives a checkpoint that has bytes a spare key, as a new claim does.
func withSpare(from storage.Checkpoint) storage.Checkpoint {
	if from.Size > 0 && from.Spare == "" {
		from.Spare = fmt.Sprintf("%s-spare-%016x", key, rand.Uint64())
	}
	return from
}

// Check fails unless the object of a completed checkpoint holds content.
func Check(ctx context.Context, blobs storage.Blobs, c storage.Checkpoint, content []byte) error {
	if c.Size != int64(len(content)) {
		return fmt.Errorf("object %s: checkpoint of %d bytes instead of %d", c.Key, c.Size, len(content))
	}
	r, err := blobs.Open(ctx, c.Key, c.Size)
	if err != nil {
		return err
	}
	got, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil {
		return fmt.Errorf("read object %s: %w", c.Key, err)
	}
	if !bytes.Equal(got, content) {
		return fmt.Errorf("object %s: the %d bytes read are not the %d written", c.Key, len(got), len(content))
	}
	return nil
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func mustPut(t *testing.T, blobs storage.Blobs, key string, content []byte) storage.Checkpoint {
	t.Helper()
	c, err := Put(t.Context(), blobs, key, content)
	must(t, err)
	return c
}

func mustAppend(t *testing.T, blobs storage.Blobs, from storage.Checkpoint, pieces ...[]byte) storage.Checkpoint {
	t.Helper()
	c, err := Append(t.Context(), blobs, from, pieces...)
	must(t, err)
	return c
}

func mustComplete(t *testing.T, blobs storage.Blobs, c storage.Checkpoint, content []byte) {
	t.Helper()
	must(t, blobs.Complete(t.Context(), c))
	must(t, Check(t.Context(), blobs, c, content))
}

func wantError(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: got %v, want %v", what, err, want)
	}
}
