package metadata

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// reserveSize is the space in bytes that is kept for a full disk: some thousand deletes.
	reserveSize = 4 << 20
	// refillEvery is how often a reserve that was used is made again, if there is space.
	refillEvery = time.Minute
)

// reserve is a file that takes up space beside the database until the disk is full: then it is emptied, so that deletes
// can be recorded. Others fill disks too, whatever the registry itself leaves free.
type reserve struct {
	path  string
	held  bool // the file has its size
	tried time.Time
}

// openReserve returns the reserve of a database, made if missing, where there is space.
func openReserve(database string) reserve {
	r := reserve{path: database + ".reserve"}
	if info, err := os.Stat(r.path); err == nil && info.Size() >= reserveSize {
		r.held = true
	}
	r.refill()
	return r
}

// refill makes the reserve again after it was used. That there is no space for it is no error.
func (r *reserve) refill() {
	if r.held || time.Since(r.tried) < refillEvery {
		return
	}
	r.tried = time.Now()
	f, err := os.OpenFile(r.path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return
	}
	defer f.Close()
	err = unix.Fallocate(int(f.Fd()), 0, 0, reserveSize)
	if errors.Is(err, unix.EOPNOTSUPP) {
		_, err = f.Write(make([]byte, reserveSize))
	}
	if err != nil {
		_ = f.Truncate(0) // what it got is of more use to others
		return
	}
	r.held = true
}

// release gives the space back, and reports whether there was any.
func (r *reserve) release() bool {
	if !r.held {
		return false
	}
	r.held, r.tried = false, time.Now()
	f, err := os.OpenFile(r.path, os.O_WRONLY, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	return f.Truncate(0) == nil && f.Sync() == nil // some file systems free space with the next sync only
}
