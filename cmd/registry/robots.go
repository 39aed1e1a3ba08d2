package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"berth/auth"
	"berth/auth/access"
	"berth/config"
	"berth/storage/metadata"
)

// robotRequest is what somebody wants a token for.
type robotRequest struct {
	Name         string        `json:"name"`
	Repositories []string      `json:"repositories"`
	Actions      []string      `json:"actions"`
	Lifetime     time.Duration `json:"lifetime"` // zero is for ever
}

// robotMade is a robot with its secret, which is shown this once.
type robotMade struct {
	metadata.Robot
	Token string `json:"token"`
}

// steward changes who may use a registry. A running server does it, or the command itself when there is none.
type steward interface {
	makeRobot(ctx context.Context, r robotRequest) (robotMade, error)
	robots(ctx context.Context) ([]metadata.Robot, error)
	revokeRobot(ctx context.Context, name string) error
	// setInitialPassword takes the hash of the first user's new password.
	setInitialPassword(ctx context.Context, hash string) error
}

// withSteward runs fn with the running server, or with the stores open.
func (s streams) withSteward(ctx context.Context, c *config.Config, fn func(steward) error) (err error) {
	directory, err := dataDirectory(c, s.environ)
	if err != nil {
		return err
	}
	response, err := adminRequest(ctx, adminSocket(c, directory), http.MethodGet, "/health", nil)
	if err == nil {
		response.Body.Close()
		return fn(remoteSteward{adminSocket(c, directory)})
	}
	if !errors.Is(err, errNoServer) {
		return err
	}
	if _, err := os.Stat(metadataPath(c, directory)); err != nil && c.Metadata.Postgres.DSN == "" {
		return fmt.Errorf("there is no registry in %s: name its configuration, or start it once: %w", directory, err)
	}
	stores, err := openStores(ctx, c, s.environ)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stores.close()) }()
	audit := s.openCommandAudit(c.Audit)
	defer func() { err = errors.Join(err, audit.close()) }()
	return fn(localSteward{stores: stores, audit: audit.Logger, method: c.Auth.Method})
}

// localSteward works on open stores, those of a server among them.
type localSteward struct {
	stores *stores
	audit  *slog.Logger
	first  *firstUser // nil without a server
	method string     // of auth in the configuration
}

// badRequest is an error that is told to whoever asked as it stands.
type badRequest struct{ error }

func badRequestf(format string, args ...any) error { return badRequest{fmt.Errorf(format, args...)} }

func (l localSteward) makeRobot(ctx context.Context, r robotRequest) (robotMade, error) {
	if l.method == config.AuthToken || l.method == config.AuthNone {
		return robotMade{}, badRequestf("the registry asks for no passwords of its own (auth is %s): a token would be of no use", l.method)
	}
	if err := checkRobotName(r.Name); err != nil {
		return robotMade{}, err
	}
	for i, name := range r.Actions {
		r.Actions[i] = strings.TrimSpace(name) // as in "pull, push"
	}
	actions, err := access.ParseActions(r.Actions)
	if err != nil {
		return robotMade{}, badRequest{err}
	}
	id, secret, hash := auth.GenerateRobot()
	if len(r.Repositories) == 0 || actions == access.None {
		return robotMade{}, badRequestf("a token is for repositories, such as team/** or **, and actions: pull, push, delete or *")
	}
	if _, err := auth.NewRobot(id, r.Name, r.Repositories, actions.String()); err != nil {
		return robotMade{}, badRequest{err}
	}
	kept, err := l.stores.facts.AddRobot(ctx, metadata.Robot{
		ID: id, Name: r.Name, Repositories: r.Repositories, Actions: actions.String(),
	}, hash, r.Lifetime)
	if errors.Is(err, metadata.ErrExists) {
		return robotMade{}, badRequestf("there is a token named %s already: revoke it first, or take another name", r.Name)
	}
	if err != nil {
		return robotMade{}, err
	}
	attrs := []any{"subject", "robot:" + r.Name, "repositories", r.Repositories, "actions", actions.String()}
	if !kept.ExpiresAt.IsZero() {
		attrs = append(attrs, "expires", kept.ExpiresAt)
	}
	l.audit.Info("token created", attrs...)
	return robotMade{kept, secret}, nil
}

