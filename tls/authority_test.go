package tls

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestAuthority looks at every field of a new CA and of its leaf.
func TestAuthority(t *testing.T) {
	before := time.Now()
	c := Config{Directory: t.TempDir()}
	source := open(t, c)
	authority, err := LoadAuthority(c)
	if err != nil {
		t.Fatal(err)
	}
	ca := authority.Certificate()
	key, ok := ca.PublicKey.(*ecdsa.PublicKey)
	for name, good := range map[string]bool{
		"key":              ok && key.Curve == elliptic.P256(),
		"ten years":        closeTo(ca.NotAfter, before.AddDate(10, 0, 0)),
		"backdated":        closeTo(ca.NotBefore, before.Add(-48*time.Hour)),
		"name":             ca.Subject.CommonName == "Berth CA of nas",
		"CA":               ca.IsCA && ca.BasicConstraintsValid && ca.MaxPathLen == 0 && ca.MaxPathLenZero,
		"key usage":        ca.KeyUsage == x509.KeyUsageCertSign|x509.KeyUsageCRLSign,
		"for servers only": slices.Equal(ca.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}),
		"no constraints":   len(ca.PermittedDNSDomains)+len(ca.ExcludedDNSDomains)+len(ca.PermittedIPRanges) == 0,
		"subject key":      len(ca.SubjectKeyId) > 0,
		"the same PEM":     bytes.Equal(authority.PEM(), source.CA()) && bytes.Equal(source.CA(), read(t, c.path(authorityFile))),
		"only one":         bytes.Count(source.CA(), []byte("BEGIN")) == 1,
	} {
		if !good {
			t.Errorf("%s: got %+v", name, ca)
		}
	}
}

func TestLeaf(t *testing.T) {
	before := time.Now()
	c := Config{Directory: t.TempDir(), Host: "https://Registry.Example/", Hosts: []string{"*.apps.example", "10.1.2.3", "::ffff:10.1.2.4", "NAS.lan."}}
	leaf := open(t, c).Leaf()
	kept, err := LoadLeaf(c.Directory)
	if err != nil || !kept.Equal(leaf) {
		t.Errorf("kept is %v, %v", kept, err)
	}
	got := certificateNames(leaf)
	want := []string{"localhost", "127.0.0.1", "::1", "*.apps.example", "10.1.2.3", "10.1.2.4", "nas.lan", "registry.example",
		"nas", "nas.example", "192.168.1.18", "fd00::18"}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("got names  %v\nwant names %v", got, want)
	}
	if !closeTo(leaf.NotAfter, before.Add(90*day)) || !closeTo(leaf.NotBefore, before.Add(-48*time.Hour)) ||
		leaf.IsCA || leaf.KeyUsage != x509.KeyUsageDigitalSignature || !slices.Equal(leaf.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}) {
		t.Errorf("got %+v", leaf)
	}
}

func closeTo(a, b time.Time) bool { return a.Sub(b).Abs() < 25*time.Hour }

// TestHostNames finds out what a machine is called.
func TestHostNames(t *testing.T) {
	for _, test := range []struct {
		host, full string
		want       []string
	}{
		{"nas", "nas.example.", []string{"nas", "nas.example"}},
		{"NAS", "nas.Example", []string{"nas", "nas.example"}},
		{"nas", "nas.", []string{"nas"}},
		{"nas", "bank.example.", []string{"nas"}},
		{"nas", "nasty.example.", []string{"nas"}},
		{"nas", "", []string{"nas"}}, // no answer in time
		{"nas.example", "nas.other.", []string{"nas.example", "nas"}},
		{"no name", "x.", nil},
		{"", "x.", nil},
	} {
		f := newFake(t)
		f.host, f.full = test.host, test.full
		if got := f.system().hostNames(t.Context()); !slices.Equal(got, test.want) {
			t.Errorf("%q, %q: got %v, want %v", test.host, test.full, got, test.want)
		}
	}
}

