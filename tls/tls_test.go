package tls

import (
	"bytes"
	"crypto/tls"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func open(t *testing.T, c Config) *tls.Config {
	t.Helper()
	config, err := Open(c, quiet())
	if err != nil {
		t.Fatal(err)
	}
	return config
}

func TestOpenOff(t *testing.T) {
	if config := open(t, Config{Mode: ModeOff, MinimumTLS: "what"}); config != nil {
		t.Errorf("got %+v", config)
	}
}

func TestOpenSettings(t *testing.T) {
	for _, test := range []struct {
		name string
		c    Config
		want *tls.Config
	}{
		{"zero", Config{}, &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}}},
		{"all", Config{MinimumTLS: "tls1.3", HTTP2Disabled: true, CipherSuites: []string{"TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"}},
			&tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{"http/1.1"},
				CipherSuites: []uint16{tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.c.Directory = t.TempDir()
			got := open(t, test.c)
			if got.MinVersion != test.want.MinVersion || !slices.Equal(got.NextProtos, test.want.NextProtos) ||
				!slices.Equal(got.CipherSuites, test.want.CipherSuites) {
				t.Errorf("got version %x, protocols %v, suites %v", got.MinVersion, got.NextProtos, got.CipherSuites)
			}
		})
	}
}

// newPair writes a certificate and its key into a new directory.
func newPair(t *testing.T, now time.Time) (certificate, key string) {
	t.Helper()
	c := Config{Directory: t.TempDir()}
	names, err := c.names()
	if err != nil {
		t.Fatal(err)
	}
	certificatePEM, keyPEM, err := generate(names, now)
	if err != nil {
		t.Fatal(err)
	}
	write(t, c.certificatePath(), certificatePEM)
	write(t, c.keyPath(), keyPEM)
	return c.certificatePath(), c.keyPath()
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestOpenFiles(t *testing.T) {
	certificate, key := newPair(t, time.Now())
	for _, mode := range []string{"", ModeFiles} {
		config := open(t, Config{Mode: mode, Certificate: certificate, Key: key})
		if len(config.Certificates) != 1 {
			t.Errorf("mode %q: got %d certificates", mode, len(config.Certificates))
		}
	}
}

func TestOpenFilesWarnsOfExpiry(t *testing.T) {
	certificate, key := newPair(t, time.Now().Add(-lifetime-time.Minute))
	var log bytes.Buffer
	if _, err := Open(Config{Certificate: certificate, Key: key}, slog.New(slog.NewTextHandler(&log, nil))); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), "expired") || !strings.Contains(log.String(), certificate) {
		t.Errorf("logged %q", log.String())
	}
}

func TestOpenRefuses(t *testing.T) {
	certificate, key := newPair(t, time.Now())
	_, otherKey := newPair(t, time.Now())
	text := filepath.Join(t.TempDir(), "text")
	write(t, text, []byte("no PEM"))
	for _, test := range []struct {
		name    string
		c       Config
		message string
	}{
		{"unknown mode", Config{Mode: "on"}, `http.tls.mode: "on" is unknown`},
		{"no key", Config{Certificate: certificate}, "needs both http.tls.certificate and http.tls.key"},
		{"no certificate", Config{Key: key}, "needs both http.tls.certificate and http.tls.key"},
		{"missing certificate", Config{Certificate: text + "2", Key: key}, "open " + text + "2: no such file"},
		{"missing key", Config{Certificate: certificate, Key: text + "2"}, "open " + text + "2: no such file"},
		{"certificate is no PEM", Config{Certificate: text, Key: key}, "failed to find any PEM data in certificate"},
		{"key is no PEM", Config{Certificate: certificate, Key: text}, "failed to find any PEM data in key"},
		{"switched", Config{Certificate: key, Key: certificate}, "may have been switched"},
		{"another's key", Config{Certificate: certificate, Key: otherKey}, "private key does not match public key"},
		{"no directory", Config{}, "needs a directory"},
		{"directory is a file", Config{Directory: text}, "read TLS certificate"},
		{"directory can't be made", Config{Directory: "/proc/none"}, "make a TLS certificate in /proc/none"},
		{"host with a port", Config{Directory: t.TempDir(), Hosts: []string{"example.com:5000"}}, `http.tls.hosts: "example.com:5000"`},
		{"empty host", Config{Directory: t.TempDir(), Hosts: []string{""}}, `http.tls.hosts: ""`},
		{"empty label", Config{Directory: t.TempDir(), Hosts: []string{"a..b"}}, `http.tls.hosts: "a..b"`},
		{"long label", Config{Directory: t.TempDir(), Hosts: []string{strings.Repeat("a", 64)}}, `http.tls.hosts: "aaa`},
		{"long host", Config{Directory: t.TempDir(), Hosts: []string{strings.Repeat("a.", 127) + "a"}}, `http.tls.hosts: "a.a`},
		{"address with a zone", Config{Directory: t.TempDir(), Hosts: []string{"fe80::1%eth0"}}, `http.tls.hosts: "fe80::1%eth0"`},
		{"old version", Config{Directory: t.TempDir(), MinimumTLS: "tls1.1"}, "http.tls.minimumtls: tls1.1 is insecure"},
		{"unknown version", Config{Directory: t.TempDir(), MinimumTLS: "1.2"}, `http.tls.minimumtls: "1.2" is unknown`},
		{"insecure suite", Config{Directory: t.TempDir(), CipherSuites: []string{"TLS_RSA_WITH_RC4_128_SHA"}}, "http.tls.ciphersuites"},
	} {
		t.Run(test.name, func(t *testing.T) {
			config, err := Open(test.c, quiet())
			if err == nil || !strings.Contains(err.Error(), test.message) {
				t.Errorf("got error %v, want %q in it", err, test.message)
			}
			if config != nil {
				t.Errorf("got %+v beside the error", config)
			}
		})
	}
}

