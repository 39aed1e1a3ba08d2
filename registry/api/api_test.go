package api

import (
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"berth/registry"
)

const allManifest, allBlob = "GET, HEAD, PUT, DELETE, OPTIONS", "GET, HEAD, DELETE, OPTIONS"

func TestBase(t *testing.T) {
	s := newServer(t, options{})
	s.get("/v2/").want(http.StatusOK).wantBody("{}").wantHeaders("Content-Type", "application/json", "Docker-Distribution-Api-Version", "registry/2.0")
	s.do(http.MethodHead, "/v2/", nil).want(http.StatusOK).wantBody("").wantHeaders("Content-Length", "2")
	s.get("/v2").want(http.StatusMovedPermanently).wantHeaders("Location", "/v2/")
	s.do(http.MethodPost, "/v2", nil).want(http.StatusPermanentRedirect).wantHeaders("Location", "/v2/")
	if a := s.get("/").want(http.StatusOK); !strings.Contains(a.body, "/v2/") {
		t.Errorf("the line for people is %q", a.body)
	}
}

func TestUnknownPaths(t *testing.T) {
	s := newServer(t, options{})
	for _, path := range []string{"/v1/_ping", "/v2/a", "/v3/", "/favicon.ico", "//v2/", "/v2/../v2/", "/v2/a/tags/list/", "/x/../v2/a/tags/list"} {
		t.Run(path, func(t *testing.T) {
			s.get(path).wantError(http.StatusNotFound, "NOT_FOUND").wantHeaders("Docker-Distribution-Api-Version", "registry/2.0", "Location", "")
		})
	}
}

func TestMethods(t *testing.T) {
	s := newServer(t, options{})
	tests := []struct{ method, path, allow string }{
		{"POST", "/v2/", "GET, HEAD, OPTIONS"},
		{"DELETE", "/v2/_catalog", "GET, HEAD, OPTIONS"},
		{"PUT", "/v2/a/tags/list", "GET, HEAD, OPTIONS"},
		{"POST", "/v2/a/manifests/latest", allManifest},
		{"PATCH", "/v2/a/blobs/" + sum256, allBlob},
		{"GET", "/v2/a/blobs/uploads/", "POST, OPTIONS"},
		{"POST", "/v2/a/blobs/uploads/x", "GET, HEAD, PATCH, PUT, DELETE, OPTIONS"},
		{"POST", "/v2/a/referrers/" + sum256, "GET, HEAD, OPTIONS"},
	}
	for _, tt := range tests {
		t.Run(tt.method+" "+tt.path, func(t *testing.T) {
			s.do(tt.method, tt.path, nil).wantError(http.StatusMethodNotAllowed, "UNSUPPORTED").wantHeaders("Allow", tt.allow)
			s.do(http.MethodOptions, tt.path, nil).want(http.StatusNoContent).wantHeaders("Allow", tt.allow)
		})
	}
}

func TestBadPaths(t *testing.T) {
	s := newServer(t, options{})
	tests := []struct {
		method, path string
		status       int
		code         string
	}{
		{"GET", "/v2/UPPER/tags/list", 400, "NAME_INVALID"},
		{"GET", "/v2/a%2Fb/tags/list", 400, "NAME_INVALID"},
		{"GET", "/v2/a%00b/tags/list", 400, "NAME_INVALID"},
		{"GET", "/v2/../a/tags/list", 400, "NAME_INVALID"},
		{"POST", "/v2/%2e%2e/%2e%2e/blobs/uploads/", 400, "NAME_INVALID"},
		{"PUT", "/v2/a/manifests/..", 400, "TAG_INVALID"},
		{"PUT", "/v2/a/manifests/" + strings.Repeat("x", 129), 400, "TAG_INVALID"},
		{"GET", "/v2/a/manifests/.INVALID_MANIFEST_NAME", 404, "MANIFEST_UNKNOWN"},
		{"GET", "/v2/a/manifests/sha256:baddigeststring", 400, "DIGEST_INVALID"},
		{"GET", "/v2/a/blobs/sha1:da39a3ee5e6b4b0d3255bfef95601890afd80709", 400, "DIGEST_INVALID"},
		{"GET", "/v2/a/blobs/..%2f..%2fetc%2fpasswd", 400, "DIGEST_INVALID"},
		{"GET", "/v2/a/referrers/latest", 400, "DIGEST_INVALID"},
		{"PATCH", "/v2/a/blobs/uploads/..%2f..%2fx", 404, "BLOB_UPLOAD_UNKNOWN"},
	}
	for _, tt := range tests {
		t.Run(tt.method+" "+tt.path, func(t *testing.T) {
			s.do(tt.method, tt.path, nil).wantError(tt.status, tt.code)
		})
	}
}

