package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"berth/config"
)

// output is a buffer that a running command may be writing to.
type output struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.all.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.all.String()
}

// command runs a command to its end.
func command(t *testing.T, environ []string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, errOut output
	err = run(t.Context(), args, environ, strings.NewReader(""), &out, &errOut)
	return out.String(), errOut.String(), err
}

// running is a registry that serves in this process.
type running struct {
	environ     []string
	directory   string
	out, errOut output
	stop        context.CancelFunc
	ended       chan error
}

// serve starts a registry in a data directory and waits until it greets.
func serve(t *testing.T, directory string, environ ...string) *running {
	t.Helper()
	r := &running{directory: directory, ended: make(chan error, 1)}
	r.environ = append([]string{
		"REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY=" + directory,
		"REGISTRY_HTTP_ADDR=127.0.0.1:0",
	}, environ...)
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	go func() { r.ended <- run(ctx, []string{"serve"}, r.environ, strings.NewReader(""), &r.out, &r.errOut) }()
	t.Cleanup(func() {
		cancel()
		if t.Failed() {
			t.Logf("stdout:\n%s\nstderr:\n%s", r.out.String(), r.errOut.String())
		}
	})
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(r.out.String(), "next "); time.Sleep(time.Millisecond) {
		select {
		case err := <-r.ended:
			t.Fatalf("it ended at once: %v", err)
		default:
		}
		if time.Now().After(deadline) {
			t.Fatal("it does not greet")
		}
	}
	return r
}

// url is where the greeting says that the registry is.
func (r *running) url() string {
	lines := bufio.NewScanner(strings.NewReader(r.out.String()))
	for lines.Scan() {
		if _, rest, ok := strings.Cut(lines.Text(), "listening"); ok {
			_, url, _ := strings.Cut(rest, "(")
			return strings.TrimSuffix(url, ")")
		}
	}
	return ""
}

