package tls

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// serve runs an HTTP server that answers with the protocol it was asked in, and returns its address.
func serve(t *testing.T, start func(*http.Server, net.Listener) error) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{
		Handler:           http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Proto) }),
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          log.New(io.Discard, "", 0),
	}
	done := make(chan error, 1)
	go func() { done <- start(server, listener) }()
	t.Cleanup(func() {
		server.Close()
		if err := <-done; err != http.ErrServerClosed {
			t.Error(err)
		}
	})
	return listener.Addr().String()
}

// with returns a way to start a server that serves with a source.
func with(source *Source) func(*http.Server, net.Listener) error {
	return func(s *http.Server, l net.Listener) error {
		return s.Serve(NewListener(l, source.Config(), testAdvice))
	}
}

func testAdvice(host string) string { return "trust " + host + " so: <a> & 'b'" }

// trusting returns a client's settings that trust a CA and nothing else.
func trusting(t *testing.T, ca []byte) *tls.Config {
	t.Helper()
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		t.Fatalf("no CA in %q", ca)
	}
	return &tls.Config{RootCAs: roots}
}

// client finds every host at address.
func client(t *testing.T, settings *tls.Config, address string, http2 bool) *http.Client {
	t.Helper()
	transport := &http.Transport{
		TLSClientConfig:   settings,
		ForceAttemptHTTP2: http2,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, address)
		},
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func get(t *testing.T, c *http.Client, url string) (int, string) {
	t.Helper()
	response, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

func TestServesEveryName(t *testing.T) {
	source := open(t, Config{Directory: t.TempDir(), Host: "https://registry.example:5000", Hosts: []string{"other.example", "192.0.2.1"}})
	address := serve(t, with(source))
	c := client(t, trusting(t, source.CA()), address, true)
	for _, name := range []string{"127.0.0.1", "[::1]", "localhost", "nas", "nas.example", "192.168.1.18", "[fd00::18]",
		"registry.example", "other.example", "192.0.2.1"} {
		t.Run(name, func(t *testing.T) {
			if status, body := get(t, c, "https://"+name+"/"); status != http.StatusOK || body != "HTTP/2.0" {
				t.Errorf("got %d %s", status, body)
			}
		})
	}
	t.Run("another name", func(t *testing.T) {
		if response, err := c.Get("https://another.example/"); err == nil {
			response.Body.Close()
			t.Error("the certificate was accepted")
		}
	})
}

func TestHTTP2Disabled(t *testing.T) {
	source := open(t, Config{Directory: t.TempDir(), HTTP2Disabled: true})
	c := client(t, trusting(t, source.CA()), serve(t, with(source)), true)
	if status, body := get(t, c, "https://localhost/"); status != http.StatusOK || body != "HTTP/1.1" {
		t.Errorf("got %d %s", status, body)
	}
}

// refusalBody reads the message of an error of the OCI distribution spec.
func refusalBody(t *testing.T, body io.Reader) string {
	t.Helper()
	var answer struct {
		Errors []struct{ Code, Message string }
	}
	if err := json.NewDecoder(body).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	if len(answer.Errors) != 1 || answer.Errors[0].Code != "UNSUPPORTED" {
		t.Fatalf("got %+v", answer)
	}
	return answer.Errors[0].Message
}

func TestPlainHTTP(t *testing.T) {
	address := serve(t, with(open(t, Config{Directory: t.TempDir()})))
	for _, test := range []struct {
		name, request, host string
	}{
		{"GET", "GET /v2/ HTTP/1.1\r\nHost: registry.example:5000\r\n\r\n", "registry.example:5000"},
		{"address", "GET /v2/ HTTP/1.1\r\nHost: [fd00::1]:5000\r\n\r\n", "[fd00::1]:5000"},
		{"address without a port", "GET /v2/ HTTP/1.1\r\nHost: [fd00::1]\r\n\r\n", "[fd00::1]"},
		{"head in the body's packet", "PUT /v2/ HTTP/1.1\r\nHost: a.example\r\nContent-Length: 9\r\n\r\n123456789", "a.example"},
		{"large body", "POST /v2/ HTTP/1.1\r\nHost: a.example\r\nContent-Length: 500000\r\n\r\n" + strings.Repeat("x", 500000), "a.example"},
		{"HTTP/1.0", "GET / HTTP/1.0\r\n\r\n", address},
		{"HTTP/2 with prior knowledge", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", address},
		{"no HTTP", "SSH-2.0-OpenSSH_9.9\r\n", address},
		{"head without an end", "GET / HTTP/1.1\r\nA: " + strings.Repeat("a", 2*headBytes), address},
		{"host that is no host", "GET / HTTP/1.1\r\nHost: \"</script>\r\n\r\n", address},
		{"host that is a command", "GET / HTTP/1.1\r\nHost: $(reboot)\r\n\r\n", address},
		{"port that is none", "GET / HTTP/1.1\r\nHost: a.example:5000;reboot\r\n\r\n", address},
		{"wildcard", "GET / HTTP/1.1\r\nHost: *.example\r\n\r\n", address},
	} {
		t.Run(test.name, func(t *testing.T) {
			conn, err := net.Dial("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := io.WriteString(conn, test.request); err != nil {
				t.Fatal(err)
			}
			response, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			if response.StatusCode != http.StatusBadRequest || response.Header.Get("Content-Type") != "application/json; charset=utf-8" {
				t.Errorf("got %d %v", response.StatusCode, response.Header)
			}
			message := refusalBody(t, response.Body)
			for _, want := range []string{"https://" + test.host + " ", "REGISTRY_HTTP_TLS_MODE=off", testAdvice(test.host)} {
				if !strings.Contains(message, want) {
					t.Errorf("got %q, want %q in it", message, want)
				}
			}
		})
	}
	t.Run("byte by byte", func(t *testing.T) { testSlowly(t, address) })
	t.Run("HEAD", func(t *testing.T) {
		response, err := http.Head("http://" + address + "/v2/")
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != http.StatusBadRequest || !response.Close {
			t.Errorf("got %d, close %t", response.StatusCode, response.Close)
		}
	})
}

// testSlowly sends the first byte of a request alone.
func testSlowly(t *testing.T, address string) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, c := range []byte("GET / HTTP/1.1\r\nHost: slow.example\r\n\r\n") {
		if _, err := conn.Write([]byte{c}); err != nil {
			t.Fatal(err)
		}
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if message := refusalBody(t, response.Body); !strings.Contains(message, "https://slow.example ") {
		t.Errorf("got %q", message)
	}
}

// TestSilentClientHoldsUpNobody opens connections that send nothing before it asks for a page.
func TestSilentClientHoldsUpNobody(t *testing.T) {
	source := open(t, Config{Directory: t.TempDir()})
	address := serve(t, with(source))
	for range 3 {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	if status, _ := get(t, client(t, trusting(t, source.CA()), address, false), "https://localhost/"); status != http.StatusOK {
		t.Errorf("got %d", status)
	}
}

// TestRefuseGivesUp lets a client begin a request and go silent.
func TestRefuseGivesUp(t *testing.T) {
	server, client := net.Pipe()
	defer client.Close()
	expired := &deadlineConn{Conn: server}
	done := make(chan struct{})
	go func() {
		defer close(done)
		refuse(expired, []byte("GET / HT"), nil)
	}()
	response, err := http.ReadResponse(bufio.NewReader(client), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if message := refusalBody(t, response.Body); !strings.Contains(message, "https://pipe ") {
		t.Errorf("got %q", message)
	}
	<-done
}

// deadlineConn lets every time-out pass at once when it reads.
type deadlineConn struct{ net.Conn }

func (c *deadlineConn) SetReadDeadline(t time.Time) error {
	if !t.After(time.Now()) {
		return c.Conn.SetReadDeadline(t)
	}
	return c.Conn.SetReadDeadline(time.Unix(1, 0))
}
