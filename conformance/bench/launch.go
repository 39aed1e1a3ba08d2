package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"berth/conformance/server"

	"golang.org/x/crypto/bcrypt"
)

// launcher makes a registry ready to be measured. dir is a directory of its own, with a certificate and its key.
type launcher struct {
	name string
	open func(ctx context.Context, dir string) (*target, error)
	// locked opens the same registry, with other data, so that it asks for a password. It is nil when nothing is known of how.
	locked func(ctx context.Context, dir string) (*target, error)
}

const (
	userName = "someone"
	userCost = 10 // of bcrypt, which is what distribution's documentation shows
)

// parseProgram reads NAME=PROGRAM[,VARIABLE=VALUE]...: a registry that reads distribution's configuration.
func parseProgram(spec string) (launcher, error) {
	name, rest, ok := strings.Cut(spec, "=")
	parts := strings.Split(rest, ",")
	program, err := filepath.Abs(parts[0])
	if !ok || err != nil {
		return launcher{}, errors.New("not of the form NAME=PROGRAM")
	}
	start := func(ctx context.Context, dir string, env ...string) (*target, error) {
		c, err := configure(dir, fmt.Sprintf(filesystem, filepath.Join(dir, "data")))
		if err != nil {
			return nil, err
		}
		c.Program, c.Env = program, append(parts[1:len(parts):len(parts)], env...)
		return startTarget(ctx, name, c)
	}
	return launcher{
		name: name,
		open: func(ctx context.Context, dir string) (*target, error) { return start(ctx, dir) },
		locked: func(ctx context.Context, dir string) (*target, error) {
			users := filepath.Join(dir, "htpasswd")
			password, err := writeUsers(users)
			if err != nil {
				return nil, err
			}
			t, err := start(ctx, dir, "REGISTRY_AUTH=htpasswd", "REGISTRY_AUTH_HTPASSWD_REALM=bench", "REGISTRY_AUTH_HTPASSWD_PATH="+users)
			if err == nil {
				t.user, t.password = userName, password
			}
			return t, err
		},
	}, nil
}

// parseCommand reads NAME=COMMAND: a registry that a shell starts.
func parseCommand(spec string) (launcher, error) {
	name, command, ok := strings.Cut(spec, "=")
	if !ok {
		return launcher{}, errors.New("not of the form NAME=COMMAND")
	}
	return launcher{name: name, open: func(ctx context.Context, dir string) (*target, error) {
		c, err := configure(dir, "")
		if err != nil {
			return nil, err
		}
		c.Program, c.Args = "/bin/sh", []string{"-c", command}
		c.Env = []string{
			"ADDRESS=" + strings.TrimPrefix(c.URL, "https://"), "CERTIFICATE=" + c.CA, "KEY=" + filepath.Join(dir, "key.pem"),
			"DATA=" + filepath.Join(dir, "data"),
		}
		return startTarget(ctx, name, c)
	}}, nil
}

// parseURL reads NAME=URL[,ca=FILE][,pid=ID][,user=NAME]: a registry that runs already.
func parseURL(spec string) (launcher, error) {
	name, rest, _ := strings.Cut(spec, "=")
	parts := strings.Split(rest, ",")
	if u, err := url.Parse(parts[0]); err != nil || u.Scheme != "https" {
		return launcher{}, errors.New("not of the form NAME=https://HOST")
	}
	t := &target{name: name, url: parts[0]}
	for _, part := range parts[1:] {
		var err error
		switch key, value, _ := strings.Cut(part, "="); key {
		case "ca":
			t.ca = value
		case "user":
			t.user, t.password = value, os.Getenv("BENCH_PASSWORD")
		case "pid":
			t.pid, err = strconv.Atoi(value)
		default:
			err = fmt.Errorf("unknown: %s", part)
		}
		if err != nil {
			return launcher{}, err
		}
	}
	return launcher{name: name, open: func(context.Context, string) (*target, error) { return t, nil }}, nil
}

// writeUsers writes an htpasswd file with one user, and returns that one's password.
func writeUsers(path string) (password string, err error) {
	const chosen = "a password"
	hash, err := bcrypt.GenerateFromPassword([]byte(chosen), userCost)
	if err != nil {
		return "", err
	}
	return chosen, os.WriteFile(path, fmt.Appendf(nil, "%s:%s\n", userName, hash), 0o600)
}

func startTarget(ctx context.Context, name string, c server.Config) (*target, error) {
	s, err := server.Start(ctx, c)
	if err != nil {
		return nil, err
	}
	return &target{name: name, url: c.URL, ca: c.CA, pid: s.PID(), server: s}, nil
}

// configuration is understood by every registry that -start can start: the format is distribution's.
const configuration = `version: 0.1
storage:
  delete:
    enabled: true
%shttp:
  addr: %s
  tls:
    certificate: %s
    key: %s
`

const filesystem = `  filesystem:
    rootdirectory: %s
`

// configure writes the configuration of a registry below dir, and makes its data directory. storage is the part of the
// configuration about the backend.
func configure(dir, storage string) (server.Config, error) {
	root := filepath.Join(dir, "data")
	if err := os.MkdirAll(root, 0o700); err != nil {
		return server.Config{}, err
	}
	certificate, key, err := server.MakeCertificate(dir)
	if err != nil {
		return server.Config{}, err
	}
	address, err := server.FreeAddress()
	if err != nil {
		return server.Config{}, err
	}
	path := filepath.Join(dir, "config.yml")
	if err := os.WriteFile(path, fmt.Appendf(nil, configuration, storage, address, certificate, key), 0o600); err != nil {
		return server.Config{}, err
	}
	return server.Config{Args: []string{"serve", path}, Dir: dir, URL: "https://" + address, CA: certificate}, nil
}
