package auth

import (
	"crypto/rand"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/bcrypt"
)

const (
	// MaxCost is the highest bcrypt cost that is taken, as with htpasswd -C: each step doubles the time.
	MaxCost = 17
	// DefaultCost is the one to use where nobody chose: some 50 ms on a server, and a few times that on a Raspberry Pi.
	DefaultCost = bcrypt.DefaultCost

	maxPassword = 72 // bytes, bcrypt's own limit
)

// GeneratePassword returns 20 lower-case letters and digits with 100 bits of randomness: no 0 or 1 to mistake for o or l,
// and one word to a double click.
func GeneratePassword() string {
	return strings.ToLower(rand.Text()[:20])
}

// HashPassword returns a hash for OpenHtpasswd and SingleUser. It fails unless the password has between 1 and 72 bytes and the
// cost is between 4 and MaxCost.
func HashPassword(password []byte, cost int) (string, error) {
	switch {
	case len(password) == 0:
		return "", errors.New("the password is empty")
	case len(password) > maxPassword:
		return "", fmt.Errorf("the password has %d bytes, and bcrypt takes no more than %d", len(password), maxPassword)
	case cost < bcrypt.MinCost || cost > MaxCost:
		return "", fmt.Errorf("bcrypt cost %d is not between %d and %d", cost, bcrypt.MinCost, MaxCost)
	}
	hash, err := bcrypt.GenerateFromPassword(password, cost)
	if err != nil {
		return "", fmt.Errorf("hash password: %w", err)
	}
	return string(hash), nil
}

// ComparePassword reports whether a password is the one of a hash.
func ComparePassword(hash []byte, password string) bool {
	return bcrypt.CompareHashAndPassword(hash, []byte(password)) == nil
}
