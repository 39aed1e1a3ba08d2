package doctor

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"
)

// plain takes the operation and the address or path, which findings name themselves, out of an error.
func plain(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	var path *fs.PathError
	if errors.As(err, &path) {
		err = path.Err
	}
	var system *os.SyscallError
	if errors.As(err, &system) {
		err = system.Err
	}
	return err
}

func dialRemedy(err error) string {
	var timeout net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "Check that the registry runs and that the port is right: it prints both when it starts"
	case errors.As(err, &timeout) && timeout.Timeout():
		return "Check the address, and that no firewall between here and the registry drops the connection"
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		return "Check the address and this machine's network: there is no way to it"
	}
	return "Check the address and this machine's network"
}

// silent reports whether the time was up.
func silent(err error) bool {
	var timeout net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout()
}

const clientRemedy = "Put a certificate and its key, from a CA in the registry's http.tls.clientcas, beside the CA's as client.cert and client.key"

func (e *examination) handshakeFailed(err error) {
	var record tls.RecordHeaderError
	var op *net.OpError
	switch {
	case silent(err):
		e.fail("tls", "Check that it is a registry that listens on this port, and that it is not stuck: its log says so",
			"no answer within %v: the server accepts connections and says nothing", e.Timeout)
	case errors.As(err, &record) && string(record.RecordHeader[:]) == "HTTP/":
		e.fail("tls", "Turn on the registry's HTTPS: for Berth, leave out REGISTRY_HTTP_TLS_MODE=off (http.tls.mode), or ask the proxy in "+
			"front of it for its own address", "the server speaks plain HTTP on this port")
	case e.wanted:
		e.fail("tls", clientRemedy, "the server asks for a client's certificate: %v", plain(err))
	case errors.As(err, &op) && op.Op == "remote error":
		e.fail("tls", "Look at the registry's log: it says why", "the server refuses the handshake: %v", op.Err)
	default:
		e.fail("tls", "Check that it is a registry, and not another service, that listens on this port",
			"the server does not speak TLS: %v", plain(err))
	}
}

// ask requests /v2/, the start of every client's conversation, without credentials and over the connection that was
// examined.
func (e *examination) ask(conn *tls.Conn) {
	begin := time.Now()
	_ = conn.SetDeadline(begin.Add(e.Timeout)) // a connection that can't have one is broken, and the request says so
	response, err := get(conn, "https://"+e.name+"/v2/")
	switch {
	case err != nil && e.wanted:
		e.fail("answer", clientRemedy, "the server asks for a client's certificate: %v", plain(err))
		return
	case silent(err):
		e.fail("answer", "Look at the registry's log", "no answer to /v2/ within %v", e.Timeout)
		return
	case err != nil:
		e.fail("answer", "Look at the registry's log", "the server does not answer /v2/: %v", plain(err))
		return
	}
	e.clock(response.Header.Get("Date"), begin, time.Now())
	e.answer(response)
}