func TestIssue(t *testing.T) {
	c := Config{Directory: t.TempDir()}
	source := open(t, c)
	certificate, key, err := source.Issue([]string{"Other.Example.", "10.0.0.5", "other.example"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	directory := t.TempDir()
	write(t, filepath.Join(directory, "c"), certificate)
	write(t, filepath.Join(directory, "k"), key)
	pair := loadPair(t, filepath.Join(directory, "c"), filepath.Join(directory, "k"))
	if names := certificateNames(pair.Leaf); !slices.Equal(names, []string{"other.example", "10.0.0.5"}) {
		t.Errorf("got %v", names)
	}
	if len(pair.Certificate) != 2 || !bytes.HasSuffix(certificate, source.CA()) {
		t.Error("the CA does not follow")
	}
	if !closeTo(pair.Leaf.NotAfter, time.Now().Add(365*day)) {
		t.Errorf("it ends on %v", pair.Leaf.NotAfter)
	}
	for name, test := range map[string]struct {
		hosts []string
		at    time.Time
		want  string
	}{
		"no host":    {nil, time.Now(), "at least one"},
		"no name":    {[]string{"a", "b:1"}, time.Now(), `"b:1" is neither`},
		"expired CA": {[]string{"a"}, time.Now().AddDate(11, 0, 0), "the CA expired on"},
	} {
		if _, _, err := source.Issue(test.hosts, test.at); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	// Shortly before its end a CA can't sign for a year.
	short, _, err := source.Issue([]string{"a"}, time.Now().AddDate(9, 11, 0))
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := firstCertificate(short)
	ca, caErr := firstCertificate(source.CA())
	if err != nil || caErr != nil || !leaf.NotAfter.Equal(ca.NotAfter) {
		t.Errorf("it ends on %v, %v, %v", leaf.NotAfter, err, caErr)
	}
}

func TestLoadAuthorityWithout(t *testing.T) {
	c := Config{Directory: t.TempDir()}
	if _, err := LoadAuthority(c); !errors.Is(err, ErrNoAuthority) {
		t.Errorf("got %v", err)
	}
	if _, err := LoadLeaf(c.Directory); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	if entries, err := os.ReadDir(c.Directory); err != nil || len(entries) > 0 {
		t.Errorf("the directory holds %v, %v", entries, err)
	}
}

// TestCAIsNeverReplacedSilently damages what a first start made. What is left, and the message, let the administrator
// decide.
func TestCAIsNeverReplacedSilently(t *testing.T) {
	for name, test := range map[string]struct {
		damage func(t *testing.T, c Config)
		want   string
	}{
		"no key":  {func(t *testing.T, c Config) { remove(t, c.path(authorityKeyFile)) }, "can't be used: open"},
		"no CA":   {func(t *testing.T, c Config) { remove(t, c.path(authorityFile)) }, "ca.pem is gone, which signed certificate.pem"},
		"neither": {func(t *testing.T, c Config) { remove(t, c.path(authorityFile), c.path(authorityKeyFile)) }, "ca.pem is gone, which signed certificate.pem"},
		"another's key": {func(t *testing.T, c Config) {
			_, key := writePair(t, template{})
			write(t, c.path(authorityKeyFile), read(t, key))
		}, "private key does not match"},
		"damaged key": {func(t *testing.T, c Config) { write(t, c.path(authorityKeyFile), []byte("-----BEGIN")) }, "failed to find any PEM data in key"},
		"damaged CA":  {func(t *testing.T, c Config) { write(t, c.path(authorityFile), nil) }, "failed to find any PEM data in certificate"},
		"leaf as CA": {func(t *testing.T, c Config) {
			write(t, c.path(authorityFile), read(t, c.path(certificateFile)))
			write(t, c.path(authorityKeyFile), read(t, c.path(keyFile)))
		}, "is not the certificate of a CA"},
		"a directory": {func(t *testing.T, c Config) {
			remove(t, c.path(authorityFile))
			if err := os.Mkdir(c.path(authorityFile), 0o700); err != nil {
				t.Fatal(err)
			}
		}, "is a directory"},
	} {
		t.Run(name, func(t *testing.T) {
			c := Config{Directory: t.TempDir()}
			open(t, c)
			test.damage(t, c)
			before := contents(t, c.Directory)
			_, err := openWith(c, newFake(t).system(), quiet())
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q in it", err, test.want)
			}
			if name != "a directory" && (err == nil || !strings.Contains(err.Error(), "from a backup") || !strings.Contains(err.Error(), "remove")) {
				t.Errorf("no remedy in %v", err)
			}
			if err != nil && strings.Contains(err.Error(), "PRIVATE") {
				t.Errorf("the key is in %v", err)
			}
			if after := contents(t, c.Directory); after != before {
				t.Errorf("the files changed from\n%s\nto\n%s", before, after)
			}
		})
	}
}

// contents returns everything that is in a directory.
func contents(t *testing.T, directory string) string {
	t.Helper()
	entries, err := os.ReadDir(directory)
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, entry := range entries {
		all.WriteString(entry.Name() + "\n")
		if !entry.IsDir() {
			all.Write(read(t, filepath.Join(directory, entry.Name())))
		}
	}
	return all.String()
}

// TestStartOver follows the remedy.
func TestStartOver(t *testing.T) {
	c := Config{Directory: t.TempDir()}
	first := open(t, c).CA()
	remove(t, c.path(authorityFile), c.path(authorityKeyFile), c.path(certificateFile))
	if second := open(t, c).CA(); bytes.Equal(first, second) {
		t.Error("the CA is the old one")
	}
}

// TestCrash leaves what a crash leaves after each of the files that a first start writes. The next start goes on, with the
// same CA when there was one, and the one after it changes nothing.
func TestCrash(t *testing.T) {
	order := []string{authorityKeyFile, authorityFile, keyFile, certificateFile}
	for written := range len(order) + 1 {
		c := Config{Directory: t.TempDir()}
		whole := open(t, c)
		key := read(t, c.path(authorityKeyFile))
		for _, name := range order[written:] {
			remove(t, c.path(name))
		}
		write(t, c.path(".new-123"), []byte("half a fi"))
		again := open(t, c)
		if kept := bytes.Equal(key, read(t, c.path(authorityKeyFile))); kept != (written > 0) {
			t.Errorf("after %d files: the key was kept: %t", written, kept)
		}
		if same := bytes.Equal(whole.CA(), again.CA()); same != (written > 1) {
			t.Errorf("after %d files: the CA is the same: %t", written, same)
		}
		before := contents(t, c.Directory)
		if open(t, c); contents(t, c.Directory) != before {
			t.Errorf("after %d files: the third start changed something", written)
		}
	}
}

// TestSharedDirectory starts many servers at once in one empty directory.
func TestSharedDirectory(t *testing.T) {
	for range 10 {
		c := Config{Directory: filepath.Join(t.TempDir(), "tls")}
		sources := make([]*Source, 8)
		var starting sync.WaitGroup
		for i := range sources {
			f := newFake(t)
			starting.Go(func() {
				var err error
				if sources[i], err = openWith(c, f.system(), quiet()); err != nil {
					t.Error(err)
				}
			})
		}
		starting.Wait()
		if t.Failed() {
			return
		}
		for _, source := range sources {
			if !bytes.Equal(source.CA(), sources[0].CA()) {
				t.Fatal("there are several CAs")
			}
			if err := source.Leaf().CheckSignatureFrom(source.auto.authority.Certificate()); err != nil {
				t.Fatal(err)
			}
		}
		if again := open(t, c); !bytes.Equal(again.CA(), sources[0].CA()) {
			t.Fatal("the next start has another CA")
		}
	}
}

// TestGivenAuthority shares a CA that the configuration names, here an intermediate one with its root.
func TestGivenAuthority(t *testing.T) {
	rootCertificate, rootKey := writePair(t, authorityTemplate())
	root, err := parseAuthority(read(t, rootCertificate), read(t, rootKey))
	if err != nil {
		t.Fatal(err)
	}
	between := authorityTemplate()
	between.Subject, between.parent = subject("between"), root
	certificate, key := writePair(t, between)
	// Some keep everything in one file. What is published must not be all of it.
	write(t, certificate, slices.Concat(read(t, key), read(t, certificate), root.PEM()))
	c := Config{Directory: t.TempDir(), AuthorityCertificate: certificate, AuthorityKey: key}
	open(t, Config{Directory: c.Directory}) // has a CA of its own before
	first := open(t, c)
	c2 := c
	c2.Directory = t.TempDir()
	second := open(t, c2)
	if !bytes.Equal(first.CA(), second.CA()) || bytes.Contains(first.CA(), []byte("PRIVATE")) {
		t.Errorf("got %s and %s", first.CA(), second.CA())
	}
	if _, err := os.Stat(c2.path(authorityFile)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("there is a CA in the directory: %v", err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(root.Certificate())
	served, err := second.Config().GetCertificate(nil)
	if err != nil || len(served.Certificate) != 3 {
		t.Fatalf("got %v, %v", served, err)
	}
	intermediates := x509.NewCertPool()
	intermediates.AppendCertsFromPEM(first.CA())
	if _, err := second.Leaf().Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates, DNSName: "localhost"}); err != nil {
		t.Error(err)
	}
}

func TestGivenAuthorityRefused(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*template)
		want   string
	}{
		"good":        {func(*template) {}, ""},
		"any usage":   {func(p *template) { p.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} }, ""},
		"no CA":       {func(p *template) { p.IsCA = false }, "is not the certificate of a CA"},
		"can't sign":  {func(p *template) { p.KeyUsage = x509.KeyUsageCRLSign }, "does not allow it to sign"},
		"for clients": {func(p *template) { p.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }, "does not allow certificates of servers"},
		"expired":     {func(p *template) { p.NotAfter = time.Now().Add(-time.Minute) }, "expired on"},
		"constrained": {func(p *template) {
			p.PermittedDNSDomains, p.PermittedIPRanges = []string{"example.com"}, []*net.IPNet{network("10.0.0.0/8")}
			p.PermittedDNSDomainsCritical = true
		}, "the CA can't sign a certificate for"},
	} {
		t.Run(name, func(t *testing.T) {
			p := authorityTemplate()
			test.change(&p)
			certificate, key := writePair(t, p)
			_, err := openWith(Config{Directory: t.TempDir(), AuthorityCertificate: certificate, AuthorityKey: key}, newFake(t).system(), quiet())
			if (test.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q in it", err, test.want)
			}
		})
	}
}

