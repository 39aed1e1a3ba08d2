package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"berth/registry/fsck"
	"berth/registry/gc"
)

// adminSocket is the file in the data directory through which commands act on a running server. Whoever may open it may
// do everything.
const adminSocket = "admin.sock"

// shortPath runs fn with a path for the socket that fits the 107 bytes that the kernel allows, however deep the data
// directory is.
func shortPath(directory string, fn func(path string) error) error {
	path := filepath.Join(directory, adminSocket)
	if len(path) <= 100 {
		return fn(path)
	}
	d, err := os.Open(directory)
	if err != nil {
		return err
	}
	defer d.Close()
	return fn(fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), adminSocket))
}

// listenAdmin makes the socket. The caller has the data directory to itself, so that one that is there is left over.
func listenAdmin(directory string) (l net.Listener, err error) {
	err = shortPath(directory, func(path string) error {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		unix, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			return err
		}
		unix.SetUnlinkOnClose(false) // its path may be gone by then: the next start removes the file
		l = unix
		return os.Chmod(path, 0o600)
	})
	if err != nil {
		return nil, fmt.Errorf("admin socket in %s: %w", directory, err)
	}
	return l, nil
}

// adminHandler is the API on the socket.
func adminHandler(s *stores, l *reloader, reaper *gc.Reaper, k keeper) http.Handler {
	log, mux := l.log, http.NewServeMux()
	localSteward{s, l.audit.Logger.With("by", "admin socket"), l.login.first, l.used.Auth.Method}.serve(mux, log)
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, r *http.Request) {
		if err := s.facts.Ping(r.Context()); err != nil {
			log.Error("health check failed", "error", err)
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		}
	})
	k.serve(mux)
	localCollector{s.facts, reaper}.serve(mux)
	mux.HandleFunc("POST /fsck", func(w http.ResponseWriter, r *http.Request) {
		streamFsck(w, r, s, log)
	})
	return mux
}

// fsckLine is a line of the answer to POST /fsck: progress until one is Done, or an error.
type fsckLine struct {
	Report fsck.Report `json:"report"`
	Done   bool        `json:"done"`
	Error  string      `json:"error,omitempty"`
}

func streamFsck(w http.ResponseWriter, r *http.Request, s *stores, log *slog.Logger) {
	o, err := parseFsckOptions(r.URL.Query())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	send := func(l fsckLine) {
		_ = json.NewEncoder(w).Encode(l) // the client may be gone: then r.Context() ends the check
		_ = http.NewResponseController(w).Flush()
	}
	report, err := o.check(r.Context(), s, func(p fsck.Report) {
		p.Findings = nil // the last line has them
		send(fsckLine{Report: p})
	})
	for _, f := range report.Findings {
		if f.Repaired != "" {
			log.Warn("repaired", "subject", f.Subject, "problem", f.Problem, "repaired", f.Repaired, "remedy", f.Remedy)
		}
	}
	last := fsckLine{Report: report, Done: err == nil}
	if err != nil {
		last.Error = err.Error()
	}
	send(last)
}

// errNoServer says that no server answers on the admin socket.
var errNoServer = errors.New("no registry is running")

// adminRequest asks a running server. It fails with errNoServer.
func adminRequest(ctx context.Context, directory, method, path string, body io.Reader) (*http.Response, error) {
	client := http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (conn net.Conn, err error) {
			err = shortPath(directory, func(socket string) error {
				conn, err = (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "unix", socket)
				return err
			})
			return conn, err
		},
		DisableKeepAlives: true,
	}}
	request, err := http.NewRequestWithContext(ctx, method, "http://admin"+path, body)
	if err != nil {
		return nil, err
	}
	response, err := client.Do(request)
	if errors.Is(err, os.ErrPermission) {
		return nil, fmt.Errorf("not allowed to ask the registry on %s: run this as the user that it runs as: %w", directory, err)
	}
	var opError *net.OpError
	if errors.As(err, &opError) && opError.Op == "dial" || errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w on %s: %w", errNoServer, directory, err)
	}
	return response, err
}

// decodeLines calls fn for each line of JSON.
func decodeLines[T any](r io.Reader, fn func(T) error) error {
	lines := json.NewDecoder(bufio.NewReader(r))
	for {
		var line T
		err := lines.Decode(&line)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the server's answer: %w", err)
		}
		if err := fn(line); err != nil {
			return err
		}
	}
}
