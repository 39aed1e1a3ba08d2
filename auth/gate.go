package auth

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"berth/auth/access"
	"berth/auth/token"
	"berth/filewatch"
)

// Config says who is known and what they may do. One of Htpasswd, Users and External has to be given.
type Config struct {
	// Realm is what clients show when they ask for a password.
	Realm string
	// Htpasswd is the path of a file of users. Changes are noticed.
	Htpasswd string
	// Users are the users where there is no file.
	Users *Users
	// External is another server whose tokens are believed, instead of users.
	External *ExternalServer
	// Robots may be nil.
	Robots Robots
	// Rules say what users may do. Nil lets them do everything.
	Rules *access.Rules
	// KeyFile has the keys that sign tokens (package token). When MakeKeys is set it is made if missing. Changes are noticed.
	KeyFile  string
	MakeKeys bool
	// TokenPath is the path of the endpoint that ServeToken is for.
	TokenPath string
	// TokenLifetime is how long a token is good for, at least token.MinLifetime.
	TokenLifetime time.Duration
	// Refresh lets clients have tokens with which they get others without a password.
	Refresh bool
	// LoginHint is a sentence for people, added to what asks for a login: which user there is, say.
	LoginHint string
	// Log gets failures, Audit the same as records. Both may be nil.
	Log, Audit *slog.Logger
}

// ExternalServer is another server that makes tokens.
type ExternalServer struct {
	token.ExternalConfig
	// Realm is its URL, or its path where it is on the same host.
	Realm string
}

// Gate decides about requests. Open makes one; close it. Its methods may be called concurrently.
type Gate struct {
	config    Config
	passwords *passwords // nil with an external server
	external  *token.External
	rules     atomic.Pointer[access.Rules]
	keys      atomic.Pointer[token.Keys]
	memory    *token.Memory
	uses      uses
	now       func() time.Time
	htpasswd  []byte // the file's content when it was opened
	keyFile   []byte
}

// Open reads the files that c names. It fails when one of them can't be used, with what to do about it.
func Open(c Config) (*Gate, error) {
	g := &Gate{config: c, now: time.Now}
	if g.config.Log == nil {
		g.config.Log = slog.New(slog.DiscardHandler)
	}
	if g.config.Audit == nil {
		g.config.Audit = slog.New(slog.DiscardHandler)
	}
	g.config.TokenLifetime = max(cmp.Or(c.TokenLifetime, 5*time.Minute), token.MinLifetime)
	g.rules.Store(c.Rules)
	if err := g.open(c); err != nil {
		return nil, err
	}
	g.memory = token.NewMemory()
	return g, nil
}

func (g *Gate) open(c Config) (err error) {
	if c.External != nil {
		g.external, err = token.OpenExternal(c.External.ExternalConfig)
		return err
	}
	users := c.Users
	if c.Htpasswd != "" {
		if g.htpasswd, err = os.ReadFile(c.Htpasswd); err != nil {
			return fmt.Errorf("read htpasswd file: %w: make it with registry user add", err)
		}
		if users, err = ParseHtpasswd(g.htpasswd); err != nil {
			return fmt.Errorf("htpasswd file %s: %w", c.Htpasswd, err)
		}
		g.warnNobody(users)
	}
	if err := g.openKeys(c); err != nil {
		return fmt.Errorf("keys of tokens: %w", err)
	}
	g.passwords = newPasswords(users)
	return nil
}

func (g *Gate) openKeys(c Config) (err error) {
	if c.MakeKeys {
		if err := MakeKeyFile(c.KeyFile); err != nil {
			return err
		}
	}
	if g.keyFile, err = os.ReadFile(c.KeyFile); err != nil {
		return err
	}
	keys, err := token.ParseKeys(g.keyFile)
	if err != nil {
		return fmt.Errorf("%s: %w", c.KeyFile, err)
	}
	g.keys.Store(keys)
	return nil
}

// warnNobody says what locks everybody out.
func (g *Gate) warnNobody(users *Users) {
	if len(users.hashes) == 0 {
		g.config.Log.Warn("the htpasswd file has no users: nobody can log in; add one with registry user add", "file", g.config.Htpasswd)
	}
}

// Close ends what the gate does in the background. Run has to have returned.
func (g *Gate) Close() {
	g.memory.Close()
	if g.passwords != nil {
		g.passwords.close()
	}
}

// Run follows the files, and records when robots were used, until ctx ends. It is to be called once.
func (g *Gate) Run(ctx context.Context) {
	var running sync.WaitGroup
	if g.config.Htpasswd != "" && g.passwords != nil {
		running.Go(func() { filewatch.Follow(ctx, g.config.Htpasswd, g.htpasswd, g.reloadUsers) })
	}
	if g.keyFile != nil {
		running.Go(func() { filewatch.Follow(ctx, g.config.KeyFile, g.keyFile, g.reloadKeys) })
	}
	if g.config.Robots != nil {
		running.Go(func() { g.recordUses(ctx) })
	}
	running.Wait()
}

