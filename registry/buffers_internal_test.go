package registry

import (
	"os"
	"strconv"
	"strings"
	"testing"
)

// TestBuffers reuses buffers, and gives back the memory of those that rest, which can be used again.
func TestBuffers(t *testing.T) {
	const size, n = 1 << 20, 64
	b := &buffers{size: size, planned: true} // no timer: this test says when they are emptied
	before := resident(t)
	var taken [][]byte
	for range n {
		p := b.get()
		for i := range p {
			p[i] = 1
		}
		taken = append(taken, p)
	}
	if grown := resident(t) - before; grown < n*size*3/4 {
		t.Fatalf("%d buffers of %d bytes took %d: this test sees nothing", n, size, grown)
	}
	for _, p := range taken {
		b.put(p[:10])
	}
	b.untouched = n
	if again := b.get(); &again[0] != &taken[n-1][0] || len(again) != size {
		t.Error("the buffer that was given back last is not the next")
	} else {
		b.put(again)
	}
	b.empty() // all but the one that was taken since
	if left := resident(t) - before; left > n*size/4 {
		t.Errorf("%d bytes are left of buffers that rest", left)
	}
	if used := b.get(); used[0] != 1 || used[size-1] != 1 {
		t.Error("a buffer was emptied that had been used")
	}
	if rested := b.get(); len(rested) != size || rested[0] != 0 {
		t.Error("a buffer that rested was not emptied")
	} else {
		rested[size-1] = 1
	}
	b.put(taken[n-1])
	rests := func() bool { b.mu.Lock(); defer b.mu.Unlock(); return !b.planned }
	if b.empty(); rests() {
		t.Error("nobody will give back what was used")
	}
	b.empty()
	if b.empty(); !rests() {
		t.Error("what rests is emptied for ever")
	}
}

// resident is how many bytes of memory the process holds.
func resident(t *testing.T) int {
	t.Helper()
	stat, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(stat))[1])
	if err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize()
}
