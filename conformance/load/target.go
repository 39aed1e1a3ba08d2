package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"berth/conformance/client"
	"berth/conformance/server"
)

// target is a registry to measure.
type target struct {
	name, url, ca  string
	user, password string
	token          string // sent instead of the password, unless it is empty
	pid            int    // 0 when the process is not known
	bare           bool   // ask with as little as it takes
}

// client returns a client with a single connection of its own.
func (t *target) client(http2 bool) (*client.Client, error) {
	transport, err := server.NewTransport(t.ca)
	if err != nil {
		return nil, err
	}
	if t.bare {
		return &client.Client{URL: t.url, HTTP: &http.Client{Transport: &wire{tls: transport.TLSClientConfig}}}, nil
	}
	transport.MaxConnsPerHost = 1
	transport.Protocols = new(http.Protocols)
	transport.Protocols.SetHTTP1(!http2)
	transport.Protocols.SetHTTP2(http2)
	return &client.Client{URL: t.url, HTTP: &http.Client{Transport: transport}, User: t.user, Password: t.password, Token: t.token}, nil
}

// cpu returns the processor time that the registry has used so far.
func (t *target) cpu() (time.Duration, error) {
	if t.pid == 0 {
		return 0, nil
	}
	return server.CPU(t.pid)
}

// startAll starts the registries that the flags name. The function that it returns ends them and removes their data.
func startAll(ctx context.Context, specs []string) (targets []*target, stop func(), err error) {
	dir, err := os.MkdirTemp("", "load")
	if err != nil {
		return nil, nil, err
	}
	var running []*server.Server
	stop = func() {
		for _, s := range running {
			s.Kill()
		}
		_ = os.RemoveAll(dir) // it is a temporary directory
	}
	for _, spec := range specs {
		t, s, err := startOne(ctx, dir, spec)
		if err != nil {
			stop()
			return nil, nil, err
		}
		targets, running = append(targets, t), append(running, s)
	}
	return targets, stop, nil
}

func startOne(ctx context.Context, dir, spec string) (*target, *server.Server, error) {
	name, rest, ok := strings.Cut(spec, "=")
	if !ok {
		return nil, nil, fmt.Errorf("-start %s: not of the form NAME=PROGRAM", spec)
	}
	parts := strings.Split(rest, ",")
	program, err := filepath.Abs(parts[0])
	if err != nil {
		return nil, nil, err
	}
	dir = filepath.Join(dir, name)
	c, err := configure(dir, fmt.Sprintf(filesystem, filepath.Join(dir, "data")))
	if err != nil {
		return nil, nil, err
	}
	c.Program, c.Env = program, parts[1:]
	s, err := server.Start(ctx, c)
	if err != nil {
		return nil, nil, err
	}
	return &target{name: name, url: c.URL, ca: c.CA, pid: s.PID()}, s, nil
}

// configuration is understood by every registry that can be measured: the format is distribution's.
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