// TestStatus says what every kind of error comes to, whatever its message and detail.
func TestStatus(t *testing.T) {
	tests := map[*registry.Error]int{
		registry.ErrBlobUnknown: 404, registry.ErrUploadUnknown: 404, registry.ErrUploadSuperseded: 409,
		registry.ErrUploadRange: 416, registry.ErrUploadInterrupted: 400, registry.ErrDigestInvalid: 400, registry.ErrSizeInvalid: 400,
		registry.ErrTooLarge: 413, registry.ErrManifestUnknown: 404, registry.ErrManifestInvalid: 400, registry.ErrManifestBlobUnknown: 400,
		registry.ErrNameInvalid: 400, registry.ErrNameUnknown: 404, registry.ErrTagInvalid: 400, errUnauthorized: 401,
		errTooManyRequests: 429, errUnavailable: 503,
		registry.ErrDenied: 403, registry.ErrConflict: 409, registry.ErrUnsupported: 405, registry.ErrNoSpace: 507,
		errNotFound: 404, errPageSize: 400, errRangeInvalid: 416, errTooManyTags: 414, errContentType: 415, errQuery: 400, errInternal: 500,
	}
	for kind, want := range tests {
		for _, e := range []*registry.Error{kind, kind.Withf("another message"), kind.Detailed("a detail")} {
			if got := status(e); got != want {
				t.Errorf("status of %v is %d, want %d", e, got, want)
			}
		}
	}
}

func TestFaultIsLoggedAndHidden(t *testing.T) {
	s := newServer(t, options{config: Config{AccessLog: true}})
	s.facts.Close()
	a := s.get("/v2/a/tags/list").wantError(http.StatusInternalServerError, "UNKNOWN")
	id := a.header.Get("X-Request-Id")
	if len(id) != 16 || !strings.Contains(a.body, id) {
		t.Errorf("request id %q, body %s", id, a.body)
	}
	faults := s.log.records(t, "request failed")
	if len(faults) != 1 || faults[0]["request"] != id || faults[0]["error"] == "" || strings.Contains(a.body, faults[0]["error"].(string)) {
		t.Errorf("body %s, log %v", a.body, faults)
	}
}

func TestDiskFull(t *testing.T) {
	s := newServer(t, options{minFree: 1 << 62})
	s.do(http.MethodPost, "/v2/a/blobs/uploads/", nil).wantError(http.StatusInsufficientStorage, "INSUFFICIENT_STORAGE")
	if faults := s.log.records(t, "request failed"); len(faults) != 1 || faults[0]["level"] != "WARN" {
		t.Errorf("a full disk is logged as %v", faults)
	}
}

func TestLocation(t *testing.T) {
	tests := []struct {
		name    string
		config  Config
		headers []string
		want    string // what Location begins with; $URL is the server's own
	}{
		{"path only", Config{}, nil, "/v2/"},
		{"host", Config{Host: "https://registry.example.com/"}, nil, "https://registry.example.com/v2/"},
		{"host wins", Config{Host: "https://x.example", AbsoluteURLs: true}, nil, "https://x.example/v2/"},
		{"absolute", Config{AbsoluteURLs: true}, nil, "$URL/v2/"},
		{"forwarded", Config{AbsoluteURLs: true}, []string{"X-Forwarded-Proto", "https", "X-Forwarded-Host", "r.example, inner"}, "https://r.example/v2/"},
		{"forwarded nonsense", Config{AbsoluteURLs: true}, []string{"X-Forwarded-Proto", "javascript"}, "$URL/v2/"},
		{"forwarded but relative", Config{}, []string{"X-Forwarded-Host", "r.example"}, "/v2/"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newServer(t, options{config: tt.config})
			a := s.do(http.MethodPost, "/v2/a/blobs/uploads/", nil, tt.headers...).want(http.StatusAccepted)
			want := strings.Replace(tt.want, "$URL", s.URL, 1) + "a/blobs/uploads/" + a.header.Get("Docker-Upload-Uuid")
			a.wantHeaders("Location", want)
		})
	}
}