func (r *running) end(t *testing.T) {
	t.Helper()
	r.stop()
	select {
	case err := <-r.ended:
		if err != nil {
			t.Errorf("it ended with %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("it does not end")
	}
}

func get(t *testing.T, url, user, password string) (status int, body string) {
	t.Helper()
	client := http.Client{Transport: &http.Transport{
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, // trust is the subject of package tls
		DisableKeepAlives: true,
	}}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if user != "" {
		request.SetBasicAuth(user, password)
	}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(content)
}

// Without any configuration, a registry speaks HTTPS and lets in the user whose password it wrote down, after a restart too.
func TestFirstStart(t *testing.T) {
	directory := filepath.Join(t.TempDir(), "data")
	r := serve(t, directory)
	path := filepath.Join(directory, "initial-admin-password")
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("the password's file has mode %v", info.Mode())
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	password := strings.TrimSpace(string(content))
	if !strings.HasPrefix(r.url(), "https://") || !strings.Contains(r.out.String(), path) || !strings.Contains(r.out.String(), directory) {
		t.Errorf("greeting:\n%s", r.out.String())
	}
	if status, _ := get(t, r.url()+"/v2/", "admin", password); status != http.StatusOK {
		t.Errorf("with the password: %d", status)
	}
	for _, wrong := range []struct{ user, password string }{{"", ""}, {"admin", "x"}, {"root", password}} {
		if status, body := get(t, r.url()+"/v2/", wrong.user, wrong.password); status != http.StatusUnauthorized || !strings.Contains(body, "REGISTRY_AUTH=none") {
			t.Errorf("as %q: %d %s", wrong.user, status, body)
		}
	}
	r.end(t)
	if strings.Contains(r.errOut.String()+r.out.String(), password) {
		t.Error("the password is in the output")
	}
	r = serve(t, directory)
	if status, _ := get(t, r.url()+"/v2/", "admin", password); status != http.StatusOK {
		t.Errorf("after a restart: %d", status)
	}
	r.end(t)
}

func TestInitialPassword(t *testing.T) {
	directory := t.TempDir()
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("correct horse\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := serve(t, directory, "REGISTRY_AUTH_INITIALPASSWORD_FILE="+secret, "REGISTRY_HTTP_TLS_MODE=off")
	if status, _ := get(t, r.url()+"/v2/", "admin", "correct horse"); status != http.StatusOK {
		t.Errorf("with the password: %d", status)
	}
	if _, err := os.Stat(filepath.Join(directory, "initial-admin-password")); !os.IsNotExist(err) {
		t.Errorf("a password that was given is written down: %v", err)
	}
	r.end(t)
	if strings.Contains(r.errOut.String()+r.out.String(), "correct horse") {
		t.Error("the password is in the output")
	}
}

// A crash between writing the password and keeping its hash must not lock everybody out.
func TestInitialPasswordAfterCrash(t *testing.T) {
	directory := t.TempDir()
	if err := os.WriteFile(filepath.Join(directory, "initial-admin-password"), []byte("written before\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := serve(t, directory)
	if status, _ := get(t, r.url()+"/v2/", "admin", "written before"); status != http.StatusOK {
		t.Errorf("with the password in the file: %d", status)
	}
	r.end(t)
}

func TestAdminCommands(t *testing.T) {
	directory := filepath.Join(t.TempDir(), strings.Repeat("deep/", 30)) // longer than a socket's path may be
	r := serve(t, directory, "REGISTRY_AUTH=none", "REGISTRY_HTTP_TLS_MODE=off")
	if info, err := os.Stat(filepath.Join(directory, "admin.sock")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v", info, err)
	}
	if out, _, err := command(t, r.environ, "healthcheck"); err != nil || out != "ok\n" {
		t.Errorf("healthcheck: %q, %v", out, err)
	}
	for _, args := range [][]string{{"fsck"}, {"fsck", "--rehash"}, {"fsck", "--json"}} {
		out, _, err := command(t, r.environ, args...)
		if err != nil || !strings.Contains(out, "findings") {
			t.Errorf("%v: %q, %v", args, out, err)
		}
	}
	r.end(t)
	if _, _, err := command(t, r.environ, "healthcheck"); err == nil || !strings.Contains(err.Error(), "no registry is running") {
		t.Errorf("healthcheck of a registry that stopped: %v", err)
	}
	if out, _, err := command(t, r.environ, "fsck"); err != nil || !strings.Contains(out, "0 findings") {
		t.Errorf("fsck of a registry that stopped: %q, %v", out, err)
	}
	stray := filepath.Join(directory, "blobs/deadbeef/0000/stray")
	if err := os.MkdirAll(filepath.Dir(stray), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(stray, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, _, err := command(t, r.environ, "fsck"); err == nil || !strings.Contains(out, "stray") {
		t.Errorf("fsck of a damaged registry: %q, %v", out, err)
	}
	empty := []string{"REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY=" + t.TempDir()}
	if _, _, err := command(t, empty, "fsck"); err == nil {
		t.Error("fsck of a directory without a registry says that all is well")
	}
}

// TestAdminSocket has the socket elsewhere, for a data directory that can't hold one.
func TestAdminSocket(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "registry.sock")
	r := serve(t, t.TempDir(), "REGISTRY_AUTH=none", "REGISTRY_HTTP_TLS_MODE=off", "REGISTRY_ADMIN_SOCKET="+socket)
	defer r.end(t)
	for _, args := range [][]string{{"healthcheck"}, {"gc", "status"}, {"fsck"}, {"usage"}, {"token", "list"}, {"backup", "--to", filepath.Join(t.TempDir(), "backup")}} {
		if _, _, err := command(t, r.environ, args...); err != nil {
			t.Errorf("%v: %v", args, err)
		}
	}
	if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v", info, err)
	}
	if _, err := os.Stat(filepath.Join(r.directory, "admin.sock")); !os.IsNotExist(err) {
		t.Errorf("in the data directory: %v", err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, says := range map[string]string{socket: "another registry", file: "something else than a socket", "/proc/admin.sock": "can hold sockets"} {
		_, _, err := command(t, []string{"REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY=" + t.TempDir(), "REGISTRY_AUTH=none", "REGISTRY_ADMIN_SOCKET=" + path}, "serve")
		if err == nil || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), "set admin.socket") {
			t.Errorf("%s: %v", path, err)
		}
	}
	if content, err := os.ReadFile(file); err != nil || string(content) != "precious" {
		t.Errorf("the file is %q, %v", content, err)
	}
	if _, _, err := command(t, r.environ, "healthcheck"); err != nil {
		t.Errorf("the first one: %v", err)
	}
}

func TestBadStarts(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("version: 0.1\nhttp:\n  adr: :5000\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name    string
		environ []string
		args    []string
		says    []string
	}{
		{"a port that is taken", []string{"REGISTRY_HTTP_ADDR=" + taken.Addr().String(), "REGISTRY_AUTH=none"}, []string{"serve"}, []string{"http.addr", "in use"}},
		{"a data directory that is a file", []string{"REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY=" + file}, []string{"serve"}, []string{file}},
		{"an unknown key", nil, []string{"serve", file}, []string{file + ":3", "adr", "addr"}},
		{"a configuration that is not there", nil, []string{"serve", file + ".yml"}, []string{file + ".yml", "no such file"}},
		{"a configuration alone", nil, []string{file + ".yml"}, []string{file + ".yml", "no such file"}},
		{"users that are not there", []string{"REGISTRY_AUTH=htpasswd", "REGISTRY_AUTH_HTPASSWD_REALM=x", "REGISTRY_AUTH_HTPASSWD_PATH=" + file + ".users"}, []string{"serve"}, []string{file + ".users"}},
		{"an unknown command of a command", nil, []string{"config", "chekc"}, []string{"chekc"}},
		{"an unknown command", nil, []string{"sevre"}, []string{"sevre", "serve"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			environ := append([]string{"REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY=" + t.TempDir()}, test.environ...)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			err := run(ctx, test.args, environ, strings.NewReader(""), io.Discard, io.Discard)
			if err == nil || ctx.Err() != nil {
				t.Fatalf("it started, and ended with %v", err)
			}
			for _, part := range test.says {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("the error does not say %q: %v", part, err)
				}
			}
		})
	}
}

// A registry must not start empty beside data that it does not know.
func TestForgottenData(t *testing.T) {
	for name, files := range map[string][]string{
		"metadata.sqlite.path": {"blobs/12345678/0000/1"},
		"taken over before":    {"docker/registry/v2/repositories/app/_manifests/tags/v1/current/link", "docker/registry/v2/adopted-by-berth.json"},
	} {
		directory := t.TempDir()
		for _, file := range files {
			path := filepath.Join(directory, file)
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte("{}"), 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		_, _, err := command(t, []string{"REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY=" + directory}, "serve")
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("beside %s: %v", files, err)
		}
	}
}

// Whatever database it is configured with, a second registry is kept out of a data directory.
func TestOneRegistryADirectory(t *testing.T) {
	directory := t.TempDir()
	r := serve(t, directory, "REGISTRY_AUTH=none", "REGISTRY_HTTP_TLS_MODE=off")
	ctx, cancel := context.WithCancel(t.Context())
	other := append(slices.Clone(r.environ), "REGISTRY_METADATA_SQLITE_PATH="+filepath.Join(t.TempDir(), "metadata.sqlite"))
	var errOut output
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, []string{"serve"}, other, strings.NewReader(""), io.Discard, &errOut) }()
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(errOut.String(), "waiting for another registry"); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it does not wait: %s", errOut.String())
		}
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("it ended with %v", err)
	}
	r.end(t)
}

