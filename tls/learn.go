package tls

import (
	"errors"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"berth/atomicfile"
)

const (
	// mostLearnt bounds what requests can add to the certificate.
	mostLearnt = 16
	// keptUnused is how long a name stays that no request has, when another one wants its place. Names in use are safe from who makes up
	// others, whose names don't stay for good.
	keptUnused = 7 * day
)

// learn adds the name in a request's Host header to the certificate before it returns, so that the client's next connection
// is already made with it.
func (a *auto) learn(r *http.Request) {
	name, ok := learnable(r.Host)
	if !ok || a.config.LearnDisabled {
		return
	}
	if now := a.current.Load(); now.names[name] {
		now.use(name, a.system.now)
		return
	}
	if !meant(r, name) || !a.near(r.RemoteAddr) {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.current.Load().names[name] || len(a.refused) >= mostNames {
		return
	}
	dropped, ok := a.makeRoom(name)
	if !ok || !a.canSign(name) {
		return
	}
	a.log.Info("TLS certificate gets a name from a request", "name", name, "remote", r.RemoteAddr, "instead", dropped)
	a.markUsed(name)
	if err := a.add([]string{name}, dropped...); err != nil {
		a.report(err)
		return
	}
	a.remember(name, dropped)
}

// use notes that a request had a name, if it is one that is learnt.
func (s *served) use(name string, now func() time.Time) {
	last := s.used[name]
	if last == nil {
		return
	}
	if at := now().Unix(); at-last.Load() > int64(time.Hour/time.Second) {
		last.Store(at)
	}
}

// markUsed has names be used now that are new.
func (a *auto) markUsed(names ...string) {
	for _, name := range names {
		if a.used[name] == nil {
			a.used[name] = new(atomic.Int64)
			a.used[name].Store(a.system.now().Unix())
		}
	}
}

// makeRoom returns what has to go for one more name, and reports false where nothing may. Another server on the same directory may
// have learnt others.
func (a *auto) makeRoom(name string) (dropped []string, ok bool) {
	now := a.system.now()
	if now.Before(a.fullUntil) {
		return nil, false
	}
	if others, err := readLearnt(a.config.path(learntFile)); err == nil {
		a.learnt = merge(others, a.learnt...)
	}
	a.learnt = slices.DeleteFunc(a.learnt, func(one string) bool { // which are there without being learnt
		return slices.Contains(a.configured, one) || slices.Contains(a.hosts, one)
	})
	a.learnt = a.learnt[:min(len(a.learnt), mostLearnt)]
	a.markUsed(a.learnt...)
	if slices.Contains(a.learnt, name) || len(a.learnt) < mostLearnt {
		return nil, true
	}
	oldest := slices.MinFunc(a.learnt, func(x, y string) int { return a.lastUse(x).Compare(a.lastUse(y)) })
	if now.Sub(a.lastUse(oldest)) >= keptUnused {
		a.full = false
		return []string{oldest}, true
	}
	if !a.full {
		a.log.Warn("TLS certificate gets no more names from requests, until one was not used for a week: list them in http.tls.hosts, or remove "+
			learntFile+" and restart", "name", name, "learnt", a.learnt)
	}
	a.full, a.fullUntil = true, now.Add(time.Second)
	return nil, false
}

func (a *auto) lastUse(name string) time.Time {
	return time.Unix(a.used[name].Load(), 0)
}

// remember keeps a name for the next start, in the place of those that are dropped.
func (a *auto) remember(name string, dropped []string) {
	a.learnt = slices.DeleteFunc(merge(a.learnt, name), func(one string) bool { return slices.Contains(dropped, one) })
	for _, one := range dropped {
		delete(a.used, one)
	}
	if err := writeLearnt(a.config.path(learntFile), a.learnt); err != nil {
		a.log.Error("a name from a request is not kept for the next start", "name", name, "error", err)
	}
}

// meant reports whether the connection was made for the name that its request has. Some clients name no host without a dot when they
// connect, and none names an address.
func meant(r *http.Request, name string) bool {
	if r.TLS == nil || r.TLS.ServerName == "" {
		return true
	}
	host, _ := canonical(r.TLS.ServerName)
	return host == name
}

// near reports whether a peer is on this machine, has a private address or one of a network of this machine's. Where a container's host
// passes connections on, everybody may look so.
func (a *auto) near(peer string) bool {
	at, err := netip.ParseAddrPort(peer)
	if err != nil {
		return false
	}
	address := at.Addr().Unmap().WithZone("")
	if address.IsLoopback() || address.IsLinkLocalUnicast() || private(address) {
		return true
	}
	networks, _ := a.system.addresses()
	return slices.ContainsFunc(networks, func(network net.Addr) bool {
		prefix, err := netip.ParsePrefix(network.String())
		return err == nil && prefix.Contains(address)
	})
}

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
