package main

import (
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A service manager is told when the registry is ready, when it reloads, and when it stops.
func TestNotify(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "notify")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	r := serve(t, t.TempDir(), "REGISTRY_AUTH=none", "NOTIFY_SOCKET="+socket)
	told := func(want string) {
		t.Helper()
		if err := manager.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		state := make([]byte, 200)
		n, err := manager.Read(state)
		if err != nil || !regexp.MustCompile(`^(?:`+want+`)$`).Match(state[:n]) {
			t.Fatalf("told %q, %v; want %s", state[:n], err, want)
		}
	}
	told("READY=1")
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	told(`RELOADING=1\nMONOTONIC_USEC=\d+`)
	told("READY=1")
	r.end(t)
	told("STOPPING=1")
}

func TestWithServe(t *testing.T) {
	for args, want := range map[string]string{
		"/etc/docker/registry/config.yml":    "serve /etc/docker/registry/config.yml",
		"c.yaml":                             "serve c.yaml",
		"serve c.yml":                        "serve c.yml",
		"registry serve c.yml":               "serve c.yml",
		"registry c.yml":                     "serve c.yml",
		"config check c.yml":                 "config check c.yml",
		"version":                            "version",
		"user add registry --password-stdin": "user add registry --password-stdin",
	} {
		if got := withServe(strings.Fields(args)); !slices.Equal(got, strings.Fields(want)) {
			t.Errorf("%s: %q, want %s", args, got, want)
		}
	}
}

// The health check of a container finds the configuration that the container was started with.
func TestFirstProcessConfig(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, program, line string
		want                []string
	}{
		{"as registry:2", self, "registry\x00/c.yml\x00", []string{"/c.yml"}},
		{"serve", self, "registry\x00serve\x00/c.yml\x00", []string{"/c.yml"}},
		{"defaults", self, "registry\x00serve\x00", nil},
		{"another command", self, "registry\x00fsck\x00/c.yml\x00", nil},
		{"another program", "/bin/sh", "registry\x00serve\x00/c.yml\x00", nil},
		{"no program", "", "", nil},
	} {
		process := t.TempDir()
		if test.program != "" {
			if err := os.Symlink(test.program, filepath.Join(process, "exe")); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(process, "cmdline"), []byte(test.line), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := firstProcessConfig(process); !slices.Equal(got, test.want) {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
}
