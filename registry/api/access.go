package api

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// newRequestID returns 16 hex digits. They need to be different, not hard to guess.
func newRequestID() string { return fmt.Sprintf("%016x", rand.Uint64()) }

// response counts what a handler writes.
type response struct {
	http.ResponseWriter
	// status is zero until the header is written.
	status int
	bytes  int64
	// broken says that the client can't be written to any more.
	broken bool
}

// Unwrap lets http.ResponseController find the server's own writer.
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *response) WriteHeader(code int) {
	w.status = code
	w.ResponseWriter.WriteHeader(code)
}

func (w *response) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	w.bytes += int64(n)
	w.broken = w.broken || err != nil
	return n, err
}

// ReadFrom lets the server hand a file to the kernel. Its error may be the file's or the connection's.
func (w *response) ReadFrom(r io.Reader) (int64, error) {
	n, err := io.Copy(w.ResponseWriter, r)
	w.bytes += n
	w.broken = w.broken || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, os.ErrDeadlineExceeded)
	return n, err
}

// abandon ends the answer to a client that is gone.
func (w *response) abandon() {
	if w.status == 0 {
		w.WriteHeader(statusClientGone)
	}
}

// writeBody answers with a whole body. An error while writing is the client's, who is gone.
func writeBody(c *call, code int, contentType string, body []byte) {
	header := c.w.Header()
	header.Set("Content-Type", contentType)
	header.Set("Content-Length", strconv.Itoa(len(body)))
	c.w.WriteHeader(code)
	if c.r.Method != http.MethodHead {
		c.w.Write(body)
	}
}

// writeEmpty answers without a body.
func writeEmpty(c *call, code int) {
	if code != http.StatusNoContent && code != http.StatusNotModified {
		c.w.Header().Set("Content-Length", "0")
	}
	c.w.WriteHeader(code)
}

// logAccess writes the access line.
func (h *handler) logAccess(c *call, began time.Time) {
	attrs := make([]slog.Attr, 0, 12)
	attrs = append(attrs, slog.String("method", c.r.Method), slog.String("endpoint", string(c.kind)))
	if c.repository == "" {
		attrs = append(attrs, slog.String("path", clip(c.r.URL.EscapedPath())))
	} else {
		attrs = append(attrs, slog.String("repository", c.repository), slog.String("reference", c.target.String()))
	}
	attrs = append(attrs, slog.Int("status", c.w.status), slog.Int64("bytes", c.w.bytes), slog.Duration("duration", time.Since(began)))
	if c.user != "" {
		attrs = append(attrs, slog.String("user", c.user))
	}
	attrs = append(attrs, slog.String("request", c.id), slog.String("remote", h.remote(c.r)))
	h.log.LogAttrs(c.r.Context(), slog.LevelInfo, "request", attrs...)
}

// clip keeps a client's bad input from filling the log.
func clip(s string) string {
	const most = 256
	return s[:min(len(s), most)]
}

// remote returns the address of the client: the peer's, or what proxies that are trusted say, read from the nearest.
func (h *handler) remote(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil || !h.trusted(host) {
		return host
	}
	hops := strings.Split(strings.Join(r.Header["X-Forwarded-For"], ","), ",")
	for _, hop := range slices.Backward(hops) {
		hop = strings.TrimSpace(hop)
		if _, err := netip.ParseAddr(hop); err != nil {
			return host
		}
		host = hop
		if !h.trusted(host) {
			return host
		}
	}
	return host
}

func (h *handler) trusted(host string) bool {
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(h.proxies, func(p netip.Prefix) bool { return p.Contains(addr.Unmap()) })
}
