// Package token makes and checks bearer tokens: JSON Web Tokens as the Docker token specification has them.
//
// It guarantees that a token is accepted only with a signature by a key that is known beforehand, by an algorithm that
// belongs to that key, for the audience that it was made for, and within its time, for which clocks may be Skew apart. It
// does not know whether what a token speaks of still exists, or whether its scopes are still allowed: that is for the
// caller to look at on each request.
//
// Tokens are bearer secrets: no error has one in it.
package token

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/maypok86/otter/v2"
)

const (
	// Skew is how far apart the clocks of those may be who make tokens and check them.
	Skew = time.Minute
	// MinLifetime is the least that clients can work with (Docker token specification, "Token Response Fields").
	MinLifetime = time.Minute

	// MaxAccess bounds the names and actions in a token, so that what is signed is not too long to be looked at again.
	MaxAccess = 8 << 10 // bytes
	// maxToken bounds what is looked at.
	maxToken = 16 << 10 // bytes
	// remembered is how many verified tokens are kept, so that the next request with one is spared the signature.
	remembered = 10_000
	// rememberable bounds what is kept of each: anybody can have tokens made with much in them, and few do.
	rememberable = 1 << 10 // bytes
)

// Claims are what a token says.
type Claims struct {
	// User is who the token is for, empty for a client that is not logged in.
	User string `json:"-"`
	// Robot is the id of the robot that the token is for, instead of a user.
	Robot string `json:"robot,omitempty"`
	// Generation is that of the user's credential: another password has another.
	Generation string `json:"generation,omitempty"`
	// Access is what the token is good for.
	Access []Scope `json:"access"`
	// Expires is when it ends. A refresh token's is zero: it ends with the credential.
	Expires time.Time `json:"-"`

	from time.Time // when it begins
}

// A token's purpose is its audience, so that none of one kind passes for the other.
const (
	issuer          = "berth"
	accessAudience  = "berth"
	refreshAudience = "berth-refresh"
)

// Audience is the service that tokens are for, as a challenge names it.
const Audience = accessAudience

// Issue returns a token that is valid for lifetime from now on.
func (k *Keys) Issue(c Claims, now time.Time, lifetime time.Duration) (string, error) {
	c.Expires = now.Add(lifetime)
	return k.issue(c, accessAudience, now)
}

// IssueRefresh returns a token with which others are asked for, without a password. It says who the client is and nothing
// of what it may do.
func (k *Keys) IssueRefresh(c Claims, now time.Time) (string, error) {
	c.Access, c.Expires = nil, time.Time{}
	return k.issue(c, refreshAudience, now)
}

func (k *Keys) issue(c Claims, audience string, now time.Time) (string, error) {
	registered := jwt.Claims{Issuer: issuer, Subject: c.User, Audience: jwt.Audience{audience}, NotBefore: jwt.NewNumericDate(now)}
	if !c.Expires.IsZero() {
		registered.Expiry = jwt.NewNumericDate(c.Expires)
	}
	if c.Access == nil {
		c.Access = []Scope{}
	}
	raw, err := jwt.Signed(k.signer).Claims(registered).Claims(c).Serialize()
	if err != nil {
		return "", fmt.Errorf("sign a token: %w", err)
	}
	return raw, nil
}

// Verify returns what a token says that Issue made.
func (k *Keys) Verify(raw string, now time.Time) (Claims, error) {
	c, err := k.verify(raw, accessAudience, now)
	if err == nil && c.Expires.IsZero() {
		return Claims{}, errors.New("the token has no end")
	}
	return c, err
}

// VerifyRefresh returns what a token says that IssueRefresh made.
func (k *Keys) VerifyRefresh(raw string, now time.Time) (Claims, error) {
	return k.verify(raw, refreshAudience, now)
}

func (k *Keys) verify(raw, audience string, now time.Time) (Claims, error) {
	var registered jwt.Claims
	var c Claims
	if len(raw) > maxToken {
		return Claims{}, errTooLong
	}
	if err := k.open(raw, &registered, &c); err != nil {
		return Claims{}, errSignature
	}
	return c.complete(registered, jwt.Expected{Issuer: issuer, AnyAudience: jwt.Audience{audience}, Time: now})
}

// ErrExpired says that a token was good until a while ago.
var ErrExpired = errors.New("the token has expired")

var (
	errTooLong   = errors.New("the token is too long")
	errSignature = errors.New("the token is not signed by this registry, or is no token")
	errEarly     = errors.New("the token is not valid yet: the clocks are apart")
)

// complete checks the registered claims and adds them to c.
func (c Claims) complete(registered jwt.Claims, expected jwt.Expected) (Claims, error) {
	if err := registered.ValidateWithLeeway(expected, Skew); err != nil {
		return Claims{}, explain(err)
	}
	c.User = registered.Subject
	if registered.Expiry != nil {
		c.Expires = registered.Expiry.Time()
	}
	if registered.NotBefore != nil {
		c.from = registered.NotBefore.Time()
	}
	return c, nil
}

func explain(err error) error {
	switch {
	case errors.Is(err, jwt.ErrExpired):
		return ErrExpired
	case errors.Is(err, jwt.ErrNotValidYet), errors.Is(err, jwt.ErrIssuedInTheFuture):
		return errEarly
	case errors.Is(err, jwt.ErrInvalidAudience):
		return errors.New("the token is for another service")
	case errors.Is(err, jwt.ErrInvalidIssuer):
		return errors.New("the token is from another issuer")
	}
	return errors.New("the token's claims are wrong")
}

// inTime checks again, of a token that was verified before, what time alone decides.
func (c Claims) inTime(now time.Time) error {
	switch {
	case now.Add(-Skew).After(c.Expires):
		return ErrExpired
	case now.Add(Skew).Before(c.from):
		return errEarly
	}
	return nil
}

// Verifier checks tokens with an end. Keys is one, and External.
type Verifier interface {
	Verify(raw string, now time.Time) (Claims, error)
}

// Memory remembers tokens that a verifier found good, by their hash. Make it with NewMemory, and close it.
type Memory struct {
	known *otter.Cache[memoryKey, Claims]
}

type memoryKey struct {
	by    Verifier
	token [sha256.Size]byte
}

// NewMemory returns an empty one.
func NewMemory() *Memory {
	return &Memory{otter.Must(&otter.Options[memoryKey, Claims]{
		MaximumSize:      remembered,
		ExpiryCalculator: otter.ExpiryWriting[memoryKey, Claims](time.Hour),
	})}
}

// Verify is v.Verify. What v found good before is only compared with the clock.
func (m *Memory) Verify(v Verifier, raw string, now time.Time) (Claims, error) {
	if len(raw) > maxToken {
		return Claims{}, errTooLong
	}
	key := memoryKey{v, sha256.Sum256([]byte(raw))}
	if c, ok := m.known.GetIfPresent(key); ok {
		return c, c.inTime(now)
	}
	c, err := v.Verify(raw, now)
	if err == nil && c.size() <= rememberable {
		m.known.Set(key, c)
	}
	return c, err
}

// size is about how many bytes the claims take.
func (c Claims) size() (n int) {
	for _, s := range c.Access {
		n += len(s.String())
	}
	return n
}

// Close ends what the memory does in the background.
func (m *Memory) Close() { m.known.StopAllGoroutines() }
