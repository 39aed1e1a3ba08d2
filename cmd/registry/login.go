package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"berth/atomicfile"
	"berth/auth"
	"berth/auth/access"
	"berth/auth/token"
	"berth/config"
	"berth/registry/api"
	"berth/storage/metadata"
)

const (
	initialUser = "admin"
	// initialPasswordFile is where the password of the first start is written, readable by its owner only: logs are
	// collected by others.
	initialPasswordFile = "initial-admin-password"
	// initialSetting is the name under which the hash of that password is kept.
	initialSetting = "initial-admin"
	// tokenKeys is the file in the data directory with the keys that sign tokens.
	tokenKeys = "token-keys.pem"
)

// login is how clients say who they are.
type login struct {
	gate  *auth.Gate // nil when nobody is asked
	first *firstUser // nil when the users are elsewhere
	// shared is what other servers of the database may change.
	shared []shared
	// user and passwordFile are for the greeting.
	user, passwordFile string
}

// next returns the command to type now.
func (l login) next(host string) string {
	switch {
	case l.gate == nil:
		return fmt.Sprintf("docker push %s/NAME", host)
	case l.user != "":
		return fmt.Sprintf("docker login %s -u %s", host, l.user)
	}
	return "docker login " + host
}

func (l login) close() {
	if l.gate != nil {
		l.gate.Close()
	}
}

func openLogin(ctx context.Context, c *config.Config, s *stores, audit, log *slog.Logger) (l login, err error) {
	if c.Auth.Method == config.AuthNone {
		return login{}, nil
	}
	settings := auth.Config{
		Realm:         c.Auth.HTPasswd.Realm,
		Robots:        robotFacts{s.facts},
		KeyFile:       tokenKeyFile(c, s.directory),
		MakeKeys:      c.Auth.Tokens.Key == "",
		TokenPath:     strings.TrimSuffix(c.HTTP.Prefix, "/") + api.TokenPath,
		TokenLifetime: c.Auth.Tokens.Lifetime,
		Refresh:       c.Auth.Tokens.Refresh,
		Log:           log,
		Audit:         audit,
	}
	keys, err := shareTokenKeys(ctx, c, s)
	if err != nil {
		return l, fmt.Errorf("share the keys of tokens: %w", err)
	}
	if settings.Rules, err = compileRules(c); err != nil {
		return l, err
	}
	switch c.Auth.Method {
	case config.AuthHTPasswd:
		settings.Htpasswd = c.Auth.HTPasswd.Path
	case config.AuthToken:
		settings.External = externalServer(c.Auth.Token)
	default:
		if err := l.initial(ctx, c, s, &settings); err != nil {
			return l, fmt.Errorf("first user: %w", err)
		}
	}
	if l.gate, err = auth.Open(settings); err != nil {
		return l, err
	}
	if l.first != nil {
		l.first.gate = l.gate
	}
	l.share(c, keys)
	return l, nil
}

// share has the login follow what other servers of a PostgreSQL database change. SQLite has none.
func (l *login) share(c *config.Config, keys *sharedFile) {
	if keys != nil {
		l.shared = append(l.shared, shared{"the keys of tokens", keys.sync})
	}
	if l.first != nil && c.Metadata.Postgres.DSN != "" {
		l.shared = append(l.shared, shared{"the first user's password", l.first.sync})
	}
}

func tokenKeyFile(c *config.Config, directory string) string {
	if c.Auth.Tokens.Key != "" {
		return c.Auth.Tokens.Key
	}
	return filepath.Join(directory, tokenKeys)
}

func externalServer(t config.Token) *auth.ExternalServer {
	realm := t.Realm
	if t.AutoRedirect {
		realm = t.AutoRedirectPath
	}
	return &auth.ExternalServer{Realm: realm, ExternalConfig: token.ExternalConfig{
		Issuer:         t.Issuer,
		Service:        t.Service,
		RootCertBundle: t.RootCertBundle,
		JWKS:           t.JWKS,
		Algorithms:     t.SigningAlgorithms,
	}}
}

// compileRules returns nil where the configuration has no rules.
func compileRules(c *config.Config) (*access.Rules, error) {
	if c.Access == nil {
		return nil, nil
	}
	rules := make([]access.Rule, len(c.Access))
	for i, r := range c.Access {
		rules[i] = access.Rule(r)
	}
	return access.Compile(rules, c.Groups)
}

// initial is the login of a registry whose configuration has no auth section: one user, whose password is made at the
// first start unless the configuration has one.
func (l *login) initial(ctx context.Context, c *config.Config, s *stores, settings *auth.Config) error {
	l.user = initialUser
	settings.LoginHint = "this registry has no auth section in its configuration, so it made a user admin at its first start; REGISTRY_AUTH=none opens it to everybody"
	path := filepath.Join(s.directory, initialPasswordFile)
	hash, err := s.facts.Setting(ctx, initialSetting)
	if err == nil && hash == nil {
		hash, err = makeInitialPassword(ctx, string(c.Auth.InitialPassword), path, s)
	}
	if err != nil {
		return fmt.Errorf("make its password: %w", err)
	}
	if _, err := os.Stat(path); err == nil {
		l.passwordFile = path
	}
	l.first = &firstUser{facts: s.facts, hash: hash}
	settings.Users, err = auth.SingleUser(initialUser, string(hash))
	if given := string(c.Auth.InitialPassword); err == nil && given != "" && !auth.ComparePassword(hash, given) {
		settings.Log.Warn("auth.initialpassword has no effect: the password of admin was set at the first start; registry user passwd admin changes it")
	}
	return err
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

func keepInitialPassword(ctx context.Context, facts *metadata.Store, hash string) error {
	if err := facts.SetSetting(ctx, initialSetting, []byte(hash)); err != nil {
		return fmt.Errorf("keep the password: %w", err)
	}
	return nil
}

// writePassword returns the password that is in the file at path, written there first when there is none. The hash survives
// a power loss, so the password has to.
func writePassword(path string) (string, error) {
	if _, err := atomicfile.Create(path, []byte(auth.GeneratePassword()+"\n"), 0o600); err != nil {
		return "", err
	}
	content, err := os.ReadFile(path)
	password := strings.TrimSpace(string(content))
	if err == nil && password == "" {
		err = fmt.Errorf("%s is empty: remove it", path)
	}
	return password, err
}
