package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"berth/tls/trust"
)

func trustSum(ca string) string { return trust.Checksum([]byte(ca)) }

func TestDoctorCommand(t *testing.T) {
	data, machine := t.TempDir(), t.TempDir()
	address := trusted(t, data)
	ca := filepath.Join(data, "tls", "ca.pem")
	environ := []string{"DESTDIR=" + machine, "HOME=/home/me"}
	docker := filepath.Join(machine, "etc/docker/certs.d", address)
	for _, directory := range []string{docker, filepath.Join(machine, "etc/containers")} {
		if err := os.MkdirAll(directory, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	out, _, err := command(t, environ, "doctor", "https://"+address)
	if !errors.Is(err, errReported) || !strings.Contains(out, "\nFAIL  containers   does not trust the certificate") ||
		!strings.Contains(out, "\nnote  docker       does not trust the certificate") {
		t.Errorf("%v\n%s", err, out)
	}
	content, err := os.ReadFile(ca)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(docker, "ca.crt"), content, 0o644); err != nil {
		t.Fatal(err)
	}
	out, _, err = command(t, environ, "doctor", "https://"+address, "--ca", ca)
	if err != nil || strings.Contains(out, "FAIL") || !strings.Contains(out, "the certificate is from the CA in "+ca) {
		t.Errorf("%v\n%s", err, out)
	}
	for _, line := range strings.Split(strings.TrimSuffix(out, "\n"), "\n") {
		if status, _, _ := strings.Cut(line, " "); status != "ok" && status != "note" || len(line) < 20 || line[17:19] != "  " || line[19] == ' ' {
			t.Errorf("not a finding in columns: %q", line)
		}
	}
	asJSON, _, err := command(t, environ, "doctor", "https://"+address, "--json")
	var d diagnosis
	if err != nil || json.Unmarshal([]byte(asJSON), &d) != nil || !d.OK || len(d.Findings) < 5 || d.Address != "https://"+address {
		t.Errorf("%v\n%s", err, asJSON)
	}
	asJSON, _, err = command(t, environ, "doctor", "http://"+address, "--json")
	if !errors.Is(err, errReported) || json.Unmarshal([]byte(asJSON), &d) != nil || d.OK || d.Findings[0].Check != "url" {
		t.Errorf("%v\n%s", err, asJSON)
	}
	if _, _, err := command(t, environ, "doctor", "https://"+address, "--ca", "/nowhere"); err == nil || !strings.Contains(err.Error(), "--ca") {
		t.Errorf("a CA that is not there: %v", err)
	}
	if out, _, err := command(t, environ, "doctor", address); err != nil || !strings.Contains(out, "ok    answer") {
		t.Errorf("without https:// it says %v\n%s", err, out)
	}
	if help, _, err := command(t, nil, "doctor", "--help"); err != nil || !strings.Contains(help, "may learn the name") {
		t.Errorf("the help does not say what a registry learns: %v\n%s", err, help)
	}
	if _, _, err := command(t, environ, "doctor"); err == nil {
		t.Error("without an address it examines something")
	}
}

func TestUserHome(t *testing.T) {
	for _, tt := range []struct {
		environ []string
		want    string
	}{
		{[]string{"HOME=/home/me"}, "/home/me"},
		{[]string{"HOME=/x", "SUDO_USER=root"}, "/root"},
		{[]string{"HOME=/x", "SUDO_USER=nobody-of-this-name"}, "/x"},
		{nil, ""},
	} {
		if got := (streams{environ: tt.environ}).userHome(); got != tt.want {
			t.Errorf("%q: %s", tt.environ, got)
		}
	}
}
