package tls

import (
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strings"

	"berth/atomicfile"
)

// mostLearnt bounds what requests can add to the certificate in all the time that the directory exists.
const mostLearnt = 16

// Learnable reports whether a Source would Learn a host.
func Learnable(host string) bool {
	_, ok := learnable(host)
	return ok
}

// learnable returns the name in a request's Host header, when it is one that only machines nearby can mean by it: a
// private address, a bare name, or one below .local or .lan.
func learnable(hostport string) (string, bool) {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	} else if inner, ok := strings.CutPrefix(hostport, "["); ok {
		host = strings.TrimSuffix(inner, "]")
	}
	name, ok := canonical(host)
	if !ok {
		return "", false
	}
	if address, err := netip.ParseAddr(name); err == nil {
		return name, private(address)
	}
	return name, nearby(name)
}

// private knows RFC 1918, RFC 4193 and the shared addresses of RFC 6598, which VPNs such as Tailscale hand out.
func private(a netip.Addr) bool {
	return a.IsPrivate() || netip.MustParsePrefix("100.64.0.0/10").Contains(a)
}

// nearby expects a canonical host name. What is only digits is how some programs write an address.
func nearby(host string) bool {
	first, last := host[0], host[strings.LastIndexByte(host, '.')+1:]
	if first == '*' || !strings.ContainsFunc(last, func(r rune) bool { return r >= 'a' }) {
		return false
	}
	return last == host || last == "local" || last == "lan"
}

// readLearnt returns the names that a file keeps, one a line. A line that could not have been learnt does not count.
func readLearnt(path string) ([]string, error) {
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var names []string
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		if name, ok := learnable(line); ok && name == line && len(names) < mostLearnt {
			names = merge(names, name)
		}
	}
	return names, nil
}

func writeLearnt(path string, names []string) error {
	return atomicfile.Write(path, []byte(strings.Join(names, "\n")+"\n"), 0o644)
}
