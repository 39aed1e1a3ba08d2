// Package server runs a registry program as a child process, for tests and for measurements.
//
// It guarantees that a Server that Start returned answers requests, and that Stop and Kill return only after the process
// has ended and been reaped. It does not guarantee that a free address is still free when the program listens on it, and
// it does not outlive its caller: a caller that is itself killed leaves the program running.
//
// It fails with the last lines that the program printed, because that is where the reason is.
package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// Config says which program to run, and how.
type Config struct {
	// Program is the path of the executable, Args are its arguments.
	Program string
	Args    []string
	// Dir is the working directory, and the program's HOME.
	Dir string
	// Env is added to an environment of nothing but PATH, TMPDIR and HOME.
	Env []string
	// URL is where the program will answer, without a path: https://localhost:5000.
	URL string
	// CA is a PEM file with the certificate that an https URL presents. The program may write it while it starts.
	CA string
	// Output receives what the program prints. It must be safe to write to from another goroutine. Nil discards it.
	Output io.Writer
	// Attr is passed on to the process.
	Attr *syscall.SysProcAttr
}

// Server is a running program.
type Server struct {
	Config

	cmd    *exec.Cmd
	tail   *tail
	exited chan struct{} // closed after err is set
	err    error
}

// startTimeout is how long a program may take to answer, on a slow machine that compiles something else meanwhile.
const startTimeout = time.Minute

// Launch starts the program and does not wait for it to answer.
func Launch(c Config) (*Server, error) {
	s := &Server{Config: c, tail: &tail{next: c.Output}, exited: make(chan struct{})}
	s.cmd = exec.Command(c.Program, c.Args...)
	s.cmd.Dir = c.Dir
	s.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "TMPDIR=" + os.TempDir(), "HOME=" + c.Dir}, c.Env...)
	s.cmd.Stdout, s.cmd.Stderr = s.tail, s.tail
	s.cmd.SysProcAttr = c.Attr
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", c.Program, err)
	}
	go func() {
		s.err = s.cmd.Wait()
		close(s.exited)
	}()
	return s, nil
}

// Start starts the program and waits until it answers. On an error nothing is left running.
func Start(ctx context.Context, c Config) (*Server, error) {
	s, err := Launch(c)
	if err != nil {
		return nil, err
	}
	if err := s.ready(ctx); err != nil {
		s.Kill()
		return nil, fmt.Errorf("%w; it printed:\n%s", err, s.tail)
	}
	return s, nil
}

func (s *Server) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for {
		err := s.ping(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-s.exited:
			return fmt.Errorf("%s ended before it answered: %v", s.Program, s.err)
		case <-ctx.Done():
			return fmt.Errorf("%s does not answer at %s: %w", s.Program, s.URL, err)
		case <-poll.C:
		}
	}
}

// ping succeeds when the program answers anything at all: without credentials that may well be 401.
func (s *Server) ping(ctx context.Context) error {
	transport, err := s.Transport()
	if err != nil {
		return err
	}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+"/v2/", nil)
	if err != nil {
		return err
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// Transport returns a new transport to the program.
func (s *Server) Transport() (*http.Transport, error) { return NewTransport(s.CA) }

// NewTransport returns a transport that trusts the certificates of a PEM file, if one is named, and speaks TLS 1.3 or
// nothing. A request that expects 100-continue waits for it.
func NewTransport(ca string) (*http.Transport, error) {
	t := &http.Transport{DisableCompression: true, ForceAttemptHTTP2: true, ExpectContinueTimeout: time.Minute}
	if ca == "" {
		return t, nil
	}
	pem, err := os.ReadFile(ca)
	if err != nil {
		return nil, err
	}
	t.TLSClientConfig = &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS13}
	if !t.TLSClientConfig.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("no certificate in %s", ca)
	}
	return t, nil
}

// Wait waits for the program to end by itself and returns how it ended, as exec.Cmd.Wait does.
func (s *Server) Wait(ctx context.Context) error {
	select {
	case <-s.exited:
		return s.err
	case <-ctx.Done():
		return fmt.Errorf("wait for %s: %w", s.Program, ctx.Err())
	}
}

// Signal sends a signal to the program.
func (s *Server) Signal(sig os.Signal) error { return s.cmd.Process.Signal(sig) }

// Stop asks the program to end, and fails unless it does so with exit status 0 before ctx ends.
func (s *Server) Stop(ctx context.Context) error {
	if err := s.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop %s: %w", s.Program, err)
	}
	if err := s.Wait(ctx); err != nil {
		return fmt.Errorf("stop %s: %w; it printed:\n%s", s.Program, err, s.tail)
	}
	return nil
}

// Kill ends the program as a power loss would, except that the kernel still writes what it holds. Killing what has ended
// does nothing.
func (s *Server) Kill() {
	_ = s.cmd.Process.Kill() // the only error is that it has ended
	<-s.exited
}

// Running reports whether the program has not ended yet.
func (s *Server) Running() bool {
	select {
	case <-s.exited:
		return false
	default:
		return true
	}
}

// PID returns the id of the process.
func (s *Server) PID() int { return s.cmd.Process.Pid }

// Printed returns the last lines that the program printed.
func (s *Server) Printed() string { return s.tail.String() }

// FreeAddress returns an address of the loopback interface on which nobody listens now. Its port is below the range that
// Linux takes the ports of outgoing connections from: a client that keeps knocking while a server restarts would
// otherwise, now and then, be given the very port that it knocks at, and keep the server from listening on it.
func FreeAddress() (string, error) {
	const first, last = 10000, 32000
	var err error
	for range 100 {
		var l net.Listener
		if l, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", first+rand.IntN(last-first))); err == nil {
			return l.Addr().String(), l.Close()
		}
	}
	return "", fmt.Errorf("find a free port: %w", err)
}

// AutomaticCA returns where a Berth with this data directory keeps the certificate that it made for itself.
func AutomaticCA(root string) string { return filepath.Join(root, "tls", "certificate.pem") }
