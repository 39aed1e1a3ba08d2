package auth

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"berth/auth/access"
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
