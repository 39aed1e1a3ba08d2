package filelock

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func take1(t *testing.T, path string) *Lock {
	t.Helper()
	l, err := Take(t.Context(), path, 0)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestTake(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	l := take1(t, path)
	if _, err := Take(t.Context(), path, 0); !errors.Is(err, ErrHeld) {
		t.Errorf("a second time: %v", err)
	}
	begun := time.Now()
	if _, err := Take(t.Context(), path, 3*poll); !errors.Is(err, ErrHeld) || time.Since(begun) < 3*poll {
		t.Errorf("after %s: %v", time.Since(begun), err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = take1(t, path)
	defer l.Close()
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
}

func TestWait(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	l := take1(t, path)
	taken := make(chan error)
	go func() {
		second, err := Take(context.Background(), path, time.Minute)
		if err == nil {
			err = second.Close()
		}
		taken <- err
	}()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-taken; err != nil {
		t.Errorf("waited in vain: %v", err)
	}
}

func TestCancelled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	l := take1(t, path)
	defer l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Take(ctx, path, time.Minute); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestNoDirectory(t *testing.T) {
	if _, err := Take(t.Context(), filepath.Join(t.TempDir(), "a", "lock"), 0); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without its directory: %v", err)
	}
}
