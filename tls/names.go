package tls

import (
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// canonical returns a host name or an address in the one form in which names are compared here: lower case and without
// the dot at the end, or as netip prints it. It reports false for what is neither.
func canonical(name string) (string, bool) {
	if address, err := netip.ParseAddr(name); err == nil {
		return address.Unmap().String(), address.Zone() == ""
	}
	host := strings.ToLower(strings.TrimSuffix(name, "."))
	return host, validHost(host)
}

// validHost reports whether s is a host name in lower case, possibly with a wildcard as its first label. Underscores
// are not part of a host's name, but of many containers'.
func validHost(s string) bool {
	s = strings.TrimPrefix(s, "*.")
	if len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || strings.ContainsFunc(label, notInHost) {
			return false
		}
	}
	return true
}

func notInHost(r rune) bool {
	return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyz0123456789-_", r)
}

// configuredNames returns the names that need not be found out, without repetition.
func (c Config) configuredNames() ([]string, error) {
	var names []string
	for _, host := range c.Hosts {
		name, ok := canonical(host)
		if !ok {
			return nil, fmt.Errorf("http.tls.hosts: %q is neither a host name nor an IP address", host)
		}
		names = merge(names, name)
	}
	if name, ok := canonical(c.hostname()); ok {
		names = merge(names, name)
	}
	return names, nil
}

// hostname returns the host of http.host, empty when there is none.
func (c Config) hostname() string {
	u, err := url.Parse(c.Host)
	if err != nil {
		return ""
	}
	return u.Hostname()
}

// merge appends the names that are not there yet.
func merge(names []string, more ...string) []string {
	for _, name := range more {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// certificateNames returns the names that a certificate is for.
func certificateNames(certificate *x509.Certificate) []string {
	names := slices.Clone(certificate.DNSNames)
	for _, ip := range certificate.IPAddresses {
		if address, ok := netip.AddrFromSlice(ip); ok {
			names = append(names, address.Unmap().String())
		}
	}
	return names
}

// setNames puts names into a certificate that is about to be made.
func setNames(certificate *x509.Certificate, names []string) {
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			certificate.IPAddresses = append(certificate.IPAddresses, ip)
		} else {
			certificate.DNSNames = append(certificate.DNSNames, name)
		}
	}
}
