// Package postgrestest runs a PostgreSQL server for tests: Debian's, in a folder of its own, on a socket and no port.
package postgrestest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver
)

// Server is a running server. Start one with Start and stop it with Stop.
type Server struct {
	directory string
	socket    string
	options   []string
	process   *exec.Cmd
	databases atomic.Int64
}

// ErrUnavailable says that a server can't be run here.
var ErrUnavailable = errors.New("no PostgreSQL server can be run")

// Start makes a database cluster in an empty directory, which the user postgres has to be able to reach, and runs a server for it
// with options such as "fsync=off". It fails with ErrUnavailable when PostgreSQL is not installed, or when this process is root's and there is no
// user postgres to run it.
func Start(ctx context.Context, directory string, options ...string) (*Server, error) {
	initdb, err := program("initdb")
	if err != nil {
		return nil, err
	}
	s := &Server{directory: filepath.Join(directory, "data"), socket: directory, options: options}
	if err := s.own(directory); err != nil {
		return nil, err
	}
	init := exec.CommandContext(ctx, initdb, "--pgdata", s.directory, "--auth", "trust", "--username", "postgres", "--encoding", "UTF8", "--locale", "C", "--no-sync")
	if err := s.unprivileged(init); err != nil {
		return nil, err
	}
	if out, err := init.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("initdb: %w\n%s", err, out)
	}
	return s, s.Run(ctx)
}

// program finds one of the server's, which Debian keeps out of PATH.
func program(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	if err != nil || len(found) == 0 {
		return "", fmt.Errorf("%w: %s is missing", ErrUnavailable, name)
	}
	return slices.Max(found), nil
}

// own gives a folder to the user that the server runs as.
func (s *Server) own(directory string) error {
	id, ok, err := account()
	if err != nil || !ok {
		return err
	}
	return os.Chown(directory, int(id.Uid), int(id.Gid))
}

// account is who runs the server, which refuses to be root's, when that is not this user.
func account() (id syscall.Credential, ok bool, err error) {
	if os.Getuid() != 0 {
		return id, false, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return id, false, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	uid, errUID := strconv.ParseUint(u.Uid, 10, 32)
	gid, errGID := strconv.ParseUint(u.Gid, 10, 32)
	return syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, true, errors.Join(errUID, errGID)
}

// unprivileged has a command run as that user, and end with this process.
func (s *Server) unprivileged(command *exec.Cmd) error {
	id, ok, err := account()
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if ok {
		command.SysProcAttr.Credential = &id
	}
	command.Dir = s.socket
	return err
}

// Run runs the server again after Stop or Kill, and waits until it answers.
func (s *Server) Run(ctx context.Context) error {
	postgres, err := program("postgres")
	if err != nil {
		return err
	}
	args := []string{"-D", s.directory, "-k", s.socket, "-c", "listen_addresses=", "-c", "max_connections=200"}
	for _, o := range s.options {
		args = append(args, "-c", o)
	}
	log, err := os.OpenFile(filepath.Join(s.socket, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	s.process = exec.Command(postgres, args...)
	s.process.Stdout, s.process.Stderr = log, log
	if err := s.unprivileged(s.process); err != nil {
		return err
	}
	if err := s.process.Start(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return s.await(ctx)
}

func (s *Server) await(ctx context.Context) error {
	db, err := sql.Open("pgx", s.DSN("postgres"))
	if err != nil {
		return err
	}
	defer db.Close()
	for {
		err := db.PingContext(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			said, _ := os.ReadFile(filepath.Join(s.socket, "log")) // for the error
			return fmt.Errorf("the server does not answer: %w\n%s", err, said)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Stop ends the server as an administrator would, cutting its connections.
func (s *Server) Stop() error { return s.end(syscall.SIGINT) }

// Kill ends the server as a crash would.
func (s *Server) Kill() error { return s.end(syscall.SIGQUIT) }

func (s *Server) end(signal os.Signal) error {
	if err := s.process.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	err := s.process.Wait()
	if _, exited := errors.AsType[*exec.ExitError](err); exited {
		return nil // after SIGQUIT
	}
	return err
}

// Remove stops the server and removes its folder.
func (s *Server) Remove() error {
	return errors.Join(s.Kill(), os.RemoveAll(s.socket))
}

// Socket returns the path of the server's socket.
func (s *Server) Socket() string { return filepath.Join(s.socket, ".s.PGSQL.5432") }

// DSN names a database of the server.
func (s *Server) DSN(database string) string {
	return fmt.Sprintf("host=%s user=postgres dbname=%s", s.socket, database)
}

// NewDatabase makes a database, a copy of template unless that is empty, and returns its DSN. It is there until Remove.
func (s *Server) NewDatabase(t testing.TB, template string) string {
	t.Helper()
	name := fmt.Sprintf("test%d", s.databases.Add(1))
	create := "CREATE DATABASE " + name
	if template != "" {
		create += " TEMPLATE " + template
	}
	if err := s.Exec(t.Context(), create); err != nil {
		t.Fatal(err)
	}
	return s.DSN(name)
}

// Exec runs a statement in the server's own database.
func (s *Server) Exec(ctx context.Context, statement string) error {
	db, err := sql.Open("pgx", s.DSN("postgres"))
	if err != nil {
		return err
	}
	defer db.Close()
	_, err = db.ExecContext(ctx, statement)
	return err
}
