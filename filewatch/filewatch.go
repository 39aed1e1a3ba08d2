// Package filewatch notices when a small file's content changes, however it is replaced: written in place, renamed over, or
// through symbolic links that are swapped, as Kubernetes and certbot do.
//
// It guarantees that a change is reported within a second, and that content is reported only after it stayed the same for
// two looks, so that a file that is just being written is not taken for a short one. It does not tell changes apart that
// follow each other faster. It reads the whole file at each look.
package filewatch

import (
	"context"
	"crypto/sha256"
	"os"
	"time"
)

// interval is the time between two looks: a change is reported after two of them.
const interval = 250 * time.Millisecond

// Follow calls changed with the content of the file at path whenever it is another than before, first than known. That the
// file can't be read is a change too, which changed gets as an error. It returns when ctx ends.
func Follow(ctx context.Context, path string, known []byte, changed func(data []byte, err error)) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	f := follower{reported: sha256.Sum256(known)}
	f.seen = f.reported
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if data, err := os.ReadFile(path); f.settled(data, err) {
			changed(data, err)
		}
	}
}

// follower compares contents by their sums.
type follower struct{ reported, seen [sha256.Size]byte }

// settled reports whether a look found what the one before it did, and nobody was told of it yet.
func (f *follower) settled(data []byte, err error) bool {
	sum := sha256.Sum256(data)
	if err != nil {
		sum = sha256.Sum256([]byte("error: " + err.Error()))
	}
	before := f.seen
	f.seen = sum
	if sum != before || sum == f.reported {
		return false
	}
	f.reported = sum
	return true
}
