package filesystem

import (
	"errors"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// directFrom is the size in bytes beyond which a writer goes past the page cache where it can. What is below is likely to be read soon and
	// often; of what is above, copying it there costs more than all else that is done with it but hashing.
	directFrom = 4 << 20
	// directUnit is what places and lengths of such writes are multiples of.
	directUnit = 4 << 10
	// slowDisk is how many bytes a second a disk has to take by such writes. Each waits for the disk: one that takes few writes a second is
	// faster with those that the kernel makes of many.
	slowDisk = 200 << 20
	// directAgain is after how long a slow disk is tried again: it may have been busy.
	directAgain = 10 * time.Minute
)

// directWrites decides whether large objects are written past the page cache. Its methods may be called at the same time.
type directWrites struct {
	possible bool
	running  atomic.Int64 // writes
	rate     atomic.Int64 // bytes a second that the disk took lately, less those of slowDisk
	after    atomic.Int64 // nanoseconds since 1970, before which they are not tried
}

func newDirectWrites(possible bool) *directWrites {
	d := &directWrites{possible: possible}
	d.rate.Store(slowDisk) // the first few may be slow, too
	return d
}

// pay reports whether such writes are worth it.
func (d *directWrites) pay(now time.Time) bool { return d.possible && now.UnixNano() >= d.after.Load() }

// note takes down that a write of n bytes, which ended now, took so long beside others: running of them, itself included.
func (d *directWrites) note(now time.Time, n int, running int64, took time.Duration) {
	const newest = 64 // the newest write is this part of what counts: a processor that others take for a moment makes a dozen look slow
	rate := int64(float64(n)*float64(running)/max(took, time.Microsecond).Seconds()) - slowDisk
	lately := d.rate.Load()
	lately += (min(rate, 4*slowDisk) - lately) / newest // a single fast one says little
	if lately < 0 {
		d.after.Store(now.Add(directAgain).UnixNano())
		lately = slowDisk
	}
	d.rate.Store(lately)
}

// write calls a write of n bytes past the page cache.
func (d *directWrites) write(n int, call func() (int, error)) (int, error) {
	running, began := d.running.Add(1), time.Now()
	written, err := call()
	d.running.Add(-1)
	if err == nil {
		now := time.Now()
		d.note(now, n, running, now.Sub(began))
	}
	return written, err
}

// put writes p, past the page cache where that is worth it.
func (w *writer) put(p []byte) (int, error) {
	w.steer(p)
	if !w.direct {
		return w.file.Write(p)
	}
	n, err := w.store.direct.write(len(p), func() (int, error) { return w.file.Write(p) })
	if errors.Is(err, syscall.EINVAL) { // the file system wants other multiples
		w.refused = true
		w.steer(nil)
		var more int
		more, err = w.file.Write(p[n:])
		n += more
	}
	return n, err
}

// steer has the next write of p go past the page cache, or not.
func (w *writer) steer(p []byte) {
	want := len(p) > 0 && !w.refused && w.size >= directFrom && (w.size|int64(len(p)))%directUnit == 0 && w.store.direct.pay(time.Now())
	if want == w.direct {
		return
	}
	if setDirect(w.file, want) {
		w.direct = want
	} else {
		w.refused = true
	}
}
