package main

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"
)

// dialFrom connects to an address from another of this machine's own.
func dialFrom(t *testing.T, from, to string) net.Conn {
	t.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	conn, err := dialer.DialContext(t.Context(), "tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// proxyHeader is what a balancer sends for a connection from a client.
func proxyHeader(t *testing.T, version byte, client string) string {
	t.Helper()
	at := net.TCPAddrFromAddrPort(netip.MustParseAddrPort(client))
	header, err := proxyproto.HeaderProxyFromAddrs(version, at, &net.TCPAddr{IP: at.IP, Port: 443}).Format()
	if err != nil {
		t.Fatal(err)
	}
	return string(header)
}

// TestProxyHeader has balancers that are trusted, and others that only say that they are balancers, send headers before TLS and HTTP.
func TestProxyHeader(t *testing.T) {
	const trusted, other = "127.0.0.2", "127.0.0.3"
	v1, v2 := proxyHeader(t, 1, "203.0.113.7:4000"), proxyHeader(t, 2, "[2001:db8::7]:4000")
	tests := map[string]struct{ from, header, forwarded, remote string }{
		"one":                    {trusted, v1, "", "203.0.113.7"},
		"two":                    {trusted, v2, "", "2001:db8::7"},
		"none":                   {trusted, "", "", trusted},
		"none-forwarded":         {trusted, "", "198.51.100.1", "198.51.100.1"},
		"one-forged-forwarded":   {trusted, v1, "198.51.100.1", "203.0.113.7"},
		"one-unknown":            {trusted, "PROXY UNKNOWN\r\n", "", trusted},
		"two-local":              {trusted, proxyproto2Local, "", trusted},
		"one-bad":                {trusted, "PROXY TCP4 203.0.113.700 10.0.0.1 1 2\r\n", "", ""},
		"one-endless":            {trusted, "PROXY TCP4 " + strings.Repeat("1", 200), "", ""},
		"two-bad":                {trusted, v2[:12] + "\xff" + v2[13:], "", ""},
		"twice":                  {trusted, v1 + v1, "", ""},
		"other-none":             {other, "", "", other},
		"other-one":              {other, v1, "", ""},
		"other-two":              {other, v2, "", ""},
		"other-forged-forwarded": {other, "", "198.51.100.1", other},
	}
	for _, mode := range []string{"auto", "off"} {
		r := serve(t, t.TempDir(), "REGISTRY_HTTP_TLS_MODE="+mode, "REGISTRY_AUTH=none", "REGISTRY_HTTP_TRUSTEDPROXIES=["+trusted+"/32]")
		_, address, _ := strings.Cut(r.url(), "://")
		silent, slow := dialFrom(t, trusted, address), dialFrom(t, trusted, address) // which keep nobody else waiting
		if _, err := io.WriteString(slow, "PRO"); err != nil {
			t.Fatal(err)
		}
		for name, test := range tests {
			conn := dialFrom(t, test.from, address)
			if _, err := io.WriteString(conn, test.header); err != nil {
				t.Fatal(err)
			}
			if mode == "auto" {
				conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
			}
			_, err := fmt.Fprintf(conn, "GET /v2/%s/tags/list HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: %s\r\n\r\n", name, test.forwarded)
			if err == nil {
				var response *http.Response
				if response, err = http.ReadResponse(bufio.NewReader(conn), nil); err == nil && response.StatusCode != http.StatusNotFound {
					err = fmt.Errorf("the answer is %s", response.Status)
				}
			}
			if (err == nil) != (test.remote != "") {
				t.Errorf("%s, %s: %v", mode, name, err)
			}
		}
		silent.Close()
		slow.Close()
		r.end(t)
		logged := r.errOut.String()
		for name, test := range tests {
			want := 1
			if test.remote == "" {
				want = 0
			}
			n := 0
			for line := range strings.Lines(logged) {
				if strings.Contains(line, " repository="+name+" ") {
					n++
					if !strings.HasSuffix(line, " remote="+test.remote+"\n") {
						t.Errorf("%s, %s: %s", mode, name, line)
					}
				}
			}
			if n != want {
				t.Errorf("%s, %s: %d access lines", mode, name, n)
			}
		}
	}
}

// proxyproto2Local is what a balancer sends that checks the health of a server.
const proxyproto2Local = "\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"

// TestProxyCloseWrite ends one direction of a connection, as servers do that answer before a request is at its end.
func TestProxyCloseWrite(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer inner.Close()
	listener := behindProxies(inner, []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")})
	client := dialFrom(t, "127.0.0.1", inner.Addr().String())
	conn, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(client); len(got) > 0 || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := io.WriteString(client, "more"); err != nil {
		t.Fatal(err)
	}
	var got [4]byte
	if _, err := io.ReadFull(conn, got[:]); err != nil || string(got[:]) != "more" {
		t.Errorf("got %q, %v", got, err)
	}
	if same := behindProxies(inner, nil); same != inner {
		t.Error("without proxies there is something between")
	}
}