func network(s string) *net.IPNet {
	p := netip.MustParsePrefix(s)
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// TestConstrainedAuthority has a CA that may sign for some of the machine's addresses. What a request calls the registry
// neither makes it sign, nor keeps the next start from working.
func TestConstrainedAuthority(t *testing.T) {
	p := authorityTemplate()
	p.PermittedIPRanges = []*net.IPNet{network("127.0.0.0/8"), network("192.168.1.0/24"), network("fd00::/8")}
	p.PermittedDNSDomainsCritical = true
	certificate, key := writePair(t, p)
	c := Config{Directory: t.TempDir(), AuthorityCertificate: certificate, AuthorityKey: key}
	log, logger := newLog()
	source := openOn(t, newFake(t), c, logger)
	names := certificateNames(source.Leaf())
	if slices.Contains(names, "::1") || !slices.Contains(names, "192.168.1.18") || !slices.Contains(names, "nas") {
		t.Errorf("the certificate names %v", names)
	}
	before := source.Leaf()
	for range 3 {
		source.Learn(calling("10.9.9.9:5000"))
	}
	if !source.Leaf().Equal(before) {
		t.Error("it was replaced")
	}
	if n := strings.Count(log.String(), "the CA can't sign for it"); n != 2 { // ::1 and 10.9.9.9
		t.Errorf("it was said %d times:\n%s", n, log)
	}
	source.Learn(calling("192.168.1.77:5000"))
	again := openOn(t, newFake(t), c, quiet())
	if names := certificateNames(again.Leaf()); slices.Contains(names, "10.9.9.9") || !slices.Contains(names, "192.168.1.77") {
		t.Errorf("after a restart the certificate names %v", names)
	}
	c.Hosts = []string{"10.9.9.9"}
	if _, err := openWith(c, newFake(t).system(), quiet()); err == nil || !strings.Contains(err.Error(), "10.9.9.9") {
		t.Errorf("a name of the configuration that can't be signed for: %v", err)
	}
}

// TestNoCAWithAWrongClock starts before the program was built.
func TestNoCAWithAWrongClock(t *testing.T) {
	c := Config{Directory: filepath.Join(t.TempDir(), "tls"), BuildTime: time.Now()}
	f := newFake(t)
	f.offset = -365 * day
	if _, err := openWith(c, f.system(), quiet()); err == nil || !strings.Contains(err.Error(), "set the clock") {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(c.Directory); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("there is a directory: %v", err)
	}
	// With a CA that is there, the registry serves, with a certificate that counts from the build.
	open(t, c)
	remove(t, c.path(certificateFile))
	leaf := openOn(t, f, c, quiet()).Leaf()
	if !closeTo(leaf.NotAfter, c.BuildTime.Add(90*day)) {
		t.Errorf("it ends on %v", leaf.NotAfter)
	}
}

func TestAuthorityGrowsOld(t *testing.T) {
	for name, test := range map[string]struct {
		offset time.Duration
		want   string
	}{
		"young":   {9 * 365 * day, ""},
		"old":     {3653*day - 100*day, "the CA expires soon"},
		"expired": {3653*day + day, "the CA has expired"},
		"unborn":  {-10 * day, "the CA is not valid yet"},
	} {
		t.Run(name, func(t *testing.T) {
			c := Config{Directory: t.TempDir()}
			ca := open(t, c).CA()
			f := newFake(t)
			f.offset = test.offset
			log, logger := newLog()
			again := openOn(t, f, c, logger)
			if !bytes.Equal(ca, again.CA()) {
				t.Error("the CA was replaced")
			}
			if wantLog(t, log, test.want); test.want == "" && strings.Contains(log.String(), "the CA ") {
				t.Errorf("logged %s", log)
			}
			if again.Leaf().NotAfter.After(again.auto.authority.Certificate().NotAfter) {
				t.Errorf("the certificate ends on %v", again.Leaf().NotAfter)
			}
		})
	}
}