func TestPrefix(t *testing.T) {
	s := newServer(t, options{config: Config{Prefix: "/my/registry/"}})
	s.get("/my/registry/v2/").want(http.StatusOK)
	s.get("/my/registry/v2").want(http.StatusMovedPermanently).wantHeaders("Location", "/my/registry/v2/")
	s.get("/v2/").wantError(http.StatusNotFound, "NOT_FOUND")
	upload := s.do(http.MethodPost, "/my/registry/v2/a/blobs/uploads/", nil).want(http.StatusAccepted).header.Get("Location")
	s.get(upload).want(http.StatusNoContent)
}

func TestConfiguredHeaders(t *testing.T) {
	s := newServer(t, options{config: Config{Headers: http.Header{"access-control-allow-origin": {"*"}, "Vary": {"Origin"}}}})
	for _, path := range []string{"/v2/", "/nothing", "/v2/a/manifests/x"} {
		s.get(path).wantHeaders("Access-Control-Allow-Origin", "*", "X-Content-Type-Options", "nosniff", "Vary", "Origin")
	}
	s.pushImage("a", "v1", "layer")
	s.get("/v2/a/manifests/v1").want(http.StatusOK).wantHeaders("Vary", "Origin, Accept")
}

// only is a Gate that lets one user do everything but what is refused, and others nothing.
type only struct {
	user, password string
	refused        Refusal // what the user gets for Delete and outside of repository a
}

func (o only) Admit(r *http.Request, _ Origin) (Client, *Refusal) {
	user, password, ok := r.BasicAuth()
	switch {
	case !ok:
		return onlyClient{o, ""}, nil
	case user != o.user || password != o.password:
		return nil, &Refusal{Status: http.StatusTooManyRequests, Message: "no more", RetryAfter: 1100 * time.Millisecond}
	}
	return onlyClient{o, user}, nil
}

type onlyClient struct {
	only
	name string
}

func (c onlyClient) Name() string { return c.name }

func (c onlyClient) Judge(_ *http.Request, repository string, a Action) *Refusal {
	switch {
	case c.name == "":
		return &Refusal{Status: http.StatusUnauthorized, Message: "log in to " + string(a) + repository, Challenge: `Basic realm="test"`}
	case !c.May(repository, a):
		return &c.refused
	}
	return nil
}

func (c onlyClient) May(repository string, a Action) bool {
	return c.name != "" && a != Delete && (repository == "" || c.Sees(repository))
}

func (c onlyClient) Sees(repository string) bool { return strings.HasPrefix(repository, "a") }

// ann is the header of the one user.
var ann = []string{"Authorization", "Basic YW5uOnNlY3JldA=="}

