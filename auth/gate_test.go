package auth

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"berth/auth/access"
	"berth/auth/token"
)

// logBuffer is a log that may be written to and read at once.
type logBuffer struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all.String()
}

// robotList is where the robots of a test are.
type robotList struct {
	mu     sync.Mutex
	robots map[string]*Robot // by the hash of their secret
	used   map[string]time.Time
	broken error
}

func (l *robotList) RobotBySecret(_ context.Context, hash []byte) (*Robot, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r := l.robots[string(hash)]; r != nil && l.broken == nil {
		return r, nil
	}
	return nil, l.failure()
}

func (l *robotList) failure() error {
	if l.broken != nil {
		return l.broken
	}
	return ErrNoRobot
}

func (l *robotList) Robot(_ context.Context, id string) (*Robot, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.robots {
		if r.ID == id && l.broken == nil {
			return r, nil
		}
	}
	return nil, l.failure()
}

func (l *robotList) NoteUses(_ context.Context, uses map[string]time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.broken != nil {
		return l.broken
	}
	l.used = uses
	return nil
}

// add makes a robot and returns its secret.
func (l *robotList) add(t *testing.T, name, repositories, actions string) string {
	t.Helper()
	id, secret, hash := GenerateRobot()
	robot, err := NewRobot(id, name, []string{repositories}, actions)
	if err != nil {
		t.Fatal(err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.robots == nil {
		l.robots = make(map[string]*Robot)
	}
	l.robots[string(hash)] = robot
	return secret
}

func (l *robotList) revoke() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.robots = nil
}

// openGate opens a gate for ann, bob and eve, whose passwords are their names.
func openGate(t testing.TB, c Config) *Gate {
	t.Helper()
	if c.External == nil && c.Htpasswd == "" {
		c.Users = cheap(t, "ann", "bob", "eve")
	}
	c.Realm, c.TokenPath, c.MakeKeys = "Test", "/auth/token", true
	c.KeyFile = filepath.Join(t.TempDir(), "keys.pem")
	g, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	return g
}

func rules(t testing.TB, anonymous bool) *access.Rules {
	t.Helper()
	all := []access.Rule{
		{Repositories: []string{"team/**"}, Users: []string{"ann"}, Actions: []string{"push"}},
		{Repositories: []string{"team/**"}, Users: []string{"bob"}, Actions: []string{"pull"}},
	}
	if anonymous {
		all = append(all, access.Rule{Repositories: []string{"public/**"}, Anonymous: []string{"pull"}})
	}
	r, err := access.Compile(all, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// ask is a request to the gate for an action, as api makes it.
type ask struct {
	repository string
	action     access.Actions
}

// answer is what a client hears, short: 200, or the status and the parameters of the challenge that matter.
func (g *Gate) answer(r *http.Request, a ask) string {
	c, refusal := g.Admit(r, Origin{"192.0.2.1", "id"})
	if refusal == nil {
		refusal = judge(c, r, a)
	}
	if refusal == nil {
		return "200"
	}
	text := fmt.Sprint(refusal.Status)
	if refusal.Challenge == "" {
		return text
	}
	scheme, parameters, _ := strings.Cut(refusal.Challenge, " ")
	text += " " + scheme
	for _, name := range []string{"error", "scope"} {
		if _, rest, ok := strings.Cut(parameters, name+`="`); ok {
			value, _, _ := strings.Cut(rest, `"`)
			text += " " + value
		}
	}
	return text
}

func judge(c *Client, r *http.Request, a ask) *Refusal {
	var refusal Refusal
	switch {
	case a.repository == "" && a.action == access.None:
		if c.Known() {
			return nil
		}
		refusal = c.RefuseBase(r)
	case a.repository == "":
		if c.MayList() {
			return nil
		}
		refusal = c.RefuseList(r)
	case c.May(a.repository, a.action):
		return nil
	default:
		refusal = c.Refuse(r, a.repository, a.action)
	}
	return &refusal
}

func request(headers ...string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "https://registry.test:5000/v2/", nil)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	return r
}

func basic(user, password string) *http.Request {
	r := request()
	r.SetBasicAuth(user, password)
	return r
}

func bearer(raw string) *http.Request { return request("Authorization", "Bearer "+raw) }

// fetch asks the endpoint for a token.
func (g *Gate) fetch(t testing.TB, r *http.Request, scopes ...string) string {
	t.Helper()
	r.URL.RawQuery = url.Values{"scope": scopes, "service": {"berth"}}.Encode()
	status, body := g.tokens(t, r)
	if status != http.StatusOK {
		t.Fatalf("no token: %d %v", status, body)
	}
	return body["token"].(string)
}

func (g *Gate) tokens(t testing.TB, r *http.Request) (int, map[string]any) {
	t.Helper()
	w := httptest.NewRecorder()
	g.ServeToken(w, r, Origin{"192.0.2.1", "id"})
	var body map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil {
		t.Fatalf("%d %q: %v", w.Code, w.Body, err)
	}
	return w.Code, body
}

var (
	base    = ask{}
	catalog = ask{"", access.Pull}
	pull    = func(repository string) ask { return ask{repository, access.Pull} }
	push    = func(repository string) ask { return ask{repository, access.Push} }
	remove  = func(repository string) ask { return ask{repository, access.Delete} }
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
	g.SetUsers(cheap(t, "eve"))
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

	g.SetUsers(cheap(t, "ann", "bob"))
	want("the same password, hashed again", ann, pull("team/x"), "401 Bearer invalid_token")
	ann = bearer(g.fetch(t, basic("ann", "ann"), "repository:team/x:pull"))
	want("a new token", ann, pull("team/x"), "200")
	g.SetUsers(cheap(t, "bob"))
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
	g := openGate(t, Config{Rules: rules(t, true), LoginHint: "a hint"})
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
		{request(), push("public/x"), "authentication required: docker login registry.test:5000 (a hint), to push to public/x"},
		{basic("ann", "wrong"), base, "wrong user name or password (a hint)"},
	} {
		if got := message(test.r, test.ask); got != test.want {
			t.Errorf("got %q", got)
		}
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
	g.SetUsers(cheap(t, "bob", "zoe"))
	for _, want := range []string{`"msg":"login failed","user":"ann","remote":"192.0.2.1","request":"id","reason":"wrong user name or password"`,
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

func TestTokenEndpoint(t *testing.T) {
	robots := &robotList{}
	secret := robots.add(t, "ci", "**", "pull")
	g := openGate(t, Config{Rules: rules(t, true), Robots: robots, Refresh: true, TokenLifetime: time.Second})
	plain := openGate(t, Config{Rules: rules(t, true)})
	get := func(r *http.Request, query string) *http.Request {
		r.URL.RawQuery = query
		return r
	}
	post := func(form string) *http.Request {
		r := httptest.NewRequest(http.MethodPost, "https://registry.test:5000/auth/token", strings.NewReader(form))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		return r
	}
	_, offline := g.tokens(t, get(basic("ann", "ann"), "offline_token=true"))
	refresh, _ := offline["refresh_token"].(string)
	if refresh == "" || offline["expires_in"] != 60.0 || offline["issued_at"] != nil || offline["access_token"] != offline["token"] {
		t.Fatalf("got %v", offline)
	}
	noForm := post("grant_type=password")
	noForm.Header.Set("Content-Type", "application/json")
	for name, test := range map[string]struct {
		gate *Gate
		r    *http.Request
		want int
		has  []string
	}{
		"stranger":             {g, request(), 200, nil},
		"stranger, offline":    {g, get(request(), "offline_token=true"), 200, nil},
		"ann":                  {g, basic("ann", "ann"), 200, nil},
		"ann, offline, off":    {plain, get(basic("ann", "ann"), "offline_token=true"), 200, nil},
		"robot, offline":       {g, get(basic("x", secret), "offline_token=true"), 200, []string{"refresh_token"}},
		"wrong":                {g, basic("ann", "wrong"), 401, []string{"errors"}},
		"bearer":               {g, bearer(refresh), 401, nil},
		"post, password":       {g, post("grant_type=password&username=ann&password=ann&scope=repository:team/x:pull"), 200, nil},
		"post, offline":        {g, post("grant_type=password&username=ann&password=ann&access_type=offline"), 200, []string{"refresh_token"}},
		"post, wrong":          {g, post("grant_type=password&username=ann&password=x"), 401, []string{"error"}},
		"post, refresh":        {g, post("grant_type=refresh_token&refresh_token=" + refresh), 200, nil},
		"post, refresh, wrong": {g, post("grant_type=refresh_token&refresh_token=x"), 401, nil},
		"post, access as such": {g, post("grant_type=refresh_token&refresh_token=" + offline["token"].(string)), 401, nil},
		"post, refresh, off":   {plain, post("grant_type=refresh_token&refresh_token=" + refresh), 401, nil},
		"post, another grant":  {g, post("grant_type=code"), 400, []string{"error"}},
		"post, no form":        {g, noForm, 400, nil},
		"post, too long":       {g, post("a=" + strings.Repeat("x", maxForm)), 400, nil},
		"delete":               {g, httptest.NewRequest(http.MethodDelete, "/auth/token", nil), 405, nil},
	} {
		status, body := test.gate.tokens(t, test.r)
		if status != test.want {
			t.Errorf("%s: got %d %v, want %d", name, status, body, test.want)
		}
		for _, key := range test.has {
			if body[key] == nil {
				t.Errorf("%s: %s is missing in %v", name, key, body)
			}
		}
		if _, ok := body["refresh_token"]; ok && !slices.Contains(test.has, "refresh_token") {
			t.Errorf("%s: got a refresh token", name)
		}
		if _, ok := body["token"]; ok != (test.want == 200) {
			t.Errorf("%s: got %v", name, body)
		}
	}
	// A refresh token dies with the credential.
	g.SetUsers(cheap(t, "ann"))
	if status, _ := g.tokens(t, post("grant_type=refresh_token&refresh_token="+refresh)); status != 401 {
		t.Errorf("after another password: %d", status)
	}
}

func TestExternalGate(t *testing.T) {
	keys, err := token.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	server, jwks := newServer(t, keys)
	g := openGate(t, Config{External: &ExternalServer{Realm: "https://auth.test/token", ExternalConfig: jwks}})
	raw := server(token.Scope{Type: "repository", Name: "a", Actions: []string{"pull"}}, token.Scope{Type: "registry", Name: "catalog", Actions: []string{"*"}})
	for _, test := range []struct {
		name string
		r    *http.Request
		ask  ask
		want string
	}{
		{"stranger", request(), base, "401 Bearer"},
		{"stranger", request(), pull("a"), "401 Bearer repository:a:pull"},
		{"stranger", request(), catalog, "401 Bearer registry:catalog:*"},
		{"password", basic("ann", "ann"), pull("a"), "401 Bearer"},
		{"token", bearer(raw), base, "200"},
		{"token", bearer(raw), pull("a"), "200"},
		{"token", bearer(raw), catalog, "200"},
		{"token", bearer(raw), push("a"), "401 Bearer insufficient_scope repository:a:pull,push"},
		{"token", bearer(raw), pull("b"), "401 Bearer insufficient_scope repository:b:pull"},
		{"no token", bearer("x"), pull("a"), "401 Bearer invalid_token"},
	} {
		if got := g.answer(test.r, test.ask); got != test.want {
			t.Errorf("%s, %+v: got %s, want %s", test.name, test.ask, got, test.want)
		}
	}
	w := httptest.NewRecorder()
	g.ServeToken(w, request(), Origin{})
	if w.Code != http.StatusNotFound {
		t.Errorf("the endpoint answers %d", w.Code)
	}
	c, refusal := g.Admit(bearer(raw), Origin{})
	if refusal != nil || c.Name() != "ann" || !c.Sees("whatever") {
		t.Errorf("got %v, %v", c, refusal)
	}
}
