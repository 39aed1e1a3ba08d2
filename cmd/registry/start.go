package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// extendEvery is how often a service manager is told that the start goes on, and extendBy how long it is to wait from then on.
	extendEvery = 10 * time.Second
	extendBy    = time.Minute
)

// progress is what a start does right now, in words. Nil is of whom nobody asks.
type progress struct{ text atomic.Pointer[string] }

func (p *progress) say(format string, args ...any) {
	if p != nil {
		text := fmt.Sprintf(format, args...)
		p.text.Store(&text)
	}
}

func (p *progress) String() string { return *p.text.Load() }

// starting is a registry that is not ready yet. Migrating a database, moving blobs, and taking data over may take hours, in which
// whoever watches the process must not take it for dead and kill it, and send it no requests either: so the admin socket answers
// from the beginning on, the service manager is asked for patience, and the port opens last.
type starting struct {
	*progress
	admin *service
	ready atomic.Pointer[http.Handler] // what the admin socket serves from then on
	stop  context.CancelFunc
	tasks sync.WaitGroup
}

// beginStart opens the admin socket.
func beginStart(ctx context.Context, socket string, m manager) (*starting, error) {
	listener, err := listenAdmin(socket)
	if err != nil {
		return nil, err
	}
	s := &starting{progress: new(progress)}
	s.say("opening the metadata")
	s.admin = &service{server: &http.Server{Handler: s, ReadHeaderTimeout: headerTimeout}, listener: listener, drain: time.Second}
	s.admin.begin()
	ctx, s.stop = context.WithCancel(ctx)
	s.tasks.Go(func() { m.extendStart(ctx) })
	return s, nil
}

// ServeHTTP implements http.Handler: what runs asks for its health, and is told that it is well.
func (s *starting) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch ready := s.ready.Load(); {
	case ready != nil:
		(*ready).ServeHTTP(w, r)
	case r.Method == http.MethodGet && r.URL.Path == "/health":
		w.WriteHeader(http.StatusAccepted)
		_, _ = io.WriteString(w, "starting: "+s.String()+"\n") // whoever asked may be gone
	default:
		http.Error(w, "it is starting, try again later: "+s.String(), http.StatusServiceUnavailable)
	}
}

// done has the admin socket serve h, and ends the patience of the service manager.
func (s *starting) done(h http.Handler) *service {
	s.ready.Store(&h)
	s.end()
	return s.admin
}

func (s *starting) end() {
	s.stop()
	s.tasks.Wait()
}

// close ends what a start that failed has begun. After one that went well there is nothing left to do.
func (s *starting) close() {
	s.end()
	_ = s.admin.server.Close() // whose listener has no more to say
	s.admin.requests.wait(cutOffTimeout)
}
