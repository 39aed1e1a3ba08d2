package api

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// newRequestID returns 16 hex digits. They need to be different, not hard to guess.
func newRequestID() string { return fmt.Sprintf("%016x", rand.Uint64()) }

// logAccess writes the access line.
func (h *handler) logAccess(c *call, began time.Time) {
	attrs := make([]slog.Attr, 0, 13)
	attrs = append(attrs, slog.String("method", c.r.Method), slog.String("endpoint", string(c.kind)))
	if c.repository != "" {
		attrs = append(attrs, slog.String("repository", c.repository))
	}
	if reference := c.target.String(); reference != "" {
		attrs = append(attrs, slog.String("reference", reference))
	} else if c.repository == "" || c.failure != "" {
		attrs = append(attrs, slog.String("path", clip(c.r.URL.EscapedPath())))
	}
	attrs = append(attrs, slog.Int("status", c.w.status), slog.Int64("bytes", c.w.bytes),
		slog.Duration("duration", time.Since(began)))
	if c.failure != "" {
		attrs = append(attrs, slog.String("error", c.failure))
	}
	if user := c.client.Name(); user != "" {
		attrs = append(attrs, slog.String("user", user))
	}
	attrs = append(attrs, slog.String("request", c.id), slog.String("remote", h.remote(c.r)))
	h.Log.LogAttrs(c.r.Context(), slog.LevelInfo, "request", attrs...)
}

// clip keeps a client's bad input from filling the log.
func clip(s string) string {
	const most = 256
	return s[:min(len(s), most)]
}

// remote returns the address of the client: the peer's, or what proxies that are trusted say, read from the nearest.
func (h *handler) remote(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	if !h.trusted(host) {
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
	return slices.ContainsFunc(h.TrustedProxies, func(p netip.Prefix) bool { return p.Contains(addr.Unmap()) })
}
