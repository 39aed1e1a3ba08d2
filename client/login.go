package client

import (
	"context"
	"fmt"
	"sync/atomic"

	"oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"
)

// logins finds who to be at one registry.
type logins struct {
	given   Login
	files   []string
	aliases []string               // other names under which a login at it may be stored
	sent    atomic.Pointer[string] // the user who was last found, for messages
}

// credential returns the login that was given, else the first that is stored, else none.
func (l *logins) credential(ctx context.Context, host string) (auth.Credential, error) {
	if l.given.Username != "" && (registry.Reference{Registry: l.given.Host}).Host() == host {
		l.sent.Store(&l.given.Username)
		return auth.Credential{Username: l.given.Username, Password: l.given.Password}, nil
	}
	for _, name := range append([]string{host}, l.aliases...) {
		for _, file := range l.files {
			found, err := stored(ctx, file, name)
			if err != nil {
				return found, err
			}
			if found != auth.EmptyCredential {
				l.sent.Store(&found.Username)
				return found, nil
			}
		}
	}
	return auth.EmptyCredential, nil
}

// stored looks into a file, and asks the helper that it names.
func stored(ctx context.Context, file, host string) (auth.Credential, error) {
	store, err := credentials.NewStore(file, credentials.StoreOptions{})
	if err != nil {
		return auth.EmptyCredential, fmt.Errorf("the stored logins in %s can't be read: %w", file, err)
	}
	found, err := credentials.Credential(store)(ctx, host)
	if err != nil {
		return auth.EmptyCredential, fmt.Errorf("the stored login for %s in %s can't be read: %w", host, file, err)
	}
	return found, nil
}
