package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"berth/config"
)

// inData are the variables of a registry with a data directory.
func inData(directory string, more ...string) []string {
	return append([]string{"REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY=" + directory}, more...)
}

func TestCertShow(t *testing.T) {
	for _, tt := range []struct {
		http config.HTTP
		want string
	}{
		{config.HTTP{Addr: "0123456789ab:5000"}, ""},
		{config.HTTP{Addr: "0123456789ab:5000", TLS: config.TLS{Hosts: []string{"pi.lan"}}}, "0123456789ab:5000"},
		{config.HTTP{Addr: "0123456789ab.lan:5000"}, "0123456789ab.lan:5000"},
		{config.HTTP{Addr: "0123456789pi:5000"}, "0123456789pi:5000"},
		{config.HTTP{Net: "unix", Addr: "/run/r.sock"}, ""},
	} {
		if got := publicAddress(tt.http); got != tt.want {
			t.Errorf("%+v is public as %q, want %q", tt.http, got, tt.want)
		}
	}
	if got := reachableAs(config.HTTP{Addr: "0123456789ab:0"}, &net.TCPAddr{Port: 5000}); got != "HOST:PORT" {
		t.Errorf("a container is greeted as %s", got)
	}
	data := t.TempDir()
	trusted(t, data)
	environ := inData(data, "REGISTRY_HTTP_HOST=https://registry.lan:8443")
	out, _, err := command(t, environ, "cert", "show")
	if err != nil {
		t.Fatal(err)
	}
	var report certificateReport
	asJSON, _, err := command(t, environ, "cert", "show", "--json")
	if err == nil {
		err = json.Unmarshal([]byte(asJSON), &report)
	}
	if err != nil || len(report.Certificates) != 1 || report.CA == nil {
		t.Fatalf("%v: %s", err, asJSON)
	}
	leaf := report.Certificates[0]
	if report.Mode != "auto" || report.Address != "registry.lan:8443" || leaf.Issuer != report.CA.Subject || leaf.NotAfter.Before(time.Now()) {
		t.Errorf("got %+v", report)
	}
	for _, want := range []string{
		filepath.Join(data, "tls", "certificate.pem"), filepath.Join(data, "tls", "ca.pem"), leaf.Subject, leaf.Fingerprint,
		report.CA.Fingerprint, report.CA.Checksum, "127.0.0.1, ::1", leaf.NotAfter.Format(time.DateOnly), " days left)",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
	if !strings.HasSuffix(out, "\n"+report.Trust+"\n") || !strings.Contains(report.Trust, "https://registry.lan:8443/trust/ca.crt && ") {
		t.Errorf("the last line is not the trust line: %s", out)
	}
	ca, _, err := command(t, environ, "cert", "ca")
	if err != nil || !strings.Contains(report.Trust, trustSum(ca)) {
		t.Errorf("the trust line is not for the CA that cert ca prints, %v:\n%s%s", err, ca, report.Trust)
	}
	if strings.Contains(out+asJSON+ca, "PRIVATE") {
		t.Error("a key is shown")
	}
}

// Columns are aligned: values begin where the others do.
func TestCertShowIsAligned(t *testing.T) {
	data := t.TempDir()
	trusted(t, data)
	out, _, err := command(t, inData(data), "cert", "show")
	if err != nil {
		t.Fatal(err)
	}
	table, _, _ := strings.Cut(out, "\n\n")
	lines := strings.Split(table, "\n")
	begin := strings.Index(lines[0], "auto")
	for _, line := range lines {
		if line[begin-2:begin] != "  " || line[begin] == ' ' {
			t.Errorf("%q does not begin at column %d", line, begin)
		}
	}
}

func TestCertShowOtherModes(t *testing.T) {
	data := t.TempDir()
	trusted(t, data)
	issued := t.TempDir()
	if _, _, err := command(t, inData(data), "cert", "issue", "--hosts", "files.lan", "--out", issued); err != nil {
		t.Fatal(err)
	}
	pair := []string{"REGISTRY_HTTP_TLS_CERTIFICATE=" + filepath.Join(issued, "certificate.pem"), "REGISTRY_HTTP_TLS_KEY=" + filepath.Join(issued, "key.pem")}
	acme := filepath.Join(data, "tls", "acme")
	if err := os.MkdirAll(acme, 0o700); err != nil {
		t.Fatal(err)
	}
	// An ACME cache has the key before the certificate.
	var cached []byte
	for _, name := range []string{"key.pem", "certificate.pem"} {
		content, err := os.ReadFile(filepath.Join(issued, name))
		if err != nil {
			t.Fatal(err)
		}
		cached = append(cached, content...)
	}
	if err := os.WriteFile(filepath.Join(acme, "files.lan"), cached, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		environ []string
		want    string
		wantErr string
	}{
		"files":              {pair, "files.lan", ""},
		"acme":               {[]string{"REGISTRY_HTTP_TLS_LETSENCRYPT_HOSTS_0=Files.lan"}, "files.lan", ""},
		"acme, nothing yet":  {[]string{"REGISTRY_HTTP_TLS_LETSENCRYPT_HOSTS_0=other.lan"}, "", "there is no certificate yet"},
		"off":                {[]string{"REGISTRY_HTTP_TLS_MODE=off"}, "", "http.tls.mode is off"},
		"files without them": {[]string{"REGISTRY_HTTP_TLS_CERTIFICATE=/x", "REGISTRY_HTTP_TLS_KEY=/y"}, "", "/x"},
		"files with a key":   {[]string{"REGISTRY_HTTP_TLS_CERTIFICATE=" + filepath.Join(issued, "key.pem"), "REGISTRY_HTTP_TLS_KEY=/y"}, "", "holds no certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			out, _, err := command(t, inData(data, tt.environ...), "cert", "show")
			if tt.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tt.wantErr) {
					t.Errorf("it is %v\n%s", err, out)
				}
				return
			}
			if err != nil || !strings.Contains(out, tt.want) || strings.Contains(out, "sha256sum") || strings.Contains(out, "PRIVATE") {
				t.Errorf("it is %v\n%s", err, out)
			}
		})
	}
	for _, args := range [][]string{{"cert", "ca"}, {"cert", "issue", "--hosts", "a", "--out", t.TempDir()}} {
		if _, _, err := command(t, inData(data, pair...), args...); err == nil || !strings.Contains(err.Error(), "only auto has a CA") {
			t.Errorf("%v with files: %v", args, err)
		}
		if _, _, err := command(t, inData(t.TempDir()), args...); err == nil || !strings.Contains(err.Error(), "there is no CA yet") {
			t.Errorf("%v before the first start: %v", args, err)
		}
	}
}

