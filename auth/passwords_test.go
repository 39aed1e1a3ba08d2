package auth

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// cheap returns users whose passwords are their names, with hashes that are quick to compare.
func cheap(t testing.TB, names ...string) *Users {
	t.Helper()
	users := newUsers()
	for _, name := range names {
		hash, err := bcrypt.GenerateFromPassword([]byte(name), bcrypt.MinCost)
		if err == nil {
			err = users.add(name, string(hash))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return users
}

func newTestPasswords(t testing.TB, users *Users) *passwords {
	t.Helper()
	p := newPasswords(users)
	t.Cleanup(p.close)
	return p
}

// TestRemembered looks whether the second check asks bcrypt: nobody could answer it then.
func TestRemembered(t *testing.T) {
	p := newTestPasswords(t, cheap(t, "ann", "bob"))
	if result, _ := p.check(t.Context(), "ann", "ann", "a"); result != right {
		t.Fatalf("got %v", result)
	}
	p.slots <- struct{}{}
	for range cap(p.slots) - 1 {
		p.slots <- struct{}{}
	}
	if result, _ := p.check(t.Context(), "ann", "ann", "another"); result != right {
		t.Errorf("got %v, and not from memory", result)
	}
	for range cap(p.slots) {
		<-p.slots
	}
	// Another entry for the same user, even with the same password, is another credential.
	old := p.users.Load()
	p.users.Store(cheap(t, "ann"))
	hash, _ := p.users.Load().entry("ann")
	if p.remembers(p.credential("ann", "ann", hash)) {
		t.Error("the old entry vouches for the new one")
	}
	p.users.Store(cheap(t, "bob"))
	if result, _ := p.check(t.Context(), "ann", "ann", "a"); result != wrong {
		t.Errorf("a user who was removed: %v", result)
	}
	p.users.Store(old)
	if result, _ := p.check(t.Context(), "ann", "ann", "a"); result != right {
		t.Errorf("a user who is back: %v", result)
	}
}

func TestCredentialsDiffer(t *testing.T) {
	p := newTestPasswords(t, cheap(t))
	seen := make(map[credential]bool)
	for _, c := range [][3]string{{"a", "b", "c"}, {"ab", "", "c"}, {"", "ab", "c"}, {"a", "", "bc"}, {"a", "bc", ""}, {"b", "a", "c"}} {
		seen[p.credential(c[0], c[1], []byte(c[2]))] = true
	}
	if len(seen) != 6 {
		t.Errorf("6 credentials have %d hashes", len(seen))
	}
	other := newTestPasswords(t, cheap(t))
	if p.credential("a", "b", nil) == other.credential("a", "b", nil) {
		t.Error("the hash is not keyed")
	}
}

func TestLimit(t *testing.T) {
	p := newTestPasswords(t, cheap(t, "ann", "bob"))
	count := func(user, remote string, tries int) (failed, refused int) {
		for i := range tries {
			switch result, wait := p.check(t.Context(), user, fmt.Sprint("wrong", i), remote); result {
			case wrong:
				failed++
			case tooMany:
				refused++
				if wait <= 0 {
					t.Errorf("try again after %v", wait)
				}
			default:
				t.Errorf("got %v", result)
			}
		}
		return failed, refused
	}
	if failed, refused := count("ann", "192.0.2.1", failureBurst+2); failed != failureBurst || refused != 2 {
		t.Errorf("%d failed, %d were refused", failed, refused)
	}
	// Right passwords from there have to wait, too; those from elsewhere and of others don't.
	if result, _ := p.check(t.Context(), "ann", "ann", "192.0.2.1"); result != tooMany {
		t.Errorf("got %v", result)
	}
	if result, _ := p.check(t.Context(), "ann", "ann", "192.0.2.2"); result != right {
		t.Errorf("from another address: %v", result)
	}
	if result, _ := p.check(t.Context(), "bob", "bob", "192.0.2.1"); result != right {
		t.Errorf("another user: %v", result)
	}
	// What was right once is right now.
	if result, _ := p.check(t.Context(), "ann", "ann", "192.0.2.1"); result != right {
		t.Errorf("remembered: %v", result)
	}
	// One network of IPv6 is one address.
	for i := range failureBurst {
		count("bob", fmt.Sprintf("2001:db8::%x", i+1), 1)
	}
	if failed, _ := count("bob", "2001:db8::ffff", 1); failed != 0 {
		t.Error("another address of the same network has tries of its own")
	}
	if failed, _ := count("bob", "2001:db8:0:1::1", 1); failed != 1 {
		t.Error("another network has none")
	}
}

func TestLimitComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := newAttempts()
		fail := func() bool {
			c := credential{1}
			_, ok := a.begin(c)
			if ok {
				a.end(c, true)
			}
			return ok
		}
		for fail() {
		}
		time.Sleep(failureInterval + time.Second)
		if !fail() || fail() {
			t.Error("after the interval there is not one try")
		}
	})
}

