package main

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"berth/auth"
	"berth/config"
	"berth/storage/metadata"
)

// sharing is what shareTokenKeys needs of one of several servers of a database.
func sharing(t *testing.T, facts *metadata.Store, directory string) *sharedFile {
	t.Helper()
	c := config.Default()
	c.Metadata.Postgres.DSN = "set"
	f, err := shareTokenKeys(t.Context(), c, &stores{directory: directory, facts: facts})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *sharedFile) content(t *testing.T) string {
	t.Helper()
	if err := f.sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(f.path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// TestShareTokenKeys has servers with directories of their own and one database agree about the keys, whoever changes them.
func TestShareTokenKeys(t *testing.T) {
	facts, err := metadata.Open(t.Context(), metadata.Config{Path: filepath.Join(t.TempDir(), "facts")})
	if err != nil {
		t.Fatal(err)
	}
	defer facts.Close()
	directory := t.TempDir()
	one, two := sharing(t, facts, t.TempDir()), sharing(t, facts, directory)
	first := one.content(t)
	if got := two.content(t); got != first || first == "" {
		t.Fatalf("the second server has other keys")
	}
	for _, changed := range []*sharedFile{two, one} {
		if err := os.WriteFile(changed.path, []byte("changed at "+changed.path), 0o600); err != nil {
			t.Fatal(err)
		}
		want := changed.content(t)
		for _, f := range []*sharedFile{one, two} {
			if got := f.content(t); got != want {
				t.Errorf("after a change: %q, want %q", got, want)
			}
		}
	}
	// One that was away gets what the others have, whatever it had.
	if err := os.WriteFile(two.path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := sharing(t, facts, directory).content(t); got != one.content(t) {
		t.Errorf("after a restart: %q", got)
	}
	if info, err := os.Stat(two.path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode: %v, %v", info, err)
	}
}

func TestShareNothing(t *testing.T) {
	own := config.Default()
	own.Metadata.Postgres.DSN, own.Auth.Tokens.Key = "set", "own.pem"
	for name, c := range map[string]*config.Config{"SQLite": config.Default(), "keys of the configuration": own} {
		if f, err := shareTokenKeys(t.Context(), c, nil); f != nil || err != nil {
			t.Errorf("%s: %v, %v", name, f, err)
		}
	}
}

// TestFirstUserOfSeveralServers changes the password of the first user at one of two servers with a database in common, and then with a
// command beside a server that does not run. Nobody else goes on taking the old one, or a token that it got.
func TestFirstUserOfSeveralServers(t *testing.T) {
	variable, _ := database(t)
	environ := []string{variable, "REGISTRY_HTTP_TLS_MODE=off", "REGISTRY_AUTH_INITIALPASSWORD=the first"}
	one, two := serve(t, t.TempDir(), environ...), serve(t, t.TempDir(), environ...)
	defer two.end(t)
	admin := func(r *running, password string) visitor {
		return visitor{t: t, url: r.url()}.as("admin", strings.TrimSpace(password))
	}
	is := func(v visitor) bool {
		status, _, _ := v.do(http.MethodGet, "/v2/", "", "")
		return status == http.StatusOK
	}
	token := admin(two, "the first").withToken()
	if !is(token) || !is(admin(one, "the first")) {
		t.Fatal("the password is wrong before it is changed")
	}
	second, _, err := command(t, one.environ, "user", "passwd", "admin", "--generate", "--cost", "4")
	if err != nil {
		t.Fatal(err)
	}
	if is(admin(one, "the first")) || !is(admin(one, second)) {
		t.Error("the server that was asked knows the wrong one")
	}
	within(t, "the other server refuses a token of the old password", func() bool { return !is(token) })
	if is(admin(two, "the first")) || !is(admin(two, second)) {
		t.Error("the other server knows the wrong one")
	}
	one.end(t)
	third, _, err := command(t, one.environ, "user", "passwd", "admin", "--generate", "--cost", "4")
	if err != nil {
		t.Fatal(err)
	}
	within(t, "a server has what a command set", func() bool { return is(admin(two, third)) })
	if is(admin(two, second)) {
		t.Error("the one before is still good")
	}
}

// TestFirstUserTwoChanges has the newest password count, whoever set it, and looks without a change do nothing.
func TestFirstUserTwoChanges(t *testing.T) {
	facts, err := metadata.Open(t.Context(), metadata.Config{Path: filepath.Join(t.TempDir(), "facts")})
	if err != nil {
		t.Fatal(err)
	}
	defer facts.Close()
	var audits [2]output
	var servers [2]*firstUser
	for i := range servers {
		c := config.Default()
		c.Auth.InitialPassword = "the first"
		audit := slog.New(slog.NewTextHandler(&audits[i], nil))
		l, err := openLogin(t.Context(), c, &stores{directory: t.TempDir(), facts: facts}, audit, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		defer l.close()
		servers[i] = l.first
	}
	has := func(u *firstUser, password string) bool {
		r := httptest.NewRequest(http.MethodGet, "/v2/", nil)
		r.SetBasicAuth("admin", password)
		_, refusal := u.gate.Admit(r, auth.Origin{Remote: "127.0.0.1"})
		return refusal == nil
	}
	for i, password := range []string{"one", "two"} {
		hash, err := auth.HashPassword([]byte(password), 4)
		if err != nil {
			t.Fatal(err)
		}
		if err := servers[i].set(t.Context(), hash); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		for i, u := range servers {
			if err := u.sync(t.Context()); err != nil {
				t.Fatal(err)
			}
			if has(u, "the first") || has(u, "one") || !has(u, "two") {
				t.Errorf("server %d has another password than the newest", i)
			}
		}
	}
	for i, want := range []int{2, 1} {
		if got := strings.Count(audits[i].String(), "user changed"); got != want {
			t.Errorf("server %d recorded %d changes, want %d:\n%s", i, got, want, audits[i].String())
		}
	}
}
