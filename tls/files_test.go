package tls

import (
	"crypto/x509"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func named(hosts ...string) template {
	return template{Certificate: x509.Certificate{DNSNames: hosts, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}}
}

// place is where a test's server finds its files.
type place struct{ certificate, key string }

func newPlace(t *testing.T) place {
	directory := t.TempDir()
	return place{filepath.Join(directory, "tls.crt"), filepath.Join(directory, "tls.key")}
}

// put overwrites the files with a new pair.
func (p place) put(t *testing.T, tpl template) {
	t.Helper()
	certificate, key := writePair(t, tpl)
	write(t, p.certificate, read(t, certificate))
	write(t, p.key, read(t, key))
}

func TestFilesServe(t *testing.T) {
	p := newPlace(t)
	p.put(t, named("registry.example"))
	source := open(t, Config{Certificate: p.certificate, Key: p.key})
	source.Learn(calling("nas"))
	if source.CA() != nil {
		t.Error("there is a CA")
	}
	if _, _, err := source.Issue([]string{"a"}, time.Now()); err == nil {
		t.Error("a certificate was issued")
	}
	c := client(t, trusting(t, read(t, p.certificate)), serve(t, with(source)), true)
	if status, _ := get(t, c, "https://registry.example/"); status != http.StatusOK {
		t.Errorf("got %d", status)
	}
}

// TestReload replaces the files in every way that is in use while a source runs.
func TestReload(t *testing.T) {
	for name, replace := range map[string]func(t *testing.T, p place){
		"overwritten": func(t *testing.T, p place) { p.put(t, named("new.example")) },
		"renamed": func(t *testing.T, p place) {
			certificate, key := writePair(t, named("new.example"))
			rename(t, certificate, p.certificate)
			rename(t, key, p.key)
		},
		"one after the other": func(t *testing.T, p place) {
			certificate, key := writePair(t, named("new.example"))
			write(t, p.certificate, read(t, certificate))
			time.Sleep(pollInterval / 2)
			write(t, p.key, read(t, key))
		},
		"removed first": func(t *testing.T, p place) {
			remove(t, p.certificate, p.key)
			time.Sleep(10 * pollInterval)
			p.put(t, named("new.example"))
		},
		"with the same time and length": func(t *testing.T, p place) {
			info, err := os.Stat(p.certificate)
			if err != nil {
				t.Fatal(err)
			}
			p.put(t, named("new.example"))
			if err := os.Chtimes(p.certificate, info.ModTime(), info.ModTime()); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t)
			p.put(t, named("old.example"))
			testReload(t, p, func(t *testing.T) { replace(t, p) })
		})
	}
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

// TestReloadBySymlinks swaps links as certbot and Kubernetes do.
func TestReloadBySymlinks(t *testing.T) {
	link := func(t *testing.T, target, name string) {
		t.Helper()
		if err := os.Symlink(target, name+".new"); err != nil {
			t.Fatal(err)
		}
		rename(t, name+".new", name)
	}
	t.Run("certbot", func(t *testing.T) {
		p := newPlace(t)
		use := func(t *testing.T, host string) {
			certificate, key := writePair(t, named(host))
			link(t, certificate, p.certificate)
			link(t, key, p.key)
		}
		use(t, "old.example")
		testReload(t, p, func(t *testing.T) { use(t, "new.example") })
	})
	t.Run("Kubernetes", func(t *testing.T) {
		p := newPlace(t)
		mount := filepath.Dir(p.certificate)
		use := func(t *testing.T, host string) {
			certificate, key := writePair(t, named(host))
			version := filepath.Dir(certificate)
			rename(t, certificate, filepath.Join(version, "tls.crt"))
			rename(t, key, filepath.Join(version, "tls.key"))
			link(t, version, filepath.Join(mount, "..data"))
		}
		use(t, "old.example")
		link(t, filepath.Join("..data", "tls.crt"), p.certificate)
		link(t, filepath.Join("..data", "tls.key"), p.key)
		testReload(t, p, func(t *testing.T) { use(t, "new.example") })
	})
}

// testReload runs a source on files for old.example, and expects new.example once they are replaced.
func testReload(t *testing.T, p place, replace func(t *testing.T)) {
	synctest.Test(t, func(t *testing.T) {
		log := &logBuffer{}
		source, stop := running(t, &fake{}, Config{Certificate: p.certificate, Key: p.key}, log)
		defer stop()
		time.Sleep(time.Hour)
		if strings.Contains(log.String(), "reloaded") {
			t.Errorf("nothing had changed, and logged was\n%s", log)
		}
		if err := source.Leaf().VerifyHostname("old.example"); err != nil {
			t.Fatal(err)
		}
		replace(t)
		time.Sleep(3 * pollInterval)
		if err := source.Leaf().VerifyHostname("new.example"); err != nil {
			t.Error(err)
		}
		wantLog(t, log, "TLS certificate reloaded", "new.example")
	})
}

