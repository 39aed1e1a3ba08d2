package auth

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"
	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"
)

const (
	// maxVerified and verifiedFor bound which credentials are remembered, the latter since they were last used.
	maxVerified = 10_000
	verifiedFor = 24 * time.Hour
	// A user at an address may fail so often at once, and then once in failureInterval. A person's wrong password is two
	// failures with some clients.
	failureBurst    = 20
	failureInterval = 10 * time.Second
	// maxFailing bounds for how many of them that is counted.
	maxFailing = 10_000
	// tryTimeout is how long a check waits for its turn.
	tryTimeout = 10 * time.Second
	// refusalDelay is how long a client waits for hearing that it tries too often. A loop without pauses is slowed down by
	// it, and costs others nothing.
	refusalDelay = 100 * time.Millisecond
)

// passwords checks user names and passwords against the users of the moment. bcrypt takes some 50 ms, so a credential that
// was good is remembered.
type passwords struct {
	users atomic.Pointer[Users]
	// secret keys the hashes under which credentials are remembered, which tell nothing without it.
	secret   [32]byte
	verified *otter.Cache[credential, struct{}]
	failing  *otter.Cache[origin, *attempts]
	// slots bound how many checks run at once: others need the processors too.
	slots   chan struct{}
	running singleflight.Group
}

// credential is a keyed hash of a user's name, password and entry: with another entry it is another credential.
type credential [sha256.Size]byte

// origin is who failed, and from where.
type origin struct {
	user    string
	address string
}

func newPasswords(users *Users) *passwords {
	p := &passwords{
		verified: otter.Must(&otter.Options[credential, struct{}]{
			MaximumSize:      maxVerified,
			ExpiryCalculator: otter.ExpiryAccessing[credential, struct{}](verifiedFor),
		}),
		failing: otter.Must(&otter.Options[origin, *attempts]{
			MaximumSize:      maxFailing,
			ExpiryCalculator: otter.ExpiryAccessing[origin, *attempts](failureBurst * failureInterval),
		}),
		slots: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2)),
	}
	rand.Read(p.secret[:]) // never fails
	p.users.Store(users)
	return p
}

// setUsers replaces the users, and returns those before. Failures are forgotten: who failed may be right now.
func (p *passwords) setUsers(users *Users) (before *Users) {
	before = p.users.Swap(users)
	p.failing.InvalidateAll()
	return before
}

func (p *passwords) close() {
	p.verified.StopAllGoroutines()
	p.failing.StopAllGoroutines()
}

// outcome is what became of checking a password.
type outcome int

const (
	right outcome = iota
	wrong
	tooMany // this user failed too often at this address
	busy    // too many others are being checked
)

// check says whether a password is a user's; those who ask for the same at the same time share the work. With tooMany it says when to try again.
func (p *passwords) check(ctx context.Context, user, password, remote string) (outcome, time.Duration) {
	hash, known := p.users.Load().entry(user)
	c := p.credential(user, password, hash)
	if known && p.remembers(c) {
		return right, 0
	}
	tries, _ := p.failing.ComputeIfAbsent(origin{user, network(remote)}, newAttempts)
	if wait, ok := tries.begin(c); !ok {
		return p.refuse(ctx, wait)
	}
	// Also for a client that is gone by then: who hangs up early fails all the same.
	result, _, _ := p.running.Do(string(c[:]), func() (any, error) {
		return p.compare(c, hash, password, known), nil
	})
	tries.end(c, result == wrong)
	return result.(outcome), 0
}

// remembers reports whether a credential was found good before.
func (p *passwords) remembers(c credential) bool {
	_, ok := p.verified.GetIfPresent(c)
	return ok
}

func (p *passwords) refuse(ctx context.Context, wait time.Duration) (outcome, time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(refusalDelay):
	}
	return tooMany, wait
}

func (p *passwords) credential(user, password string, hash []byte) (c credential) {
	mac := hmac.New(sha256.New, p.secret[:])
	text := make([]byte, 0, 256)
	for _, part := range []string{user, password, string(hash)} {
		text = append(binary.BigEndian.AppendUint64(text, uint64(len(part))), part...)
	}
	mac.Write(text)
	mac.Sum(c[:0])
	return c
}

// compare asks bcrypt when it is this credential's turn.
func (p *passwords) compare(c credential, hash []byte, password string, known bool) outcome {
	turn := time.NewTimer(tryTimeout)
	defer turn.Stop()
	select {
	case <-turn.C:
		return busy
	case p.slots <- struct{}{}:
	}
	if known && p.remembers(c) { // since it was looked for
		<-p.slots
		return right
	}
	began := time.Now()
	match := ComparePassword(hash, password) && known
	if match {
		p.verified.Set(c, struct{}{})
		<-p.slots
		return right
	}
	// A failure leaves its turn unused for as long as it took: however many try, they get half of the time at most.
	time.AfterFunc(time.Since(began), func() { <-p.slots })
	return wrong
}

// attempts counts what fails of one origin.
type attempts struct {
	mu      sync.Mutex
	left    *rate.Limiter
	pending map[credential]int // how many ask for each now
}

func newAttempts() (*attempts, bool) {
	return &attempts{
		left:    rate.NewLimiter(rate.Every(failureInterval), failureBurst),
		pending: make(map[credential]int),
	}, false
}

// begin reports whether a credential may be checked, else when. Every begin that may needs an end. Those that are being
// checked count as if they were to fail, the same one once.
func (a *attempts) begin(c credential) (wait time.Duration, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.pending[c] == 0 && a.left.Tokens()-float64(len(a.pending)) < 1 {
		return failureInterval, false
	}
	a.pending[c]++
	return 0, true
}

func (a *attempts) end(c credential, failed bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.pending[c]--; a.pending[c] > 0 {
		return
	}
	delete(a.pending, c)
	if failed {
		a.left.Allow()
	}
}

// network returns what counts as one address: of IPv6 the 64 bits that one household or machine has.
func network(remote string) string {
	address, err := netip.ParseAddr(remote)
	if err != nil {
		return remote
	}
	address = address.Unmap().WithZone("")
	if address.Is4() {
		return address.String()
	}
	prefix, err := address.Prefix(64)
	if err != nil {
		return remote
	}
	return prefix.String()
}
