package auth

import (
	"net/http"
	"strings"
)

// Verifier checks passwords. Users is one.
type Verifier interface {
	Verify(user, password string) bool
}

// Basic authenticates requests by user name and password in the Authorization header (RFC 7617).
type Basic struct {
	// Realm is what clients show when they ask for a password.
	Realm string
	// Users has to be set.
	Users Verifier
}

// Authenticate returns the user whose credentials a request carries. It reports false when there are none, when they are
// of another scheme, and when they are wrong.
func (b Basic) Authenticate(r *http.Request) (user string, ok bool) {
	user, password, ok := r.BasicAuth()
	if !ok || !b.Users.Verify(user, password) {
		return "", false
	}
	return user, true
}

// Challenge returns the WWW-Authenticate header of a 401. It is the same for every request.
func (b Basic) Challenge(*http.Request) string {
	return `Basic realm="` + quote(b.Realm) + `"`
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
