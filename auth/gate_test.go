package auth

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"berth/auth/access"
)

// TestAnswers is the table of who hears what.
func TestAnswers(t *testing.T) {
	robots := &robotList{}
	secret := robots.add(t, "ci", "team/**", "pull,push")
	basicGate := openGate(t, Config{Rules: rules(t, false), Robots: robots})
	bearerGate := openGate(t, Config{Rules: rules(t, true), Robots: robots})
	for _, test := range []struct {
		name                string
		r                   *http.Request
		ask                 ask
		wantBasic, wantBear string
	}{
		{"stranger", request(), base, "401 Basic", "401 Bearer"},
		{"stranger", request(), catalog, "401 Basic", "200"},
		{"stranger", request(), pull("public/x"), "401 Basic", "200"},
		{"stranger", request(), push("public/x"), "401 Basic", "401 Bearer repository:public/x:pull,push"},
		{"stranger", request(), pull("team/x"), "401 Basic", "401 Bearer repository:team/x:pull"},
		{"stranger", request(), remove("team/x"), "401 Basic", "401 Bearer repository:team/x:delete"},
		{"ann", basic("ann", "ann"), base, "200", "200"},
		{"ann", basic("ann", "ann"), catalog, "200", "200"},
		{"ann", basic("ann", "ann"), push("team/x"), "200", "200"},
		{"ann", basic("ann", "ann"), remove("team/x"), "403", "403"},
		{"ann", basic("ann", "ann"), pull("other"), "403", "403"},
		{"bob", basic("bob", "bob"), pull("team/x"), "200", "200"},
		{"bob", basic("bob", "bob"), push("team/x"), "403", "403"},
		{"bob", basic("bob", "bob"), pull("public/x"), "403", "200"},
		{"eve", basic("eve", "eve"), pull("team/x"), "403", "403"},
		{"wrong", basic("ann", "bob"), base, "401 Basic", "401 Bearer"},
		{"wrong", basic("ann", "bob"), pull("public/x"), "401 Basic", "401 Bearer"},
		{"unknown", basic("zoe", "zoe"), pull("public/x"), "401 Basic", "401 Bearer"},
		{"robot", basic("whoever", secret), push("team/x"), "200", "200"},
		{"robot", basic("ann", secret), remove("team/x"), "403", "403"},
		{"robot", basic("ci", secret), pull("public/x"), "403", "200"},
		{"robot", basic("ci", secret), push("public/x"), "403", "403"},
		{"scheme", request("Authorization", "Digest x"), base, "401 Basic", "401 Bearer"},
		{"no base64", request("Authorization", "Basic ???"), base, "401 Basic", "401 Bearer"},
		{"no token", bearer("x"), base, "401 Basic", "401 Bearer invalid_token"},
		{"no token", bearer("x"), pull("public/x"), "401 Basic", "401 Bearer invalid_token"},
	} {
		for gate, want := range map[*Gate]string{basicGate: test.wantBasic, bearerGate: test.wantBear} {
			if got := gate.answer(test.r, test.ask); got != want {
				t.Errorf("%s, %+v, with tokens %t: got %s, want %s", test.name, test.ask, gate == bearerGate, got, want)
			}
		}
	}
}

