package main

import (
	"context"
	"errors"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestHealth asks as a load balancer does.
func TestHealth(t *testing.T) {
	var failure error
	pings := 0
	ctx, stop := context.WithCancel(t.Context())
	h := &health{stopped: ctx.Done(), log: slog.New(slog.DiscardHandler), ping: func(context.Context) error { pings++; return failure }}
	ask := func(want int) {
		t.Helper()
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", healthPath, nil))
		if w.Code != want || strings.Contains(w.Body.String(), "hunter2") {
			t.Errorf("%d %s, want %d", w.Code, w.Body, want)
		}
	}
	ask(200)
	for range 10 {
		ask(200)
	}
	if pings != 1 {
		t.Errorf("the database was asked %d times", pings)
	}
	failure, h.until = errors.New("password hunter2 was refused"), h.until.Add(-2*healthLasts)
	ask(503)
	failure, h.until = nil, h.until.Add(-2*healthLasts)
	ask(200)
	stop()
	ask(503)
}