func TestGate(t *testing.T) {
	gate := only{"ann", "secret", Refusal{Status: http.StatusForbidden, Message: "ann may not"}}
	var audit syncBuffer
	s := newServer(t, options{config: Config{Gate: gate, Audit: slog.New(slog.NewJSONHandler(&audit, nil))}})
	for path, want := range map[string]string{
		"/v2/": "log in to enter", "/v2/_catalog": "log in to list", "/v2/a/manifests/latest": "log in to pulla",
		"/v2/A/tags/list": "log in to enter", "/v2/nothing": "log in to enter",
	} {
		a := s.get(path).wantError(http.StatusUnauthorized, "UNAUTHORIZED").wantHeaders("WWW-Authenticate", `Basic realm="test"`)
		if !strings.Contains(a.body, want) {
			t.Errorf("%s: the body lacks %q: %s", path, want, a.body)
		}
	}
	s.get("/v2/", "Authorization", "Basic YW5uOndyb25n").wantError(http.StatusTooManyRequests, "TOOMANYREQUESTS").wantHeaders("Retry-After", "1")
	s.do(http.MethodHead, "/v2/", nil).want(http.StatusUnauthorized).wantBody("")
	s.do(http.MethodOptions, "/v2/a/manifests/x", nil).want(http.StatusNoContent)

	s.get("/v2/", ann...).want(http.StatusOK).wantHeaders("WWW-Authenticate", "")
	s.get("/v2/A/tags/list", ann...).wantError(http.StatusBadRequest, "NAME_INVALID")
	s.get("/v2/b/tags/list", ann...).wantError(http.StatusForbidden, "DENIED")
	s.do(http.MethodDelete, "/v2/a/manifests/x", nil, ann...).wantError(http.StatusForbidden, "DENIED")

	denials := audit.records(t, "denied")
	if len(denials) != 2 || denials[0]["user"] != "ann" || denials[0]["repository"] != "b" || denials[0]["action"] != "pull" ||
		denials[0]["reason"] != "ann may not" || denials[0]["request"] == "" || denials[0]["remote"] == "" || denials[1]["action"] != "delete" {
		t.Errorf("the audit log has %v", denials)
	}
}

// TestTokens finds the endpoint for tokens below the prefix, with what every answer has.
func TestTokens(t *testing.T) {
	tokens := func(w http.ResponseWriter, _ *http.Request, from Origin) {
		w.WriteHeader(http.StatusTeapot)
		w.Write([]byte(from.Remote + " " + from.Request))
	}
	s := newServer(t, options{config: Config{Prefix: "/registry", Tokens: tokens, AccessLog: true}})
	a := s.get("/registry/auth/token").want(http.StatusTeapot).wantHeaders("Docker-Distribution-Api-Version", "registry/2.0")
	if a.body != "127.0.0.1 "+a.header.Get("X-Request-Id") {
		t.Errorf("the request came from %s", a.body)
	}
	s.get("/auth/token").want(http.StatusNotFound)
	newServer(t, options{}).get("/auth/token").want(http.StatusNotFound)
	s.stop()
	if lines := s.log.records(t, "request"); len(lines) != 2 || lines[0]["endpoint"] != "token" || lines[0]["status"] != 418.0 {
		t.Errorf("lines %v", lines)
	}
}

// TestCatalogShowsWhatIsSeen looks at pages of every size, which tell nothing of what lies between and behind.
func TestCatalogShowsWhatIsSeen(t *testing.T) {
	var gate switchable
	s := newServer(t, options{config: Config{Gate: &gate}})
	for _, name := range []string{"a0", "b1", "a2", "b3", "b4", "a5", "b6"} {
		s.pushImage(name, "latest", "layer")
	}
	if got := strings.TrimSpace(s.get("/v2/_catalog?n=7").body); got != `{"repositories":["a0","a2","a5","b1","b3","b4","b6"]}` {
		t.Errorf("without a gate: %s", got)
	}
	gate.closed.Store(true)
	for n, want := range map[string]string{
		"1": `{"repositories":["a0"]}`, "2": `{"repositories":["a0","a2"]}`, "3": `{"repositories":["a0","a2","a5"]}`,
		"4": `{"repositories":["a0","a2","a5"]}`,
	} {
		a := s.get("/v2/_catalog?n="+n, ann...).want(http.StatusOK)
		if got := strings.TrimSpace(a.body); got != want {
			t.Errorf("n=%s: got %s", n, got)
		}
		if more := a.header.Get("Link") != ""; more != (n < "3") {
			t.Errorf("n=%s: Link is %q", n, a.header.Get("Link"))
		}
	}
}

// switchable is the gate of ann once it is closed.
type switchable struct{ closed atomic.Bool }

func (s *switchable) Admit(r *http.Request, from Origin) (Client, *Refusal) {
	if s.closed.Load() {
		return only{user: "ann", password: "secret"}.Admit(r, from)
	}
	return everybody{}.Admit(r, from)
}

