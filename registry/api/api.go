// Package api serves the OCI distribution spec, version 1.1 and what its main branch adds, over HTTP: a thin
// translation between requests and registry.Service.
//
// Handlers stream: neither an upload nor a download is ever held in memory, only manifests are (4 MiB at most). Every
// answer carries a request id, and every request is answered: what has no kind of its own in package registry becomes a
// 500 that names the id, with the text in the log only.
//
// The package keeps no state beside the Service. It does not listen, speak TLS or limit how long a request may take, only how slowly
// its body may come: the rest is the server's part. Who a client is and what it may do, a Gate says; without one everybody may do everything. What an
// answer tells of a repository, it tells only to those who may do something there.
package api

import (
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"berth/registry"

	"github.com/VictoriaMetrics/metrics"
)

// Config is what a handler works with and how it presents itself. Only Service is required.
type Config struct {
	Service *registry.Service
	// Gate tells who a client is and what it may do. Nil lets everybody do everything.
	Gate Gate
	// Tokens answers requests for tokens at TokenPath, below Prefix. Nil has no such endpoint.
	Tokens func(w http.ResponseWriter, r *http.Request, from Origin)
	// Audit gets a record of each push, delete and denial, whose message is the event. Nil discards them.
	Audit *slog.Logger
	// Log gets faults and, when AccessLog is set, a line for each request. Nil discards them.
	Log       *slog.Logger
	AccessLog bool
	// Metrics gets counters of requests. Nil counts nothing.
	Metrics *metrics.Set
	// Host is the origin that Location headers begin with, as in "https://registry.example.com". Without it they are
	// paths, which a client resolves against the address that it used itself.
	Host string
	// AbsoluteURLs makes Location headers begin with the request's own scheme and host where Host is empty.
	AbsoluteURLs bool
	// Prefix is the path below which the API is served, as in "/registry". A reverse proxy must not strip it.
	Prefix string
	// Headers are set on every answer.
	Headers http.Header
	// TrustedProxies are the peers whose X-Forwarded-For is believed: for the access line, and for who failed to log in.
	TrustedProxies []netip.Prefix
	// DeleteDisabled refuses to delete manifests, tags and blobs.
	DeleteDisabled bool
	// ReadOnly refuses everything that changes the registry.
	ReadOnly bool
	// BodyTimeout is how long a request waits for its client to send another 64 KiB, or the rest: a minute when it is zero.
	BodyTimeout time.Duration
	// CatalogMax is the most repositories in one answer: 1,000 when it is zero.
	CatalogMax int
}

// TokenPath is where clients get tokens, below Config.Prefix.
const TokenPath = "/auth/token"

type handler struct {
	Config
	meters *meters
	// buffers are for copying, one for each running download.
	buffers sync.Pool
}

// New returns the handler of a registry: the API below /v2/, a line for people at /, and 404 for everything else.
func New(c Config) http.Handler {
	c.Host = strings.TrimRight(c.Host, "/")
	c.Prefix = strings.TrimRight("/"+strings.Trim(c.Prefix, "/"), "/")
	c.Headers = canonical(c.Headers)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Audit == nil {
		c.Audit = slog.New(slog.DiscardHandler)
	}
	if c.Gate == nil {
		c.Gate = everybody{}
	}
	if c.CatalogMax <= 0 {
		c.CatalogMax = 1000
	}
	h := &handler{Config: c, meters: newMeters(c.Metrics)}
	h.buffers.New = func() any { return new([copyBuffer]byte) }
	return LimitBodies(h, c.BodyTimeout)
}

// canonical returns headers under their canonical names, with values that nobody can append to in place.
func canonical(headers http.Header) http.Header {
	result := make(http.Header, len(headers))
	for name, values := range headers {
		result[http.CanonicalHeaderKey(name)] = slices.Clip(slices.Clone(values))
	}
	return result
}

// call is one request on its way through the handler.
type call struct {
	target
	w *response
	r *http.Request
	// id names the request in logs and answers.
	id string
	// client is who asks.
	client Client
	// failure is the code of the error that was answered, or empty.
	failure string
}

