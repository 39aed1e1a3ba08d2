package main

import (
	"cmp"
	"fmt"
	"net"
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
	if c.Audit.Output == "stdout" {
		s.out = s.errOut // records alone go there
	}
	addr := e.listener.Addr()
	fmt.Fprintf(s.out, "Berth %s\n", versionString())
	if addr.Network() == "unix" {
		fmt.Fprintf(s.out, "  listening  %s (%s)\n  data       %s\n", addr, scheme, directory)
		return
	}
	host := reachableAs(c.HTTP, addr)
	fmt.Fprintf(s.out, "  listening  %s (%s://%s%s)\n", addr, scheme, host, strings.TrimSuffix(c.HTTP.Prefix, "/"))
	fmt.Fprintf(s.out, "  data       %s\n", directory)
	if l.passwordFile != "" {
		fmt.Fprintf(s.out, "  password   in %s\n", l.passwordFile)
	}
	if ca := e.source.CA(); ca != nil {
		file := cmp.Or(c.HTTP.TLS.Auto.Certificate, filepath.Join(certificateDirectory(c.HTTP.TLS, directory), "ca.pem"))
		how := trust.Line(host, ca)
		if closed(c.HTTP.TLS) {
			how = copyCA(file, host)
		}
		fmt.Fprintf(s.out, "\nA machine trusts this registry (CA %s) after this;\nput the address that it uses in the place of %s:\n\n  %s\n\n", file, host, how)
	}
	fmt.Fprintf(s.out, "  next       %s\n", l.next(host))
	if host == unknownAddress {
		fmt.Fprintf(s.out, "  %s  is how other machines reach this container: REGISTRY_HTTP_TLS_HOSTS_0=HOST names it here\n", host)
	}
}

// reachableAs is the HOST:PORT by which other machines most likely reach the listener, or these words when it is not known.
func reachableAs(c config.HTTP, addr net.Addr) string {
	_, port, err := net.SplitHostPort(addr.String())
	if err != nil {
		return addr.String()
	}
	if host, _, err := net.SplitHostPort(c.Addr); err == nil {
		c.Addr = net.JoinHostPort(host, port) // the port may have been left to the system
	}
	return cmp.Or(publicAddress(c), unknownAddress)
}
