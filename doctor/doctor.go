// Package doctor finds out what is wrong between this machine and a registry, and says how to mend it: name, network,
// certificate, the places where Docker, containerd and Podman keep the CAs that they trust, their configuration, the
// clock, and what the registry answers.
//
// It guarantees that it changes nothing on this machine, sends no credentials, follows no redirect, and ends: each step over the network has
// a time limit. A Berth registry may learn from it, as from any client nearby, by what name it is called. Whether a store trusts the registry is found out by verifying the registry's certificate with what is
// in that store, as its tool does.
//
// It does not see what is set on a daemon's command line, proxies that a daemon uses, or the inside of containers, a
// buildx builder's among them. TOML it reads as far as people write it by hand.
//
// It does not fail: what goes wrong is a Finding. After one that makes the next steps pointless, those are left out; what
// can be seen on this machine alone is always looked at.
package doctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// Status says how bad a Finding is.
type Status string

// The values of Status.
const (
	OK   Status = "ok"
	Note Status = "note" // good to know: it may get in the way of some programs
	Fail Status = "fail"
)

// Finding is one result.
type Finding struct {
	Status Status `json:"status"`
	// Check is the short name of what was looked at.
	Check string `json:"check"`
	// Detail is what was found, in one line.
	Detail string `json:"detail"`
	// Remedy is what to do about it, in one line; of what is all right it is empty.
	Remedy string `json:"remedy,omitempty"`
}

// Config says how to look. Its zero value looks at the machine that it runs on.
type Config struct {
	// CA is a CA that the registry's certificate has to come from, as PEM. Nil leaves out that check.
	CA []byte
	// CAFile is what CA is called in findings.
	CAFile string
	// Root is put before each path that is looked at.
	Root string
	// Home is the home of the user whose rootless Docker and Podman are looked at; empty leaves them out.
	Home string
	// System holds the CAs of the system's store. Nil means those of this machine.
	System *x509.CertPool
	// Lookup returns the addresses of a host name. Nil asks the machine's resolver.
	Lookup func(ctx context.Context, host string) ([]netip.Addr, error)
	// Timeout bounds each step over the network, by default 10 s.
	Timeout time.Duration

	dial func(ctx context.Context, network, address string) (net.Conn, error) // in tests
}

