package main

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"berth/config"
	"berth/tls/trust"
)

// greet tells the one who started the registry where it is and what to do next.
func (s streams) greet(c *config.Config, e *entrance, directory string, l login) {
	scheme := "https"
	if c.HTTP.TLS.Mode == config.TLSOff {
		scheme = "http"
	}
	addr := e.listener.Addr()
	fmt.Fprintf(s.out, "Berth %s\n", versionString())
	if addr.Network() == "unix" {
		fmt.Fprintf(s.out, "  listening  %s (%s)\n  data       %s\n", addr, scheme, directory)
		return
	}
	host := reachableAs(addr)
	fmt.Fprintf(s.out, "  listening  %s (%s://%s)\n", addr, scheme, host)
	fmt.Fprintf(s.out, "  data       %s\n", directory)
	if l.passwordFile != "" {
		fmt.Fprintf(s.out, "  password   in %s\n", l.passwordFile)
	}
	fmt.Fprintf(s.out, "  next       %s\n", l.next(host))
	if ca := e.source.CA(); ca != nil {
		fmt.Fprintf(s.out, "\nA machine trusts this registry (CA %s) after this line;\nput the address that it uses in the place of %s:\n\n  %s\n\n",
			filepath.Join(directory, "tls", "ca.pem"), host, trust.Line(host, ca))
	}
}

// reachableAs is the name by which another machine most likely reaches the listener.
func reachableAs(addr net.Addr) string {
	host, port, err := net.SplitHostPort(addr.String())
	if err != nil {
		return addr.String()
	}
	if ip, err := netip.ParseAddr(host); err == nil && ip.IsUnspecified() {
		host = "localhost"
		if name, err := os.Hostname(); err == nil && name != "" {
			host = strings.ToLower(name)
		}
	}
	return net.JoinHostPort(host, port)
}
