package conformance

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"berth/conformance/server"
)

// TestHAProxyTellsTheClient has clients of a balancer with the configuration in deploy/ try passwords. Each is counted and recorded by
// its own address, and who comes to the server directly can't say that it has another.
func TestHAProxyTellsTheClient(t *testing.T) {
	t.Parallel()
	audit := filepath.Join(t.TempDir(), "audit.log")
	b := start(t, options{tls: true, htpasswd: true, env: []string{"REGISTRY_HTTP_TRUSTEDPROXIES=[127.0.0.1]", "REGISTRY_AUDIT_OUTPUT=" + audit}})
	front := deployedBalancer(t, b)
	ask := func(to *berth, from, given string) int {
		t.Helper()
		transport, err := to.Transport()
		if err != nil {
			t.Fatal(err)
		}
		defer transport.CloseIdleConnections()
		transport.DialContext = (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}).DialContext
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, to.URL+"/v2/", nil)
		if err != nil {
			t.Fatal(err)
		}
		request.SetBasicAuth(user, given)
		request.Header.Set("X-Forwarded-For", "127.0.0.9")
		response, err := (&http.Client{Transport: transport}).Do(request)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		return response.StatusCode
	}
	last := 0
	for i := range 25 {
		last = ask(front, "127.0.0.2", fmt.Sprint("wrong", i))
	}
	if last != http.StatusTooManyRequests {
		t.Errorf("who tries passwords is answered %d", last)
	}
	if got := ask(front, "127.0.0.3", password); got != http.StatusOK {
		t.Errorf("another client is answered %d", got)
	}
	if got := ask(b, "127.0.0.1", password); got != http.StatusOK {
		t.Errorf("the balancer's address without a header is answered %d", got)
	}
	if got := ask(b, "127.0.0.4", "wrong"); got != http.StatusUnauthorized {
		t.Errorf("a client without a balancer is answered %d", got)
	}
	forge(t, b.host(), "127.0.0.4")
	records, err := os.ReadFile(audit)
	if err != nil {
		t.Fatal(err)
	}
	for remote, want := range map[string]int{"127.0.0.1": 0, "127.0.0.2": 25, "127.0.0.4": 1, "127.0.0.9": 0} {
		if got := strings.Count(string(records), `"remote":"`+remote+`"`); got != want {
			t.Errorf("%d records of %s, want %d:\n%s", got, remote, want, records)
		}
	}
}

// forge begins a connection with a header that nobody believes.
func forge(t *testing.T, to, from string) {
	t.Helper()
	conn, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}).DialContext(t.Context(), "tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "PROXY TCP4 127.0.0.9 127.0.0.1 1 2\r\n"); err != nil {
		t.Fatal(err)
	}
	if answer, _ := io.ReadAll(conn); !strings.HasPrefix(string(answer), "HTTP/1.1 400 ") { // the advice for who speaks no TLS
		t.Errorf("a forged header is answered %q", answer)
	}
}

// deployedBalancer runs HAProxy as deploy/haproxy.cfg has it, but for the names of servers and how they are found.
func deployedBalancer(t *testing.T, b *berth) *berth {
	t.Helper()
	program := haproxy(t)
	content, err := os.ReadFile("../deploy/haproxy.cfg")
	if err != nil {
		t.Fatal(err)
	}
	address, err := server.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	text, _, _ := strings.Cut(string(content), "# The names are those of containers")
	text = strings.NewReplacer("bind :5000", "bind "+address, "registry1:5000", b.host(), "registry2:5000", b.host(),
		" resolvers docker init-addr none", "").Replace(text)
	file := filepath.Join(t.TempDir(), "haproxy.cfg")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	front := &berth{t: t}
	front.run(server.Config{Program: program, Args: []string{"-db", "-f", file}, Dir: t.TempDir(), URL: "https://" + address, CA: b.CA})
	t.Cleanup(front.Kill)
	return front
}
