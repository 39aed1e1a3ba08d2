package auth

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"mime"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"berth/atomicfile"
	"berth/auth/token"
)

// maxForm bounds the body of a request for a token.
const maxForm = 64 << 10 // bytes

// ServeToken answers a request for a token, for a password, a refresh token or nothing: GET as the Docker token specification
// has it, POST as its OAuth 2 variant.
func (g *Gate) ServeToken(w http.ResponseWriter, r *http.Request, from Origin) {
	w.Header().Set("Cache-Control", "no-store")
	if g.external != nil {
		refuseToken(w, &tokenError{http.StatusNotFound, "invalid_request", "tokens come from another server", 0})
		return
	}
	client, asked, err := g.applicant(w, r, from)
	if err != nil {
		if err.status == http.StatusUnauthorized {
			w.Header().Set("WWW-Authenticate", `Basic realm="`+quote(g.config.Realm)+`"`)
		}
		refuseToken(w, err)
		return
	}
	g.answerToken(w, client, asked)
}

// wish is what a client wants a token for, and whether it wants another to get more with.
type wish struct {
	scopes  []string
	offline bool
}

// tokenError is how a token is refused: with a code of OAuth 2 (RFC 6749, section 5.2).
type tokenError struct {
	status        int
	code, message string
	wait          time.Duration
}

func fromRefusal(r *Refusal) *tokenError {
	if r == nil {
		return nil
	}
	code := "invalid_grant"
	if r.Status != http.StatusUnauthorized {
		code = "temporarily_unavailable"
	}
	return &tokenError{r.Status, code, r.Message, r.RetryAfter}
}

// applicant says for whom a token is, and what it is for.
func (g *Gate) applicant(w http.ResponseWriter, r *http.Request, from Origin) (*Client, wish, *tokenError) {
	switch r.Method {
	case http.MethodGet:
		query := r.URL.Query()
		client, refusal := g.applicantByHeader(r, from)
		return client, wish{query["scope"], query.Get("offline_token") == "true"}, fromRefusal(refusal)
	case http.MethodPost:
		client, err := g.applicantByForm(w, r, from)
		return client, wish{r.PostForm["scope"], r.PostForm.Get("access_type") == "offline"}, err
	}
	w.Header().Set("Allow", "GET, POST")
	return nil, wish{}, &tokenError{http.StatusMethodNotAllowed, "invalid_request", "use GET or POST", 0}
}

// applicantByHeader takes user and password from the Authorization header. Without one the token is for a stranger; with a
// wrong one there is none.
func (g *Gate) applicantByHeader(r *http.Request, from Origin) (*Client, *Refusal) {
	if r.Header.Get("Authorization") == "" {
		return &Client{gate: g, rules: g.rules.Load()}, nil
	}
	user, password, ok := r.BasicAuth()
	if !ok {
		return nil, g.unauthorized(r, "the Authorization header is not Basic")
	}
	return g.admitPassword(r, user, password, from)
}

// applicantByForm takes them from the body.
func (g *Gate) applicantByForm(w http.ResponseWriter, r *http.Request, from Origin) (*Client, *tokenError) {
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil || kind != "application/x-www-form-urlencoded" {
		return nil, &tokenError{http.StatusBadRequest, "invalid_request", "the body has to be a form", 0}
	}
	var client *Client
	var refusal *Refusal
	switch r.PostForm.Get("grant_type") {
	case "password":
		client, refusal = g.admitPassword(r, r.PostForm.Get("username"), r.PostForm.Get("password"), from)
	case "refresh_token":
		client, refusal = g.admitRefresh(r, r.PostForm.Get("refresh_token"), from)
	default:
		return nil, &tokenError{http.StatusBadRequest, "unsupported_grant_type", "grant_type has to be password or refresh_token", 0}
	}
	return client, fromRefusal(refusal)
}

