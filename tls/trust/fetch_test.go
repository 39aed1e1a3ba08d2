package trust

import (
	"cmp"
	"crypto/tls"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	berthtls "berth/tls"
)

// bin makes a PATH of what the script and the line need besides a program to fetch with, and nothing else.
func bin(t *testing.T, fetcher string) string {
	t.Helper()
	directory := t.TempDir()
	for _, name := range []string{"sh", "mktemp", "sha256sum", "cut", "id", "cat", "cp", "mv", "rm", "rmdir", "mkdir",
		"chmod", "grep", "tr", fetcher} {
		link, isApplet := strings.CutPrefix(name, "busybox ")
		if isApplet {
			name = "busybox"
		}
		if err := os.Symlink(program(t, name), filepath.Join(directory, link)); err != nil {
			t.Fatal(err)
		}
	}
	return directory
}

// fetchers runs a test with each program that can fetch. The TLS of Debian's busybox knows only signatures with SHA-1,
// which Go refuses; elsewhere, as on Alpine, busybox has OpenSSL do it. Here it is about busybox's options.
func fetchers(t *testing.T, test func(t *testing.T, bin string)) {
	t.Setenv("GODEBUG", "tlssha1=1")
	for _, fetcher := range []string{"curl", "wget", "busybox wget"} {
		t.Run(fetcher, func(t *testing.T) { test(t, bin(t, fetcher)) })
	}
}

// The script fetches the certificate with what there is, and what it gets decides, not who answers.
func TestInstallFetches(t *testing.T) {
	fetchers(t, func(t *testing.T, bin string) {
		for _, listen := range []string{"127.0.0.1:0", "[::1]:0"} {
			n := newNode(t, []string{program(t, "dash")}, "/etc/docker/")
			n.env = []string{"PATH=" + bin}
			address := n.ca.server(t, listen, New(Config{CA: n.ca.pem}))
			out, errOut, err := n.run(address, Checksum(n.ca.pem))
			if err != nil || n.read("/etc/docker/certs.d/"+address+"/ca.crt") != string(n.ca.pem) {
				t.Fatalf("%v\n%s%s", err, out, errOut)
			}
			other := newAuthority(t)
			attacker := n.ca.server(t, listen, New(Config{CA: other.pem}))
			before := n.tree()
			out, errOut, err = n.run(attacker, Checksum(n.ca.pem))
			if err == nil || !strings.Contains(errOut, "refused: the certificate has the checksum "+Checksum(other.pem)) {
				t.Errorf("%v\n%s%s", err, out, errOut)
			}
			if after := n.tree(); !maps.Equal(before, after) {
				t.Errorf("changed %q", changed(before, after))
			}
		}
	})
}

func TestInstallNeedsAFetcher(t *testing.T) {
	n := newNode(t, []string{program(t, "dash")}, "/etc/docker/")
	n.env = []string{"PATH=" + bin(t, "true")}
	if _, errOut, err := n.run(hosts, Checksum(n.ca.pem)); err == nil || !strings.Contains(errOut, "needs curl or wget") {
		t.Errorf("%v: %s", err, errOut)
	}
}

// paste runs a line as a person would.
func (n *node) paste(line, bin string) (string, error) {
	n.t.Helper()
	command := exec.CommandContext(n.t.Context(), n.shell[0], append(n.shell[1:], "-c", line)...)
	command.Env = []string{"PATH=" + bin, "DESTDIR=" + n.root, "TMPDIR=" + cmp.Or(n.temporary, n.t.TempDir()), "HOME=/home/me"}
	out, err := command.CombinedOutput()
	return string(out), err
}

// lines are the lines for a machine with curl, and for one without.
func lines(address string, ca []byte) map[string]string {
	return map[string]string{"curl": Line(address, ca), "wget": wgetLine(address, ca)}
}

func TestPastedLine(t *testing.T) {
	fetchers(t, func(t *testing.T, bin string) {
		eachShell(t, func(t *testing.T, shell []string) {
			for _, listen := range []string{"127.0.0.1:0", "[::1]:0"} {
				n := newNode(t, shell, "/etc/docker/")
				address := n.ca.server(t, listen, New(Config{CA: n.ca.pem}))
				out, err := n.paste(lines(address, n.ca.pem)[fetcherOf(bin)], bin)
				if err != nil || !strings.Contains(out, ": OK\n") || n.read("/etc/docker/certs.d/"+address+"/ca.crt") != string(n.ca.pem) {
					t.Errorf("%v\n%s", err, out)
				}
			}
		})
	})
}

// fetcherOf says which of the fetchers is in a PATH.
func fetcherOf(bin string) string {
	if _, err := os.Stat(filepath.Join(bin, "curl")); err == nil {
		return "curl"
	}
	return "wget"
}

