package main

import (
	"bufio"
	"cmp"
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
	"syscall"
	"time"

	"berth/config"
	"berth/registry/fsck"
	"berth/registry/gc"
)

// adminSocket returns the path of the socket through which commands act on a running server. Whoever may open it may do everything.
func adminSocket(c *config.Config, directory string) string {
	return cmp.Or(c.Admin.Socket, filepath.Join(directory, "admin.sock"))
}

// shortPath runs fn with a path for the socket that fits the 107 bytes that the kernel allows, however deep its directory is.
func shortPath(socket string, fn func(path string) error) error {
	if len(socket) <= 100 {
		return fn(socket)
	}
	d, err := os.Open(filepath.Dir(socket))
	if err != nil {
		return err
	}
	defer d.Close()
	return fn(fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), filepath.Base(socket)))
}

// listenAdmin makes the socket.
func listenAdmin(socket string) (l net.Listener, err error) {
	err = shortPath(socket, func(path string) error {
		if err := removeSocket(path); err != nil {
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
		return nil, fmt.Errorf("admin socket %s: %w: set admin.socket (REGISTRY_ADMIN_SOCKET) to a path where no other registry has its own, "+
			"on a file system that can hold sockets, which exFAT and SMB can't", socket, err)
	}
	return l, nil
}

// removeSocket removes what an earlier run left. What somebody listens on, or is no socket, stays.
func removeSocket(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != os.ModeSocket:
		return errors.New("there is something else than a socket")
	}
	conn, err := net.Dial("unix", path)
	if errors.Is(err, syscall.ECONNREFUSED) {
		return os.Remove(path)
	}
	if err == nil {
		err = conn.Close()
	}
	return errors.Join(errors.New("another registry seems to be there"), err)
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
func adminRequest(ctx context.Context, socket, method, path string, body io.Reader) (*http.Response, error) {
	client := http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (conn net.Conn, err error) {
			err = shortPath(socket, func(path string) error {
				conn, err = (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "unix", path)
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
		return nil, fmt.Errorf("not allowed to ask the registry on %s: run this as the user that it runs as: %w", socket, err)
	}
	var opError *net.OpError
	if errors.As(err, &opError) && opError.Op == "dial" || errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w on %s: %w", errNoServer, socket, err)
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
