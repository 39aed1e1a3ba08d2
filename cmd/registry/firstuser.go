package main

import (
	"bytes"
	"context"
	"sync"

	"berth/auth"
	"berth/storage/metadata"
)

// firstUser is the user of a registry that serves without an auth section. Servers of one database have the same.
type firstUser struct {
	facts *metadata.Store
	gate  *auth.Gate
	mu    sync.Mutex // from a look at the setting, or a change of it, until the gate has it
	hash  []byte     // what the gate has
}

// set changes the password to the one with a hash, for the next request on.
func (u *firstUser) set(ctx context.Context, hash string) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	users, err := auth.SingleUser(initialUser, hash)
	if err != nil {
		return badRequest{err}
	}
	if err := keepInitialPassword(ctx, u.facts, hash); err != nil {
		return err
	}
	u.gate.SetUsers(users, "admin socket")
	u.hash = []byte(hash)
	return nil
}

// sync takes over what was set elsewhere: by another server, or by a command without one.
func (u *firstUser) sync(ctx context.Context) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	hash, err := u.facts.Setting(ctx, initialSetting)
	if err != nil || bytes.Equal(hash, u.hash) {
		return err
	}
	users, err := auth.SingleUser(initialUser, string(hash))
	if err != nil {
		return err
	}
	u.gate.SetUsers(users, "another server")
	u.hash = hash
	return nil
}
