package auth

import (
	"net/http"
	"strings"

	"berth/auth/token"
)

// challenge is what a Bearer challenge says beside where to get a token (RFC 6750, section 3).
type challenge struct {
	scope                token.Scope
	failure, description string
}

// challenge returns the WWW-Authenticate header of a 401. There is one kind of challenge for a configuration: clients that
// are offered two take the first that they know.
func (g *Gate) challenge(r *http.Request, c challenge) string {
	if !g.bearer() {
		return `Basic realm="` + quote(g.config.Realm) + `"`
	}
	realm, service := g.config.TokenPath, token.Audience
	if g.external != nil {
		realm, service = g.config.External.Realm, g.config.External.Service
	}
	parts := []string{`Bearer realm="` + quote(absolute(r, realm)) + `"`, `service="` + quote(service) + `"`}
	if c.scope.Type != "" {
		parts = append(parts, `scope="`+quote(c.scope.String())+`"`)
	}
	if c.failure != "" {
		parts = append(parts, `error="`+c.failure+`"`, `error_description="`+quote(c.description)+`"`)
	}
	return strings.Join(parts, ",")
}

// bearer reports which challenge is sent. Tokens are needed where clients without a password may do something: docker sends
// its password or nothing, and would not ask for one. Where refresh tokens were given out they are all that clients have.
func (g *Gate) bearer() bool {
	return g.external != nil || g.config.Refresh || g.rules.Load().Anonymous()
}

// absolute returns the URL of a path on the host that the client sees: clients want the realm in full. What a proxy says of
// that needs no trust: it comes back to the client that sent it, and to nobody else.
func absolute(r *http.Request, path string) string {
	if !strings.HasPrefix(path, "/") {
		return path
	}
	scheme, host := "http", r.Host
	if r.TLS != nil {
		scheme = "https"
	}
	if s := firstOf(r.Header.Get("X-Forwarded-Proto")); s == "http" || s == "https" {
		scheme = s
	}
	if s := firstOf(r.Header.Get("X-Forwarded-Host")); s != "" {
		host = s
	}
	return scheme + "://" + host + path
}

// firstOf returns the first element of a list in a header.
func firstOf(list string) string {
	first, _, _ := strings.Cut(list, ",")
	return strings.TrimSpace(first)
}

// quote returns s as it stands within a quoted-string (RFC 9110, section 5.6.4), without what may not be in a header.
func quote(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return -1
		}
		return r
	}, s)
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s)
}
