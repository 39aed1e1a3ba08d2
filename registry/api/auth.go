package api

import (
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"berth/registry"
)

// Action is what a request does.
type Action string

// The actions. All but Enter and List are about a repository.
const (
	Enter  Action = "enter" // see that the registry speaks the API
	List   Action = "list"  // list the repositories
	Pull   Action = "pull"
	Push   Action = "push"
	Delete Action = "delete"
)

// Gate tells who sends requests. Its method is called concurrently.
type Gate interface {
	// Admit returns the client that sent a request, also when it is not known, or how to refuse it when it shows a wrong
	// credential.
	Admit(r *http.Request, from Origin) (Client, *Refusal)
}

// Origin is where a request came from, for logs and for counting failures.
type Origin struct {
	// Remote is the client's address, behind the proxies that are trusted.
	Remote string
	// Request is the request's id.
	Request string
}

// Client is who sent a request.
type Client interface {
	// Name is for logs. It is empty when the client is not known.
	Name() string
	// Judge returns nil when the client may do what it asks for, else how to refuse it. The repository is empty where the action
	// is about none.
	Judge(r *http.Request, repository string, a Action) *Refusal
	// May reports whether Judge would return nil.
	May(repository string, a Action) bool
	// Sees reports whether a repository is in the client's list of all.
	Sees(repository string) bool
}

// Refusal says how to refuse a request.
type Refusal struct {
	// Status is 401, 403, 429 or 503.
	Status int
	// Message is for the person at the client.
	Message string
	// Challenge is the WWW-Authenticate header of a 401.
	Challenge string
	// RetryAfter is when to try again, zero when that is not known.
	RetryAfter time.Duration
}

// Error returns the message, with the code that the client gets.
func (r *Refusal) Error() string { return r.kind().Code + ": " + r.Message }

func (r *Refusal) kind() *registry.Error {
	switch r.Status {
	case http.StatusUnauthorized:
		return errUnauthorized
	case http.StatusTooManyRequests:
		return errTooManyRequests
	case http.StatusServiceUnavailable:
		return errUnavailable
	}
	return registry.ErrDenied
}

// setHeaders says what the answer's headers have to.
func (r *Refusal) setHeaders(header http.Header) {
	if r.Challenge != "" {
		header.Set("WWW-Authenticate", r.Challenge)
	}
	if r.RetryAfter > 0 {
		header.Set("Retry-After", strconv.Itoa(max(1, int(r.RetryAfter.Round(time.Second)/time.Second))))
	}
}

// everybody is the client where there is no gate.
type everybody struct{}

func (everybody) Name() string                                   { return "" }
func (everybody) Judge(*http.Request, string, Action) *Refusal   { return nil }
func (everybody) May(repository string, a Action) bool           { return true }
func (everybody) Sees(repository string) bool                    { return true }
func (everybody) Admit(*http.Request, Origin) (Client, *Refusal) { return everybody{}, nil }

// action returns what the request does. Cancelling an upload is part of pushing, and so is looking how far it is.
func (c *call) action() Action {
	reads := c.r.Method == http.MethodGet || c.r.Method == http.MethodHead
	switch {
	case c.kind == kindBase || c.kind == kindNone:
		return Enter
	case c.kind == kindCatalog:
		return List
	case reads && c.kind != kindUpload:
		return Pull
	case c.r.Method == http.MethodDelete && c.kind != kindUpload:
		return Delete
	}
	return Push
}

// authorize finds out who asks, and decides whether they may. A request that could not be read is refused as such only to those
// who may enter; parseErr is what is wrong with it.
func (h *handler) authorize(c *call, parseErr error) error {
	client, refusal := h.Gate.Admit(c.r, h.origin(c))
	if refusal != nil {
		return refusal
	}
	c.client = client
	action, repository := c.action(), c.repository
	if parseErr != nil {
		action, repository = Enter, ""
	}
	if refusal := client.Judge(c.r, repository, action); refusal != nil {
		if isDenial(c, refusal) {
			h.audit(c, "denied", slog.String("action", string(action)), slog.String("reason", refusal.Message))
		}
		return refusal
	}
	if parseErr != nil {
		return parseErr
	}
	return h.allowed(c, action)
}

func (h *handler) origin(c *call) Origin { return Origin{Remote: h.remote(c.r), Request: c.id} }

// isDenial tells what a client may not do from what it is asked to show a credential for first: one that has shown one
// without a name, a stranger's token, will hardly have a better.
func isDenial(c *call, r *Refusal) bool {
	return r.Status == http.StatusForbidden || c.client.Name() == "" && c.r.Header.Get("Authorization") != ""
}

// allowed decides by what the registry is configured to do for nobody.
func (h *handler) allowed(c *call, a Action) error {
	switch {
	case h.ReadOnly && c.r.Method != http.MethodGet && c.r.Method != http.MethodHead:
		return refuse(c, "the registry is read-only")
	case h.DeleteDisabled && a == Delete:
		return refuse(c, "deletion is disabled on this registry")
	}
	return nil
}

// refuse says that the registry is configured not to have the method.
func refuse(c *call, message string) error {
	allowed := "OPTIONS"
	if c.kind.allows(http.MethodGet) {
		allowed = "GET, HEAD, OPTIONS"
	}
	c.w.Header().Set("Allow", allowed)
	return registry.ErrUnsupported.Withf("%s", message)
}

// audit records what a client did, or was kept from doing.
func (h *handler) audit(c *call, event string, attrs ...slog.Attr) {
	about := []slog.Attr{slog.String("user", c.client.Name()), slog.String("remote", h.remote(c.r)), slog.String("request", c.id)}
	if c.repository != "" {
		about = append(about, slog.String("repository", c.repository))
	}
	h.Audit.LogAttrs(c.r.Context(), slog.LevelInfo, event, append(about, attrs...)...)
}
