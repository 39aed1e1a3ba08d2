package main

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestUserCommands(t *testing.T) {
	path := filepath.Join(t.TempDir(), "htpasswd")
	environ := []string{"REGISTRY_AUTH=htpasswd", "REGISTRY_AUTH_HTPASSWD_PATH=" + path, "HOME=" + t.TempDir()}
	made, _, err := command(t, environ, "user", "add", "ann", "--generate", "--cost", "4")
	if err != nil || len(strings.TrimSpace(made)) != 20 {
		t.Fatalf("got %q, %v", made, err)
	}
	addUser(t, path, "bob")
	if out, _, err := command(t, environ, "user", "list"); err != nil || out != "ann\nbob\n" {
		t.Errorf("got %q, %v", out, err)
	}
	if out, _, err := command(t, environ, "user", "list", "--json"); err != nil || !strings.HasPrefix(out, "[\n") {
		t.Errorf("got %q, %v", out, err)
	}
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"add", "ann", "--generate"}, "there is such a user already: ann"},
		{[]string{"add", "eve"}, "no terminal to ask for the password: use --password-stdin or --generate"},
		{[]string{"add", "eve", "--password-stdin"}, "the password is empty"},
		{[]string{"add", "eve", "--generate", "--cost", "40"}, "bcrypt cost 40 is not between 4 and 17"},
		{[]string{"add", "*", "--generate"}, "bad user name"},
		{[]string{"list", "config.yml", "--file", path}, "can't be used together"},
		{[]string{"add", "e:ve", "--generate"}, "may not have a colon"},
		{[]string{"passwd", "eve", "--generate"}, "there is no such user: eve"},
		{[]string{"remove", "eve"}, "there is no such user: eve"},
	} {
		if _, _, err := command(t, environ, append([]string{"user"}, test.args...)...); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%v: got %v", test.args, err)
		}
	}
	other := []string{"REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY=" + t.TempDir()}
	if _, _, err := command(t, other, "user", "add", "ann", "--generate"); err == nil || !strings.Contains(err.Error(), "auth.htpasswd.path") {
		t.Errorf("without a file: %v", err)
	}
	if out, _, err := command(t, other, "user", "list"); err != nil || out != "admin\n" {
		t.Errorf("without a file: %q, %v", out, err)
	}
}

// TestAdminPasswordElsewhere has a command with another configuration than the registry that runs.
func TestAdminPasswordElsewhere(t *testing.T) {
	r := serve(t, t.TempDir(), "REGISTRY_HTTP_TLS_MODE=off", "REGISTRY_AUTH=htpasswd", "REGISTRY_AUTH_HTPASSWD_PATH="+users(t, "ann"))
	defer r.end(t)
	_, _, err := command(t, []string{"REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY=" + r.directory}, "user", "passwd", "admin", "--generate", "--cost", "4")
	if err == nil || !strings.Contains(err.Error(), "has its users elsewhere") {
		t.Errorf("got %v", err)
	}
	if status, _ := get(t, r.url()+"/v2/", "ann", "ann"); status != http.StatusOK {
		t.Errorf("ann is told %d", status)
	}
}

// TestConfigurationOfAPipe is read once.
func TestConfigurationOfAPipe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.yml")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = os.WriteFile(path, []byte("version: 0.1\nhttp: {tls: {mode: off}}\nauth: none\n"), 0) // fails if nobody reads
	}()
	r := serve(t, t.TempDir(), "REGISTRY_CONFIGURATION_PATH="+path)
	if status, _ := get(t, r.url()+"/v2/", "", ""); status != http.StatusOK {
		t.Errorf("got %d", status)
	}
	r.end(t)
}

// TestAdminPassword changes the password of the first user, with the registry running and without.
func TestAdminPassword(t *testing.T) {
	r := serve(t, t.TempDir(), "REGISTRY_HTTP_TLS_MODE=off")
	file := filepath.Join(r.directory, "initial-admin-password")
	old, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	is := func(password string) bool {
		status, _ := get(t, r.url()+"/v2/", "admin", strings.TrimSpace(password))
		return status == http.StatusOK
	}
	if !is(string(old)) {
		t.Fatal("the first password is wrong")
	}
	second, _, err := command(t, r.environ, "user", "passwd", "admin", "--generate", "--cost", "4")
	if err != nil {
		t.Fatal(err)
	}
	if is(string(old)) || !is(second) {
		t.Error("the running registry knows the wrong one")
	}
	if _, err := os.Stat(file); !os.IsNotExist(err) {
		t.Errorf("the file with the old one: %v", err)
	}
	r.end(t)
	third, _, err := command(t, r.environ, "user", "passwd", "admin", "--generate", "--cost", "4")
	if err != nil {
		t.Fatal(err)
	}
	r = serve(t, r.directory, "REGISTRY_HTTP_TLS_MODE=off")
	if is(second) || !is(third) {
		t.Error("after a restart it knows the wrong one")
	}
	r.end(t)
}

