package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"

	"berth/config"
)

// auditLog is where the records go of who did what.
type auditLog struct {
	*slog.Logger
	file      *auditFile // nil when the records go elsewhere
	strangers *budget    // nil when they go nowhere
}

// openAudit opens what audit.output names. Records are JSON, one a line.
func (s streams) openAudit(c config.Audit, log *slog.Logger) (auditLog, error) {
	var out io.Writer
	var file *auditFile
	switch c.Output {
	case "":
		return auditLog{Logger: slog.New(slog.DiscardHandler)}, nil
	case "stdout":
		out = s.out
	case "stderr":
		out = s.errOut
	default:
		file = &auditFile{path: c.Output, log: log}
		if err := file.open(); err != nil {
			return auditLog{}, fmt.Errorf("audit.output: %w", err)
		}
		out = file
	}
	limited := newStrangerLimit(slog.NewJSONHandler(out, &slog.HandlerOptions{ReplaceAttr: auditAttr}))
	return auditLog{slog.New(limited), file, limited.budget}, nil
}

// openCommandAudit is openAudit for a command that changes something without a server. That it can't be recorded is no reason
// to leave a token in the wrong hands.
func (s streams) openCommandAudit(c config.Audit) auditLog {
	audit, err := s.openAudit(c, slog.New(slog.DiscardHandler))
	if err != nil {
		fmt.Fprintln(s.errOut, "warning: this is not recorded:", err)
		audit = auditLog{Logger: slog.New(slog.DiscardHandler)}
	}
	audit.Logger = audit.With("by", "command line")
	return audit
}

// auditAttr names the message what it is, and leaves out the level: there is one.
func auditAttr(groups []string, a slog.Attr) slog.Attr {
	switch {
	case len(groups) > 0:
	case a.Key == slog.MessageKey:
		a.Key = "event"
	case a.Key == slog.LevelKey:
		return slog.Attr{}
	}
	return a
}

// reopen goes on in a new file after somebody moved the old one away.
func (a auditLog) reopen() error {
	if a.file == nil {
		return nil
	}
	return a.file.open()
}

func (a auditLog) close() error {
	if a.strangers != nil {
		a.strangers.settle()
	}
	if a.file == nil {
		return nil
	}
	return a.file.close()
}

// auditFile is a file that is appended to. That a record can't be written is logged, and stops nothing.
type auditFile struct {
	path string
	log  *slog.Logger

	mu   sync.Mutex
	file *os.File
}

func (f *auditFile) open() error {
	opened, err := os.OpenFile(f.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.file != nil {
		err = f.file.Close()
	}
	f.file = opened
	return err
}

// Write appends a record.
func (f *auditFile) Write(record []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.file.Write(record)
	if err != nil {
		f.log.Error("a record of the audit log is lost", "error", err)
	}
	return n, err
}

func (f *auditFile) close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.file.Close()
}