// TestBrokenReload puts what can't be used in the place of the files.
func TestBrokenReload(t *testing.T) {
	for name, test := range map[string]struct {
		damage func(t *testing.T, p place)
		want   string
	}{
		"half a certificate": {func(t *testing.T, p place) { write(t, p.certificate, []byte("-----BEGIN CERTI")) }, "failed to find any PEM data"},
		"another's key": {func(t *testing.T, p place) {
			_, key := writePair(t, named("a.example"))
			write(t, p.key, read(t, key))
		}, "private key does not match"},
		"no certificate":   {func(t *testing.T, p place) { remove(t, p.certificate) }, "no such file"},
		"no key":           {func(t *testing.T, p place) { remove(t, p.key) }, "no such file"},
		"both files empty": {func(t *testing.T, p place) { write(t, p.certificate, nil); write(t, p.key, nil) }, "failed to find any PEM data"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t)
			p.put(t, named("old.example"))
			synctest.Test(t, func(t *testing.T) {
				log := &logBuffer{}
				source, stop := running(t, &fake{}, Config{Certificate: p.certificate, Key: p.key}, log)
				defer stop()
				first := source.Leaf()
				test.damage(t, p)
				time.Sleep(time.Hour)
				if !source.Leaf().Equal(first) {
					t.Error("the old certificate is gone")
				}
				wantLog(t, log, "TLS certificate was not reloaded, the old one stays", test.want)
				if n := strings.Count(log.String(), "not reloaded"); n != 1 {
					t.Errorf("it was said %d times", n)
				}
				p.put(t, named("new.example"))
				time.Sleep(3 * pollInterval)
				if err := source.Leaf().VerifyHostname("new.example"); err != nil {
					t.Errorf("after the repair: %v", err)
				}
			})
		})
	}
}

func TestProblems(t *testing.T) {
	now := time.Now()
	const host = "registry.example"
	for name, test := range map[string]struct {
		change func(*x509.Certificate)
		want   string // parts, with | between them
	}{
		"none":         {func(*x509.Certificate) {}, ""},
		"expired":      {func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Second) }, "it expired on"},
		"nearly":       {func(c *x509.Certificate) { c.NotAfter = now.Add(13 * day) }, "it expires soon"},
		"short, young": {func(c *x509.Certificate) { c.NotBefore, c.NotAfter = now.Add(-day), now.Add(5*day) }, ""},
		"short, old":   {func(c *x509.Certificate) { c.NotBefore, c.NotAfter = now.Add(-5*day), now.Add(day) }, "it expires soon"},
		"not yet":      {func(c *x509.Certificate) { c.NotBefore = now.Add(time.Hour) }, "it is not valid before"},
		"only a CN":    {func(c *x509.Certificate) { c.DNSNames, c.Subject = nil, subject(host) }, "no longer look at its common name registry.example"},
		"another name": {func(c *x509.Certificate) { c.DNSNames = []string{"a.example"} }, "it does not name registry.example, the host of http.host"},
		"wildcard":     {func(c *x509.Certificate) { c.DNSNames = []string{"*.example"} }, ""},
		"clients'":     {func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }, "it to be a server's"},
		"no usage":     {func(c *x509.Certificate) { c.ExtKeyUsage = nil }, ""},
		"two": {func(c *x509.Certificate) { c.NotAfter, c.DNSNames = now.Add(-day), []string{"a.example"} },
			"it expired on|it does not name"},
	} {
		t.Run(name, func(t *testing.T) {
			tpl := named(host)
			tpl.NotBefore, tpl.NotAfter = now.Add(-100*day), now.Add(100*day)
			test.change(&tpl.Certificate)
			p := newPlace(t)
			p.put(t, tpl)
			log, logger := newLog()
			openOn(t, newFake(t), Config{Certificate: p.certificate, Key: p.key, Host: "https://" + host + ":5000"}, logger)
			if test.want == "" {
				if log.String() != "" {
					t.Errorf("logged %s", log)
				}
				return
			}
			wantLog(t, log, strings.Split(test.want, "|")...)
			if lines := strings.Count(log.String(), "\n"); lines != strings.Count(test.want, "|")+1 {
				t.Errorf("logged %s", log)
			}
		})
	}
}

// TestProblemsAreRepeatedDaily lets a certificate grow old.
func TestProblemsAreRepeatedDaily(t *testing.T) {
	p := newPlace(t)
	p.put(t, named("registry.example")) // for a hundred days
	log, logger := newLog()
	f, err := openFiles(Config{Certificate: p.certificate, Key: p.key}, logger)
	if err != nil {
		t.Fatal(err)
	}
	for hour := range 100 * 24 {
		f.now = func() time.Time { return time.Now().Add(time.Duration(hour) * time.Hour) }
		f.look(f.judged)
	}
	// The life is an hour longer than a hundred days. The last fifth of it is longer than two weeks.
	if n := strings.Count(log.String(), "it expires soon"); n != 14 {
		t.Errorf("it was said %d times", n)
	}
}