func TestReadOnlyAndDeleteDisabled(t *testing.T) {
	changes := []struct{ method, path string }{
		{"PUT", "/v2/a/manifests/x"}, {"POST", "/v2/a/blobs/uploads/"}, {"PATCH", "/v2/a/blobs/uploads/x"},
		{"PUT", "/v2/a/blobs/uploads/x?digest=" + sum256}, {"DELETE", "/v2/a/blobs/uploads/x"},
	}
	deletions := []struct{ method, path string }{{"DELETE", "/v2/a/manifests/x"}, {"DELETE", "/v2/a/manifests/" + sum256}, {"DELETE", "/v2/a/blobs/" + sum256}}

	readOnly := newServer(t, options{config: Config{ReadOnly: true}})
	for _, r := range append(changes, deletions...) {
		a := readOnly.do(r.method, r.path, nil).wantError(http.StatusMethodNotAllowed, "UNSUPPORTED")
		if allow := a.header.Get("Allow"); strings.Contains(allow, r.method) || !strings.Contains(allow, "OPTIONS") {
			t.Errorf("%s %s is refused, Allow is %q", r.method, r.path, allow)
		}
	}
	readOnly.get("/v2/_catalog").want(http.StatusOK)

	keep := newServer(t, options{config: Config{DeleteDisabled: true}})
	for _, r := range deletions {
		keep.do(r.method, r.path, nil).wantError(http.StatusMethodNotAllowed, "UNSUPPORTED")
	}
	keep.do(http.MethodDelete, keep.startUpload("a"), nil).want(http.StatusNoContent)
}

func TestAccessLine(t *testing.T) {
	s := newServer(t, options{config: Config{
		AccessLog: true, Gate: only{user: "ann", password: "secret"}, TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
	}})
	auth := []string{"Authorization", "Basic YW5uOnNlY3JldA==", "X-Forwarded-For", "10.9.9.9, 203.0.113.7"}
	a := s.get("/v2/a-team/app/manifests/v1?ns=docker.io", auth...).wantError(http.StatusNotFound, "MANIFEST_UNKNOWN")
	s.get("/nowhere/%22x")
	s.stop() // a line is written after its answer

	lines := s.log.records(t, "request")
	if len(lines) != 2 {
		t.Fatalf("%d lines for two requests", len(lines))
	}
	for key, want := range map[string]any{
		"method": "GET", "endpoint": "manifest", "repository": "a-team/app", "reference": "v1", "status": 404.0, "bytes": float64(len(a.body)),
		"user": "ann", "request": a.header.Get("X-Request-Id"), "remote": "203.0.113.7",
	} {
		if lines[0][key] != want {
			t.Errorf("%s is %v, want %v", key, lines[0][key], want)
		}
	}
	if _, ok := lines[0]["duration"].(float64); !ok || lines[1]["path"] != "/nowhere/%22x" || lines[1]["user"] != nil {
		t.Errorf("lines %v", lines)
	}
}

func TestRemote(t *testing.T) {
	h := &handler{Config: Config{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}}}
	tests := []struct {
		peer, forwarded, want string
	}{
		{"192.0.2.1:99", "198.51.100.1", "192.0.2.1"},
		{"10.0.0.1:99", "", "10.0.0.1"},
		{"10.0.0.1:99", "198.51.100.1", "198.51.100.1"},
		{"[::ffff:10.0.0.1]:99", "198.51.100.1", "198.51.100.1"},
		{"[fd00::1]:99", "spoofed, 198.51.100.1, 10.2.2.2", "198.51.100.1"},
		{"10.0.0.1:99", "spoofed, 10.2.2.2", "10.2.2.2"},
		{"10.0.0.1:99", "\n", "10.0.0.1"},
		{"@", "198.51.100.1", "@"},
	}
	for _, tt := range tests {
		r := &http.Request{RemoteAddr: tt.peer, Header: http.Header{"X-Forwarded-For": {tt.forwarded}}}
		if got := h.remote(r); got != tt.want {
			t.Errorf("remote(%q, %q) = %q, want %q", tt.peer, tt.forwarded, got, tt.want)
		}
	}
}
