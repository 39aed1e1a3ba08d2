package tls

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestLeafIsKept(t *testing.T) {
	c := Config{Directory: t.TempDir(), Hosts: []string{"Registry.Example.", "*.example.com", "192.0.2.1"}}
	f := newFake(t)
	first := openOn(t, f, c, quiet())
	log, logger := newLog()
	for _, hosts := range [][]string{c.Hosts, {"registry.example"}, nil} {
		c.Hosts = hosts
		f.set(func(f *fake) { f.addresses = f.addresses[:3] })
		if again := openOn(t, f, c, logger); !again.Leaf().Equal(first.Leaf()) {
			t.Errorf("with hosts %v: another certificate", hosts)
		}
	}
	if log.String() != "" {
		t.Errorf("logged %s", log)
	}
}

func TestLeafIsReplacedAtStart(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(t *testing.T, c *Config, f *fake)
		reason string
		fresh  bool // whether a new life begins
	}{
		{"new host", func(t *testing.T, c *Config, f *fake) { c.Hosts = append(c.Hosts, "new.example") }, "does not name new.example", false},
		{"new address", func(t *testing.T, c *Config, f *fake) { f.addresses = append(f.addresses, "10.0.0.9/8") }, "does not name 10.0.0.9", false},
		{"new http.host", func(t *testing.T, c *Config, f *fake) { c.Host = "https://new.example:5000/" }, "does not name new.example", false},
		{"key is gone", func(t *testing.T, c *Config, f *fake) { remove(t, c.path(keyFile)) }, "there was none", true},
		{"key of another", func(t *testing.T, c *Config, f *fake) {
			_, key := writePair(t, template{})
			write(t, c.path(keyFile), read(t, key))
		}, "is damaged", true},
		{"damaged", func(t *testing.T, c *Config, f *fake) { write(t, c.path(certificateFile), []byte("-----BEGIN")) }, "is damaged", true},
		{"self-signed, of the first version", func(t *testing.T, c *Config, f *fake) {
			certificate, key := writePair(t, template{})
			write(t, c.path(keyFile), read(t, key))
			write(t, c.path(certificateFile), read(t, certificate))
			remove(t, c.path(authorityFile), c.path(authorityKeyFile))
		}, "is not of this CA", true},
		{"of another CA", func(t *testing.T, c *Config, f *fake) {
			c.AuthorityCertificate, c.AuthorityKey = writePair(t, authorityTemplate())
		}, "is not of this CA", true},
		{"two thirds over", func(t *testing.T, c *Config, f *fake) { f.offset = 60*day + time.Minute }, "two thirds", true},
		{"expired", func(t *testing.T, c *Config, f *fake) { f.offset = 365 * day }, "two thirds", true},
		{"not valid yet", func(t *testing.T, c *Config, f *fake) { f.offset = -3 * day }, "not valid yet", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := Config{Directory: t.TempDir(), Hosts: []string{"registry.example"}}
			f := newFake(t)
			before := openOn(t, f, c, quiet()).Leaf()
			test.change(t, &c, f)
			log, logger := newLog()
			after := openOn(t, f, c, logger).Leaf()
			if before.Equal(after) {
				t.Error("the certificate is still the old one")
			}
			if !test.fresh && (!after.NotAfter.Equal(before.NotAfter) || !after.NotBefore.Equal(before.NotBefore)) {
				t.Errorf("it lives from %v until %v, the old one from %v until %v", after.NotBefore, after.NotAfter, before.NotBefore, before.NotAfter)
			}
			if test.fresh && !closeTo(after.NotAfter, f.system().now().Add(90*day)) {
				t.Errorf("it ends on %v", after.NotAfter)
			}
			wantLog(t, log, test.reason)
			if kept := openOn(t, f, c, quiet()).Leaf(); !kept.Equal(after) {
				t.Error("the new certificate was not kept")
			}
		})
	}
}

// TestNamesStayUntilRenewal takes an address from the machine: only the next life is without it.
func TestNamesStayUntilRenewal(t *testing.T) {
	c := Config{Directory: t.TempDir()}
	f := newFake(t)
	openOn(t, f, c, quiet())
	f.addresses = []string{"127.0.0.1/8", "10.0.0.9/8"}
	if names := certificateNames(openOn(t, f, c, quiet()).Leaf()); !slices.Contains(names, "10.0.0.9") || !slices.Contains(names, "192.168.1.18") {
		t.Errorf("got %v", names)
	}
	f.offset = 61 * day
	if names := certificateNames(openOn(t, f, c, quiet()).Leaf()); !slices.Contains(names, "10.0.0.9") || slices.Contains(names, "192.168.1.18") {
		t.Errorf("after the renewal: got %v", names)
	}
}

// TestTooManyNames gives a machine another address at each start. Those that it no longer has are dropped in the end.
func TestTooManyNames(t *testing.T) {
	c := Config{Directory: t.TempDir()}
	f := newFake(t)
	for i := range 2 * mostNames {
		address := fmt.Sprintf("10.0.0.%d", i+1)
		f.addresses = []string{address + "/8"}
		names := certificateNames(openOn(t, f, c, quiet()).Leaf())
		if len(names) > mostNames || !slices.Contains(names, address) || !slices.Contains(names, "localhost") {
			t.Fatalf("at start %d: %d names, %v", i, len(names), names)
		}
	}
}