// reloadUsers takes a new content of the htpasswd file.
func (g *Gate) reloadUsers(data []byte, err error) {
	var users *Users
	if err == nil {
		users, err = ParseHtpasswd(data)
	}
	if err != nil {
		g.config.Log.Error("users were not reloaded, the old ones stay", "file", g.config.Htpasswd, "error", err)
		return
	}
	before := g.passwords.setUsers(users)
	g.config.Log.Info("users reloaded", "file", g.config.Htpasswd, "users", len(users.hashes))
	g.warnNobody(users)
	g.auditUsers(before, users, g.config.Htpasswd)
}

// auditUsers records what became of each user, and by whom as far as can be known: whoever may write a file, say.
func (g *Gate) auditUsers(before, after *Users, by string) {
	for _, name := range after.Names() {
		switch {
		case before.hashes[name] == nil:
			g.config.Audit.Info("user added", "subject", name, "by", by)
		case before.generation(name) != after.generation(name):
			g.config.Audit.Info("user changed", "subject", name, "by", by)
		}
	}
	for _, name := range before.Names() {
		if after.hashes[name] == nil {
			g.config.Audit.Info("user removed", "subject", name, "by", by)
		}
	}
}

func (g *Gate) reloadKeys(data []byte, err error) {
	var keys *token.Keys
	if err == nil {
		keys, err = token.ParseKeys(data)
	}
	if err != nil {
		g.config.Log.Error("keys of tokens were not reloaded, the old ones stay", "file", g.config.KeyFile, "error", err)
		return
	}
	g.keys.Store(keys)
	g.config.Log.Info("keys of tokens reloaded", "file", g.config.KeyFile)
	g.config.Audit.Info("token keys changed", "subject", g.config.KeyFile)
}

// SetRules replaces the rules, for the next request on.
func (g *Gate) SetRules(rules *access.Rules) { g.rules.Store(rules) }

// SetUsers replaces the users of a gate that was opened with Config.Users, for the next request on. The audit log says by whom. Others
// have theirs from elsewhere: nothing changes.
func (g *Gate) SetUsers(users *Users, by string) {
	if g.config.Users != nil && g.passwords != nil {
		g.auditUsers(g.passwords.setUsers(users), users, by)
	}
}

// recordUses writes them once more when ctx has ended.
func (g *Gate) recordUses(ctx context.Context) {
	ticker := time.NewTicker(useInterval)
	defer ticker.Stop()
	for ended := false; !ended; {
		select {
		case <-ctx.Done():
			ended = true
		case <-ticker.C:
		}
		taken := g.uses.take()
		if len(taken) == 0 {
			continue
		}
		if err := g.config.Robots.NoteUses(context.WithoutCancel(ctx), taken); err != nil {
			g.uses.giveBack(taken)
			g.config.Log.Error("last uses of access tokens are not recorded", "error", err)
		}
	}
}

// Origin is where a request came from, for logs and for counting failures.
type Origin struct {
	// Remote is the client's address, behind whatever proxies are trusted.
	Remote string
	// Request is the request's id.
	Request string
}

// Admit says who sent a request, or how to refuse it. A request without a credential is a stranger's.
func (g *Gate) Admit(r *http.Request, from Origin) (*Client, *Refusal) {
	stranger := &Client{gate: g, rules: g.rules.Load()}
	header := r.Header.Get("Authorization")
	scheme, credential, _ := strings.Cut(header, " ")
	switch {
	case header == "":
		return stranger, nil
	case strings.EqualFold(scheme, "Bearer"):
		return g.admitBearer(r, strings.TrimSpace(credential), from)
	case g.external != nil:
		refusal := stranger.RefuseBase(r)
		return nil, &refusal
	}
	user, password, ok := r.BasicAuth()
	if !ok {
		return nil, g.unauthorized(r, "the Authorization header is neither Basic nor Bearer")
	}
	return g.admitPassword(r, user, password, from)
}

// unauthorized is what a wrong credential gets.
func (g *Gate) unauthorized(r *http.Request, message string) *Refusal {
	return &Refusal{Status: http.StatusUnauthorized, Message: message, Challenge: g.challenge(r, challenge{})}
}

func (g *Gate) pleaseLogIn(r *http.Request) string {
	return g.hinted("authentication required: docker login " + r.Host)
}

func (g *Gate) hinted(message string) string {
	if g.config.LoginHint != "" {
		message += " (" + g.config.LoginHint + ")"
	}
	return message
}

