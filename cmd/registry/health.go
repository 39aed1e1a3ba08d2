package main

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"
)

const (
	// healthPath is where load balancers ask.
	healthPath = "/health"
	// healthLasts is how long an answer to them stays true, whoever asks and however often.
	healthLasts = time.Second
)

// health tells load balancers whether requests should come to this server: not while its database does not answer, and not any
// more once it stops. Anybody may ask, and learns no more than that. The blob store does not count: when that is away it is away
// from all servers, and manifests are still served.
type health struct {
	ping    func(context.Context) error
	stopped <-chan struct{}
	log     *slog.Logger

	mu    sync.Mutex // who comes during a check waits for what it finds
	until time.Time
	err   error
}

// ServeHTTP implements http.Handler.
func (h *health) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	select {
	case <-h.stopped:
		http.Error(w, "stopping", http.StatusServiceUnavailable)
		return
	default:
	}
	if h.check(r.Context()) != nil {
		http.Error(w, "the metadata database does not answer: the log says why", http.StatusServiceUnavailable)
		return
	}
	_, _ = io.WriteString(w, "ok\n") // whoever asked may be gone
}

func (h *health) check(ctx context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if time.Now().Before(h.until) {
		return h.err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), healthTimeout)
	defer cancel()
	before := h.err
	h.err = h.ping(ctx)
	h.until = time.Now().Add(healthLasts)
	switch {
	case h.err != nil && before == nil:
		h.log.Error("not healthy: load balancers are told to send no requests", "error", h.err)
	case h.err == nil && before != nil:
		h.log.Info("healthy again")
	}
	return h.err
}
