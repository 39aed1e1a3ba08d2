// Package filelock keeps two processes from working on the same files.
//
// A lock is the kernel's: it ends with the process that holds it, however that ends, and works between processes of one
// machine only. It does not keep anybody out who does not ask for it.
package filelock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// ErrHeld says that another process holds a lock.
var ErrHeld = errors.New("in use by another process")

// poll is the time between two tries.
const poll = 50 * time.Millisecond

// Lock is a held lock. Close lets go of it.
type Lock struct{ file *os.File }

// Take locks the file at path, which is made if missing and stays. It waits so long for another process to let go of it,
// and fails with ErrHeld after that.
func Take(ctx context.Context, path string, wait time.Duration) (*Lock, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	if err := take(ctx, f, wait); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
	}
	return &Lock{f}, nil
}

func take(ctx context.Context, f *os.File, wait time.Duration) error {
	for deadline := time.Now().Add(wait); ; {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return err
		}
		if time.Now().After(deadline) {
			return ErrHeld
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(poll):
		}
	}
}

// Close lets go of the lock. The file stays: removing it would let two processes lock two files of one name.
func (l *Lock) Close() error { return l.file.Close() }
