package tls

import (
	"crypto/tls"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestOff(t *testing.T) {
	source := open(t, Config{Mode: ModeOff, MinimumTLS: "what"})
	source.Learn(calling("nas2"))
	source.Run(t.Context())
	if source.Config() != nil || source.Leaf() != nil || source.CA() != nil {
		t.Errorf("got %+v", source)
	}
	if _, _, err := source.Issue([]string{"a"}, time.Now()); err == nil {
		t.Error("a certificate was issued")
	}
}

func TestSettings(t *testing.T) {
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
			got := open(t, test.c).Config()
			if got.MinVersion != test.want.MinVersion || !slices.Equal(got.NextProtos, test.want.NextProtos) ||
				!slices.Equal(got.CipherSuites, test.want.CipherSuites) || got.ClientAuth != tls.NoClientCert {
				t.Errorf("got %+v", got)
			}
		})
	}
}

func TestMode(t *testing.T) {
	for want, c := range map[string]Config{
		ModeAuto:  {},
		ModeFiles: {Key: "k", ACME: ACME{Hosts: []string{"a.example"}}},
		ModeACME:  {ACME: ACME{Hosts: []string{"a.example"}}},
		ModeOff:   {Mode: ModeOff, Certificate: "c"},
	} {
		if got := c.mode(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	certificate, key := writePair(t, template{})
	_, otherKey := writePair(t, template{})
	text := filepath.Join(t.TempDir(), "text")
	write(t, text, []byte("no PEM"))
	acme := func(hosts ...string) Config {
		return Config{Directory: t.TempDir(), Mode: ModeACME, ACME: ACME{Hosts: hosts}}
	}
	auto := func(c Config) Config { c.Directory = t.TempDir(); return c }
	for _, test := range []struct {
		name    string
		c       Config
		message string
	}{
		{"unknown mode", Config{Mode: "on"}, `http.tls.mode: "on" is unknown`},
		{"no key", Config{Certificate: certificate}, "needs both http.tls.certificate and http.tls.key"},
		{"no certificate", Config{Key: key}, "needs both http.tls.certificate and http.tls.key"},
		{"missing certificate", Config{Certificate: text + "2", Key: key}, "http.tls.certificate: open " + text + "2: no such file"},
		{"missing key", Config{Certificate: certificate, Key: text + "2"}, "http.tls.key: open " + text + "2: no such file"},
		{"certificate is no PEM", Config{Certificate: text, Key: key}, "failed to find any PEM data in certificate"},
		{"key is no PEM", Config{Certificate: certificate, Key: text}, "failed to find any PEM data in key"},
		{"switched", Config{Certificate: key, Key: certificate}, "may have been switched"},
		{"another's key", Config{Certificate: certificate, Key: otherKey}, "private key does not match public key"},
		{"no directory", Config{}, "needs a directory"},
		{"directory is a file", Config{Directory: text}, "read the CA"},
		{"directory can't be made", Config{Directory: "/proc/none"}, "make a CA in /proc/none"},
		{"host with a port", auto(Config{Hosts: []string{"example.com:5000"}}), `http.tls.hosts: "example.com:5000"`},
		{"empty host", auto(Config{Hosts: []string{""}}), `http.tls.hosts: ""`},
		{"empty label", auto(Config{Hosts: []string{"a..b"}}), `http.tls.hosts: "a..b"`},
		{"long label", auto(Config{Hosts: []string{strings.Repeat("a", 64)}}), `http.tls.hosts: "aaa`},
		{"long host", auto(Config{Hosts: []string{strings.Repeat("a.", 127) + "a"}}), `http.tls.hosts: "a.a`},
		{"address with a zone", auto(Config{Hosts: []string{"fe80::1%eth0"}}), `http.tls.hosts: "fe80::1%eth0"`},
		{"old version", auto(Config{MinimumTLS: "tls1.1"}), "http.tls.minimumtls: tls1.1 is insecure"},
		{"unknown version", auto(Config{MinimumTLS: "1.2"}), `http.tls.minimumtls: "1.2" is unknown`},
		{"insecure suite", auto(Config{CipherSuites: []string{"TLS_RSA_WITH_RC4_128_SHA"}}), "http.tls.ciphersuites"},
		{"CA that is not there", auto(Config{AuthorityCertificate: text + "2", AuthorityKey: key}), "http.tls.auto.certificate: open"},
		{"CA's key that is not there", auto(Config{AuthorityCertificate: certificate, AuthorityKey: text + "2"}), "http.tls.auto.key: open"},
		{"CA without a key", auto(Config{AuthorityCertificate: certificate}), "http.tls.auto.key: open"},
		{"CA that is none", auto(Config{AuthorityCertificate: certificate, AuthorityKey: key}), "is not the certificate of a CA"},
		{"CA with another's key", auto(Config{AuthorityCertificate: certificate, AuthorityKey: otherKey}), "private key does not match"},
		{"ACME without hosts", acme(), "needs http.tls.letsencrypt.hosts"},
		{"ACME for an address", acme("192.0.2.1"), `http.tls.letsencrypt.hosts: "192.0.2.1"`},
		{"ACME for a bare name", acme("nas"), `http.tls.letsencrypt.hosts: "nas"`},
		{"ACME for a wildcard", acme("*.example.com"), `http.tls.letsencrypt.hosts: "*.example.com"`},
		{"ACME for nonsense", acme("a b.example"), `http.tls.letsencrypt.hosts: "a b.example"`},
		{"ACME's cache is a file", Config{ACME: ACME{Hosts: []string{"a.example"}, CacheFile: text}}, "http.tls.letsencrypt.cachefile: " + text + " is a file"},
		{"ACME's cache can't be made", Config{ACME: ACME{Hosts: []string{"a.example"}, CacheFile: "/proc/none/a"}}, "http.tls.letsencrypt.cachefile: mkdir"},
		{"clients without CAs", auto(Config{ClientAuth: "request-client-cert"}), "needs http.tls.clientcas"},
		{"clients' CA not there", auto(Config{ClientCAs: []string{text + "2"}}), "http.tls.clientcas: open"},
		{"clients' CA is no PEM", auto(Config{ClientCAs: []string{text}}), "http.tls.clientcas: " + text + " holds no certificate"},
		{"unknown client auth", auto(Config{ClientCAs: []string{certificate}, ClientAuth: "always"}), `http.tls.clientauth: "always" is unknown`},
	} {
		t.Run(test.name, func(t *testing.T) {
			source, err := openWith(test.c, newFake(t).system(), quiet())
			if err == nil || !strings.Contains(err.Error(), test.message) {
				t.Errorf("got error %v, want %q in it", err, test.message)
			}
			if source != nil {
				t.Errorf("got %+v beside the error", source)
			}
		})
	}
}

func TestKeysArePrivate(t *testing.T) {
	c := Config{Directory: filepath.Join(t.TempDir(), "a", "tls")}
	source := open(t, c)
	source.Learn(calling("nas2"))
	for path, want := range map[string]fs.FileMode{
		c.Directory: fs.ModeDir | 0o700, c.path(keyFile): 0o600, c.path(authorityKeyFile): 0o600,
		c.path(certificateFile): 0o644, c.path(authorityFile): 0o644, c.path(learntFile): 0o644,
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
	if err != nil || len(entries) != 5 {
		t.Errorf("the directory holds %v, %v", entries, err)
	}
}

// TestKeysBecomePrivate restores a backup that forgot the modes.
func TestKeysBecomePrivate(t *testing.T) {
	c := Config{Directory: t.TempDir()}
	open(t, c)
	log, logger := newLog()
	for _, name := range []string{keyFile, authorityKeyFile} {
		if err := os.Chmod(c.path(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	openOn(t, newFake(t), c, logger)
	for _, name := range []string{keyFile, authorityKeyFile} {
		if info, err := os.Stat(c.path(name)); err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
		wantLog(t, log, c.path(name))
	}
}
