package storage_test

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"berth/storage"
)

var keys = []struct {
	key string
	ok  bool
}{
	{"a", true},
	{"blobs/3f9a01c2/0001/0123456789abcdef0123456789abcdef", true},
	{"docker/registry/v2/blobs/sha256/ab/abcd/data", true},
	{"-/_/a.b/A-Z_09", true},
	{"a..b", true},
	{strings.Repeat("a/", 255) + "aa", true},
	{strings.Repeat("a/", 256) + "a", false},
	{"", false},
	{"/", false},
	{"/a", false},
	{"a/", false},
	{"a//b", false},
	{".", false},
	{"..", false},
	{"a/../b", false},
	{"a/.hidden", false},
	{`a\b`, false},
	{"a b", false},
	{"a\x00", false},
	{"a\n", false},
	{"ä", false},
	{"a:b", false},
	{"\xff", false},
}

func TestCheckKey(t *testing.T) {
	for _, test := range keys {
		if err := storage.CheckKey(test.key); (err == nil) != test.ok {
			t.Errorf("%q: %v", test.key, err)
		}
	}
}

// FuzzCheckKey compares with the rule as a regular expression, and makes sure that a key stays below where it belongs.
func FuzzCheckKey(f *testing.F) {
	for _, seed := range keys {
		f.Add(seed.key)
	}
	rule := regexp.MustCompile(`\A[\w-][\w.-]*(/[\w-][\w.-]*)*\z`)
	f.Fuzz(func(t *testing.T, key string) {
		err := storage.CheckKey(key)
		if want := len(key) <= 512 && rule.MatchString(key); (err == nil) != want {
			t.Errorf("%q: %v", key, err)
		}
		if err == nil && (!filepath.IsLocal(key) || filepath.Clean(key) != key) {
			t.Errorf("%q leaves its root or has another name too", key)
		}
	})
}
