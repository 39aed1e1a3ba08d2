package registry

import (
	"sync"
	"syscall"
	"time"
)

// buffersKept is how long buffers that nobody uses hold memory. Clients push one layer after the other.
const buffersKept = 5 * time.Second

// buffers are reused between transfers. They are no part of the heap: what that holds is what its garbage may grow with, so that each
// buffer of a large push would cost two more. With a size they are ready.
type buffers struct {
	size int // bytes of each

	mu        sync.Mutex
	free      [][]byte // the one that was given back last is taken next, so that the first ones rest
	untouched int      // how many of them were not taken since emptying was planned
	planned   bool
}

// get returns a buffer, whose content is anything.
func (b *buffers) get() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := len(b.free)
	if n == 0 {
		return allocate(b.size)
	}
	p := b.free[n-1]
	b.free = b.free[:n-1]
	b.untouched = min(b.untouched, n-1)
	return p
}

// put gives a buffer back. Its memory goes back to the system when it is not needed for a while; its addresses stay reserved.
func (b *buffers) put(p []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.free = append(b.free, p[:b.size])
	if !b.planned {
		b.plan()
	}
}

func (b *buffers) plan() {
	b.planned, b.untouched = true, len(b.free)
	time.AfterFunc(buffersKept, b.empty)
}

// empty gives back the memory of those that rested since this was planned.
func (b *buffers) empty() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range b.free[:b.untouched] {
		discard(p)
	}
	b.planned = false
	if len(b.free) > b.untouched {
		b.plan()
	}
}

// allocate returns memory of its own, which holds nothing until it is written to.
func allocate(size int) []byte {
	p, err := syscall.Mmap(-1, 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		return make([]byte, size) // there may be too many mappings
	}
	return p
}

// discard gives the memory of what allocate returned back to the system. What was there is zeros, or still there where that fails.
func discard(p []byte) { _ = syscall.Madvise(p, syscall.MADV_DONTNEED) }
