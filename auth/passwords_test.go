package auth

import (
	"context"
	"fmt"
	"slices"
	"strings"
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

// takeAll takes all turns, until the returned function is called.
func (p *passwords) takeAll() (give func()) {
	p.turns.mu.Lock()
	defer p.turns.mu.Unlock()
	free := p.turns.free
	p.turns.free = 0
	return func() {
		for range free {
			p.turns.give()
		}
	}
}

// TestOldPassword changes the users while a check with the old password waits for its turn.
func TestOldPassword(t *testing.T) {
	p := newTestPasswords(t, cheap(t, "ann"))
	slots := p.takeAll()
	answer := make(chan checked)
	go func() { answer <- p.check(t.Context(), "ann", "ann", "a") }()
	for p.waiting() == 0 {
		time.Sleep(time.Millisecond)
	}
	p.setUsers(cheap(t, "ann")) // the same password, hashed again: another credential
	slots()
	if got := <-answer; got.outcome != wrong {
		t.Errorf("got %+v", got)
	}
	if got := p.check(t.Context(), "ann", "ann", "a"); got.outcome != right || got.generation != p.users.Load().generation("ann") {
		t.Errorf("got %+v", got)
	}
}

func (p *passwords) waiting() int {
	p.turns.mu.Lock()
	defer p.turns.mu.Unlock()
	return p.turns.count
}

// TestHangingUp counts a failure of a client that did not wait for it.
func TestHangingUp(t *testing.T) {
	p := newTestPasswords(t, cheap(t, "ann"))
	slots := p.takeAll()
	for i := range failureBurst {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if got := p.check(ctx, "ann", fmt.Sprint("wrong", i), "a"); got.outcome == right {
			t.Errorf("got %+v", got)
		}
	}
	if got := p.check(t.Context(), "ann", "ann", "a"); got.outcome != tooMany {
		t.Errorf("after %d failures: %+v", failureBurst, got)
	}
	slots()
}

// TestLongInput is as wrong as any other, and is counted and slowed down as any other.
func TestLongInput(t *testing.T) {
	p := newTestPasswords(t, cheap(t, "ann"))
	for _, c := range [][2]string{{strings.Repeat("n", maxName+1), "x"}, {"ann", strings.Repeat("p", maxChecked+1)}} {
		for i := range failureBurst {
			if got := p.check(t.Context(), c[0], c[1]+fmt.Sprint(i), "a"); got.outcome != wrong {
				t.Errorf("got %+v", got)
			}
		}
		if got := p.check(t.Context(), c[0], c[1], "a"); got.outcome != tooMany {
			t.Errorf("got %+v", got)
		}
	}
	// Of a password that begins with the right one, bcrypt may read that only.
	long := strings.Repeat("p", maxPassword)
	hash, err := HashPassword([]byte(long), 4)
	if err != nil {
		t.Fatal(err)
	}
	users, err := SingleUser("eve", hash)
	if err != nil {
		t.Fatal(err)
	}
	p.setUsers(users)
	if got := p.check(t.Context(), "eve", long+strings.Repeat("p", maxChecked), "a"); got.outcome != wrong {
		t.Errorf("got %+v", got)
	}
	if got := p.check(t.Context(), "eve", long, "a"); got.outcome != right {
		t.Errorf("got %+v", got)
	}
}

// TestRemembered looks whether the second check asks bcrypt: nobody could answer it then.
func TestRemembered(t *testing.T) {
	p := newTestPasswords(t, cheap(t, "ann", "bob"))
	if result := p.check(t.Context(), "ann", "ann", "a"); result.outcome != right {
		t.Fatalf("got %v", result.outcome)
	}
	slots := p.takeAll()
	if result := p.check(t.Context(), "ann", "ann", "another"); result.outcome != right {
		t.Errorf("got %v, and not from memory", result.outcome)
	}
	slots()
	// Another entry for the same user, even with the same password, is another credential.
	old := p.users.Load()
	p.users.Store(cheap(t, "ann"))
	hash, _ := p.users.Load().entry("ann")
	if p.remembers(p.hash("ann", "ann", string(hash))) {
		t.Error("the old entry vouches for the new one")
	}
	p.users.Store(cheap(t, "bob"))
	if result := p.check(t.Context(), "ann", "ann", "a"); result.outcome != wrong {
		t.Errorf("a user who was removed: %v", result.outcome)
	}
	p.users.Store(old)
	if result := p.check(t.Context(), "ann", "ann", "a"); result.outcome != right {
		t.Errorf("a user who is back: %v", result.outcome)
	}
}

func TestCredentialsDiffer(t *testing.T) {
	p := newTestPasswords(t, cheap(t))
	seen := make(map[keyed]bool)
	for _, c := range [][3]string{{"a", "b", "c"}, {"ab", "", "c"}, {"", "ab", "c"}, {"a", "", "bc"}, {"a", "bc", ""}, {"b", "a", "c"}} {
		seen[p.hash(c[0], c[1], c[2])] = true
	}
	if len(seen) != 6 {
		t.Errorf("6 credentials have %d hashes", len(seen))
	}
	other := newTestPasswords(t, cheap(t))
	if p.hash("a", "b") == other.hash("a", "b") {
		t.Error("the hash is not keyed")
	}
}

func TestLimit(t *testing.T) {
	p := newTestPasswords(t, cheap(t, "ann", "bob"))
	count := func(user, remote string, tries int) (failed, refused int) {
		for i := range tries {
			switch result := p.check(t.Context(), user, fmt.Sprint("wrong", i), remote); result.outcome {
			case wrong:
				failed++
			case tooMany:
				refused++
				if result.wait <= 0 {
					t.Errorf("try again after %v", result.wait)
				}
			default:
				t.Errorf("got %v", result.outcome)
			}
		}
		return failed, refused
	}
	if failed, refused := count("ann", "192.0.2.1", failureBurst+2); failed != failureBurst || refused != 2 {
		t.Errorf("%d failed, %d were refused", failed, refused)
	}
	// Right passwords from there have to wait, too; those from elsewhere and of others don't.
	if result := p.check(t.Context(), "ann", "ann", "192.0.2.1"); result.outcome != tooMany {
		t.Errorf("got %v", result.outcome)
	}
	if result := p.check(t.Context(), "ann", "ann", "192.0.2.2"); result.outcome != right {
		t.Errorf("from another address: %v", result.outcome)
	}
	if result := p.check(t.Context(), "bob", "bob", "192.0.2.1"); result.outcome != right {
		t.Errorf("another user: %v", result.outcome)
	}
	// What was right once is right now.
	if result := p.check(t.Context(), "ann", "ann", "192.0.2.1"); result.outcome != right {
		t.Errorf("remembered: %v", result.outcome)
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
			c := keyed{1}
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
		if _, ok := a.begin(keyed{byte(i)}); !ok {
			t.Fatalf("try %d was refused", i)
		}
	}
	if _, ok := a.begin(keyed{200}); ok {
		t.Error("more were begun than may fail")
	}
	if _, ok := a.begin(keyed{0}); !ok {
		t.Error("the same again was refused")
	}
	a.end(keyed{0}, true)
	for i := range failureBurst {
		a.end(keyed{byte(i)}, i == 0)
	}
	for i := range failureBurst - 1 {
		if _, ok := a.begin(keyed{byte(i)}); !ok {
			t.Errorf("one failed, and try %d is refused", i)
		}
	}
	if _, ok := a.begin(keyed{201}); ok {
		t.Error("a failure was forgotten")
	}
}

// TestShared has many ask for the same at once: the slots are taken until all have come.
func TestShared(t *testing.T) {
	p := newTestPasswords(t, cheap(t, "ann"))
	slots := p.takeAll()
	var running sync.WaitGroup
	var failed atomic.Int64
	for i := range 100 {
		running.Go(func() {
			if result := p.check(context.Background(), "ann", "ann", fmt.Sprint(i%3)); result.outcome != right {
				failed.Add(1)
			}
		})
	}
	for { // until the first of them waits for its turn
		tries, ok := p.failing.GetIfPresent(p.hash("ann", "0"))
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
	slots()
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
			if result := p.check(t.Context(), user, "another", fmt.Sprint(i)); result.outcome != wrong {
				t.Fatalf("got %v", result.outcome)
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
