package tls

import (
	"context"
	"slices"
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

// learn adds the name in a request's Host header to the certificate before it returns, so that the client's next connection
// is already made with it.
func (a *auto) learn(host string) {
	name, ok := learnable(host)
	if !ok || a.config.LearnDisabled || a.current.Load().names[name] {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.current.Load().names[name] || len(a.refused) >= mostNames || !a.hasRoom(name) || !a.canSign(name) {
		return
	}
	a.log.Info("TLS certificate gets a name from a request", "name", name)
	if err := a.add([]string{name}); err != nil {
		a.report(err)
		return
	}
	a.remember(name)
}

// hasRoom reports whether one more name may be learnt, or is learnt already. Another server on the same directory may have
// learnt others.
func (a *auto) hasRoom(name string) bool {
	if others, err := readLearnt(a.config.path(learntFile)); err == nil {
		a.learnt = merge(a.learnt, others...)
		a.learnt = a.learnt[:min(len(a.learnt), mostLearnt)]
	}
	if slices.Contains(a.learnt, name) || len(a.learnt) < mostLearnt {
		return true
	}
	if !a.full {
		a.log.Warn("TLS certificate gets no more names from requests: list them in http.tls.hosts, or remove "+learntFile+" and restart",
			"name", name, "learnt", a.learnt)
	}
	a.full = true
	return false
}

// remember keeps a name for the next start.
func (a *auto) remember(name string) {
	a.learnt = merge(a.learnt, name)
	if err := writeLearnt(a.config.path(learntFile), a.learnt); err != nil {
		a.log.Error("a name from a request is not kept for the next start", "name", name, "error", err)
	}
}