// What is at the place of a socket and is none stays.
func TestSocketInThePlaceOfAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, _, err := command(t, []string{
		"REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY=" + t.TempDir(), "REGISTRY_HTTP_NET=unix", "REGISTRY_HTTP_ADDR=" + path, "REGISTRY_AUTH=none",
	}, "serve")
	if err == nil || !strings.Contains(err.Error(), "http.addr") {
		t.Errorf("it ended with %v", err)
	}
	if content, err := os.ReadFile(path); err != nil || string(content) != "precious" {
		t.Errorf("the file is %q, %v", content, err)
	}
}

// A request that is cut off when the registry stops keeps what came of it.
func TestCutOffUpload(t *testing.T) {
	directory := t.TempDir()
	r := serve(t, directory, "REGISTRY_AUTH=none", "REGISTRY_HTTP_TLS_MODE=off", "REGISTRY_HTTP_DRAINTIMEOUT=100ms")
	response, err := http.Post(r.url()+"/v2/a/blobs/uploads/", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	location := response.Header.Get("Location")
	sending, body := io.Pipe()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPatch, r.url()+location, sending)
	if err != nil {
		t.Fatal(err)
	}
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		if response, err := http.DefaultClient.Do(request); err == nil {
			response.Body.Close()
		}
	}()
	const sent = 1 << 20
	if _, err := body.Write(make([]byte, sent)); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); largestFile(directory) < sent/2; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the bytes do not arrive")
		}
	}
	r.end(t)
	body.Close()
	<-answered
	r = serve(t, directory, "REGISTRY_AUTH=none", "REGISTRY_HTTP_TLS_MODE=off")
	response, err = http.Get(r.url() + location)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	var last int
	if _, err := fmt.Sscanf(response.Header.Get("Range"), "0-%d", &last); err != nil || last < sent/2 {
		t.Errorf("of %d bytes there are 0-%d, %v", sent, last, err)
	}
	r.end(t)
}

