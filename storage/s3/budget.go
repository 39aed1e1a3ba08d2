package s3

import (
	"cmp"
	"context"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	// slabSize is how memory is accounted: what arrives takes a slab at a time, so that a part which fills slowly holds little.
	slabSize = 64 << 10
	// idleSlabs stay in memory for the next uploads when nobody uploads.
	idleSlabs = 64
)

// budget shares a number of slabs between all writers of a store, without ever letting them block each other for good. It is the
// banker's algorithm for one resource: a slab is granted only when afterwards there still is an order in which every writer can
// fill its part, each with what is free and what those before it gave back. Its methods may be called at the same time.
//
// The slabs are outside of the heap: the garbage collector lets garbage grow in proportion to what is in there, and the process would
// hold twice the budget.
type budget struct {
	mu      sync.Mutex
	total   int
	largest int    // slabs of the largest part
	used    int    // slabs that are held by accounts or being sent
	memory  []byte // of all slabs; the system gives it page by page when it is written to
	made    int    // slabs of memory, its first ones, that are used or free
	free    [][]byte
	holders map[*account]struct{} // accounts that hold slabs
	waiting []*request            // in the order of their arrival
}

// account is what one writer holds for the part that it is filling.
type account struct {
	held int
	part int // slabs that the part may take
}

// request is an account that waits for a slab.
type request struct {
	account *account
	granted chan []byte // with room for one
}

// newBudget returns a budget of so many bytes for parts of at most largest bytes, which has to be less.
func newBudget(bytes, largest int64) *budget {
	b := &budget{total: int(bytes / slabSize), largest: slabs(largest), holders: map[*account]struct{}{}}
	memory, err := unix.Mmap(-1, 0, b.total*slabSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_NORESERVE)
	if err != nil {
		memory = make([]byte, b.total*slabSize) // which costs more, but works
	} else {
		// Everyone with a slab has the budget too. A connection that is given up may read from one after it was given back.
		runtime.AddCleanup(b, func(memory []byte) { _ = unix.Munmap(memory) }, memory)
	}
	b.memory = memory
	return b
}

// slabs is how many of them n bytes take.
func slabs(n int64) int { return int((n + slabSize - 1) / slabSize) }

// take grants a slab to an account that holds fewer than its part takes. It waits while that might block others for good.
func (b *budget) take(ctx context.Context, a *account) ([]byte, error) {
	b.mu.Lock()
	if b.safe(a) {
		defer b.mu.Unlock()
		return b.grant(a), nil
	}
	r := &request{account: a, granted: make(chan []byte, 1)}
	b.waiting = append(b.waiting, r)
	b.mu.Unlock()

	select {
	case slab := <-r.granted:
		return slab, nil
	case <-ctx.Done():
		b.withdraw(r)
		return nil, ctx.Err()
	}
}

// withdraw ends a request that nobody waits for any more.
func (b *budget) withdraw(r *request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if i := slices.Index(b.waiting, r); i >= 0 {
		b.waiting = slices.Delete(b.waiting, i, i+1)
		return
	}
	slab := <-r.granted
	b.drop(r.account, 1)
	b.put(slab)
	b.serve()
}

// detach takes what an account holds out of it: its part is being sent, and will come back through release.
func (b *budget) detach(a *account) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.drop(a, a.held)
	b.serve()
}

// release gives slabs back that belong to no account.
func (b *budget) release(slabs [][]byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, slab := range slabs {
		b.put(slab)
	}
	b.serve()
}

// The rest is called with the lock held.

// safe says whether a slab for a leaves everybody able to fill a part. What is being sent counts as free: it comes back
// without taking more.
func (b *budget) safe(a *account) bool {
	if b.used >= b.total {
		return false
	}
	left := b.total - 1
	for h := range b.holders {
		left -= h.held
	}
	if left >= b.largest {
		return true // for anybody, and whoever fills a part gives back what it held
	}
	return b.order(a, left)
}

// order looks for the order in which all can fill their parts when left slabs are free: who needs least goes first.
func (b *budget) order(a *account, left int) bool {
	type want struct{ need, held int }
	wants := []want{{a.part - a.held - 1, a.held + 1}}
	for h := range b.holders {
		if h != a {
			wants = append(wants, want{h.part - h.held, h.held})
		}
	}
	slices.SortFunc(wants, func(x, y want) int { return cmp.Compare(x.need, y.need) })
	for _, w := range wants {
		if w.need > left {
			return false
		}
		left += w.held
	}
	return true
}

func (b *budget) grant(a *account) []byte {
	a.held++
	b.holders[a] = struct{}{}
	b.used++
	if n := len(b.free); n > 0 {
		slab := b.free[n-1]
		b.free = b.free[:n-1]
		return slab
	}
	at := b.made * slabSize
	b.made++
	return b.memory[at : at+slabSize : at+slabSize]
}

func (b *budget) drop(a *account, n int) {
	if a.held -= n; a.held == 0 {
		delete(b.holders, a)
	}
}

func (b *budget) put(slab []byte) {
	b.free = append(b.free, slab)
	if b.used--; b.used == 0 && b.made > idleSlabs {
		_ = unix.Madvise(b.memory[idleSlabs*slabSize:b.made*slabSize], unix.MADV_DONTNEED) // else it stays
		b.made, b.free = 0, nil
	}
}

// serve grants what can be granted now, first come first served among those that can be.
func (b *budget) serve() {
	b.waiting = slices.DeleteFunc(b.waiting, func(r *request) bool {
		if !b.safe(r.account) {
			return false
		}
		r.granted <- b.grant(r.account)
		return true
	})
}
