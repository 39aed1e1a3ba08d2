package main

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"berth/config"
	"berth/filewatch"
)

// reloader takes over what of a configuration can change while the registry runs: the access rules and their groups.
type reloader struct {
	s     streams
	path  string // empty when there is no file
	known []byte // its content when it was loaded
	login login
	audit auditLog
	log   *slog.Logger

	mu   sync.Mutex
	used *config.Config
}

// run reloads when the file changes and when a SIGHUP comes, which also has the audit log go on in a new file, until ctx
// ends.
func (l *reloader) run(ctx context.Context) {
	hangUps := make(chan os.Signal, 1)
	signal.Notify(hangUps, syscall.SIGHUP)
	defer signal.Stop(hangUps)
	var running sync.WaitGroup
	defer running.Wait()
	if l.path != "" {
		running.Go(func() { filewatch.Follow(ctx, l.path, l.known, func([]byte, error) { l.reload() }) })
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangUps:
			l.reload()
			if err := l.audit.reopen(); err != nil {
				l.log.Error("the audit log goes on in the old file", "error", err)
			}
		}
	}
}

// reload reads the configuration again. One with problems changes nothing.
func (l *reloader) reload() {
	l.mu.Lock()
	defer l.mu.Unlock()
	var args []string
	if l.path != "" {
		args = []string{l.path}
	}
	c, _, err := l.s.loadConfig(args)
	if err != nil {
		l.log.Error("the configuration was not reloaded, the old one stays", "error", err)
		return
	}
	if !sameButRules(c, l.used) {
		l.log.Warn("the configuration has changes that count from the next start on; access rules and groups count now")
	}
	l.used = c
	if l.login.gate == nil {
		return
	}
	rules, err := compileRules(c)
	if err != nil {
		l.log.Error("the access rules were not reloaded, the old ones stay", "error", err)
		return
	}
	l.login.gate.SetRules(rules)
	l.log.Info("access rules reloaded", "rules", len(c.Access))
	l.audit.Info("access rules changed", "rules", len(c.Access))
}

// sameButRules compares what configurations print, in which secrets are masked: another secret goes unnoticed.
func sameButRules(a, b *config.Config) bool {
	return bytes.Equal(printed(*a), printed(*b))
}

func printed(c config.Config) []byte {
	c.Access, c.Groups = nil, nil
	var out bytes.Buffer
	_ = c.Write(&out) // a buffer takes everything
	return out.Bytes()
}