// checkRobotName keeps to what is easy to type and to read in a log.
func checkRobotName(name string) error {
	good := func(r rune) bool {
		return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("._-", r)
	}
	if name == "" || len(name) > 64 || strings.ContainsRune("._-", rune(name[0])) || strings.ContainsFunc(name, func(r rune) bool { return !good(r) }) {
		return badRequestf("a token's name has up to 64 letters, digits and, after the first, . _ -: not %q", name[:min(len(name), 64)])
	}
	return nil
}

func (l localSteward) robots(ctx context.Context) ([]metadata.Robot, error) {
	return l.stores.facts.Robots(ctx)
}

func (l localSteward) revokeRobot(ctx context.Context, name string) error {
	err := l.stores.facts.DeleteRobot(ctx, name)
	if errors.Is(err, metadata.ErrNotFound) {
		return badRequestf("there is no token named %q: registry token list shows those that there are", name)
	}
	if err == nil {
		l.audit.Info("token revoked", "subject", "robot:"+name)
	}
	return err
}

func (l localSteward) setInitialPassword(ctx context.Context, hash string) error {
	if l.method != config.AuthInitial {
		return badRequestf("the running registry has its users elsewhere (auth is %s): give this command the registry's configuration", l.method)
	}
	if err := l.changePassword(ctx, hash); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(l.stores.directory, initialPasswordFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("the password is changed, but the file with the old one stays: %w", err)
	}
	return nil
}

func (l localSteward) changePassword(ctx context.Context, hash string) error {
	if l.first != nil {
		return l.first.set(ctx, hash) // which audits it
	}
	err := keepInitialPassword(ctx, l.stores.facts, hash)
	if err == nil {
		l.audit.Info("user changed", "subject", initialUser)
	}
	return err
}

// serve adds the endpoints that remoteSteward uses to the API on the admin socket.
func (l localSteward) serve(mux *http.ServeMux, log *slog.Logger) {
	handle := func(pattern string, fn func(r *http.Request) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			answer, err := fn(r)
			if err != nil {
				status := http.StatusInternalServerError
				if bad := (badRequest{}); errors.As(err, &bad) {
					status = http.StatusBadRequest
				} else {
					log.Error("admin request failed", "path", r.URL.Path, "error", err)
				}
				http.Error(w, err.Error(), status)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(answer) // the command may be gone
		})
	}
	handle("POST /robots", func(r *http.Request) (any, error) {
		var request robotRequest
		if err := json.NewDecoder(r.Body).Decode(&request); err != nil {
			return nil, badRequest{err}
		}
		return l.makeRobot(r.Context(), request)
	})
	handle("GET /robots", func(r *http.Request) (any, error) { return l.robots(r.Context()) })
	handle("DELETE /robots/{name}", func(r *http.Request) (any, error) {
		return nil, l.revokeRobot(r.Context(), r.PathValue("name"))
	})
	handle("PUT /initial-password", func(r *http.Request) (any, error) {
		hash, err := io.ReadAll(io.LimitReader(r.Body, 1024))
		if err != nil {
			return nil, badRequest{err}
		}
		return nil, l.setInitialPassword(r.Context(), string(hash))
	})
}

// remoteSteward asks a running server.
type remoteSteward struct{ socket string }

func (s remoteSteward) makeRobot(ctx context.Context, r robotRequest) (made robotMade, err error) {
	body, err := json.Marshal(r)
	if err != nil {
		return made, err
	}
	return made, s.ask(ctx, http.MethodPost, "/robots", body, &made)
}

func (s remoteSteward) robots(ctx context.Context) (all []metadata.Robot, err error) {
	return all, s.ask(ctx, http.MethodGet, "/robots", nil, &all)
}

func (s remoteSteward) revokeRobot(ctx context.Context, name string) error {
	return s.ask(ctx, http.MethodDelete, "/robots/"+url.PathEscape(name), nil, new(any))
}

func (s remoteSteward) setInitialPassword(ctx context.Context, hash string) error {
	return s.ask(ctx, http.MethodPut, "/initial-password", []byte(hash), new(any))
}

// ask makes a request and reads the answer's JSON into answer.
func (s remoteSteward) ask(ctx context.Context, method, path string, body []byte, answer any) error {
	response, err := adminRequest(ctx, s.socket, method, path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		why, _ := io.ReadAll(io.LimitReader(response.Body, 4096))
		return errors.New(strings.TrimSpace(string(why)))
	}
	if err := json.NewDecoder(response.Body).Decode(answer); err != nil {
		return fmt.Errorf("read the server's answer: %w", err)
	}
	return nil
}
