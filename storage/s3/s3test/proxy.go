package s3test

import (
	"fmt"
	"io"
	"log"
	"maps"
	"math"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"
	"testing"
)

// Fault is what a Proxy does with a call.
type Fault int

// The faults.
const (
	// None passes the call on.
	None Fault = iota
	// SlowDown answers 503 SlowDown, and Broken 500 InternalError, without passing the call on.
	SlowDown
	Broken
	// Reset ends the connection without passing the call on.
	Reset
	// Lost passes the call on and ends the connection instead of answering.
	Lost
	// Half passes on half of the answer's body, and then ends the connection.
	Half
	// Stalled passes on half of the answer's body, and the rest after Release.
	Stalled
	// Hang never answers.
	Hang
	// Held passes the call on after Release.
	Held
)

// Proxy passes the calls of a client on to a server, counts them, and makes some of them fail. Its methods may be called at the
// same time.
type Proxy struct {
	// URL is where it answers.
	URL string

	next http.Handler

	mu      sync.Mutex
	calls   map[string]int
	rules   []rule
	always  Fault         // of every call that no rule is about
	held    chan struct{} // closed by Release
	arrived chan string   // the names of calls that are held
}

// rule is the fault of the next times calls with a name.
type rule struct {
	name  string
	fault Fault
	times int
}

// NewProxy runs a proxy in front of a server until the test ends.
func NewProxy(tb testing.TB, s *Server) *Proxy {
	tb.Helper()
	target, err := url.Parse(s.URL)
	if err != nil {
		tb.Fatal(err)
	}
	p := &Proxy{calls: map[string]int{}, held: make(chan struct{}), arrived: make(chan string, 100)}
	p.next = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host // it is signed
		},
		Transport:    &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true},
		ErrorLog:     log.New(io.Discard, "", 0),
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
	server := httptest.NewUnstartedServer(p)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.Start()
	p.URL = server.URL
	tb.Cleanup(func() {
		p.Release()
		server.CloseClientConnections()
		server.Close()
	})
	return p
}

// Fail makes the next calls of an operation fail. It comes after what Fail was told of that operation before.
func (p *Proxy) Fail(operation string, fault Fault, times int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rules = append(p.rules, rule{operation, fault, times})
}

// FailAll makes all calls fail until it is told None, but for those that Fail was told of.
func (p *Proxy) FailAll(fault Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.always = fault
}

// Arrived waits until a call is Held or Stalled, and returns its operation.
func (p *Proxy) Arrived() string { return <-p.arrived }

// Release passes on what is Held or Stalled.
func (p *Proxy) Release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.held)
	p.held = make(chan struct{})
}

// Calls returns how many calls there were of each operation since the last time.
func (p *Proxy) Calls() map[string]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	calls := maps.Clone(p.calls)
	clear(p.calls)
	return calls
}

// ServeHTTP implements http.Handler.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	operation := Operation(r)
	fault, held := p.count(operation)
	switch fault {
	case SlowDown:
		refuse(w, http.StatusServiceUnavailable, "SlowDown")
		return
	case Broken:
		refuse(w, http.StatusInternalServerError, "InternalError")
		return
	case Reset:
		panic(http.ErrAbortHandler)
	case Lost:
		p.next.ServeHTTP(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler)
	case Half:
		w = &halfWriter{ResponseWriter: w, half: func() { panic(http.ErrAbortHandler) }}
	case Stalled:
		w = &halfWriter{ResponseWriter: w, half: func() {
			p.arrived <- operation
			<-held
		}}
	case Hang:
		_, _ = io.Copy(io.Discard, r.Body) // so that the end of the connection is noticed
		<-r.Context().Done()
		panic(http.ErrAbortHandler)
	case Held:
		p.arrived <- operation
		<-held
	}
	p.next.ServeHTTP(w, r)
}

func (p *Proxy) count(operation string) (Fault, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls[operation]++
	for i := range p.rules {
		if p.rules[i].name == operation && p.rules[i].times > 0 {
			p.rules[i].times--
			return p.rules[i].fault, p.held
		}
	}
	return p.always, p.held
}

func refuse(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	fmt.Fprintf(w, "<Error><Code>%s</Code><Message>injected</Message></Error>", code)
}

// halfWriter calls half after half of the body.
type halfWriter struct {
	http.ResponseWriter
	left int64
	half func()
}

func (w *halfWriter) WriteHeader(status int) {
	if _, err := fmt.Sscan(w.Header().Get("Content-Length"), &w.left); err != nil {
		panic(http.ErrAbortHandler)
	}
	w.left /= 2
	w.ResponseWriter.WriteHeader(status)
}

func (w *halfWriter) Write(p []byte) (int, error) {
	if w.left > int64(len(p)) {
		w.left -= int64(len(p))
		return w.ResponseWriter.Write(p)
	}
	n := w.left
	w.left = math.MaxInt64
	_, _ = w.ResponseWriter.Write(p[:n])
	_ = http.NewResponseController(w.ResponseWriter).Flush()
	w.half()
	m, err := w.ResponseWriter.Write(p[n:])
	return int(n) + m, err
}

// Operation returns the name of the S3 operation that a request asks for.
func Operation(r *http.Request) string {
	query := r.URL.Query()
	switch r.Method {
	case http.MethodPut:
		switch {
		case query.Has("partNumber") && r.Header.Get("X-Amz-Copy-Source") != "":
			return "UploadPartCopy"
		case query.Has("partNumber"):
			return "UploadPart"
		}
		return "PutObject"
	case http.MethodPost:
		if query.Has("uploads") {
			return "CreateMultipartUpload"
		}
		return "CompleteMultipartUpload"
	case http.MethodDelete:
		if query.Has("uploadId") {
			return "AbortMultipartUpload"
		}
		return "DeleteObject"
	case http.MethodHead:
		return "HeadObject"
	}
	switch {
	case query.Has("list-type"):
		return "ListObjectsV2"
	case query.Has("uploads"):
		return "ListMultipartUploads"
	}
	return "GetObject"
}
