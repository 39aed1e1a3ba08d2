package client

import (
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

func TestParseReference(t *testing.T) {
	sha := digest.FromString("app")
	for in, want := range map[string]Reference{
		"app":                               {"", "app", "latest", ""},
		"app:1.2":                           {"", "app", "1.2", ""},
		"team/app:1.2":                      {"", "team/app", "1.2", ""},
		"registry.lan/app":                  {"registry.lan", "app", "latest", ""},
		"registry.lan:5000/team/app:1":      {"registry.lan:5000", "team/app", "1", ""},
		"localhost/app:1":                   {"localhost", "app", "1", ""},
		"[::1]:5000/app:1":                  {"[::1]:5000", "app", "1", ""},
		"app@" + sha.String():               {"", "app", "", sha},
		"alfred:5000/app:1@" + sha.String(): {"alfred:5000", "app", "1", sha},
	} {
		got, err := ParseReference(in)
		if err != nil || got != want {
			t.Errorf("%s: got %+v, %v, want %+v", in, got, err, want)
		}
	}
	for _, bad := range []string{"", "/", "App", "app:", "app@", "app@sha256:1", "app:a b", "a:b/", "a:b:c/app", "app:1:2",
		"app@" + sha.String() + "@" + sha.String(), "https://a/app", "a.b/../c", "user@host.lan/app"} {
		if ref, err := ParseReference(bad); err == nil {
			t.Errorf("%q is %+v", bad, ref)
		}
	}
}

func FuzzParseReference(f *testing.F) {
	for _, seed := range []string{"app", "a.b/c:1", "localhost:5000/a/b@sha256:" + strings.Repeat("0", 64), "[::1]:1/a", "", ":", "@", "/"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ref, err := ParseReference(s)
		if err != nil {
			return
		}
		again, err := ParseReference(ref.String())
		if err != nil || again != ref {
			t.Errorf("%q is %+v, and read again %+v, %v", s, ref, again, err)
		}
		if ref.Repository == "" || ref.at() == "" || strings.ContainsAny(ref.Host, "/@ ") {
			t.Errorf("%q is %+v", s, ref)
		}
	})
}