// Whatever an attacker between machine and registry answers, nothing of it is run.
func TestPastedLineRefuses(t *testing.T) {
	registry, attacker := newAuthority(t), newAuthority(t)
	for name, tt := range map[string]struct {
		leaf *authority // who signed the certificate of the server that answers
		ca   []byte     // what it says is the CA
		want string
	}{
		"another CA":                       {attacker, attacker.pem, "FAILED"},
		"the right CA, but another's leaf": {attacker, registry.pem, ""},
		"no certificate":                   {registry, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			fetchers(t, func(t *testing.T, bin string) {
				n := newNode(t, []string{program(t, "dash")}, "/etc/docker/")
				evil := "#!/bin/sh\n: >" + filepath.Join(n.root, "pwned") + "\n"
				address := tt.leaf.server(t, "127.0.0.1:0", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Path == scriptPath {
						_, _ = w.Write([]byte(evil))
						return
					}
					New(Config{CA: tt.ca}).ServeHTTP(w, r)
				}))
				before := n.tree()
				out, err := n.paste(lines(address, registry.pem)[fetcherOf(bin)], bin)
				if err == nil || !strings.Contains(out, tt.want) {
					t.Errorf("%v\n%s", err, out)
				}
				if after := n.tree(); !maps.Equal(before, after) {
					t.Errorf("changed %q\n%s", changed(before, after), out)
				}
			})
		})
	}
}

// sudo puts a stand-in into a PATH that says what it runs.
func (n *node) sudo(bin string) {
	n.t.Helper()
	n.check(os.WriteFile(filepath.Join(bin, "sudo"), []byte("#!/bin/sh\necho sudo runs \"$1\"\nexec \"$@\"\n"), 0o755))
}

// Where there is sudo, the script runs with it, and only the script.
func TestPastedLineUsesSudo(t *testing.T) {
	n := newNode(t, []string{program(t, "dash")}, "/etc/docker/")
	directory := bin(t, "curl")
	n.sudo(directory)
	address := n.ca.server(t, "127.0.0.1:0", New(Config{CA: n.ca.pem}))
	out, err := n.paste(Line(address, n.ca.pem), directory)
	if err != nil || strings.Count(out, "sudo runs sh\n") != 1 {
		t.Errorf("%v\n%s", err, out)
	}
}

// A person's shell has aliases, and sudo is one that people have. The options of the script go to the end of the line.
func TestPastedLineAmongAliases(t *testing.T) {
	n := newNode(t, nil, "/etc/docker/", "/usr/sbin/update-ca-certificates")
	directory := bin(t, "curl")
	n.sudo(directory)
	rc := filepath.Join(t.TempDir(), "rc")
	n.check(os.WriteFile(rc, []byte("alias sudo='sudo ' sh='sh ' curl='curl -v'\n"), 0o600))
	n.shell = []string{program(t, "bash"), "--rcfile", rc, "-i"}
	address := n.ca.server(t, "127.0.0.1:0", New(Config{CA: n.ca.pem}))
	installed := filepath.Join(n.root, "etc/docker/certs.d", address, "ca.crt")
	for _, tt := range []struct {
		option, want string
		installed    bool
	}{{"", "installed  ", true}, {" --system", "WARNING: every program", true}, {" --uninstall", "removed    ", false}} {
		out, err := n.paste(Line(address, n.ca.pem)+tt.option, directory)
		_, missing := os.Stat(installed)
		if err != nil || !strings.Contains(out, "sudo runs sh\n") || !strings.Contains(out, tt.want) || (missing == nil) != tt.installed {
			t.Errorf("with%s: %v\n%s", tt.option, err, out)
		}
	}
}

// Neither a line that ends well nor one that fails leaves what it fetched, whatever TMPDIR is called.
func TestPastedLineCleansUp(t *testing.T) {
	t.Setenv("GODEBUG", "tlssha1=1") // see fetchers
	eachShell(t, func(t *testing.T, shell []string) {
		n := newNode(t, shell, "/etc/docker/")
		address := n.ca.server(t, "127.0.0.1:0", New(Config{CA: n.ca.pem}))
		n.temporary = filepath.Join(t.TempDir(), "a b*")
		n.check(os.Mkdir(n.temporary, 0o755))
		for fetcher, line := range lines(address, n.ca.pem) {
			for arguments, works := range map[string]bool{"": true, " --force": false} {
				out, err := n.paste(line+arguments, bin(t, fetcher))
				left, readErr := os.ReadDir(n.temporary)
				n.check(readErr)
				if (err == nil) != works || len(left) != 0 || !strings.Contains(out, ": OK\n") {
					t.Errorf("%s with%s: %v, and it leaves %v\n%s", fetcher, arguments, err, left, out)
				}
			}
		}
	})
}

// Who asks in plain HTTP gets the line inside JSON, and people paste what curl shows them.
func TestLineFromRawBody(t *testing.T) {
	n := newNode(t, []string{program(t, "dash")}, "/etc/docker/")
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	n.check(err)
	const before = "do this: "
	advice := func(host string) string { return before + Line(host, n.ca.pem) }
	config := &tls.Config{Certificates: []tls.Certificate{n.ca.leaf(t)}}
	server := &http.Server{Handler: New(Config{CA: n.ca.pem}), ErrorLog: log.New(io.Discard, "", 0)}
	go func() { _ = server.Serve(berthtls.NewListener(listener, config, advice)) }()
	t.Cleanup(func() { _ = server.Close() })
	response, err := http.Get("http://" + listener.Addr().String() + "/v2/")
	n.check(err)
	defer response.Body.Close()
	_, line, _ := strings.Cut(text(t, response), before)
	line, _, _ = strings.Cut(line, `"`)
	out, err := n.paste(line, bin(t, "curl"))
	if err != nil || n.read("/etc/docker/certs.d/"+listener.Addr().String()+"/ca.crt") != string(n.ca.pem) {
		t.Errorf("%v\n%s\n%s", err, line, out)
	}
}