// TestPendingCounts keeps many tries from being made at once, before any of them failed.
func TestPendingCounts(t *testing.T) {
	a, _ := newAttempts()
	for i := range failureBurst {
		if _, ok := a.begin(credential{byte(i)}); !ok {
			t.Fatalf("try %d was refused", i)
		}
	}
	if _, ok := a.begin(credential{200}); ok {
		t.Error("more were begun than may fail")
	}
	if _, ok := a.begin(credential{0}); !ok {
		t.Error("the same again was refused")
	}
	a.end(credential{0}, true)
	for i := range failureBurst {
		a.end(credential{byte(i)}, i == 0)
	}
	for i := range failureBurst - 1 {
		if _, ok := a.begin(credential{byte(i)}); !ok {
			t.Errorf("one failed, and try %d is refused", i)
		}
	}
	if _, ok := a.begin(credential{201}); ok {
		t.Error("a failure was forgotten")
	}
}

// TestShared has many ask for the same at once: the slots are taken until all have come.
func TestShared(t *testing.T) {
	p := newTestPasswords(t, cheap(t, "ann"))
	for range cap(p.slots) {
		p.slots <- struct{}{}
	}
	var running sync.WaitGroup
	var failed atomic.Int64
	for i := range 100 {
		running.Go(func() {
			if result, _ := p.check(context.Background(), "ann", "ann", fmt.Sprint(i%3)); result != right {
				failed.Add(1)
			}
		})
	}
	for { // until the first of them waits for its turn
		tries, ok := p.failing.GetIfPresent(origin{"ann", "0"})
		if ok {
			tries.mu.Lock()
			pending := len(tries.pending)
			tries.mu.Unlock()
			if pending > 0 {
				break
			}
		}
		time.Sleep(time.Millisecond)
	}
	for range cap(p.slots) {
		<-p.slots
	}
	running.Wait()
	if failed.Load() > 0 {
		t.Errorf("%d of 100 failed", failed.Load())
	}
}

// TestUnknownUsersTakeAsLong compares the medians of many: an answer without bcrypt is quicker by a factor of thousands,
// one with another cost by two.
func TestUnknownUsersTakeAsLong(t *testing.T) {
	users, err := ParseHtpasswd([]byte("cheap:" + hashA))
	if err != nil {
		t.Fatal(err)
	}
	hash, err := HashPassword([]byte("password"), 6)
	if err != nil {
		t.Fatal(err)
	}
	if err := users.add("alice", hash); err != nil {
		t.Fatal(err)
	}
	p := newTestPasswords(t, users)
	times := map[string][]time.Duration{}
	for i := range 60 {
		for _, user := range []string{"alice", "nobody"} {
			began := time.Now()
			if result, _ := p.check(t.Context(), user, "another", fmt.Sprint(i)); result != wrong {
				t.Fatalf("got %v", result)
			}
			times[user] = append(times[user], time.Since(began))
		}
	}
	median := func(user string) time.Duration {
		slices.Sort(times[user])
		return times[user][len(times[user])/2]
	}
	known, unknown := median("alice"), median("nobody")
	t.Logf("known %v, unknown %v", known, unknown)
	if unknown < known*2/3 || known < unknown*2/3 {
		t.Errorf("a known user takes %v, an unknown one %v", known, unknown)
	}
}

func TestNobody(t *testing.T) {
	users, err := ParseHtpasswd([]byte("# nobody yet\n"))
	if err != nil {
		t.Fatal(err)
	}
	if len(users.Names()) != 0 || users.generation("ann") != "" || verify(t, users, "ann", "ann") || verify(t, users, "", "") {
		t.Error("an empty file lets somebody in")
	}
	if _, err := checkHash(nobody); err != nil {
		t.Error(err)
	}
}