// TestChangesWithoutAServer are recorded by the command that makes them. That they can't be recorded stops none.
func TestChangesWithoutAServer(t *testing.T) {
	path, audit, data := users(t, "ann"), filepath.Join(t.TempDir(), "audit", "log"), t.TempDir()
	environ := []string{"REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY=" + data, "REGISTRY_HTTP_ADDR=127.0.0.1:0", "REGISTRY_AUTH=htpasswd",
		"REGISTRY_AUTH_HTPASSWD_PATH=" + path, "REGISTRY_AUDIT_OUTPUT=" + audit}
	create := []string{"token", "create", "--name", "ci", "--repositories", "**", "--actions", "pull, push"}
	if _, _, err := command(t, environ, create...); err == nil || !strings.Contains(err.Error(), "there is no registry in "+data) {
		t.Errorf("without a registry: %v", err)
	}
	serve(t, data, "REGISTRY_HTTP_TLS_MODE=off").end(t)
	if _, stderr, err := command(t, environ, create...); err != nil || !strings.Contains(stderr, "this is not recorded") {
		t.Errorf("without a directory for the log: %v, %q", err, stderr)
	}
	if err := os.Mkdir(filepath.Dir(audit), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"token", "revoke", "ci"}, {"user", "passwd", "ann", "--generate", "--cost", "4"}, {"user", "remove", "ann"}, {"token", "rotate-key"}} {
		if _, _, err := command(t, environ, args...); err != nil {
			t.Errorf("%v: %v", args, err)
		}
	}
	records, err := os.ReadFile(audit)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"token revoked", "user changed", "user removed", "token keys changed"} {
		if !strings.Contains(string(records), `"event":"`+want+`","by":"command line"`) {
			t.Errorf("%q is not recorded:\n%s", want, records)
		}
	}
}

func TestTokenCommands(t *testing.T) {
	r := serve(t, t.TempDir(), "REGISTRY_HTTP_TLS_MODE=off")
	for _, running := range []bool{true, false} {
		if !running {
			r.end(t)
		}
		out, _, err := command(t, r.environ, "token", "create", "--name", "ci", "--repositories", "team/**,x", "--actions", "push", "--expires", "90d", "--json")
		var made struct {
			Name, Token, Actions string
			Repositories         []string
			Created, Expires     time.Time
		}
		if err := json.Unmarshal([]byte(out), &made); err != nil {
			t.Fatalf("%v: %q", err, out)
		}
		if err != nil || !strings.HasPrefix(made.Token, "berth_") || made.Actions != "pull,push" || len(made.Repositories) != 2 ||
			made.Expires.Sub(made.Created) != 90*24*time.Hour {
			t.Errorf("got %+v, %v", made, err)
		}
		list, _, err := command(t, r.environ, "token", "list")
		if err != nil || !strings.Contains(list, "ci     team/**,x      pull,push") || strings.Contains(list, made.Token) {
			t.Errorf("got %v\n%s", err, list)
		}
		for _, test := range []struct{ name, repositories, actions, expires, want string }{
			{"ci", "a", "pull", "never", "there is a token named ci already"},
			{"a b", "a", "pull", "never", "letters, digits"},
			{"..", "a", "pull", "never", "letters, digits"},
			{"b", "A", "pull", "never", "lower-case"},
			{"b", "", "pull", "never", "a token is for repositories"},
			{"b", "a", "fly", "never", `"fly" is unknown`},
			{"b", "a", "pull", "soon", "--expires"},
			{"b", "a", "pull", "-3d", "--expires"},
		} {
			_, _, err := command(t, r.environ, "token", "create", "--name", test.name, "--repositories", test.repositories, "--actions", test.actions, "--expires", test.expires)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%+v: got %v", test, err)
			}
		}
		if _, _, err := command(t, r.environ, "token", "revoke", "ci"); err != nil {
			t.Error(err)
		}
		if _, _, err := command(t, r.environ, "token", "revoke", "ci"); err == nil || !strings.Contains(err.Error(), "no token named") {
			t.Errorf("revoked twice: %v", err)
		}
		if _, _, err := command(t, r.environ, "token", "rotate-key"); err != nil {
			t.Error(err)
		}
	}
}
