package api

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"

	"berth/registry"
	"berth/storage"
	"berth/storage/filesystem"
	"berth/storage/metadata"
)

// server is a registry over a directory of its own, with its log.
type server struct {
	*httptest.Server
	t     testing.TB
	facts *metadata.Store
	log   *syncBuffer
	// handlers are the requests that are being served. Closing a server of HTTP/2 does not wait for them.
	handlers sync.WaitGroup
}

// options are what a test wants different from the usual.
type options struct {
	config  Config
	minFree int64
	wrap    func(storage.Blobs) storage.Blobs // nil for the store as it is
	tls     bool
	http2   bool
}

func newServer(t testing.TB, o options) *server {
	t.Helper()
	dir := t.TempDir()
	files, err := filesystem.Open(filesystem.Config{Root: filepath.Join(dir, "blobs"), MinFree: o.minFree})
	if err != nil {
		t.Fatal(err)
	}
	var blobs storage.Blobs = files
	if o.wrap != nil {
		blobs = o.wrap(files)
	}
	facts, err := metadata.Open(t.Context(), metadata.Config{Path: filepath.Join(dir, "facts.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { facts.Close() })
	s := &server{t: t, facts: facts, log: &syncBuffer{}}
	o.config.Service = registry.New(registry.Config{Blobs: blobs, Metadata: facts})
	o.config.Log = slog.New(slog.NewJSONHandler(s.log, nil))
	handler := New(o.config)
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.handlers.Add(1)
		defer s.handlers.Done()
		handler.ServeHTTP(w, r)
	}))
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.EnableHTTP2 = o.http2
	if o.tls || o.http2 {
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.stop)
	s.Client().CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return s
}

// stop ends the server and waits until every request has been served, access line included.
func (s *server) stop() {
	s.Server.Close()
	s.handlers.Wait()
}

// answer is what a request got.
type answer struct {
	t      testing.TB
	status int
	header http.Header
	body   string
}

// do sends a request with headers given as names and values in turn.
func (s *server) do(method, path string, body io.Reader, headers ...string) answer {
	s.t.Helper()
	r, err := http.NewRequestWithContext(context.Background(), method, s.URL+path, body)
	if err != nil {
		s.t.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	resp, err := s.Client().Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, path, err)
	}
	return answer{s.t, resp.StatusCode, resp.Header, string(text)}
}

func (s *server) get(path string, headers ...string) answer {
	s.t.Helper()
	return s.do(http.MethodGet, path, nil, headers...)
}

// want checks the status.
func (a answer) want(status int) answer {
	a.t.Helper()
	if a.status != status {
		a.t.Fatalf("status %d, want %d: %v %s", a.status, status, a.header, a.body)
	}
	return a
}

// wantError checks the status and the code of the one error.
func (a answer) wantError(status int, code string) answer {
	a.t.Helper()
	a.want(status)
	var body errorBody
	if err := json.Unmarshal([]byte(a.body), &body); err != nil || len(body.Errors) != 1 {
		a.t.Fatalf("body %q is not one error: %v", a.body, err)
	}
	if got := body.Errors[0]; got.Code != code || got.Message == "" {
		a.t.Fatalf("error %+v, want code %s and a message", got, code)
	}
	return a
}

// wantHeaders checks headers given as names and values in turn. An empty value wants none.
func (a answer) wantHeaders(headers ...string) answer {
	a.t.Helper()
	for i := 0; i+1 < len(headers); i += 2 {
		if got := strings.Join(a.header.Values(headers[i]), ", "); got != headers[i+1] {
			a.t.Errorf("%s: %q, want %q", headers[i], got, headers[i+1])
		}
	}
	return a
}

func (a answer) wantBody(body string) answer {
	a.t.Helper()
	if a.body != body {
		a.t.Errorf("body %.200q, want %.200q", a.body, body)
	}
	return a
}

// pushBlob stores a blob and returns its digest.
func (s *server) pushBlob(repository, content string) string {
	s.t.Helper()
	d := digest.FromString(content).String()
	s.do(http.MethodPost, "/v2/"+repository+"/blobs/uploads/?digest="+d, strings.NewReader(content)).want(http.StatusCreated)
	return d
}

// startUpload begins a session and returns its path.
func (s *server) startUpload(repository string) string {
	s.t.Helper()
	return s.do(http.MethodPost, "/v2/"+repository+"/blobs/uploads/", nil).want(http.StatusAccepted).header.Get("Location")
}

// pushManifest stores a manifest under a reference, or under its digest when that is empty, and returns its digest.
func (s *server) pushManifest(repository, reference, mediaType, body string) string {
	s.t.Helper()
	d := digest.FromString(body).String()
	if reference == "" {
		reference = d
	}
	s.do(http.MethodPut, "/v2/"+repository+"/manifests/"+reference, strings.NewReader(body), "Content-Type", mediaType).want(http.StatusCreated)
	return d
}

// pushImage stores an image of one layer and returns its digest and its manifest.
func (s *server) pushImage(repository, reference, layer string) (digest, body string) {
	s.t.Helper()
	config := s.pushBlob(repository, `{"os":"linux","architecture":"amd64"}`)
	body = imageManifest(config, s.pushBlob(repository, layer), "")
	return s.pushManifest(repository, reference, ociManifest, body), body
}

// imageManifest returns a manifest; extra is JSON to put into it.
func imageManifest(config, layer, extra string) string {
	return `{"schemaVersion":2,"mediaType":"` + ociManifest + `","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"` +
		config + `","size":37},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"` + layer + `","size":5}]` + extra + `}`
}

// syncBuffer is a log that is read while it is written.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

// records returns the records with a message.
func (b *syncBuffer) records(t testing.TB, message string) []map[string]any {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	var records []map[string]any
	for line := range strings.Lines(b.b.String()) {
		var record map[string]any
		if err := json.Unmarshal([]byte(line), &record); err != nil {
			t.Fatal(err)
		}
		if record["msg"] == message {
			records = append(records, record)
		}
	}
	return records
}
