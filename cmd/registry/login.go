package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"berth/auth"
	"berth/config"
	"berth/registry/api"
)

const (
	initialUser = "admin"
	// initialPasswordFile is where the password of the first start is written, readable by its owner only: logs are
	// collected by others.
	initialPasswordFile = "initial-admin-password"
	// initialSetting is the name under which the hash of that password is kept.
	initialSetting = "initial-admin"
)

// login is how clients say who they are.
type login struct {
	auth api.Authenticator // nil when nobody is asked
	// hint is added to the body of a 401.
	hint string
	// user and passwordFile are for the greeting.
	user, passwordFile string
}

// next returns the command to type now.
func (l login) next(host string) string {
	switch {
	case l.auth == nil:
		return fmt.Sprintf("docker push %s/NAME", host)
	case l.user != "":
		return fmt.Sprintf("docker login %s -u %s", host, l.user)
	}
	return "docker login " + host
}

func openLogin(ctx context.Context, c *config.Config, s *stores, log *slog.Logger) (login, error) {
	switch c.Auth.Method {
	case config.AuthNone:
		return login{}, nil
	case config.AuthHTPasswd:
		users, err := auth.OpenHtpasswd(c.Auth.HTPasswd.Path)
		if err != nil {
			return login{}, err
		}
		return login{auth: auth.Basic{Realm: c.Auth.HTPasswd.Realm, Users: users}}, nil
	}
	return initialLogin(ctx, c, s, log)
}

// initialLogin is the login of a registry whose configuration has no auth section: one user, whose password is made at
// the first start unless the configuration has one.
func initialLogin(ctx context.Context, c *config.Config, s *stores, log *slog.Logger) (login, error) {
	l := login{
		hint: "this registry has no auth section in its configuration, so it made a user admin at its first start; REGISTRY_AUTH=none opens it to everybody",
		user: initialUser,
	}
	path := filepath.Join(s.directory, initialPasswordFile)
	hash, err := s.facts.Setting(ctx, initialSetting)
	if err == nil && hash == nil {
		hash, err = makeInitialPassword(ctx, string(c.Auth.InitialPassword), path, s)
	}
	if err != nil {
		return l, fmt.Errorf("make the first user: %w", err)
	}
	if _, err := os.Stat(path); err == nil {
		l.passwordFile = path
	}
	users, err := auth.SingleUser(initialUser, string(hash))
	if err != nil {
		return l, fmt.Errorf("first user: %w", err)
	}
	if given := string(c.Auth.InitialPassword); given != "" && !users.Verify(initialUser, given) {
		log.Warn("auth.initialpassword has no effect: the password of admin was set at the first start; use auth.htpasswd to change it")
	}
	l.auth = auth.Basic{Realm: c.Auth.HTPasswd.Realm, Users: users}
	return l, nil
}

// makeInitialPassword returns the hash of the given password, or of one that it writes to path before the hash is kept:
// a crash in between leaves a password that the next start takes.
func makeInitialPassword(ctx context.Context, password, path string, s *stores) ([]byte, error) {
	if password == "" {
		var err error
		if password, err = writePassword(path); err != nil {
			return nil, err
		}
	}
	hash, err := auth.HashPassword([]byte(password), auth.DefaultCost)
	if err != nil {
		return nil, err
	}
	return s.facts.SetSettingOnce(ctx, initialSetting, []byte(hash))
}

// writePassword returns the password that is in the file at path, written there first when there is none.
func writePassword(path string) (string, error) {
	password, err := os.ReadFile(path)
	if err == nil && len(strings.TrimSpace(string(password))) > 0 {
		return strings.TrimSpace(string(password)), nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	made := auth.GeneratePassword()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return "", err
	}
	_, err = f.WriteString(made + "\n")
	// The hash survives a power loss, so the password has to.
	return made, errors.Join(err, f.Sync(), f.Close(), syncDirectory(filepath.Dir(path)))
}

func syncDirectory(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
