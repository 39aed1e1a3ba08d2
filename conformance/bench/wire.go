package main

import (
	"bufio"
	"crypto/tls"
	"net"
	"net/http"
	"time"
)

// wire makes requests over one connection, each after the answer to the one before was read. It does what http.Transport does
// without its goroutines: what a client takes of the processors that it shares with a server hides how far servers are apart.
type wire struct {
	tls    *tls.Config
	conn   net.Conn
	reader *bufio.Reader
	writer *bufio.Writer
}

// RoundTrip implements http.RoundTripper.
func (w *wire) RoundTrip(r *http.Request) (*http.Response, error) {
	if w.conn == nil {
		if err := w.dial(r); err != nil {
			return nil, err
		}
	}
	if deadline, ok := r.Context().Deadline(); ok {
		if err := w.conn.SetDeadline(deadline); err != nil {
			return nil, err
		}
	}
	if err := r.Write(w.writer); err != nil {
		return nil, err
	}
	if err := w.writer.Flush(); err != nil {
		return nil, err
	}
	return http.ReadResponse(w.reader, r)
}

func (w *wire) dial(r *http.Request) error {
	dialer := tls.Dialer{NetDialer: &net.Dialer{Timeout: time.Minute}, Config: w.tls}
	conn, err := dialer.DialContext(r.Context(), "tcp", r.URL.Host)
	if err != nil {
		return err
	}
	w.conn, w.reader, w.writer = conn, bufio.NewReaderSize(conn, 32<<10), bufio.NewWriterSize(conn, 32<<10)
	return nil
}

// CloseIdleConnections ends the connection.
func (w *wire) CloseIdleConnections() {
	if w.conn != nil {
		w.conn.Close()
		w.conn = nil
	}
}
