package auth

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"berth/auth/access"
	"berth/glob"
)

// robotPrefix begins the secrets of robots, so that people and scanners of leaked secrets know them.
const robotPrefix = "berth_"

// useInterval is the time between two writes of when robots were last used.
const useInterval = time.Minute

// Robot is a machine's account: it may do what was said when it was made, whatever the rules say, and what they let everybody
// do.
type Robot struct {
	// ID is never used for another.
	ID   string
	Name string
	// Patterns are the repositories, Actions what it may do there.
	Patterns []glob.Pattern
	Actions  access.Actions
}

// NewRobot reads a robot's patterns and actions, which have commas between them.
func NewRobot(id, name string, repositories []string, actions string) (*Robot, error) {
	r := &Robot{ID: id, Name: name}
	for _, s := range repositories {
		p, err := glob.ParseRepository(s)
		if err != nil {
			return nil, fmt.Errorf("token %s: %w", name, err)
		}
		r.Patterns = append(r.Patterns, p)
	}
	var err error
	if r.Actions, err = access.ParseActions(strings.Split(actions, ",")); err != nil {
		return nil, fmt.Errorf("token %s: %w", name, err)
	}
	return r, nil
}

func (r *Robot) allowed(repository string) access.Actions {
	for _, p := range r.Patterns {
		if p.Match(repository) {
			return r.Actions
		}
	}
	return access.None
}

// ErrNoRobot says that there is no such robot, or no longer.
var ErrNoRobot = errors.New("no such robot")

// Robots is where robots are kept. Its methods are called concurrently, once or more a request.
type Robots interface {
	// RobotBySecret returns the robot whose secret has a hash. It fails with ErrNoRobot.
	RobotBySecret(ctx context.Context, hash []byte) (*Robot, error)
	// Robot returns the robot with an id. It fails with ErrNoRobot.
	Robot(ctx context.Context, id string) (*Robot, error)
	// NoteUses records when robots were last used, by their ids. Those that are gone are left out.
	NoteUses(ctx context.Context, uses map[string]time.Time) error
}

// GenerateRobot returns a new id, and a secret of 160 random bits with the hash to keep of it: too random to be guessed, so
// that it needs no slow hash.
func GenerateRobot() (id, secret string, hash []byte) {
	secret = robotPrefix + strings.ToLower(rand.Text() + rand.Text())[:32]
	raw := make([]byte, 9)
	rand.Read(raw) // never fails
	return base64.RawURLEncoding.EncodeToString(raw), secret, hashSecret(secret)
}

func hashSecret(secret string) []byte {
	sum := sha256.Sum256([]byte(secret))
	return sum[:]
}

// uses gathers when robots were used.
type uses struct {
	mu   sync.Mutex
	last map[string]time.Time
}

func (u *uses) note(id string, now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.last == nil {
		u.last = make(map[string]time.Time)
	}
	u.last[id] = now
}

func (u *uses) take() map[string]time.Time {
	u.mu.Lock()
	defer u.mu.Unlock()
	taken := u.last
	u.last = nil
	return taken
}

// giveBack keeps what could not be written for the next time.
func (u *uses) giveBack(taken map[string]time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.last == nil {
		u.last = make(map[string]time.Time)
	}
	for id, at := range taken {
		if at.After(u.last[id]) {
			u.last[id] = at
		}
	}
}