func TestCertIssue(t *testing.T) {
	data, out := t.TempDir(), t.TempDir()
	trusted(t, data)
	environ := inData(data)
	said, _, err := command(t, environ, "cert", "issue", "--hosts", "mirror.lan,10.0.0.5", "--out", out)
	if err != nil || !strings.Contains(said, filepath.Join(out, "key.pem")) {
		t.Fatalf("%v: %s", err, said)
	}
	certificatePath, keyPath := filepath.Join(out, "certificate.pem"), filepath.Join(out, "key.pem")
	pair, err := tls.LoadX509KeyPair(certificatePath, keyPath)
	if err != nil {
		t.Fatal(err)
	}
	ca, _, err := command(t, environ, "cert", "ca")
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(ca))
	for _, host := range []string{"mirror.lan", "10.0.0.5"} {
		if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: pool, DNSName: host}); err != nil {
			t.Errorf("for %s: %v", host, err)
		}
	}
	if info, err := os.Stat(keyPath); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key's file: %v, %v", info.Mode(), err)
	}
	before, err := os.ReadFile(keyPath)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(certificatePath); err != nil {
		t.Fatal(err)
	}
	if _, _, err := command(t, environ, "cert", "issue", "--hosts", "a", "--out", out); err == nil || !strings.Contains(err.Error(), "--force") {
		t.Errorf("over a key that is there: %v", err)
	}
	if after, err := os.ReadFile(keyPath); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the key has changed, %v", err)
	}
	if _, err := os.Stat(certificatePath); !os.IsNotExist(err) {
		t.Errorf("half a pair was written: %v", err)
	}
	if err := os.Chmod(keyPath, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, _, err := command(t, environ, "cert", "issue", "--hosts", "a", "--out", out, "--force"); err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(keyPath); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the replaced key's file: %v, %v", info.Mode(), err)
	}
	made := filepath.Join(out, "new", "directory")
	if _, _, err := command(t, environ, "cert", "issue", "--hosts", "a", "--out", made); err != nil {
		t.Error(err)
	}
	// A certificate that can't be replaced leaves the key as it is.
	before, err = os.ReadFile(filepath.Join(made, "key.pem"))
	if err := errors.Join(err, os.Remove(filepath.Join(made, "certificate.pem")), os.Mkdir(filepath.Join(made, "certificate.pem"), 0o700)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := command(t, environ, "cert", "issue", "--hosts", "a", "--out", made, "--force"); err == nil {
		t.Error("a directory was replaced")
	}
	if after, err := os.ReadFile(filepath.Join(made, "key.pem")); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the key has changed, %v", err)
	}
	for _, args := range [][]string{{}, {"--hosts", "a b"}, {"--hosts", ""}, {"--hosts", "a", "--out", filepath.Join(keyPath, "below")}} {
		if said, _, err := command(t, environ, append([]string{"cert", "issue", "--out", t.TempDir()}, args...)...); err == nil {
			t.Errorf("%q: %s", args, said)
		}
	}
}

