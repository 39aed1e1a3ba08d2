package config

import (
	"net"
	"net/url"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// checkVersion looks at the version of a file's format before anything else is made of the file.
func (l *loader) checkVersion() {
	switch n := l.find("version"); {
	case isNull(n):
		l.fail(&yaml.Node{}, "version", "is missing: begin the file with the line version: 0.1")
	case n.Value != "0.1":
		l.fail(n, "version", "must be 0.1, the only version of the format")
		n.Value = "0.1"
	}
}

// check reports values that are of the right type but can't be used, alone or together.
func (l *loader) check(c *Config) {
	l.checkLog(c.Log)
	l.checkHTTP(&c.HTTP)
	l.checkHeaders(c.HTTP.Headers)
	l.checkTLS(&c.HTTP.TLS)
	l.checkMetadata(c.Metadata)
	l.checkStorage(c.Storage)
	l.checkAuth(&c.Auth)
	l.checkAccess(c)
	l.checkTimes(c)
}

// failAt reports a problem with a key, at the nearest section when the key itself is not there.
func (l *loader) failAt(key, format string, args ...any) {
	n, at := l.find(key), key
	for n == nil && at != "" {
		at = at[:max(0, strings.LastIndexByte(at, '.'))]
		n = l.find(at)
	}
	l.fail(n, key, format, args...)
}

// unused notes that a key has no effect because of another one.
func (l *loader) unused(key string) {
	if n := l.find(key); n != nil && !inert(n) {
		l.ignore(n, key)
	}
}

func (l *loader) checkLog(c Log) {
	if c.Formatter == "logstash" {
		l.warn(l.find("log.formatter"), "log.formatter", "is logstash, which is written as json")
	}
}

func (l *loader) checkHTTP(h *HTTP) {
	if h.Net == "unix" && h.Addr == "" {
		l.failAt("http.addr", "must be the path of the socket when http.net is unix")
	}
	if h.Net == "tcp" && !validAddr(h.Addr) {
		l.failAt("http.addr", "must be HOST:PORT or :PORT, such as :5000, not %q", clip(h.Addr))
	}
	if h.Host != "" && !validURL(h.Host) {
		l.failAt("http.host", "must be a URL such as https://registry.example.com, without a user or a query")
	}
	if p := h.Prefix; p != "" && (p[0] != '/' || p[len(p)-1] != '/' || strings.ContainsAny(p, "?#% ") || controls(p)) {
		l.failAt("http.prefix", "must begin and end with a slash, such as /registry/, not %q", clip(p))
	}
}

func validAddr(addr string) bool {
	host, port, err := net.SplitHostPort(addr)
	if err != nil || port == "" || controls(host) {
		return false
	}
	_, err = net.LookupPort("tcp", port)
	return err == nil
}

func validURL(s string) bool {
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Hostname() != "" && u.User == nil &&
		u.RawQuery == "" && u.Fragment == ""
}

func controls(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

func (l *loader) checkHeaders(headers Headers) {
	for name, values := range headers {
		key := join("http.headers", name)
		if !validHeader(name) {
			l.failAt(key, "is not the name of an HTTP header")
		}
		for _, v := range values {
			if controls(strings.ReplaceAll(v, "\t", " ")) {
				l.failAt(key, "must not hold line breaks or control characters")
			}
		}
	}
}

// validHeader reports whether a name is a token (RFC 9110, section 5.6.2).
func validHeader(name string) bool {
	return name != "" && !strings.ContainsFunc(name, func(r rune) bool {
		return r <= ' ' || r >= 0x7f || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r)
	})
}

// checkTimes reports zeros that would make a loop spin, or lose pushes and running downloads.
func (l *loader) checkTimes(c *Config) {
	if c.GC.Rate < 1 {
		l.failAt("gc.rate", "is %d: it is at least 1 in a second", c.GC.Rate)
	}
	purging := c.Storage.Maintenance.UploadPurging
	for _, t := range []struct {
		key   string
		value time.Duration
	}{
		{"gc.interval", c.GC.Interval},
		{"gc.lease", c.GC.Lease},
		{"gc.grace", c.GC.Grace},
		{"retention.interval", c.Retention.Interval},
		{"storage.maintenance.uploadpurging.age", purging.Age},
		{"storage.maintenance.uploadpurging.interval", purging.Interval},
	} {
		if t.value == 0 {
			l.failAt(t.key, "must be more than zero, such as 24h")
		}
	}
}
