package main

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"berth/auth"

	"golang.org/x/time/rate"
)

// What anybody can have recorded without a credential is bounded, lest strangers fill the disk: from one network, and from all
// together, where it comes to some 50 MiB a day.
const (
	strangerBurst    = 60
	strangerInterval = 10 * time.Second
	strangersBurst   = 1000
	strangersRate    = 2 // a second
	// maxStrangers bounds for how many networks that is counted.
	maxStrangers = 10_000
	// omissionDelay is how long omissions are counted until there is a record of them.
	omissionDelay = time.Minute
)

// strangerLimit is a handler of the audit log that leaves out failures of strangers beyond the bounds, and then records how many.
type strangerLimit struct {
	slog.Handler
	budget *budget
}

func newStrangerLimit(inner slog.Handler) strangerLimit {
	b := &budget{all: rate.NewLimiter(strangersRate, strangersBurst), networks: make(map[string]*rate.Limiter)}
	b.tell = func(count int) {
		record := slog.NewRecord(time.Now(), slog.LevelInfo, "records left out", 0)
		record.AddAttrs(slog.Int("count", count), slog.String("reason", "too many failed logins and denials of strangers"))
		_ = inner.Handle(context.Background(), record) // whose writer logs it
	}
	return strangerLimit{inner, b}
}

// Handle implements slog.Handler.
func (l strangerLimit) Handle(ctx context.Context, r slog.Record) error {
	if remote, ok := ofStranger(r); ok && !l.budget.allow(auth.Network(remote)) {
		return nil
	}
	return l.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (l strangerLimit) WithAttrs(attrs []slog.Attr) slog.Handler {
	return strangerLimit{l.Handler.WithAttrs(attrs), l.budget}
}

// WithGroup implements slog.Handler.
func (l strangerLimit) WithGroup(name string) slog.Handler {
	return strangerLimit{l.Handler.WithGroup(name), l.budget}
}

// ofStranger tells where a record comes from that takes no credential to cause. The user of a failed login is only claimed.
func ofStranger(r slog.Record) (remote string, ok bool) {
	user := ""
	r.Attrs(func(a slog.Attr) bool {
		switch a.Key {
		case "user":
			user = a.Value.String()
		case "remote":
			remote = a.Value.String()
		}
		return true
	})
	return remote, r.Message == "login failed" || r.Message == "denied" && user == ""
}

// budget is how much of strangers may be recorded.
type budget struct {
	tell func(count int) // of omissions

	mu       sync.Mutex
	all      *rate.Limiter
	networks map[string]*rate.Limiter
	omitted  int
	pending  *time.Timer // tells of omissions; nil when there are none
}

func (b *budget) allow(network string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.network(network).Allow() && b.all.Allow() {
		return true
	}
	b.omitted++
	if b.pending == nil {
		b.pending = time.AfterFunc(omissionDelay, b.settle)
	}
	return false
}

func (b *budget) network(name string) *rate.Limiter {
	limit := b.networks[name]
	if limit == nil {
		if len(b.networks) >= maxStrangers {
			clear(b.networks) // the bound for all stays
		}
		limit = rate.NewLimiter(rate.Every(strangerInterval), strangerBurst)
		b.networks[name] = limit
	}
	return limit
}

// settle tells of the omissions that nobody was told of yet.
func (b *budget) settle() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.pending == nil {
		return
	}
	b.pending.Stop()
	b.tell(b.omitted)
	b.omitted, b.pending = 0, nil
}
