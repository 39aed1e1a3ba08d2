package auth

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
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
		var running sync.WaitGroup
		var refused atomic.Int64
		crowd := func(network string) {
			for range maxWaitingThere {
				running.Go(func() {
					if turns.take(network, time.Minute) {
						t.Error("a turn came from nowhere")
					}
					refused.Add(1)
				})
			}
			synctest.Wait()
		}
		crowd("a")
		if turns.take("a", time.Hour) {
			t.Error("the line is too long, and another got in")
		}
		waiting := func(network string) (all, there int) {
			turns.mu.Lock()
			defer turns.mu.Unlock()
			return turns.count, len(turns.waiting[network])
		}
		networks := maxWaiting / maxWaitingThere
		for n := range networks - 1 {
			crowd(fmt.Sprint(n))
		}
		if all, _ := waiting("a"); all != maxWaiting || refused.Load() != 0 {
			t.Fatalf("%d wait, and %d were refused", all, refused.Load())
		}
		// Another network gets its share of the room, from those with the longest lines, who are told at once.
		share := maxWaiting / (networks + 1)
		for n := range maxWaitingThere {
			running.Go(func() {
				turns.take("b", time.Minute)
				refused.Add(1)
			})
			synctest.Wait()
			if all, there := waiting("b"); all != maxWaiting || there != min(n+1, share) || int(refused.Load()) != n+1 {
				t.Fatalf("%d wait, %d of them there, and %d were refused", all, there, refused.Load())
			}
		}
		for n := range networks - 1 {
			if _, there := waiting(fmt.Sprint(n)); there < share {
				t.Errorf("%d wait in network %d, want %d at least", there, n, share)
			}
		}
		running.Wait() // for a minute
		if turns.count != 0 || len(turns.order) != 0 {
			t.Errorf("%d still wait", turns.count)
		}
		turns.give()
		if !turns.take("b", 0) {
			t.Error("a free turn was not given")
		}
	})
}

func TestNetwork(t *testing.T) {
	for remote, want := range map[string][2]string{
		"192.0.2.1":            {"192.0.2.1", "192.0.2.1"},
		"::ffff:192.0.2.1":     {"192.0.2.1", "192.0.2.1"},
		"2001:db8:1:2:3:4:5:6": {"2001:db8:1:2::/64", "2001:db8:1::/48"},
		"fe80::1%eth0":         {"fe80::/64", "fe80::/48"},
		"@":                    {"@", "@"},
	} {
		if got := [2]string{network(remote, addressBits), network(remote, siteBits)}; got != want {
			t.Errorf("%s: got %q, want %q", remote, got, want)
		}
	}
}

// TestOneSiteOneLine has a customer of a provider come from all over the addresses that it has.
func TestOneSiteOneLine(t *testing.T) {
	p := newTestPasswords(t, cheap(t, "ann"))
	slots := p.takeAll()
	var running sync.WaitGroup
	for n := range 5 {
		running.Go(func() { p.check(t.Context(), "ann", fmt.Sprint(n), fmt.Sprintf("2001:db8:0:%x::1", n)) })
	}
	for p.waiting() < 5 {
		time.Sleep(time.Millisecond)
	}
	p.turns.mu.Lock()
	if len(p.turns.order) != 1 {
		t.Errorf("it has the lines %q", p.turns.order)
	}
	p.turns.mu.Unlock()
	slots()
	running.Wait()
}
