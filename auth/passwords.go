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
	// maxName and maxChecked bound what can be right; bcrypt reads 72 bytes of a password.
	maxName    = 255  // bytes
	maxChecked = 1024 // bytes
	// tryTimeout is how long a check waits for its turn.
	tryTimeout = 10 * time.Second
	// refusalDelay is how long a client waits for hearing that it tries too often. A loop without pauses is slowed down by
	// it, and costs others nothing.
	refusalDelay = 200 * time.Millisecond
)

// passwords checks user names and passwords against the users of the moment. bcrypt takes some 50 ms, so a credential that
// was good is remembered.
type passwords struct {
	users atomic.Pointer[Users]
	// secret keys the hashes under which credentials and origins are remembered, which tell nothing without it.
	secret   [32]byte
	verified *otter.Cache[keyed, struct{}]
	failing  *otter.Cache[keyed, *attempts]
	// turns bound how many checks run at once: others need the processors too.
	turns   *turns
	running singleflight.Group
}

// keyed is a keyed hash: of a credential, which is a user's name, password and entry (with another entry it is another),
// or of an origin, which is who failed and from where.
type keyed [sha256.Size]byte

func newPasswords(users *Users) *passwords {
	p := &passwords{
		verified: otter.Must(&otter.Options[keyed, struct{}]{
			MaximumSize:      maxVerified,
			ExpiryCalculator: otter.ExpiryAccessing[keyed, struct{}](verifiedFor),
		}),
		failing: otter.Must(&otter.Options[keyed, *attempts]{
			MaximumSize:      maxFailing,
			ExpiryCalculator: otter.ExpiryAccessing[keyed, *attempts](failureBurst * failureInterval),
		}),
		turns: newTurns(max(1, runtime.GOMAXPROCS(0)/2)),
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

// checked is what a check found.
type checked struct {
	outcome
	// generation is that of the entry that the password was right for.
	generation string
	// wait is when to try again after tooMany and busy.
	wait time.Duration
}

// check says whether a password is a user's; those who ask for the same at the same time share the work.
func (p *passwords) check(ctx context.Context, user, password, remote string) checked {
	users := p.users.Load()
	hash, known := users.entry(user)
	known = known && len(password) <= maxChecked // others are wrong, and take their turn as such
	c := p.hash(user, password, string(hash))
	if known && p.remembers(c) {
		return checked{generation: users.generation(user)}
	}
	from := Network(remote)
	tries, _ := p.failing.ComputeIfAbsent(p.hash(user, from), newAttempts)
	if wait, ok := tries.begin(c); !ok {
		return refuse(ctx, tooMany, wait)
	}
	result := p.share(ctx, tries, c, func() outcome { return p.compare(c, hash, password, network(remote, siteBits), known) })
	switch {
	case result == busy:
		return refuse(ctx, busy, time.Second)
	case result == right && p.users.Load().generation(user) != users.generation(user):
		result = wrong // it was right when the check began
	}
	return checked{outcome: result, generation: users.generation(user)}
}

// share waits for what compare says, which runs once for all who ask for the same, or for ctx. Who hangs up early fails all
// the same.
func (p *passwords) share(ctx context.Context, tries *attempts, c keyed, compare func() outcome) outcome {
	answer := p.running.DoChan(string(c[:]), func() (any, error) { return compare(), nil })
	select {
	case r := <-answer:
		tries.end(c, r.Val == wrong)
		return r.Val.(outcome)
	case <-ctx.Done():
		go func() { // until the answer comes, which compare sees to
			r := <-answer
			tries.end(c, r.Val == wrong)
		}()
		return busy
	}
}

// remembers reports whether a credential was found good before.
func (p *passwords) remembers(c keyed) bool {
	_, ok := p.verified.GetIfPresent(c)
	return ok
}

func refuse(ctx context.Context, o outcome, wait time.Duration) checked {
	select {
	case <-ctx.Done():
	case <-time.After(refusalDelay):
	}
	return checked{outcome: o, wait: wait}
}

// hash is keyed, and tells apart where one part ends and the next begins.
func (p *passwords) hash(parts ...string) (h keyed) {
	mac := hmac.New(sha256.New, p.secret[:])
	text := make([]byte, 0, 256)
	for _, part := range parts {
		text = append(binary.BigEndian.AppendUint64(text, uint64(len(part))), part...)
	}
	mac.Write(text)
	mac.Sum(h[:0])
	return h
}

// compare asks bcrypt when it is this network's turn.
func (p *passwords) compare(c keyed, hash []byte, password, from string, known bool) outcome {
	if !p.turns.take(from, tryTimeout) {
		return busy
	}
	if known && p.remembers(c) { // since it was looked for
		p.turns.give()
		return right
	}
	began := time.Now()
	if ComparePassword(hash, password) && known {
		p.verified.Set(c, struct{}{})
		p.turns.give()
		return right
	}
	// A failure leaves its turn unused for twice as long as it took: however many try, they get a third of the time at most.
	time.AfterFunc(2*time.Since(began), p.turns.give)
	return wrong
}

// attempts counts what fails of one origin.
type attempts struct {
	mu      sync.Mutex
	left    *rate.Limiter
	pending map[keyed]int // how many ask for each now
}

func newAttempts() (*attempts, bool) {
	return &attempts{
		left:    rate.NewLimiter(rate.Every(failureInterval), failureBurst),
		pending: make(map[keyed]int),
	}, false
}

// begin reports whether a credential may be checked, else when. Every begin that may needs an end. Those that are being
// checked count as if they were to fail, the same one once.
func (a *attempts) begin(c keyed) (wait time.Duration, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.pending[c] == 0 && a.left.Tokens()-float64(len(a.pending)) < 1 {
		return failureInterval, false
	}
	a.pending[c]++
	return 0, true
}

func (a *attempts) end(c keyed, failed bool) {
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

// How much of an IPv6 address tells clients apart. Failures count for what one machine or household has at least. For turns it is what
// one customer has at most, who would else have 65,536 of them; that neighbours there wait a little longer locks nobody out.
const (
	addressBits = 64
	siteBits    = 48
)

// Network returns what failures of an address are counted for: an IPv4 address, or the first 64 bits of an IPv6 one.
func Network(remote string) string { return network(remote, addressBits) }

// network returns what counts as one client: an IPv4 address, or the first bits of an IPv6 one.
func network(remote string, bits int) string {
	address, err := netip.ParseAddr(remote)
	if err != nil {
		return remote
	}
	address = address.Unmap().WithZone("")
	if address.Is4() {
		return address.String()
	}
	prefix, err := address.Prefix(bits)
	if err != nil {
		return remote
	}
	return prefix.String()
}