// Run examines the registry at address, a URL such as https://registry.lan:5000, where https:// may be left out, from this
// machine. There is always a finding.
func Run(ctx context.Context, address string, c Config) []Finding {
	e := &examination{Config: c}
	if e.Timeout == 0 {
		e.Timeout = 10 * time.Second
	}
	if e.Lookup == nil {
		e.Lookup = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	if e.dial == nil {
		e.dial = (&net.Dialer{Timeout: e.Timeout}).DialContext
	}
	if !e.parse(address) {
		return e.findings
	}
	if e.loadSystem() && e.resolve(ctx) {
		e.connect(ctx)
	}
	e.docker()
	e.containerd()
	return e.findings
}

// Failed reports whether something has to be mended.
func Failed(findings []Finding) bool {
	return slices.ContainsFunc(findings, func(f Finding) bool { return f.Status == Fail })
}

// examination is what is known so far.
type examination struct {
	Config
	findings []Finding
	host     string // without brackets
	port     string
	name     string // HOST or HOST:PORT, as images of the registry are named
	resolved []netip.Addr
	chain    []*x509.Certificate // what the registry shows, its own certificate first
	wanted   bool                // the registry asks for a client's certificate
}

// add is the only way to a finding: what a server, a file or the caller made of it can't reach a terminal as anything but
// text.
func (e *examination) add(status Status, check, remedy, format string, args ...any) {
	e.findings = append(e.findings, Finding{status, check, printable(fmt.Sprintf(format, args...)), printable(remedy)})
}

// maxText is how many bytes of a text are printed, about: a server can send much.
const maxText = 2000

// printable returns a text with what is not printable written as in Go: escape sequences, line ends, and what turns the
// direction of writing.
func printable(text string) string {
	var b strings.Builder
	for _, r := range strings.ToValidUTF8(text, "\uFFFD") {
		switch {
		case b.Len() >= maxText:
			return b.String() + "…"
		case unicode.IsPrint(r):
			b.WriteRune(r)
		default:
			b.WriteString(strings.Trim(strconv.QuoteRuneToASCII(r), "'"))
		}
	}
	return b.String()
}

func (e *examination) ok(check, format string, args ...any) { e.add(OK, check, "", format, args...) }

func (e *examination) note(check, remedy, format string, args ...any) {
	e.add(Note, check, remedy, format, args...)
}

func (e *examination) fail(check, remedy, format string, args ...any) bool {
	e.add(Fail, check, remedy, format, args...)
	return false
}

// loadSystem reads the system's store, once for all checks.
func (e *examination) loadSystem() bool {
	if e.System != nil {
		return true
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		return e.fail("system", "Install the package ca-certificates", "the system's store of CAs can't be read: %v", err)
	}
	e.System = pool
	return true
}

const urlRemedy = "Write it as https://HOST:PORT, such as https://registry.lan:5000 or https://[fd00::18]:5000"

// parse takes the address apart. It becomes part of paths: only what names and addresses are made of gets through.
func (e *examination) parse(address string) bool {
	if !strings.Contains(address, "://") {
		address = "https://" + address
	}
	u, err := url.Parse(address)
	switch {
	case err != nil:
		return e.fail("url", urlRemedy, "not a URL")
	case u.Scheme == "http":
		return e.fail("url", "Use https://. A registry that speaks only plain HTTP sends passwords in the clear: turn on its HTTPS",
			"the scheme is http")
	case u.Scheme != "https":
		return e.fail("url", urlRemedy, "the scheme is not https")
	case u.User != nil:
		return e.fail("url", "Leave out user and password", "it has credentials, which are not needed here")
	case u.RawQuery != "" || u.Fragment != "" || strings.Trim(u.Path, "/") != "" && strings.Trim(u.Path, "/") != "v2":
		return e.fail("url", urlRemedy, "it goes on after the port")
	case !validHost(u.Hostname()) || !validPort(u.Port()):
		return e.fail("url", urlRemedy, "host or port is not valid")
	}
	e.host, e.port, e.name = u.Hostname(), u.Port(), u.Host
	if e.port == "" {
		e.port = "443"
	}
	return true
}

func validHost(host string) bool {
	if address, err := netip.ParseAddr(host); err == nil {
		return address.Zone() == ""
	}
	first := true
	for _, r := range host {
		letter := 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9'
		if !letter && (first || !strings.ContainsRune(".-_", r)) {
			return false
		}
		first = false
	}
	return !first && len(host) <= 253 && !strings.Contains(host, "..")
}

func validPort(port string) bool {
	if port == "" {
		return true
	}
	n, err := net.LookupPort("tcp", port)
	return err == nil && n > 0
}

// resolve finds the addresses of the host.
func (e *examination) resolve(ctx context.Context) bool {
	if address, err := netip.ParseAddr(e.host); err == nil {
		e.resolved = []netip.Addr{address.Unmap()}
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, e.Timeout)
	defer cancel()
	addresses, err := e.Lookup(ctx, e.host)
	if err != nil || len(addresses) == 0 {
		return e.fail("name", "Give the name to your DNS server or to /etc/hosts of this machine, or use the registry's address",
			"%s is not known here: %v", e.host, err)
	}
	for _, a := range addresses {
		e.resolved = append(e.resolved, a.Unmap())
	}
	e.ok("name", "%s is %s", e.host, join(e.resolved))
	return true
}

func join[T fmt.Stringer](all []T) string {
	words := make([]string, len(all))
	for i, one := range all {
		words[i] = one.String()
	}
	return strings.Join(words, ", ")
}

// connect looks at what is at the other end.
func (e *examination) connect(ctx context.Context) {
	conn := e.reach(ctx)
	if conn == nil {
		return
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	secure := e.handshake(ctx, conn)
	if secure == nil {
		return
	}
	e.certificate()
	e.stores()
	e.ask(secure)
}

// reach tries all addresses, as clients may take any, and returns the first connection.
func (e *examination) reach(ctx context.Context) net.Conn {
	var first net.Conn
	var refused []Finding
	for _, address := range e.resolved {
		target := net.JoinHostPort(address.String(), e.port)
		conn, err := e.dial(ctx, "tcp", target)
		switch {
		case err != nil:
			refused = append(refused, Finding{Fail, "tcp", fmt.Sprintf("%s can't be reached: %v", target, plain(err)), dialRemedy(err)})
		case first == nil:
			first = conn
			e.ok("tcp", "%s accepts connections", target)
		default:
			conn.Close()
		}
	}
	for _, f := range refused {
		if first != nil {
			f.Status = Note
		}
		e.add(f.Status, f.Check, f.Remedy, "%s", f.Detail)
	}
	return first
}

// handshake speaks TLS without verifying: what is wrong with the certificate is looked at afterwards, all of it.
func (e *examination) handshake(ctx context.Context, conn net.Conn) *tls.Conn {
	ctx, cancel := context.WithTimeout(ctx, e.Timeout)
	defer cancel()
	secure := tls.Client(conn, &tls.Config{
		ServerName:         e.host,
		InsecureSkipVerify: true,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			e.wanted = true
			return &tls.Certificate{}, nil
		},
	})
	if err := secure.HandshakeContext(ctx); err != nil {
		e.handshakeFailed(err)
		return nil
	}
	state := secure.ConnectionState()
	e.chain = state.PeerCertificates
	e.ok("tls", "speaks %s", tls.VersionName(state.Version))
	return secure
}