// ServeHTTP answers a request, writes its access line and counts it.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := &call{target: target{kind: kindNone}, w: &response{ResponseWriter: w}, r: r, id: newRequestID(), client: everybody{}}
	if h.AccessLog {
		defer h.logAccess(c, time.Now())
	}
	defer h.meters.begin(c)()
	h.setHeaders(c)
	path, ok := strings.CutPrefix(r.URL.EscapedPath(), h.Prefix)
	switch {
	case ok && path == "/v2":
		h.redirect(c)
	case ok && strings.HasPrefix(path, "/v2/"):
		h.serveAPI(c, path)
	case ok && path == TokenPath && h.Tokens != nil:
		h.meters.become(c, kindToken)
		h.Tokens(c.w, c.r, h.origin(c))
	case ok && path == "/":
		writeBody(c, http.StatusOK, "text/plain; charset=utf-8", []byte("Berth, an OCI registry. Its API is at "+h.Prefix+"/v2/.\n"))
	default:
		h.fail(c, errNotFound)
	}
}

func (h *handler) setHeaders(c *call) {
	header := c.w.Header()
	header.Set("Docker-Distribution-Api-Version", "registry/2.0")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("X-Request-Id", c.id)
	for name, values := range h.Headers {
		header[name] = values
	}
}

// redirect sends a client from /v2 to /v2/, with the same method.
func (h *handler) redirect(c *call) {
	code := http.StatusPermanentRedirect
	if c.r.Method == http.MethodGet || c.r.Method == http.MethodHead {
		code = http.StatusMovedPermanently
	}
	c.w.Header().Set("Location", h.location(c.r, "/v2/"))
	writeEmpty(c, code)
}

func (h *handler) serveAPI(c *call, path string) {
	t, err := parse(c.r.Method, path)
	h.meters.become(c, t.kind)
	c.target = t
	if err == nil {
		err = checkQuery(c.r.URL.RawQuery)
	}
	if c.r.Method == http.MethodOptions && err == nil {
		// A browser asks before it has credentials. The answer tells nothing but what the spec does.
		c.w.Header().Set("Allow", t.kind.methods())
		writeEmpty(c, http.StatusNoContent)
		return
	}
	err = h.authorize(c, err)
	if err == nil {
		err = h.serve(c)
	}
	if err != nil {
		h.fail(c, err)
	}
}

// serve does what an allowed request asks for. A handler returns an error for what it has not answered, or not in full.
func (h *handler) serve(c *call) error {
	switch c.kind {
	case kindCatalog:
		return h.listRepositories(c)
	case kindTags:
		return h.listTags(c)
	case kindReferrers:
		return h.listReferrers(c)
	case kindManifest:
		return h.serveManifest(c)
	case kindBlob:
		return h.serveBlob(c)
	case kindUploads:
		return h.startUpload(c)
	case kindUpload:
		return h.serveUpload(c)
	case kindRepository:
		return h.deleteRepository(c)
	case kindTag:
		return h.serveTag(c)
	}
	writeBody(c, http.StatusOK, contentJSON, []byte("{}"))
	return nil
}

// location returns the URL of a path of the API for a Location header.
func (h *handler) location(r *http.Request, path string) string {
	origin := h.Host
	if origin == "" && h.AbsoluteURLs {
		origin = requestOrigin(r)
	}
	return origin + h.Prefix + path
}

// requestOrigin is the origin that a client sees. What a proxy says of it needs no trust: it comes back to the client
// that sent it, and to nobody else.
func requestOrigin(r *http.Request) string {
	scheme, host := "http", r.Host
	if r.TLS != nil {
		scheme = "https"
	}
	if s := firstOf(r.Header.Get("X-Forwarded-Proto")); s == "http" || s == "https" {
		scheme = s
	}
	if s := firstOf(r.Header.Get("X-Forwarded-Host")); s != "" {
		host = s
	}
	return scheme + "://" + host
}

// firstOf returns the first element of a list in a header.
func firstOf(list string) string {
	first, _, _ := strings.Cut(list, ",")
	return strings.TrimSpace(first)
}