func TestContainerWarning(t *testing.T) {
	for _, mark := range []string{"", ".dockerenv", "run/.containerenv", "var/run/secrets/kubernetes.io/x"} {
		for _, hosts := range [][]string{nil, {"registry.example"}} {
			f := newFake(t)
			if err := os.MkdirAll(filepath.Join(f.root, mark), 0o700); err != nil {
				t.Fatal(err)
			}
			log, logger := newLog()
			openOn(t, f, Config{Directory: t.TempDir(), Hosts: hosts}, logger)
			want := mark != "" && hosts == nil
			if got := strings.Contains(log.String(), "list them in http.tls.hosts"); got != want {
				t.Errorf("mark %q, hosts %v: warned %t", mark, hosts, got)
			}
		}
	}
}

func TestContainerByEnvironment(t *testing.T) {
	for _, name := range []string{"container", "KUBERNETES_SERVICE_HOST", "HOME"} {
		f := newFake(t)
		f.environ = map[string]string{name: "x"}
		if got := f.system().inContainer(); got != (name != "HOME") {
			t.Errorf("%s: %t", name, got)
		}
	}
}

// running opens a source in a bubble and runs it until the returned function is called.
func running(t *testing.T, f *fake, c Config, log *logBuffer) (*Source, func()) {
	t.Helper()
	source := openOn(t, f, c, newLogger(log))
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); source.Run(ctx) }()
	return source, func() { stop(); <-done }
}

// TestAddressChange changes the machine's addresses while a source runs.
func TestAddressChange(t *testing.T) {
	directory := t.TempDir()
	f := newFake(t)
	synctest.Test(t, func(t *testing.T) {
		source, stop := running(t, f, Config{Directory: directory}, &logBuffer{})
		defer stop()
		first := source.Leaf()
		add := func(address string) func(*fake) {
			return func(f *fake) { f.addresses = append(f.addresses, address) }
		}
		// A bridge that comes and goes changes nothing.
		f.set(add("172.18.0.1/16"))
		time.Sleep(gathering - pollInterval)
		f.set(func(f *fake) { f.addresses = f.addresses[:len(f.addresses)-1] })
		time.Sleep(time.Minute)
		if !source.Leaf().Equal(first) {
			t.Error("a short-lived address got into the certificate")
		}
		// What stays does, all at once, also a new name.
		f.set(add("10.0.0.7/8"))
		time.Sleep(gathering / 2)
		f.set(add("10.0.0.8/8"))
		f.set(func(f *fake) { f.host, f.full = "moved", "moved.example" })
		time.Sleep(gathering/2 + 2*pollInterval)
		second := source.Leaf()
		for _, name := range []string{"10.0.0.7", "10.0.0.8", "moved", "moved.example", "192.168.1.18"} {
			if !slices.Contains(certificateNames(second), name) {
				t.Errorf("%s is missing in %v", name, certificateNames(second))
			}
		}
		// It is kept, and there is an end to it.
		time.Sleep(time.Hour)
		if kept, err := LoadLeaf(directory); err != nil || !kept.Equal(second) || !source.Leaf().Equal(second) {
			t.Errorf("kept is %v, %v", kept, err)
		}
	})
}

// TestRenewal lets the wall clock jump while a source runs: a suspended machine's timers know nothing of it.
func TestRenewal(t *testing.T) {
	directory := t.TempDir()
	f := newFake(t)
	synctest.Test(t, func(t *testing.T) {
		log := &logBuffer{}
		source, stop := running(t, f, Config{Directory: directory}, log)
		defer stop()
		first := source.Leaf()
		f.set(func(f *fake) { f.offset = 59 * day })
		time.Sleep(time.Minute)
		if !source.Leaf().Equal(first) {
			t.Error("it was renewed too early")
		}
		// While the addresses can't be found, what there is stays. The look of this moment has to be over: it found them.
		synctest.Wait()
		f.set(func(f *fake) { f.offset, f.broken = 60*day+time.Hour, true })
		time.Sleep(time.Minute)
		if !source.Leaf().Equal(first) {
			t.Error("it was renewed without the machine's addresses")
		}
		f.set(func(f *fake) { f.broken = false })
		time.Sleep(time.Minute)
		second := source.Leaf()
		if second.Equal(first) || !closeTo(second.NotAfter, time.Now().Add(150*day)) {
			t.Errorf("it ends on %v", second.NotAfter)
		}
		wantLog(t, log, "two thirds", "addresses can't be found")
	})
}

// TestDirectoryCannotBeWritten renews where the new certificate can't be kept.
func TestDirectoryCannotBeWritten(t *testing.T) {
	directory := filepath.Join(t.TempDir(), "tls")
	f := newFake(t)
	synctest.Test(t, func(t *testing.T) {
		log := &logBuffer{}
		source, stop := running(t, f, Config{Directory: directory}, log)
		defer stop()
		if err := os.RemoveAll(directory); err != nil {
			t.Fatal(err)
		}
		f.set(func(f *fake) { f.offset = 61 * day })
		time.Sleep(time.Minute)
		if leaf := source.Leaf(); !closeTo(leaf.NotAfter, time.Now().Add(151*day)) {
			t.Errorf("it ends on %v", leaf.NotAfter)
		}
		wantLog(t, log, "TLS certificate is not kept")
		if n := strings.Count(log.String(), "TLS certificate made"); n != 2 {
			t.Errorf("it was made %d times", n)
		}
		source.Learn(calling("nas9"))
		wantLog(t, log, "a name from a request is not kept")
		if err := source.Leaf().VerifyHostname("nas9"); err != nil {
			t.Error(err)
		}
	})
}

// TestCAIsJudgedDaily lets a CA grow old while it is used.
func TestCAIsJudgedDaily(t *testing.T) {
	f := newFake(t)
	directory := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		log := &logBuffer{}
		_, stop := running(t, f, Config{Directory: directory}, log)
		defer stop()
		f.set(func(f *fake) { f.offset = 3600 * day })
		time.Sleep(day + time.Second)
		wantLog(t, log, "the CA expires soon")
	})
}
