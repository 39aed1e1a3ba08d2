package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"reflect"
	"sync"
	"syscall"

	"berth/config"
	"berth/filewatch"
)

// reloader takes over what of a configuration can change while the registry runs: the access rules and their groups.
type reloader struct {
	s       streams
	path    string // empty when there is no file to follow
	known   []byte // its content when it was loaded
	login   login
	audit   auditLog
	log     *slog.Logger
	manager manager

	mu   sync.Mutex
	used *config.Config
}

// run reloads when the file changes and when a SIGHUP comes, which also has the audit log go on in a new file, until ctx
// ends.
func (l *reloader) run(ctx context.Context) {
	hangUps := make(chan os.Signal, 1)
	signal.Notify(hangUps, syscall.SIGHUP)
	defer signal.Stop(hangUps)
	l.manager.tell(stateReady) // not before: until here a SIGHUP would have ended the process
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
			l.manager.reloading()
			l.reload()
			if err := l.audit.reopen(); err != nil {
				l.log.Error("the audit log goes on in the old file", "error", err)
			}
			l.manager.tell(stateReady)
		}
	}
}

// reload reads the configuration again. One with problems changes nothing.
func (l *reloader) reload() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.path == "" {
		l.log.Warn("there is no configuration file to reload")
		return
	}
	c, _, err := l.s.loadConfig([]string{l.path})
	if err != nil {
		l.log.Error("the configuration was not reloaded, the old one stays", "error", err)
		return
	}
	if c.Access == nil && l.used.Access != nil {
		l.log.Error("the configuration has no access rules any more, which would let every user do everything: the old ones stay until the next start")
		return
	}
	if !sameButRules(*c, *l.used) {
		l.log.Warn("the configuration has changes that count from the next start on; access rules and groups count now")
	}
	changed := !reflect.DeepEqual(c.Access, l.used.Access) || !reflect.DeepEqual(c.Groups, l.used.Groups)
	l.used = c
	if l.login.gate == nil || !changed {
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

func sameButRules(a, b config.Config) bool {
	a.Access, a.Groups, b.Access, b.Groups = nil, nil, nil, nil
	return reflect.DeepEqual(a, b)
}

// followed returns the path of a configuration if it is a file that can be read again, else nothing.
func followed(path string) string {
	if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() {
		return ""
	}
	return path
}
