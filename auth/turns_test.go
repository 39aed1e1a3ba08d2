package auth

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestTurns has a crowd wait in one network and one client in another, who is served second.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns(1)
		if !turns.take("first", time.Hour) {
			t.Fatal("a free turn was not given")
		}
		var mu sync.Mutex
		var served []string
		for i := range 5 {
			go func() {
				turns.take("crowd", time.Hour)
				mu.Lock()
				defer mu.Unlock()
				served = append(served, fmt.Sprint("crowd ", i))
			}()
			synctest.Wait()
		}
		go func() {
			turns.take("one", time.Hour)
			mu.Lock()
			defer mu.Unlock()
			served = append(served, "one")
		}()
		synctest.Wait()
		for range 6 {
			turns.give()
			synctest.Wait()
		}
		if want := []string{"crowd 0", "one", "crowd 1", "crowd 2", "crowd 3", "crowd 4"}; !slices.Equal(served, want) {
			t.Errorf("served %q", served)
		}
		turns.give()
		if turns.free != 1 || len(turns.waiting)+len(turns.order)+turns.count != 0 {
			t.Errorf("left is %+v", turns)
		}
	})
}

func TestTurnsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns(1)
		turns.take("a", 0)
		var given sync.WaitGroup
		for range maxWaitingThere {
			given.Go(func() {
				if turns.take("a", time.Minute) {
					t.Error("a turn came from nowhere")
				}
			})
		}
		synctest.Wait()
		if turns.take("a", time.Hour) {
			t.Error("the line is too long, and another got in")
		}
		networks := (maxWaiting - maxWaitingThere) / maxWaitingThere
		for n := range networks {
			for range maxWaitingThere {
				given.Go(func() { turns.take(fmt.Sprint(n), time.Minute) })
			}
		}
		synctest.Wait()
		if turns.take("b", time.Hour) {
			t.Error("too many wait in all, and another got in")
		}
		given.Wait() // for a minute
		if turns.count != 0 || len(turns.order) != 0 {
			t.Errorf("%d still wait", turns.count)
		}
		turns.give()
		if !turns.take("b", 0) {
			t.Error("a free turn was not given")
		}
	})
}
