package main

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"berth/atomicfile"
	"berth/auth"
	"berth/config"
	"berth/storage/metadata"
	"berth/tls"
)

const (
	// tokenKeysSetting is the name under which servers of one database keep the keys that sign tokens.
	tokenKeysSetting = "token-keys"
	// shareEvery is how often servers look what changed at another one.
	shareEvery = 2 * time.Second
)

// authoritySetting is the name under which servers of one database keep the CA that signs their certificates.
const authoritySetting = "tls-authority"

// secretSettings are the names of settings that are keys: no snapshot has them.
func secretSettings() []string { return []string{tokenKeysSetting, authoritySetting} }

// shareAuthority has all servers of a PostgreSQL database sign with one CA.
func shareAuthority(ctx context.Context, c *config.Config, s *stores, log *slog.Logger) error {
	if c.Metadata.Postgres.DSN == "" {
		return nil
	}
	return tls.ShareAuthority(tlsConfig(c.HTTP, certificateDirectory(c.HTTP.TLS, s.directory)), log, func(mine []byte) ([]byte, error) {
		if len(mine) == 0 {
			return s.facts.Setting(ctx, authoritySetting)
		}
		return s.facts.SetSettingOnce(ctx, authoritySetting, mine)
	})
}

// sharedFile is a file that all servers of one database have: what one changes, the others get.
type sharedFile struct {
	facts *metadata.Store
	name  string // of the setting
	path  string
	known []byte // what file and setting were when they were the same
}

// shareTokenKeys makes the keys that sign tokens the same on all servers of a PostgreSQL database, unless the configuration
// says where they are. It returns nil where there is nothing to share.
func shareTokenKeys(ctx context.Context, c *config.Config, s *stores) (*sharedFile, error) {
	if c.Metadata.Postgres.DSN == "" || c.Auth.Tokens.Key != "" || c.Auth.Method == config.AuthNone {
		return nil, nil
	}
	f := &sharedFile{facts: s.facts, name: tokenKeysSetting, path: filepath.Join(s.directory, tokenKeys)}
	if err := auth.MakeKeyFile(f.path); err != nil {
		return nil, err
	}
	var err error
	if f.known, err = os.ReadFile(f.path); err != nil {
		return nil, err
	}
	return f, f.sync(ctx) // what the others have counts
}

// sync brings file and setting together: a change of the file since it was last the same goes to the setting, and otherwise the
// setting goes to the file.
func (f *sharedFile) sync(ctx context.Context) error {
	local, err := os.ReadFile(f.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if local != nil && !bytes.Equal(local, f.known) {
		if err := f.facts.SetSetting(ctx, f.name, local); err != nil {
			return err
		}
		f.known = local
		return nil
	}
	shared, err := f.facts.SetSettingOnce(ctx, f.name, f.known)
	if err != nil {
		return err
	}
	if !bytes.Equal(shared, local) {
		if err := atomicfile.Write(f.path, shared, 0o600); err != nil {
			return err
		}
	}
	f.known = shared
	return nil
}

// shared is what all servers of one database have. Its sync takes over what another one changed.
type shared struct {
	what string
	sync func(context.Context) error
}

// follow looks for changes until ctx ends.
func (s shared) follow(log *slog.Logger) func(context.Context) {
	return func(ctx context.Context) {
		ticker := time.NewTicker(shareEvery)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			if err := s.sync(ctx); err != nil && ctx.Err() == nil {
				log.Warn("what servers share can't be compared, the next try is soon", "what", s.what, "error", err)
			}
		}
	}
}
