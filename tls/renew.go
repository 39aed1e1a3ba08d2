package tls

import (
	"context"
	"time"
)

// run keeps the certificate up to date until ctx ends.
func (a *auto) run(ctx context.Context) {
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	judge := time.NewTicker(day)
	defer judge.Stop()
	var since time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-judge.C:
			a.judge()
		case <-ticker.C:
			since = a.look(ctx, since)
		}
	}
}

// judge repeats what is to be said about the CA, lest it be missed.
func (a *auto) judge() {
	if err := a.judgeAuthority(a.authority); err != nil {
		a.log.Error("the CA can't be used", "error", err)
	}
}

// look replaces the certificate where needed. It takes and returns since when names are missing: zero when none are.
func (a *auto) look(ctx context.Context, since time.Time) time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	wanted, err := a.wanted()
	if err != nil {
		a.log.Warn("the machine's addresses can't be found", "error", err)
		return since
	}
	if reason := a.outdated(); reason != "" {
		a.report(a.replace(reason, wanted, a.newLife()))
		return time.Time{}
	}
	missing, now := a.missing(wanted), a.system.now()
	switch {
	case len(missing) == 0:
		return time.Time{}
	case since.IsZero():
		return now
	case now.Sub(since) < gathering:
		return since
	}
	a.hosts = a.system.hostNames(ctx) // with a new address the machine may have got a new name
	if wanted, err = a.wanted(); err == nil {
		missing = a.missing(wanted)
	}
	a.report(a.add(missing))
	return time.Time{}
}

func (a *auto) report(err error) {
	if err != nil {
		a.log.Error("TLS certificate was not replaced", "error", err)
	}
}