// largestFile returns the size of the largest file of a blob store.
func largestFile(directory string) (size int64) {
	_ = filepath.WalkDir(filepath.Join(directory, "blobs"), func(_ string, entry os.DirEntry, err error) error {
		if err == nil {
			if info, err := entry.Info(); err == nil && info.Mode().IsRegular() {
				size = max(size, info.Size())
			}
		}
		return nil
	})
	return size
}

func TestConfigCheck(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.yml")
	if err := os.WriteFile(path, []byte("version: 0.1\nhttp: {addr: ':5001'}\nauth: {initialpassword: swordfish}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, _, err := command(t, []string{"REGISTRY_LOG_LEVEL=debug"}, "config", "check", path)
	if err != nil || !strings.Contains(out, ":5001") || !strings.Contains(out, "debug") || strings.Contains(out, "swordfish") {
		t.Errorf("%v:\n%s", err, out)
	}
	_, _, err = command(t, []string{"REGISTRY_LOG_LEVEL=loud", "REGISTRY_CONFIGURATION_PATH=" + path}, "config", "check")
	if err == nil || !strings.Contains(err.Error(), "REGISTRY_LOG_LEVEL") {
		t.Errorf("a bad variable: %v", err)
	}
}

func TestHelp(t *testing.T) {
	for _, args := range [][]string{nil, {"--help"}, {"serve", "--help"}, {"config", "check", "--help"}, {"fsck", "--help"}, {"healthcheck", "--help"},
		{"inspect", "--help"}, {"index"}, {"index", "create", "--help"}, {"index", "show", "--help"}, {"version"}} {
		out, _, err := command(t, nil, args...)
		if err != nil || len(out) < 5 {
			t.Errorf("%v: %q, %v", args, out, err)
		}
	}
}

func TestDataDirectory(t *testing.T) {
	c := config.Default()
	if _, err := os.Stat(systemData); err == nil {
		if got, err := dataDirectory(c, []string{"HOME=/home/ann"}); err != nil || got != systemData {
			t.Errorf("where registry:2 was: %q, %v", got, err)
		}
		return
	}
	for _, test := range []struct {
		environ []string
		want    string
	}{
		{[]string{"HOME=/home/ann"}, "/home/ann/.local/share/berth"},
		{[]string{"HOME=/home/ann", "XDG_DATA_HOME=/data/ann"}, "/data/ann/berth"},
	} {
		if got, err := dataDirectory(c, test.environ); err != nil || got != test.want {
			t.Errorf("%v: %q, %v", test.environ, got, err)
		}
	}
	if _, err := dataDirectory(c, nil); err == nil || !strings.Contains(err.Error(), "rootdirectory") {
		t.Errorf("without a home: %v", err)
	}
}
