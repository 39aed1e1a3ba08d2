package auth

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/crypto/bcrypt"
)

// nobody is the hash of a password that was thrown away: what to compare with where there are no users.
const nobody = "$2a$10$YVueafX05ivQInn68TR3YO6Siv97PUnenGMIEFIp6sPoZ7tkrXe1m"

// Users holds the hashes of passwords. It does not change, so that any number of goroutines may use it.
type Users struct {
	hashes map[string][]byte
	// generations tell a user's credential from the one before and the one after it, and nothing else.
	generations map[string]string
	costliest   []byte // the hash that takes longest to compare with
}

func newUsers() *Users {
	return &Users{hashes: make(map[string][]byte), generations: make(map[string]string), costliest: []byte(nobody)}
}

// OpenHtpasswd reads a file of lines of the form user:hash. Blank lines and those that begin with # are skipped. It fails
// when the file can't be read, has a user twice, or has a hash other than bcrypt's; the error names the line. A file without
// users is one that lets nobody in.
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
	users := newUsers()
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
	return users, nil
}

// SingleUser holds one user. It fails when the name can't be one or the hash is none of bcrypt's.
func SingleUser(name, hash string) (*Users, error) {
	users := newUsers()
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
		return fmt.Errorf("bad user name %q: it may not be empty, be '*', begin with '#', begin or end with a space, have ':' or control characters, or more than 255 bytes", clip(name))
	}
	if _, twice := u.hashes[name]; twice {
		return fmt.Errorf("the user %q is there twice", name)
	}
	cost, err := checkHash(hash)
	if err != nil {
		return fmt.Errorf("the user %q: %w", name, err)
	}
	if highest, err := bcrypt.Cost(u.costliest); err != nil || cost > highest || len(u.hashes) == 0 {
		u.costliest = []byte(hash)
	}
	u.hashes[name] = []byte(hash)
	u.generations[name] = newGeneration(name, []byte(hash))
	return nil
}

// validName reports whether a client can send s as a user name (RFC 7617, section 2).
func validName(s string) bool {
	return s != "" && s != "*" && len(s) <= maxName && s[0] != '#' && strings.TrimSpace(s) == s && utf8.ValidString(s) && !strings.ContainsRune(s, ':') && !strings.ContainsFunc(s, unicode.IsControl)
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

// Names returns the users, sorted.
func (u *Users) Names() []string { return slices.Sorted(maps.Keys(u.hashes)) }

// entry returns a user's hash. For users that are unknown it is the one that takes longest to compare with, so that the time
// it takes does not tell who is there.
func (u *Users) entry(user string) (hash []byte, known bool) {
	hash, known = u.hashes[user]
	if !known {
		hash = u.costliest
	}
	return hash, known
}

// generation is empty for users that are unknown.
func (u *Users) generation(user string) string { return u.generations[user] }

func newGeneration(user string, hash []byte) string {
	sum := sha256.Sum256(append([]byte("generation of "+user+":"), hash...))
	return base64.RawURLEncoding.EncodeToString(sum[:9])
}
