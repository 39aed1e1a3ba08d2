package config

import (
	"slices"
	"strings"
	"time"
)

// minTokenLifetime is the least that clients can work with.
const minTokenLifetime = time.Minute

// checkAuth reports what is missing for a method, and what belongs to another one.
func (l *loader) checkAuth(a *Auth) {
	if a.Method == AuthHTPasswd && a.HTPasswd.Path == "" {
		l.failAt("auth.htpasswd.path", "is missing: name the file that registry user add, or htpasswd -B, writes")
	}
	if controls(a.HTPasswd.Realm) {
		l.failAt("auth.htpasswd.realm", "must not hold line breaks or control characters")
	}
	// bcrypt reads no more than 72 bytes.
	if len(a.InitialPassword) > 72 {
		l.failAt("auth.initialpassword", "must not be longer than 72 bytes")
	}
	if a.Method != AuthInitial {
		l.unused("auth.initialpassword")
	}
	if a.Tokens.Lifetime < minTokenLifetime {
		l.failAt("auth.tokens.lifetime", "must be at least 1m: some clients can't work with less")
	}
	switch a.Method {
	case AuthToken:
		l.checkToken(&a.Token)
		l.unused("auth.tokens")
	case AuthNone:
		l.unused("auth.tokens")
	}
}

func (l *loader) checkToken(t *Token) {
	const section = "auth.token"
	if t.AutoRedirect && t.AutoRedirectPath == "" {
		t.AutoRedirectPath = "/auth/token"
	}
	switch {
	case t.AutoRedirect && t.AutoRedirectPath[0] != '/':
		l.failAt(section+".autoredirectpath", "must be a path such as /auth/token, not %q", clip(t.AutoRedirectPath))
	case !t.AutoRedirect && !validURL(t.Realm):
		l.failAt(section+".realm", "must be the URL of the token server, such as https://auth.example.com/token")
	}
	for key, value := range map[string]string{".service": t.Service, ".issuer": t.Issuer} {
		if value == "" || controls(value) {
			l.failAt(section+key, "is missing: it is what the server's tokens have for it")
		}
	}
	if t.RootCertBundle+t.JWKS == "" {
		l.failAt(section+".rootcertbundle", "is missing: tokens are checked with its certificates, or with the keys of %s.jwks", section)
	}
	for _, name := range t.SigningAlgorithms {
		if !slices.Contains(asymmetric(), name) {
			l.failAt(section+".signingalgorithms", "%q is none that can be checked: use %s", clip(name), strings.Join(asymmetric(), ", "))
		}
	}
}

// asymmetric are the signatures that can be checked without being able to make them.
func asymmetric() []string {
	return []string{"EdDSA", "ES256", "ES384", "ES512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}
}

// checkAccess reports rules that would not count, which would allow too much. What is wrong within a rule, the rules' own
// package says.
func (l *loader) checkAccess(c *Config) {
	n := l.find("access")
	switch {
	case n == nil:
		l.unused("groups")
	case len(c.Access) == 0 && isEmpty(n):
		l.failAt("access", "has no rules: write some, or remove it to let every user do everything")
	case c.Auth.Method == AuthToken:
		l.failAt("access", "has no effect beside auth.token, where the scopes of the tokens decide: remove one of the two")
	case c.Auth.Method == AuthNone:
		l.failAt("access", "has no effect with auth none, where everybody may do everything: remove one of the two")
	}
}