func TestAutoKeepsThePairPrivate(t *testing.T) {
	c := Config{Directory: filepath.Join(t.TempDir(), "a", "tls")}
	open(t, c)
	for path, want := range map[string]fs.FileMode{
		c.Directory: fs.ModeDir | 0o700, c.keyPath(): 0o600, c.certificatePath(): 0o644,
	} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != want {
			t.Errorf("%s: mode %v, want %v", path, info.Mode(), want)
		}
	}
	entries, err := os.ReadDir(c.Directory)
	if err != nil || len(entries) != 2 {
		t.Errorf("the directory holds %v, %v", entries, err)
	}
}

func TestAutoReuses(t *testing.T) {
	c := Config{Directory: t.TempDir(), Hosts: []string{"Registry.Example.", "*.example.com", "192.0.2.1", "::ffff:192.0.2.2", "2001:db8::1"}}
	first := open(t, c)
	var log bytes.Buffer
	for _, hosts := range [][]string{c.Hosts, {"registry.example"}, nil} {
		c.Hosts = hosts
		again, err := Open(c, slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(first.Certificates[0].Certificate[0], again.Certificates[0].Certificate[0]) {
			t.Errorf("with hosts %v: another certificate", hosts)
		}
	}
	if log.Len() > 0 {
		t.Errorf("logged %s", log.String())
	}
}

func TestAutoRenews(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(t *testing.T, c *Config)
		reason string
	}{
		{"new host", func(t *testing.T, c *Config) { c.Hosts = append(c.Hosts, "new.example") }, "does not name new.example"},
		{"new address", func(t *testing.T, c *Config) { c.Hosts = append(c.Hosts, "192.0.2.9") }, "does not name 192.0.2.9"},
		{"key is gone", func(t *testing.T, c *Config) {
			if err := os.Remove(c.keyPath()); err != nil {
				t.Fatal(err)
			}
		}, "its key is gone"},
		{"key of another", func(t *testing.T, c *Config) {
			_, key := newPair(t, time.Now())
			if err := os.Rename(key, c.keyPath()); err != nil {
				t.Fatal(err)
			}
		}, "is damaged"},
		{"damaged", func(t *testing.T, c *Config) { write(t, c.certificatePath(), []byte("-----BEGIN")) }, "is damaged"},
		{"expires soon", func(t *testing.T, c *Config) {
			certificate, _ := newPair(t, time.Now().Add(renewal-lifetime-time.Minute))
			c.Directory = filepath.Dir(certificate)
		}, "expires soon"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := Config{Directory: t.TempDir(), Hosts: []string{"registry.example"}}
			before := open(t, c)
			test.change(t, &c)
			var log bytes.Buffer
			after, err := Open(c, slog.New(slog.NewTextHandler(&log, nil)))
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Equal(before.Certificates[0].Certificate[0], after.Certificates[0].Certificate[0]) {
				t.Error("the certificate is still the old one")
			}
			if !strings.Contains(log.String(), test.reason) {
				t.Errorf("logged %q, want %q in it", log.String(), test.reason)
			}
			if strings.Contains(log.String(), "PRIVATE") {
				t.Error("the key was logged")
			}
			kept := open(t, c)
			if !bytes.Equal(kept.Certificates[0].Certificate[0], after.Certificates[0].Certificate[0]) {
				t.Error("the new certificate was not kept")
			}
		})
	}
}

func TestAutoKeepsAYoungCertificate(t *testing.T) {
	certificate, _ := newPair(t, time.Now().Add(renewal-lifetime+time.Hour))
	before, err := os.ReadFile(certificate)
	if err != nil {
		t.Fatal(err)
	}
	open(t, Config{Directory: filepath.Dir(certificate)})
	after, err := os.ReadFile(certificate)
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("the certificate was replaced: %v", err)
	}
}
