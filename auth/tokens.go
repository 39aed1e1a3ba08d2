package auth

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"mime"
	"net/http"
	"os"
	"slices"
	"strconv"
	"time"

	"berth/atomicfile"
	"berth/auth/token"
)

// maxForm bounds the body of a request for a token.
const maxForm = 64 << 10 // bytes

// Tokens serves the endpoint at which clients get tokens, for a password, a refresh token or nothing: GET as the Docker
// token specification has it, POST as its OAuth 2 variant. The remote function returns the address of a request's client.
func (g *Gate) Tokens(remote func(*http.Request) string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		switch {
		case g.external != nil:
			http.NotFound(w, r)
		case r.Method == http.MethodGet:
			g.serveGet(w, r, remote(r))
		case r.Method == http.MethodPost:
			g.servePost(w, r, remote(r))
		default:
			w.Header().Set("Allow", "GET, POST")
			writeTokenError(w, http.StatusMethodNotAllowed, "invalid_request", "use GET or POST")
		}
	})
}

// serveGet takes user and password from the Authorization header. Without one the token is for a stranger; with a wrong one
// there is none.
func (g *Gate) serveGet(w http.ResponseWriter, r *http.Request, remote string) {
	client := &Client{gate: g, rules: g.rules.Load()}
	if r.Header.Get("Authorization") != "" {
		user, password, ok := r.BasicAuth()
		if !ok {
			g.refuseToken(w, g.unauthorized(r, "the Authorization header is not Basic"))
			return
		}
		admitted, refusal := g.admitPassword(r, user, password, remote)
		if refusal != nil {
			g.refuseToken(w, refusal)
			return
		}
		client = admitted
	}
	query := r.URL.Query()
	g.answerToken(w, client, query["scope"], query.Get("offline_token") == "true")
}

// servePost takes them from the form.
func (g *Gate) servePost(w http.ResponseWriter, r *http.Request, remote string) {
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil || kind != "application/x-www-form-urlencoded" {
		writeTokenError(w, http.StatusBadRequest, "invalid_request", "the body has to be a form")
		return
	}
	client, refusal := g.grant(w, r, remote)
	if refusal != nil {
		g.refuseToken(w, refusal)
	}
	if client != nil {
		g.answerToken(w, client, r.PostForm["scope"], r.PostForm.Get("access_type") == "offline")
	}
}

// grant says for whom a POST wants a token. It answers itself what can't be understood.
func (g *Gate) grant(w http.ResponseWriter, r *http.Request, remote string) (*Client, *Refusal) {
	switch grant := r.PostForm.Get("grant_type"); grant {
	case "password":
		return g.admitPassword(r, r.PostForm.Get("username"), r.PostForm.Get("password"), remote)
	case "refresh_token":
		return g.admitRefresh(r, r.PostForm.Get("refresh_token"), remote)
	}
	writeTokenError(w, http.StatusBadRequest, "unsupported_grant_type", "grant_type has to be password or refresh_token")
	return nil, nil
}

func (g *Gate) admitRefresh(r *http.Request, raw, remote string) (*Client, *Refusal) {
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
		g.auditFailure(claims.User, remote, err.Error())
		return nil, g.unauthorized(r, err.Error()+": log in again")
	}
	return c, nil
}

// answerToken makes a token for as much of what is asked for as the client may have. It leaves out issued_at: docker
// compares that with its own clock, and the time of expires_in begins with the answer.
func (g *Gate) answerToken(w http.ResponseWriter, c *Client, asked []string, offline bool) {
	claims := c.claims()
	claims.Access = c.granted(token.ParseScopes(asked))
	raw, err := g.keys.Load().Issue(claims, g.now(), g.config.TokenLifetime)
	body := map[string]any{"token": raw, "access_token": raw, "expires_in": int(g.config.TokenLifetime / time.Second)}
	if err == nil && offline && g.config.Refresh && c.Name() != "" {
		body["refresh_token"], err = g.keys.Load().IssueRefresh(claims, g.now())
	}
	if err != nil {
		g.config.Log.Error("no token could be made", "error", err)
		writeTokenError(w, http.StatusInternalServerError, "server_error", "no token could be made: the registry's log says why")
		return
	}
	writeTokenJSON(w, http.StatusOK, body)
}

// claims are who the client is.
func (c *Client) claims() token.Claims {
	if c.robot != nil {
		return token.Claims{Robot: c.robot.ID}
	}
	return token.Claims{User: c.user, Generation: c.gate.passwords.users.Load().generation(c.user)}
}

// granted returns what a client may have of what it asks for.
func (c *Client) granted(asked []token.Scope) []token.Scope {
	granted := []token.Scope{}
	for _, s := range asked {
		if actions := c.grantedActions(s); len(actions) > 0 {
			granted = append(granted, token.Scope{Type: s.Type, Name: s.Name, Actions: actions})
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

// refuseToken answers as the spec's error has it, which docker shows, and as OAuth 2 does, which others read.
func (g *Gate) refuseToken(w http.ResponseWriter, refusal *Refusal) {
	if refusal.Status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Basic realm="`+quote(g.config.Realm)+`"`)
	}
	if refusal.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(refusal.RetryAfter.Round(time.Second)/time.Second)))
	}
	writeTokenError(w, refusal.Status, "invalid_grant", refusal.Message)
}

func writeTokenError(w http.ResponseWriter, status int, code, message string) {
	writeTokenJSON(w, status, map[string]any{
		"error":             code,
		"error_description": message,
		"errors":            []map[string]string{{"code": "UNAUTHORIZED", "message": message}},
	})
}

func writeTokenJSON(w http.ResponseWriter, status int, body map[string]any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the client may be gone
}

// makeKeyFile makes a file with one key unless there is one. Of several processes that do so at once, one wins.
func makeKeyFile(path string) error {
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
// signed are good until they end. Registries that run take notice.
func RotateKeyFile(path string) error {
	old, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	keys, err := token.RotateKeys(old)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return atomicfile.Write(path, keys, 0o600)
}