// TestTokenAnswers is the table of what tokens are good for.
func TestTokenAnswers(t *testing.T) {
	robots := &robotList{}
	secret := robots.add(t, "ci", "team/**", "pull")
	g := openGate(t, Config{Rules: rules(t, true), Robots: robots})
	ann := func(scopes ...string) string { return g.fetch(t, basic("ann", "ann"), scopes...) }
	stranger := func(scopes ...string) string { return g.fetch(t, request(), scopes...) }
	robot := func(scopes ...string) string { return g.fetch(t, basic("x", secret), scopes...) }
	for _, test := range []struct {
		name string
		raw  string
		ask  ask
		want string
	}{
		{"ann, nothing asked", ann(), base, "200"},
		{"ann, nothing asked", ann(), pull("team/x"), "401 Bearer insufficient_scope repository:team/x:pull"},
		{"ann, pull", ann("repository:team/x:pull"), pull("team/x"), "200"},
		{"ann, pull", ann("repository:team/x:pull"), push("team/x"), "401 Bearer insufficient_scope repository:team/x:pull,push"},
		{"ann, push", ann("repository:team/x:push"), pull("team/x"), "200"},
		{"ann, all", ann("repository:team/x:*"), push("team/x"), "200"},
		{"ann, all", ann("repository:team/x:*"), remove("team/x"), "403"},
		{"ann, another", ann("repository:team/y:pull,push"), pull("team/x"), "401 Bearer insufficient_scope repository:team/x:pull"},
		{"ann, both", ann("repository:team/y:pull repository:team/x:pull,push"), push("team/x"), "200"},
		{"ann, both", ann("repository:team/y:pull", "repository:team/x:pull,push"), push("team/x"), "200"},
		{"ann, forbidden", ann("repository:other:pull"), pull("other"), "403"},
		{"ann, list", ann("registry:catalog:*"), catalog, "200"},
		{"ann, no list", ann("registry:catalog:pull"), catalog, "401 Bearer insufficient_scope registry:catalog:*"},
		{"stranger", stranger(), base, "200"},
		{"stranger, pull", stranger("repository:public/x:pull,push"), pull("public/x"), "200"},
		{"stranger, push", stranger("repository:public/x:pull,push"), push("public/x"), "401 Bearer insufficient_scope repository:public/x:pull,push"},
		{"stranger, team", stranger("repository:team/x:pull"), pull("team/x"), "401 Bearer insufficient_scope repository:team/x:pull"},
		{"robot", robot("repository:team/x:pull,push"), pull("team/x"), "200"},
		{"robot", robot("repository:team/x:pull,push"), push("team/x"), "403"},
		{"robot", robot("repository:public/x:pull"), pull("public/x"), "200"},
		{"robot", robot("repository:other:pull"), pull("other"), "403"},
	} {
		if got := g.answer(bearer(test.raw), test.ask); got != test.want {
			t.Errorf("%s, %+v: got %s, want %s", test.name, test.ask, got, test.want)
		}
	}
}

// TestTokensFit asks for more than fits into a token that the registry would look at again.
func TestTokensFit(t *testing.T) {
	g := openGate(t, Config{Refresh: true})
	var scopes []string
	for i := range 90 {
		scopes = append(scopes, fmt.Sprintf("repository:%s/%d:pull,push,delete", strings.Repeat("n", 200), i))
	}
	raw := g.fetch(t, basic("ann", "ann"), scopes...)
	if got := g.answer(bearer(raw), pull(strings.Repeat("n", 200)+"/0")); got != "200" {
		t.Errorf("the first: %s", got)
	}
	if got := g.answer(bearer(raw), pull(strings.Repeat("n", 200)+"/89")); !strings.Contains(got, "insufficient_scope") {
		t.Errorf("the last: %s", got)
	}
}

// TestUsersFromElsewhere are not replaced.
func TestUsersFromElsewhere(t *testing.T) {
	path := filepath.Join(t.TempDir(), "htpasswd")
	if err := AddUser(path, "ann", string(cheap(t, "ann").hashes["ann"])); err != nil {
		t.Fatal(err)
	}
	g := openGate(t, Config{Htpasswd: path})
	g.SetUsers(cheap(t, "eve"), "a test")
	if g.answer(basic("ann", "ann"), base) != "200" || g.answer(basic("eve", "eve"), base) == "200" {
		t.Error("the users of a file were replaced")
	}
}

