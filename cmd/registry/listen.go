package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"berth/config"
	"berth/registry/api"
	"berth/tls"
	"berth/tls/trust"

	"golang.org/x/sys/unix"
)

// built is when the program was built (RFC 3339), set by the build: no certificate is made while the clock is before it.
var built string

// entrance is the port and the certificates that it serves with.
type entrance struct {
	listener net.Listener
	source   *tls.Source
}

// certificateDirectory is where mode auto keeps its files: the configured directory, else one in the data directory.
func certificateDirectory(c config.TLS, data string) string {
	return cmp.Or(c.Auto.Directory, filepath.Join(data, "tls"))
}

// buildTime is when the program was built, else when its source was committed, else zero.
func buildTime() time.Time {
	text := built
	if info, ok := debug.ReadBuildInfo(); ok && text == "" {
		for _, setting := range info.Settings {
			if setting.Key == "vcs.time" {
				text = setting.Value
			}
		}
	}
	t, _ := time.Parse(time.RFC3339, text) // a build that does not say leaves the clock unchecked
	return t
}

// listen opens the port, with TLS unless that is off.
func listen(c config.HTTP, data string, log *slog.Logger) (*entrance, error) {
	source, err := tls.Open(tlsConfig(c, certificateDirectory(c.TLS, data)), log)
	if err != nil {
		return nil, err
	}
	if info, err := os.Lstat(c.Addr); c.Net == "unix" && err == nil && info.Mode().Type() == fs.ModeSocket {
		_ = os.Remove(c.Addr) // of an earlier run; what can't be removed fails below
	}
	listener, err := (&net.ListenConfig{Control: giveUpUnread(unreadTimeout)}).Listen(context.Background(), c.Net, c.Addr)
	if err != nil {
		if errors.Is(err, syscall.EADDRINUSE) {
			err = fmt.Errorf("%w: another program listens there; end it, or choose another port", err)
		}
		return nil, fmt.Errorf("http.addr: %w", err)
	}
	listener = behindProxies(listener, prefixes(c.TrustedProxies))
	if source.Config() != nil {
		listener = tls.NewListener(listener, source.Config(), trustAdvice(c.TLS, source.CA()))
	}
	return &entrance{listener, source}, nil
}

// unreadTimeout is how long a client may take nothing of an answer. Each that stays holds a buffer and an open blob.
const unreadTimeout = 5 * time.Minute

// giveUpUnread has the system end connections whose peer takes nothing of what was written, or confirms nothing. One that is slow stays.
func giveUpUnread(after time.Duration) func(network, address string, conn syscall.RawConn) error {
	return func(network, _ string, conn syscall.RawConn) error {
		if !strings.HasPrefix(network, "tcp") {
			return nil
		}
		var err error
		controlErr := conn.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(after.Milliseconds())) // its connections inherit it
		})
		return errors.Join(controlErr, err)
	}
}

func tlsConfig(c config.HTTP, directory string) tls.Config {
	return tls.Config{
		Mode:                 c.TLS.Mode,
		Certificate:          c.TLS.Certificate,
		Key:                  c.TLS.Key,
		Directory:            directory,
		AuthorityCertificate: c.TLS.Auto.Certificate,
		AuthorityKey:         c.TLS.Auto.Key,
		Hosts:                c.TLS.Hosts,
		Host:                 c.Host,
		LearnDisabled:        !c.TLS.Learn,
		BuildTime:            buildTime(),
		ACME:                 tls.ACME(c.TLS.LetsEncrypt),
		ClientCAs:            c.TLS.ClientCAs,
		ClientAuth:           c.TLS.ClientAuth,
		MinimumTLS:           c.TLS.MinimumTLS,
		CipherSuites:         c.TLS.CipherSuites,
		HTTP2Disabled:        c.HTTP2.Disabled,
	}
}

// trustAdvice tells a client that spoke plain HTTP how to trust the certificate.
func trustAdvice(c config.TLS, ca []byte) func(host string) string {
	if ca == nil || closed(c) {
		return nil
	}
	return func(host string) string {
		return "A machine trusts the certificate after: " + trust.Line(host, ca)
	}
}

// front serves the pages about trust and the health beside the registry, and lets the certificate learn by what names it is asked
// for.
func front(e *entrance, health, registry http.Handler) http.Handler {
	pages, health := api.LimitBodies(trust.New(trust.Config{CA: e.source.CA()}), 0), api.LimitBodies(health, 0)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e.source.Learn(r)
		if r.URL.Path == "/trust" || strings.HasPrefix(r.URL.Path, "/trust/") {
			pages.ServeHTTP(w, r)
			return
		}
		if r.URL.Path == healthPath {
			health.ServeHTTP(w, r)
			return
		}
		registry.ServeHTTP(w, r)
	})
}