func (g *Gate) admitRefresh(r *http.Request, raw string, from Origin) (*Client, *Refusal) {
	claims, err := g.keys.Load().VerifyRefresh(raw, g.now())
	if !g.config.Refresh {
		err = errors.New("refresh tokens are off on this registry")
	}
	c := &Client{gate: g, rules: g.rules.Load()}
	if err == nil && claims.User == "" && claims.Robot == "" {
		err = errUser
	}
	if err == nil {
		err = c.become(r.Context(), claims)
	}
	switch {
	case errors.Is(err, errStore):
		return nil, g.broken(err)
	case err != nil:
		g.auditFailure(claims.User, from, err.Error())
		return nil, g.unauthorized(r, err.Error()+": log in again")
	}
	return c, nil
}

// answerToken makes a token for as much of what is asked for as the client may have. It leaves out issued_at: docker
// compares that with its own clock, and the time of expires_in begins with the answer.
func (g *Gate) answerToken(w http.ResponseWriter, c *Client, asked wish) {
	claims := c.claims()
	claims.Access = c.granted(token.ParseScopes(asked.scopes))
	raw, err := g.keys.Load().Issue(claims, g.now(), g.config.TokenLifetime)
	body := map[string]any{"token": raw, "access_token": raw, "expires_in": int(g.config.TokenLifetime / time.Second)}
	if err == nil && asked.offline && g.config.Refresh && c.Name() != "" {
		body["refresh_token"], err = g.keys.Load().IssueRefresh(claims, g.now())
	}
	if err != nil {
		g.config.Log.Error("no token could be made", "error", err)
		refuseToken(w, &tokenError{http.StatusInternalServerError, "server_error", "no token could be made: the registry's log says why", 0})
		return
	}
	writeTokenJSON(w, http.StatusOK, body)
}

// claims are who the client is.
func (c *Client) claims() token.Claims {
	if c.robot != nil {
		return token.Claims{Robot: c.robot.ID}
	}
	return token.Claims{User: c.user, Generation: c.generation}
}

// granted returns what a client may have of what it asks for, as far as it fits into a token.
func (c *Client) granted(asked []token.Scope) []token.Scope {
	granted, room := []token.Scope{}, token.MaxAccess
	for _, s := range asked {
		s.Actions = c.grantedActions(s)
		if room -= len(s.String()); len(s.Actions) > 0 && room >= 0 {
			granted = append(granted, s)
		}
	}
	return granted
}

func (c *Client) grantedActions(s token.Scope) []string {
	switch {
	case s.Type == token.TypeRegistry && s.Name == "catalog" && slices.Contains(s.Actions, "*") && c.MayList():
		return []string{"*"}
	case s.Type == token.TypeRepository:
		return (scoped([]token.Scope{s}, s.Name) & c.entitled(s.Name)).Names()
	}
	return nil
}

// refuseToken answers with an error as the OCI distribution spec has it, which docker shows, and as OAuth 2 does, which
// others read.
func refuseToken(w http.ResponseWriter, e *tokenError) {
	if e.wait > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(max(1, int(e.wait.Round(time.Second)/time.Second))))
	}
	code := map[int]string{http.StatusTooManyRequests: "TOOMANYREQUESTS", http.StatusServiceUnavailable: "UNAVAILABLE"}[e.status]
	writeTokenJSON(w, e.status, map[string]any{
		"error":             e.code,
		"error_description": e.message,
		"errors":            []map[string]string{{"code": cmp.Or(code, "UNAUTHORIZED"), "message": e.message}},
	})
}

func writeTokenJSON(w http.ResponseWriter, status int, body map[string]any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the client may be gone
}

// MakeKeyFile makes a file with one key unless there is one. Of several processes that do so at once, one wins.
func MakeKeyFile(path string) error {
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	key, err := token.GenerateKey()
	if err != nil {
		return err
	}
	_, err = atomicfile.Create(path, key, 0o600)
	return err
}

// RotateKeyFile puts a new key in front of those of a file, and keeps the newest of the old ones, so that tokens that it
// signed are good until they end. Registries that run take notice within a second; those that have not yet refuse the
// tokens of the new key for as long.
func RotateKeyFile(path string) error {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	unlock, err := lockDirectory(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer unlock()
	old, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	keys, err := token.RotateKeys(old)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return atomicfile.Write(path, keys, info.Mode().Perm())
}
