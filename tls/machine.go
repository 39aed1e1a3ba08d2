package tls

import (
	"context"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// system is what mode auto asks of the machine. Tests have others.
type system struct {
	now       func() time.Time
	addresses func() ([]net.Addr, error)
	hostname  func() (string, error)
	// qualified returns the full name of a host, with or without a dot at its end.
	qualified func(ctx context.Context, host string) (string, error)
	getenv    func(name string) string
	// root is the root directory.
	root string
}

func realSystem() system {
	return system{
		now:       time.Now,
		addresses: net.InterfaceAddrs,
		hostname:  os.Hostname,
		qualified: net.DefaultResolver.LookupCNAME,
		getenv:    os.Getenv,
		root:      "/",
	}
}

// lookupTimeout bounds the wait for a name server that does not answer: a start must not hang on it.
const lookupTimeout = 250 * time.Millisecond

// hostNames returns the name of the host, its first label, and its full name when that can be found out in time.
func (s system) hostNames(ctx context.Context) []string {
	reported, err := s.hostname()
	if err != nil {
		return nil
	}
	host, ok := canonical(reported)
	if !ok {
		return nil
	}
	label, _, qualified := strings.Cut(host, ".")
	if qualified {
		return merge([]string{host}, label)
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	found, err := s.qualified(ctx, host)
	full, ok := canonical(found)
	// A name server may answer with any name. One that does not begin with the host's is another's.
	if err != nil || !ok || !strings.HasPrefix(full, host+".") {
		return []string{host}
	}
	return []string{host, full}
}

// localAddresses returns the addresses of the machine by which others may reach it.
func (s system) localAddresses() ([]string, error) {
	all, err := s.addresses()
	if err != nil {
		return nil, err
	}
	var found []string
	for _, one := range all {
		prefix, err := netip.ParsePrefix(one.String())
		if err == nil && !prefix.Addr().IsLinkLocalUnicast() {
			found = merge(found, prefix.Addr().Unmap().String())
		}
	}
	return found, nil
}

// inContainer reports whether the process sees a container's addresses in place of the machine's. Docker, Podman and
// Kubernetes leave one of these files, LXC and systemd-nspawn the variable container, and Kubernetes without an account for
// its pods that of its service.
func (s system) inContainer() bool {
	for _, mark := range []string{".dockerenv", "run/.containerenv", "var/run/secrets/kubernetes.io"} {
		if _, err := os.Stat(filepath.Join(s.root, mark)); err == nil {
			return true
		}
	}
	return s.getenv("container") != "" || s.getenv("KUBERNETES_SERVICE_HOST") != ""
}