// admitPassword checks the password of a user, or a robot's under whatever name.
func (g *Gate) admitPassword(r *http.Request, user, password string, from Origin) (*Client, *Refusal) {
	c := &Client{gate: g, rules: g.rules.Load()}
	robot, err := g.robotBySecret(r.Context(), password)
	switch {
	case err == nil:
		c.robot = robot
		return c, nil
	case !errors.Is(err, ErrNoRobot):
		return nil, g.broken(err)
	}
	found := g.passwords.check(r.Context(), user, password, from.Remote)
	switch found.outcome {
	case right:
		c.user, c.generation = user, found.generation
		return c, nil
	case wrong:
		g.config.Log.Warn("login failed", "user", clip(user), "remote", from.Remote, "request", from.Request)
		why := "wrong user name or password"
		if strings.HasPrefix(password, robotPrefix) {
			why = "the token is wrong, revoked or has expired"
		}
		g.auditFailure(user, from, why)
		return nil, g.unauthorized(r, g.hinted(why))
	case busy:
		g.auditFailure(user, from, "too many passwords are being checked")
		return nil, &Refusal{Status: http.StatusServiceUnavailable, RetryAfter: found.wait,
			Message: "too many passwords are being checked: try again"}
	}
	g.auditFailure(user, from, "too many failures")
	return nil, &Refusal{Status: http.StatusTooManyRequests, RetryAfter: found.wait,
		Message: "too many wrong passwords: wait before the next try"}
}

func (g *Gate) robotBySecret(ctx context.Context, password string) (*Robot, error) {
	if g.config.Robots == nil || !strings.HasPrefix(password, robotPrefix) {
		return nil, ErrNoRobot
	}
	robot, err := g.config.Robots.RobotBySecret(ctx, hashSecret(password))
	if err == nil {
		g.uses.note(robot.ID, g.now())
	}
	return robot, err
}

// admitBearer checks a token, and whether whom it is for is still there.
func (g *Gate) admitBearer(r *http.Request, raw string, from Origin) (*Client, *Refusal) {
	claims, err := g.memory.Verify(g.verifier(), raw, g.now())
	c := &Client{gate: g, rules: g.rules.Load(), bearer: &claims}
	if err == nil {
		err = c.become(r.Context(), claims)
	}
	switch {
	case errors.Is(err, errStore):
		return nil, g.broken(err)
	case err != nil:
		if !errors.Is(err, token.ErrExpired) { // which happens to every token
			g.auditFailure(claims.User, from, err.Error())
		}
		refusal := g.unauthorized(r, err.Error())
		refusal.Challenge = g.challenge(r, challenge{failure: "invalid_token", description: err.Error()})
		return nil, refusal
	}
	return c, nil
}

func (g *Gate) verifier() token.Verifier {
	if g.external != nil {
		return g.external
	}
	return g.keys.Load()
}

var (
	errStore   = errors.New("look for the access token")
	errUser    = errors.New("the token's user is gone or has another password")
	errRevoked = errors.New("the access token is revoked or has expired")
)

// become makes c the one whom claims speak of, if that is still the same.
func (c *Client) become(ctx context.Context, claims token.Claims) error {
	switch {
	case c.gate.external != nil:
		c.user = claims.User
	case claims.Robot != "":
		return c.becomeRobot(ctx, claims.Robot)
	case claims.User != "":
		if g := c.gate.passwords.users.Load().generation(claims.User); g == "" || g != claims.Generation {
			return errUser
		}
		c.user, c.generation = claims.User, claims.Generation
	}
	return nil
}

func (c *Client) becomeRobot(ctx context.Context, id string) error {
	if c.gate.config.Robots == nil {
		return errRevoked
	}
	robot, err := c.gate.config.Robots.Robot(ctx, id)
	if errors.Is(err, ErrNoRobot) {
		return errRevoked
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errStore, err)
	}
	c.robot = robot
	c.gate.uses.note(id, c.gate.now())
	return nil
}

// broken is the answer where the store is, or where the client has hung up.
func (g *Gate) broken(err error) *Refusal {
	if !errors.Is(err, context.Canceled) {
		g.config.Log.Error("a credential can't be checked", "error", err)
	}
	return &Refusal{
		Status:     http.StatusServiceUnavailable,
		Message:    "the credential can't be checked now: the registry's log says why",
		RetryAfter: time.Second,
	}
}

func (g *Gate) auditFailure(user string, from Origin, reason string) {
	g.config.Audit.Info("login failed", "user", clip(user), "remote", from.Remote, "request", from.Request, "reason", reason)
}

// clip keeps a client's bad input from filling the log.
func clip(s string) string {
	const most = 128
	return strings.ToValidUTF8(s[:min(len(s), most)], "")
}
