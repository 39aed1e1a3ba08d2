package tls

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// NewListener returns a listener whose connections are of type *tls.Conn, for the method Serve of an http.Server without a
// TLSConfig of its own, which then speaks HTTP/2 where config says so. A client that speaks plain HTTP is told to use
// HTTPS, and what advice returns for the host that it asked for, unless that is nil: it goes to whoever sent the request.
func NewListener(inner net.Listener, config *tls.Config, advice func(host string) string) net.Listener {
	return tls.NewListener(plainListener{inner, advice}, config)
}

// plainListener answers plain HTTP on its connections. Accept reads nothing: a silent client holds up only itself.
type plainListener struct {
	net.Listener
	advice func(host string) string
}

func (l plainListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &plainConn{Conn: conn, advice: l.advice}, nil
}

// plainConn looks at the first byte that is read. Waiting for it is bounded by the deadlines that the server sets.
type plainConn struct {
	net.Conn
	advice func(host string) string
	begun  bool // only Read uses it, and crypto/tls has one Read at a time
}

var errPlainHTTP = errors.New("the client spoke plain HTTP and was told to use HTTPS")

func (c *plainConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.begun || n == 0 {
		return n, err
	}
	c.begun = true
	// A TLS record begins with a byte below 0x18, a request with its method.
	if p[0] < 'A' || p[0] > 'Z' {
		return n, err
	}
	refuse(c.Conn, p[:n], c.advice)
	return 0, errPlainHTTP
}

const (
	refusalTimeout = 5 * time.Second // for the request, and again for the answer
	lingerTimeout  = time.Second
	lingerBytes    = 1 << 20
	headBytes      = 16 << 10
)

// refuse answers the request that begins with begun, and closes the connection. It can fail in no way that matters: the
// client is not served either way.
func refuse(conn net.Conn, begun []byte, advice func(host string) string) {
	defer conn.Close()
	conn.SetReadDeadline(time.Now().Add(refusalTimeout))
	head := io.LimitReader(io.MultiReader(bytes.NewReader(begun), conn), headBytes)
	r, err := http.ReadRequest(bufio.NewReader(head))
	if err != nil {
		r = &http.Request{}
	}
	// People paste what the answer says into their shells.
	if !validHostPort(r.Host) {
		r.Host = conn.LocalAddr().String()
	}
	conn.SetWriteDeadline(time.Now().Add(refusalTimeout))
	if refusal(r, advice).Write(conn) == nil {
		linger(conn)
	}
}

// refusal is an error as the OCI distribution spec has them ("Error Codes").
func refusal(r *http.Request, advice func(host string) string) *http.Response {
	message := "this registry speaks HTTPS: use https://" + r.Host + " instead. Where it has to speak plain HTTP, as behind a proxy " +
		"that ends TLS, start it with REGISTRY_HTTP_TLS_MODE=off."
	if advice != nil {
		message += " " + advice(r.Host)
	}
	var body bytes.Buffer
	encoder := json.NewEncoder(&body)
	encoder.SetEscapeHTML(false) // a command with > and & in it is to be copied
	_ = encoder.Encode(map[string]any{"errors": []map[string]string{{"code": "UNSUPPORTED", "message": message}}})
	return &http.Response{
		StatusCode: http.StatusBadRequest,
		ProtoMajor: 1,
		ProtoMinor: 1,
		Request:    r,
		Header: http.Header{
			"Content-Type":                    {"application/json; charset=utf-8"},
			"Docker-Distribution-Api-Version": {"registry/2.0"},
			"X-Content-Type-Options":          {"nosniff"},
		},
		Body:          io.NopCloser(&body),
		ContentLength: int64(body.Len()),
		Close:         true,
	}
}

// validHostPort reports whether s is a host or an address, with or without a port.
func validHostPort(s string) bool {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		host = strings.TrimSuffix(strings.TrimPrefix(s, "["), "]")
	} else if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return false
	}
	name, ok := canonical(host)
	return ok && name[0] != '*'
}

// linger reads what the client still sends: closing before would reset the connection, and the answer be lost.
func linger(conn net.Conn) {
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		half.CloseWrite()
	}
	conn.SetReadDeadline(time.Now().Add(lingerTimeout))
	io.CopyN(io.Discard, conn, lingerBytes)
}