func get(conn *tls.Conn, address string) (*http.Response, error) {
	request, err := http.NewRequest(http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("User-Agent", "berth-doctor")
	request.Close = true
	if err := request.Write(conn); err != nil {
		return nil, err
	}
	// A registry's head is small; whatever else answers is not read to its end.
	return http.ReadResponse(bufio.NewReader(io.LimitReader(conn, 1<<20)), request)
}

// maxSkew is how far clocks may be apart before certificates and tokens suffer.
const maxSkew = time.Minute

// clock compares the server's Date, taken between begin and end, with the time here.
func (e *examination) clock(date string, begin, end time.Time) {
	there, err := http.ParseTime(date)
	if err != nil {
		e.note("clock", "Compare the clocks by hand", "the server does not say what time it has")
		return
	}
	var skew time.Duration
	switch {
	case there.Before(begin.Add(-maxSkew)):
		skew = there.Sub(begin)
	case there.After(end.Add(maxSkew)):
		skew = there.Sub(end)
	default:
		e.ok("clock", "agrees with the server's")
		return
	}
	word := "behind"
	if skew < 0 {
		word = "ahead of"
	}
	e.fail("clock", "Find out which of the two is wrong, and turn on time synchronisation there (timedatectl set-ntp true)",
		"this machine is %v %s the server's clock", skew.Abs().Round(time.Second), word)
}

// answer judges what a registry answers at /v2/ (OCI distribution spec, "Determining Support").
func (e *examination) answer(response *http.Response) {
	switch status := response.StatusCode; {
	case status == http.StatusOK && isRegistry(response):
		e.ok("answer", "a registry that lets everybody in")
	case status == http.StatusOK:
		e.fail("answer", "Check host and port. Behind a proxy, it has to pass on /v2/ as it is",
			"the server is not a registry: its answer at /v2/ has no Docker-Distribution-Api-Version and is not JSON")
	case status == http.StatusUnauthorized:
		e.challenge(response.Header.Values("WWW-Authenticate"))
	case status >= 300 && status < 400:
		e.fail("answer", "Use the address that it sends clients to", "the server sends clients on to %q", response.Header.Get("Location"))
	case status == http.StatusNotFound:
		e.fail("answer", "Check host and port. Behind a proxy, it has to pass on /v2/ as it is", "the server is not a registry: it answers 404 at /v2/")
	case status >= 500:
		e.fail("answer", "Look at the log of the registry, or of the proxy in front of it", "the server answers %s at /v2/", response.Status)
	default:
		e.fail("answer", "Look at the registry's log", "the server answers %s at /v2/, not 200 or 401", response.Status)
	}
}

// isRegistry tells the answer of a registry from that of any other server, which may have a page for every path.
func isRegistry(response *http.Response) bool {
	if response.Header.Get("Docker-Distribution-Api-Version") != "" {
		return true
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, 64<<10))
	return err == nil && json.Valid(body)
}

// challenge judges how the registry wants to be told who is there (RFC 9110, section 11.6.1).
func (e *examination) challenge(challenges []string) {
	var schemes []string
	for _, c := range challenges {
		scheme, _, _ := strings.Cut(strings.TrimSpace(c), " ")
		schemes = append(schemes, strings.ToLower(scheme))
	}
	switch {
	case slices.Contains(schemes, "bearer"):
		e.bearer(challenges[slices.Index(schemes, "bearer")])
	case slices.Contains(schemes, "basic"):
		e.ok("answer", "a registry that asks for user and password (Basic)")
	case len(schemes) == 0:
		e.fail("answer", "A proxy in front of the registry has to pass on its headers", "the server answers 401 without WWW-Authenticate")
	default:
		e.fail("answer", "Container tools know Basic and Bearer only", "the server asks for authentication by %s", strings.Join(schemes, ", "))
	}
}

// bearer looks at where tokens come from. Some programs fetch them by themselves and with the system's CAs.
func (e *examination) bearer(challenge string) {
	realm, err := url.Parse(parameter(challenge, "realm"))
	if err != nil || realm.Host == "" {
		e.fail("answer", "Look at the registry's configuration of tokens", "the server asks for a token (Bearer) but does not say where to get one")
		return
	}
	if realm.Scheme != "https" {
		e.fail("answer", "Behind a proxy that ends TLS, have it send X-Forwarded-Proto: https", "tokens are at %s, where passwords would go in the clear", realm.Redacted())
		return
	}
	e.ok("answer", "a registry that asks for tokens (Bearer) from %s", realm.Host)
	if !e.trusts(e.System) {
		e.note("tokens", "Run the trust line with --system at its end, or set SSL_CERT_FILE to the CA's file; for builds, BUILDKIT_NO_CLIENT_TOKEN=1 helps",
			"buildx, docker buildx imagetools and crane fetch tokens from this machine with the system's CAs, which lack this one")
	}
}

// parameter returns a quoted parameter of a challenge.
func parameter(challenge, name string) string {
	_, rest, ok := strings.Cut(challenge, name+`="`)
	if !ok {
		return ""
	}
	value, _, _ := strings.Cut(rest, `"`)
	return value
}

func listed(words []string) string {
	const most = 12
	if len(words) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(words[:most], ", "), len(words)-most)
	}
	return strings.Join(words, ", ")
}
