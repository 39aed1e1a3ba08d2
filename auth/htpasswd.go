// Package auth says who a client is: it checks a user name and password against bcrypt hashes, as htpasswd -B writes them.
//
// It guarantees that a wrong password and an unknown user take the same time where all hashes have the same cost, and that
// neither passwords nor hashes get into its errors. It does not limit how often or how many at a time may try, each try
// costs what the hash's cost says, and a file is read once: later changes are not noticed. As everywhere with bcrypt, only the
// first 72 bytes of a password count.
//
// A file with an entry that can't be used is refused as a whole: whoever wrote it expected that user to get in.
package auth

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/crypto/bcrypt"
)

// Users holds the hashes of passwords. It does not change, so that any number of goroutines may use it.
type Users struct {
	hashes    map[string][]byte
	costliest []byte // the hash that takes longest to compare with
}

// OpenHtpasswd reads a file of lines of the form user:hash. Blank lines and those that begin with # are skipped. It fails
// when the file can't be read, has no users, has one twice, or has a hash other than bcrypt's; the error names the line.
func OpenHtpasswd(path string) (*Users, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read htpasswd file: %w", err)
	}
	users, err := ParseHtpasswd(data)
	if err != nil {
		return nil, fmt.Errorf("htpasswd file %s: %w", path, err)
	}
	return users, nil
}

// ParseHtpasswd reads the content of a file as OpenHtpasswd does.
func ParseHtpasswd(data []byte) (*Users, error) {
	data = bytes.TrimPrefix(data, []byte("\ufeff")) // editors on Windows begin with it
	users := &Users{hashes: make(map[string][]byte)}
	number := 0
	for line := range strings.Lines(string(data)) {
		number++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		if err := users.addLine(line); err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
	}
	if len(users.hashes) == 0 {
		return nil, errors.New("there are no users in it: add one with htpasswd -B")
	}
	return users, nil
}

// SingleUser holds one user. It fails when the name can't be one or the hash is none of bcrypt's.
func SingleUser(name, hash string) (*Users, error) {
	users := &Users{hashes: make(map[string][]byte)}
	if err := users.add(name, hash); err != nil {
		return nil, err
	}
	return users, nil
}

func (u *Users) addLine(line string) error {
	name, hash, ok := strings.Cut(line, ":")
	if !ok {
		return errors.New("expected the form user:hash") // without the line, which may be a secret
	}
	return u.add(name, hash)
}

func (u *Users) add(name, hash string) error {
	if !validName(name) {
		return fmt.Errorf("bad user name %q: it may not be empty nor have ':' or control characters", name)
	}
	if _, twice := u.hashes[name]; twice {
		return fmt.Errorf("the user %q is there twice", name)
	}
	cost, err := checkHash(hash)
	if err != nil {
		return fmt.Errorf("the user %q: %w", name, err)
	}
	if highest, err := bcrypt.Cost(u.costliest); err != nil || cost > highest {
		u.costliest = []byte(hash)
	}
	u.hashes[name] = []byte(hash)
	return nil
}

// validName reports whether a client can send s as a user name (RFC 7617, section 2).
func validName(s string) bool {
	return s != "" && utf8.ValidString(s) && !strings.ContainsRune(s, ':') && !strings.ContainsFunc(s, unicode.IsControl)
}

// checkHash returns the cost of a hash of the form $2y$05$ and 53 characters of salt and sum.
func checkHash(hash string) (int, error) {
	var sum string
	for _, version := range []string{"$2a$", "$2b$", "$2y$"} {
		if rest, ok := strings.CutPrefix(hash, version); ok && len(rest) == 56 && rest[2] == '$' {
			sum = rest[3:]
		}
	}
	if sum == "" || strings.ContainsFunc(sum, notInSum) {
		return 0, errors.New("the password is not hashed with bcrypt: make the entry again with htpasswd -B")
	}
	cost, err := bcrypt.Cost([]byte(hash))
	if err != nil {
		return 0, errors.New("the hash has an impossible cost: make the entry again with htpasswd -B")
	}
	if cost > MaxCost {
		return 0, fmt.Errorf("a bcrypt cost of %d keeps the registry busy for minutes: use at most %d", cost, MaxCost)
	}
	return cost, nil
}

func notInSum(r rune) bool {
	switch {
	case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', r == '.', r == '/':
		return false
	}
	return true
}

// Verify reports whether the user is known and the password is theirs. For users that are unknown it works as hard as
// for the one with the costliest hash, so that the time it takes does not tell who is there.
func (u *Users) Verify(user, password string) bool {
	hash, known := u.hashes[user]
	if !known {
		hash = u.costliest
	}
	return bcrypt.CompareHashAndPassword(hash, []byte(password)) == nil && known
}