// TestTakenAwayAtOnce has tokens that are good, and then takes away one thing after the other.
func TestTakenAwayAtOnce(t *testing.T) {
	robots := &robotList{}
	secret := robots.add(t, "ci", "team/**", "pull")
	g := openGate(t, Config{Rules: rules(t, true), Robots: robots})
	ann := bearer(g.fetch(t, basic("ann", "ann"), "repository:team/x:pull,push"))
	robot := bearer(g.fetch(t, basic("x", secret), "repository:team/x:pull"))
	want := func(what string, r *http.Request, a ask, want string) {
		t.Helper()
		if got := g.answer(r, a); got != want {
			t.Errorf("%s: got %s, want %s", what, got, want)
		}
	}
	want("before", ann, push("team/x"), "200")
	want("before", robot, pull("team/x"), "200")

	narrower, err := access.Compile([]access.Rule{{Repositories: []string{"**"}, Users: []string{"ann"}, Actions: []string{"pull"}},
		{Repositories: []string{"public/**"}, Anonymous: []string{"pull"}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	g.SetRules(narrower)
	want("a rule is gone", ann, push("team/x"), "403")
	want("a rule stayed", ann, pull("team/x"), "200")

	g.SetUsers(cheap(t, "ann", "bob"), "a test")
	want("the same password, hashed again", ann, pull("team/x"), "401 Bearer invalid_token")
	ann = bearer(g.fetch(t, basic("ann", "ann"), "repository:team/x:pull"))
	want("a new token", ann, pull("team/x"), "200")
	g.SetUsers(cheap(t, "bob"), "a test")
	want("the user is gone", ann, pull("team/x"), "401 Bearer invalid_token")
	want("the user is gone", basic("ann", "ann"), pull("team/x"), "401 Bearer")

	robots.revoke()
	want("the robot is revoked", robot, pull("team/x"), "401 Bearer invalid_token")
	want("the robot is revoked", basic("x", secret), pull("team/x"), "401 Bearer")

	g.SetRules(nil)
	want("no rules", basic("bob", "bob"), remove("other"), "200")
	want("no rules", request(), pull("public/x"), "401 Basic")
}

func TestChallenge(t *testing.T) {
	for realm, want := range map[string]string{
		"":                         `Basic realm=""`,
		"Registry Realm":           `Basic realm="Registry Realm"`,
		`a "b" \c`:                 `Basic realm="a \"b\" \\c"`,
		"a\r\nX-Evil: 1\x00\x7f\t": `Basic realm="aX-Evil: 1"`,
		"Größe":                    `Basic realm="Größe"`,
	} {
		g := &Gate{config: Config{Realm: realm}}
		if got := g.challenge(request(), challenge{}); got != want {
			t.Errorf("%q: got %s, want %s", realm, got, want)
		}
	}
	g := openGate(t, Config{Refresh: true})
	for _, test := range []struct {
		r    *http.Request
		want string
	}{
		{request(), "https://registry.test:5000/auth/token"},
		{request("X-Forwarded-Proto", "http, https", "X-Forwarded-Host", "front.test, x"), "http://front.test/auth/token"},
		{request("X-Forwarded-Proto", "javascript", "X-Forwarded-Host", `a"b`), `https://a\"b/auth/token`},
	} {
		if got := g.challenge(test.r, challenge{}); got != `Bearer realm="`+test.want+`",service="berth"` {
			t.Errorf("got %s, want the realm %s", got, test.want)
		}
	}
}

func TestMessages(t *testing.T) {
	robots := &robotList{}
	secret := robots.add(t, "ci", "team/**", "pull")
	g := openGate(t, Config{Rules: rules(t, true), LoginHint: "a hint", Robots: robots})
	fetched := bearer(g.fetch(t, basic("x", secret), "repository:team/x:pull"))
	message := func(r *http.Request, a ask) string {
		t.Helper()
		c, refusal := g.Admit(r, Origin{"192.0.2.1", "id"})
		if refusal == nil {
			refusal = judge(c, r, a)
		}
		return refusal.Message
	}
	for _, test := range []struct {
		r    *http.Request
		ask  ask
		want string
	}{
		{basic("bob", "bob"), push("team/x"), "bob may not push to team/x: no access rule allows push, allowed is pull; ask whoever runs this registry"},
		{basic("eve", "eve"), pull("team/x"), "eve may not pull from team/x: no access rule allows pull, nothing is allowed there; ask whoever runs this registry"},
		{basic("x", secret), push("team/x"), "the access token ci may not push to team/x: allowed is pull; one for that is made with registry token create"},
		{request(), push("public/x"), "authentication required: docker login registry.test:5000 (a hint), to push to public/x"},
		{basic("ann", "wrong"), base, "wrong user name or password (a hint)"},
	} {
		if got := message(test.r, test.ask); got != test.want {
			t.Errorf("got %q", got)
		}
	}
	robots.revoke()
	if got := message(fetched, pull("team/x")); !strings.Contains(got, "the access token is revoked or has expired") {
		t.Errorf("got %q", got)
	}
}

func TestBrokenStore(t *testing.T) {
	robots := &robotList{}
	secret := robots.add(t, "ci", "**", "pull")
	var log logBuffer
	g := openGate(t, Config{Robots: robots, Refresh: true, Log: slog.New(slog.NewTextHandler(&log, nil))})
	raw := g.fetch(t, basic("x", secret), "repository:a:pull")
	robots.broken = errors.New("the disk is gone")
	for _, r := range []*http.Request{basic("x", secret), bearer(raw)} {
		if _, refusal := g.Admit(r, Origin{}); refusal == nil || refusal.Status != http.StatusServiceUnavailable || refusal.RetryAfter <= 0 ||
			strings.Contains(refusal.Message, "disk") {
			t.Errorf("got %+v", refusal)
		}
	}
	if !strings.Contains(log.String(), "the disk is gone") || strings.Contains(log.String(), secret) {
		t.Errorf("the log has %s", log.String())
	}
	if got := g.answer(basic("ann", "ann"), base); got != "200" {
		t.Errorf("a user is told %s", got)
	}
}

func TestUses(t *testing.T) {
	robots := &robotList{}
	secret := robots.add(t, "ci", "**", "pull")
	g := openGate(t, Config{Robots: robots})
	if got := g.answer(basic("x", secret), base); got != "200" {
		t.Fatalf("got %s", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	robots.broken = errors.New("not now")
	cancel()
	g.Run(ctx) // ends at once, and writes what there is
	if robots.used != nil {
		t.Fatal("the broken store took it")
	}
	robots.broken = nil
	g.Run(ctx)
	if len(robots.used) != 1 {
		t.Errorf("used are %v", robots.used)
	}
}

// TestAuditAndLog has secrets in all places where they may come in, and finds them nowhere.
func TestAuditAndLog(t *testing.T) {
	robots := &robotList{}
	secret := robots.add(t, "ci", "**", "pull")
	var log, audit logBuffer
	g := openGate(t, Config{Robots: robots, Refresh: true, Log: slog.New(slog.NewTextHandler(&log, nil)), Audit: slog.New(slog.NewJSONHandler(&audit, nil))})
	raw := g.fetch(t, basic("ann", "ann"))
	for _, r := range []*http.Request{basic("ann", "pass-word"), basic("x", secret+"x"), bearer(raw + "x"), basic(strings.Repeat("n", 1000), "pass-word")} {
		if got := g.answer(r, base); !strings.HasPrefix(got, "401") {
			t.Errorf("got %s", got)
		}
	}
	for range failureBurst {
		g.answer(basic("eve", "pass-word"+fmt.Sprint(time.Now())), base)
	}
	if got := g.answer(basic("eve", "pass-word"), base); got != "429" {
		t.Errorf("got %s", got)
	}
	g.SetUsers(cheap(t, "bob", "zoe"), "admin socket")
	for _, want := range []string{`"msg":"login failed","user":"ann","remote":"192.0.2.1","request":"id","reason":"wrong user name or password"`,
		`"msg":"login failed","user":"eve","remote":"192.0.2.1","request":"id","reason":"too many failures"`,
		`"msg":"user added","subject":"zoe","by":"admin socket"`, `"msg":"user removed","subject":"ann"`, `"msg":"user changed","subject":"bob"`} {
		if !strings.Contains(audit.String(), want) {
			t.Errorf("the audit log lacks %s:\n%s", want, audit.String())
		}
	}
	for _, all := range []string{log.String(), audit.String()} {
		for _, hidden := range []string{"pass-word", secret, raw, strings.Repeat("n", 200)} {
			if strings.Contains(all, hidden) {
				t.Errorf("%q is in %s", hidden, all)
			}
		}
	}
}

func TestReload(t *testing.T) {
	path := filepath.Join(t.TempDir(), "htpasswd")
	write := func(users *Users) {
		t.Helper()
		var all []string
		for _, name := range users.Names() {
			all = append(all, name+":"+string(users.hashes[name]))
		}
		if err := os.WriteFile(path, []byte(strings.Join(all, "\n")), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(cheap(t, "ann", "bob"))
	var log logBuffer
	g := openGate(t, Config{Htpasswd: path, Log: slog.New(slog.NewTextHandler(&log, nil))})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); g.Run(ctx) }()
	defer func() { cancel(); <-done }()

	until := func(what string, r *http.Request, want string) {
		t.Helper()
		began := time.Now()
		for g.answer(r, base) != want {
			if time.Since(began) > 30*time.Second {
				t.Fatalf("%s: still %s\n%s", what, g.answer(r, base), log.String())
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	until("ann", basic("ann", "ann"), "200")
	write(cheap(t, "bob", "zoe"))
	until("zoe came", basic("zoe", "zoe"), "200")
	until("ann went", basic("ann", "ann"), "401 Basic")
	if err := os.WriteFile(path, []byte("zoe:plain"), 0o600); err != nil {
		t.Fatal(err)
	}
	for !strings.Contains(log.String(), "users were not reloaded") {
		time.Sleep(10 * time.Millisecond)
	}
	until("the old ones stay", basic("zoe", "zoe"), "200")
	write(cheap(t))
	until("all went", basic("zoe", "zoe"), "401 Basic")
	if !strings.Contains(log.String(), "has no users") {
		t.Errorf("the log has %s", log.String())
	}

	raw := g.fetch(t, request())
	if err := RotateKeyFile(g.config.KeyFile); err != nil {
		t.Fatal(err)
	}
	for !strings.Contains(log.String(), "keys of tokens reloaded") {
		time.Sleep(10 * time.Millisecond)
	}
	until("an old token", bearer(raw), "200")
	if err := os.WriteFile(g.config.KeyFile, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for !strings.Contains(log.String(), "keys of tokens were not reloaded") {
		time.Sleep(10 * time.Millisecond)
	}
	until("the old keys stay", bearer(raw), "200")
}

func TestOpenRefuses(t *testing.T) {
	directory := t.TempDir()
	bad := filepath.Join(directory, "bad")
	if err := os.WriteFile(bad, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		config Config
		want   string
	}{
		"no htpasswd":  {Config{Htpasswd: filepath.Join(directory, "none")}, "make it with registry user add"},
		"bad htpasswd": {Config{Htpasswd: bad}, "line 1: "},
		"no keys":      {Config{Users: cheap(t), KeyFile: filepath.Join(directory, "none")}, "keys of tokens: open"},
		"bad keys":     {Config{Users: cheap(t), KeyFile: bad}, "no private key"},
		"nowhere":      {Config{Users: cheap(t), KeyFile: filepath.Join(directory, "none", "key"), MakeKeys: true}, "keys of tokens: "},
		"no server":    {Config{External: &ExternalServer{}}, "set rootcertbundle or jwks"},
	} {
		if g, err := Open(test.config); g != nil || err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	g := openGate(t, Config{})
	if info, err := os.Stat(g.config.KeyFile); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the keys are %v, %v", info, err)
	}
}
