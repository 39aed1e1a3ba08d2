package tls

import (
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
)

// nameSet is what a certificate is for.
type nameSet struct {
	hosts     []string
	addresses []netip.Addr
}

// names returns what clients may call this machine: what it knows of itself, and the configured hosts.
func (c Config) names() (nameSet, error) {
	n := nameSet{hosts: []string{"localhost"}, addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()}}
	for _, host := range c.Hosts {
		if !n.add(host) {
			return nameSet{}, fmt.Errorf("http.tls.hosts: %q is neither a host name nor an IP address", host)
		}
	}
	if host, err := os.Hostname(); err == nil {
		n.add(host) // unless it is no name that a client could use
	}
	local, err := net.InterfaceAddrs()
	if err != nil {
		return nameSet{}, fmt.Errorf("find the machine's addresses: %w", err)
	}
	for _, address := range local {
		if prefix, err := netip.ParsePrefix(address.String()); err == nil && !prefix.Addr().IsLinkLocalUnicast() {
			n.addAddress(prefix.Addr())
		}
	}
	return n, nil
}

// add takes a host name or an address, and reports false for what is neither.
func (n *nameSet) add(name string) bool {
	if address, err := netip.ParseAddr(name); err == nil && address.Zone() == "" {
		n.addAddress(address)
		return true
	}
	host := strings.ToLower(strings.TrimSuffix(name, "."))
	if !validHost(host) {
		return false
	}
	if !slices.Contains(n.hosts, host) {
		n.hosts = append(n.hosts, host)
	}
	return true
}

func (n *nameSet) addAddress(a netip.Addr) {
	if a = a.Unmap(); !slices.Contains(n.addresses, a) {
		n.addresses = append(n.addresses, a)
	}
}

// all returns the names as text.
func (n *nameSet) all() []string {
	all := slices.Clone(n.hosts)
	for _, a := range n.addresses {
		all = append(all, a.String())
	}
	return all
}

// missing returns the names that a certificate lacks.
func (n *nameSet) missing(certificate *x509.Certificate) []string {
	var missing []string
	for _, host := range n.hosts {
		if !slices.Contains(certificate.DNSNames, host) {
			missing = append(missing, host)
		}
	}
	for _, a := range n.addresses {
		has := func(ip net.IP) bool { return ip.Equal(a.AsSlice()) }
		if !slices.ContainsFunc(certificate.IPAddresses, has) {
			missing = append(missing, a.String())
		}
	}
	return missing
}

// validHost reports whether s is a host name in lower case, possibly with a wildcard as its first label.
func validHost(s string) bool {
	s = strings.TrimPrefix(s, "*.")
	if len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || strings.ContainsFunc(label, notInHost) {
			return false
		}
	}
	return true
}

func notInHost(r rune) bool {
	return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyz0123456789-_", r)
}