func TestTrustAddress(t *testing.T) {
	for _, tt := range []struct {
		http config.HTTP
		want string
	}{
		{config.HTTP{Host: "https://registry.lan:8443", Addr: ":5000"}, "registry.lan:8443"},
		{config.HTTP{Host: "https://registry.lan", Addr: ":5000"}, "registry.lan"},
		{config.HTTP{Addr: "10.0.0.5:5000"}, "10.0.0.5:5000"},
		{config.HTTP{Addr: "10.0.0.5:https"}, "10.0.0.5:443"},
		{config.HTTP{Addr: "[fd00::5]:5000"}, "[fd00::5]:5000"},
		{config.HTTP{Addr: ":5000", TLS: config.TLS{Hosts: []string{"pi.lan", "pi"}}}, "pi.lan:5000"},
		{config.HTTP{Addr: "0.0.0.0:5000", TLS: config.TLS{Hosts: []string{"fd00::5"}}}, "[fd00::5]:5000"},
		{config.HTTP{Net: "unix", Addr: "/run/r.sock"}, ""},
	} {
		if got := trustAddress(tt.http); got != tt.want {
			t.Errorf("%+v is %q, want %q", tt.http, got, tt.want)
		}
	}
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	if got := trustAddress(config.HTTP{Addr: ":5000"}); got != net.JoinHostPort(strings.ToLower(name), "5000") {
		t.Errorf("by default it is %q", got)
	}
	data := t.TempDir()
	trusted(t, data)
	if out, _, err := command(t, inData(data), "cert", "show", "--address", "10.0.0.5"); err != nil || !strings.Contains(out, "https://10.0.0.5:443/trust/ca.crt") {
		t.Errorf("--address is not heard: %v\n%s", err, out)
	}
	if _, _, err := command(t, inData(data), "cert", "show", "--address", "a b"); err == nil || !strings.Contains(err.Error(), "--address") {
		t.Errorf("a bad --address: %v", err)
	}
	if out, _, err := command(t, inData(data, "REGISTRY_HTTP_NET=unix", "REGISTRY_HTTP_ADDR=/run/r.sock"), "cert", "show"); err != nil || !strings.Contains(out, "https://HOST:PORT/trust") {
		t.Errorf("a socket: %v\n%s", err, out)
	}
}

// TestCertLine prints the line alone, or nothing that a shell could take for one.
func TestCertLine(t *testing.T) {
	directory := t.TempDir()
	serve(t, directory).end(t)
	line, _, err := command(t, inData(directory), "cert", "show", "--line", "--address", "192.168.1.18:5000")
	if err != nil || !strings.HasSuffix(line, "\n") || strings.Count(line, "\n") != 1 || !strings.Contains(line, "192.168.1.18:5000") {
		t.Errorf("got %q, %v", line, err)
	}
	files := t.TempDir()
	if _, _, err := command(t, inData(directory), "cert", "issue", "--hosts", "a", "--out", files); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		environ []string
		address string
		want    string
	}{
		"files":    {[]string{"REGISTRY_HTTP_TLS_CERTIFICATE=" + filepath.Join(files, "certificate.pem"), "REGISTRY_HTTP_TLS_KEY=" + filepath.Join(files, "key.pem")}, "a:5000", "no CA of its own"},
		"off":      {[]string{"REGISTRY_HTTP_TLS_MODE=off"}, "a:5000", "http.tls.mode is off"},
		"unnamed":  {nil, "registry.home.arpa:5000", "add it to http.tls.hosts"},
		"unlearnt": {[]string{"REGISTRY_HTTP_TLS_LEARN=false"}, "192.168.1.18:5000", "add it to http.tls.hosts"},
		"unknown":  {[]string{"REGISTRY_HTTP_ADDR=0123456789ab:5000"}, "", "say it with --address"},
		"closed":   {[]string{"REGISTRY_HTTP_TLS_CLIENTCAS_0=" + filepath.Join(files, "certificate.pem")}, "a:5000", "without a client certificate"},
	} {
		line, _, err := command(t, inData(directory, test.environ...), "cert", "show", "--line", "--address", test.address)
		if line != "" || err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %q, %v", name, line, err)
		}
	}
	if err := os.Remove(filepath.Join(directory, "tls", "ca.pem")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := command(t, inData(directory), "cert", "ca"); err == nil || !strings.Contains(err.Error(), "ca.pem is gone") {
		t.Errorf("without ca.pem: %v", err)
	}
}
