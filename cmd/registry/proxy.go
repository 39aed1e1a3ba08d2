package main

import (
	"errors"
	"net"
	"net/netip"
	"slices"

	"github.com/pires/go-proxyproto"
)

// proxyListener takes the address of a client from the PROXY header with which a trusted balancer may begin a connection. Accept reads
// nothing: who waits for a header that does not come, for ten seconds at most, is the connection's own goroutine. A bad one ends it.
type proxyListener struct{ *proxyproto.Listener }

// behindProxies returns a listener that trusts these, and whose other connections are as those of inner: a header there is what
// everything is there that is neither TLS nor HTTP.
func behindProxies(inner net.Listener, trusted []netip.Prefix) net.Listener {
	if len(trusted) == 0 {
		return inner
	}
	return proxyListener{&proxyproto.Listener{
		Listener: inner,
		ConnPolicy: func(o proxyproto.ConnPolicyOptions) (proxyproto.Policy, error) {
			peer, ok := o.Upstream.(*net.TCPAddr)
			if ok && slices.ContainsFunc(trusted, func(p netip.Prefix) bool { return p.Contains(peer.AddrPort().Addr().Unmap()) }) {
				return proxyproto.USE, nil // without one, as in health checks, the client is the peer
			}
			return proxyproto.SKIP, nil
		},
	}}
}

// Accept implements net.Listener.
func (l proxyListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if proxied, ok := conn.(*proxyproto.Conn); ok {
		return proxyConn{proxied}, nil
	}
	return conn, err
}

// proxyConn can be closed halfway, as a connection of TCP: an error is answered so before all of its request was read.
type proxyConn struct{ *proxyproto.Conn }

// CloseWrite ends what is sent.
func (c proxyConn) CloseWrite() error {
	if tcp, ok := c.TCPConn(); ok {
		return tcp.CloseWrite()
	}
	return errors.ErrUnsupported
}
