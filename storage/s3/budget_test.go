package s3

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"berth/storage/storagetest"
)

// TestBudgetProgress has many writers fill parts of different sizes at different speeds under a budget that holds few of them. Every
// one of them gets to its end, and the budget is never exceeded.
func TestBudgetProgress(t *testing.T) {
	const total, largest, writers, parts = 40, 10, 60, 30
	synctest.Test(t, func(t *testing.T) {
		b := newBudget(total*slabSize, largest*slabSize)
		var used, most atomic.Int64
		var wg sync.WaitGroup
		for i := range writers {
			wg.Go(func() {
				random := rand.New(rand.NewPCG(1, uint64(i)))
				for range parts {
					a := &account{part: 1 + random.IntN(largest)}
					var held [][]byte
					for range a.part {
						slab, err := b.take(t.Context(), a)
						if err != nil {
							t.Error(err)
							return
						}
						most.Store(max(most.Load(), used.Add(1)))
						held = append(held, slab)
						time.Sleep(time.Duration(random.IntN(1000)) * time.Microsecond) // of the bubble: until more arrives
					}
					b.detach(a)
					time.Sleep(time.Millisecond) // while it is sent
					used.Add(-int64(len(held)))
					b.release(held)
				}
			})
		}
		wg.Wait()
		if most.Load() > total || most.Load() <= largest {
			t.Errorf("%d slabs were used at once, of %d", most.Load(), total)
		}
		if b.used != 0 || len(b.holders) != 0 || len(b.waiting) != 0 || len(b.free) > total {
			t.Errorf("left: %d used, %d holders, %d waiting, %d free", b.used, len(b.holders), len(b.waiting), len(b.free))
		}
	})
}

// TestBudgetKeepsEnough has as many writers hold something as can, and lets each that waits go on only when that is safe.
func TestBudgetKeepsEnough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const total, part = 16, 4
		b := newBudget(total*slabSize, part*slabSize)
		accounts := make([]account, total)
		granted := make(chan *account, total)
		ctx, cancel := context.WithCancel(t.Context())
		for i := range accounts {
			accounts[i].part = part
			go func() {
				if _, err := b.take(ctx, &accounts[i]); err == nil {
					granted <- &accounts[i]
				} else if !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
			}()
		}
		synctest.Wait()
		// One more, and none could have its other three.
		if want := total - (part - 1); len(granted) != want {
			t.Errorf("%d accounts got a slab, want %d", len(granted), want)
		}
		first := <-granted
		for range part - 1 {
			if _, err := b.take(t.Context(), first); err != nil {
				t.Fatal(err)
			}
		}
		cancel()
		synctest.Wait()
		if len(b.waiting) != 0 {
			t.Errorf("%d still wait", len(b.waiting))
		}
	})
}

// TestBudgetWithdrawn cancels a request at the moment in which it is granted: the slab goes back.
func TestBudgetWithdrawn(t *testing.T) {
	b := newBudget(4*slabSize, slabSize)
	r := &request{account: &account{part: 1}, granted: make(chan []byte, 1)}
	r.granted <- b.grant(r.account)
	b.withdraw(r)
	if b.used != 0 || r.account.held != 0 || len(b.free) != 1 {
		t.Errorf("%d used, %d held, %d free", b.used, r.account.held, len(b.free))
	}
}

// TestBudgetIdle does not keep the memory of a busy time.
func TestBudgetIdle(t *testing.T) {
	const n = 4 * idleSlabs
	b := newBudget(4*n*slabSize, n*slabSize)
	buffer := buffer{budget: b}
	buffer.reset(n * slabSize)
	if got, err := buffer.add(t.Context(), storagetest.Content(1, n*slabSize+1)); got != n*slabSize || err != nil {
		t.Fatalf("%d, %v", got, err)
	}
	buffer.detach().free()
	if kept := b.memory[:idleSlabs*slabSize]; bytes.Count(kept, []byte{0}) == len(kept) {
		t.Error("what the next uploads will need is given back")
	}
	if rest := b.memory[idleSlabs*slabSize : n*slabSize]; bytes.Count(rest, []byte{0}) != len(rest) {
		t.Error("memory is kept")
	}
	if slab := b.grant(&buffer.account); &slab[0] != &b.memory[0] {
		t.Error("what was kept is not used first")
	}
}
