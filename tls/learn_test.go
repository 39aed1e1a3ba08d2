package tls

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestLearnable(t *testing.T) {
	for host, want := range map[string]string{
		"192.168.1.18:5000":     "192.168.1.18",
		"10.1.2.3":              "10.1.2.3",
		"172.31.0.1:1":          "172.31.0.1",
		"100.101.102.103:5000":  "100.101.102.103",
		"[fd00::1]:5000":        "fd00::1",
		"[fd00:0::0:1]":         "fd00::1",
		"[::ffff:10.0.0.1]:443": "10.0.0.1",
		"NAS:5000":              "nas",
		"nas":                   "nas",
		"my_registry:5000":      "my_registry",
		"nas.local:5000":        "nas.local",
		"Nas.Local.:5000":       "nas.local",
		"a.b.lan":               "a.b.lan",
		"7th":                   "7th",

		"":                                "",
		":5000":                           "",
		"8.8.8.8:5000":                    "",
		"172.32.0.1":                      "",
		"169.254.1.1":                     "",
		"127.0.0.2":                       "", // whoever calls it so is on this machine
		"0.0.0.0":                         "",
		"[2001:db8::1]":                   "",
		"[fe80::1%25eth0]":                "",
		"[fe80::1]:5000":                  "",
		"[fd00::1%eth0]:5000":             "",
		"registry.example.com":            "",
		"nas.local.example.com":           "",
		"local.":                          "local",
		"*.local":                         "",
		"*":                               "",
		"-nas":                            "",
		"nas nas":                         "",
		"nas\n":                           "",
		"nas.local/x":                     "",
		"nas@nas":                         "",
		"1234":                            "",
		"0x7f000001":                      "0x7f000001", // a name like any other to those who verify certificates
		"10.0.1":                          "",
		"nas..local":                      "",
		".local":                          "",
		strings.Repeat("a", 64):           "",
		strings.Repeat("a.", 127) + "lan": "",
		"nas:5000:5000":                   "",
		"näs":                             "",
	} {
		got, ok := learnable(host)
		if !ok {
			got = ""
		}
		if got != want {
			t.Errorf("%q: got %q, want %q", host, got, want)
		}
	}
}

func FuzzLearnable(f *testing.F) {
	for _, host := range []string{"192.168.1.18:5000", "[fd00::1]:5000", "nas", "nas.local.", "a.b.lan:1", "8.8.8.8", "*", "]", "[", "\x00", "-a.lan"} {
		f.Add(host)
	}
	f.Fuzz(func(t *testing.T, host string) {
		name, ok := learnable(host)
		if !ok {
			return
		}
		if again, ok := learnable(name); !ok || again != name {
			t.Errorf("%q is learnt as %q, and that as %q, %t", host, name, again, ok)
		}
		if address, err := netip.ParseAddr(name); err == nil {
			if address.IsGlobalUnicast() && !private(address) || address.Zone() != "" {
				t.Errorf("%q is learnt", host)
			}
		} else if !validHost(name) || strings.Contains(name, "*") || strings.ContainsAny(name, " \n\"'$;&|<>\\/") {
			t.Errorf("%q is learnt as %q", host, name)
		}
	})
}

// TestLearn makes requests of a registry that sees only its container.
func TestLearn(t *testing.T) {
	c := Config{Directory: t.TempDir()}
	f := newFake(t)
	f.addresses = []string{"127.0.0.1/8", "172.17.0.2/16"}
	log, logger := newLog()
	source := openOn(t, f, c, logger)
	first := source.Leaf()
	for _, host := range []string{"registry.example.com", "8.8.8.8", "localhost:5000", "172.17.0.2", "evil\nname"} {
		if source.Learn(calling(host)); !source.Leaf().Equal(first) {
			t.Errorf("the certificate was replaced for %q", host)
		}
	}
	// What is learnt counts from the next connection on.
	source.Learn(calling("192.168.1.18:5000"))
	if err := source.Leaf().VerifyHostname("192.168.1.18"); err != nil {
		t.Error(err)
	}
	wantLog(t, log, "name=192.168.1.18")
	second := source.Leaf()
	if source.Learn(calling("192.168.1.18")); !source.Leaf().Equal(second) {
		t.Error("the certificate was replaced for a known name")
	}
	// It counts after a restart, and after the next renewal.
	for _, days := range []time.Duration{0, 61} {
		f.offset = days * day
		if err := openOn(t, f, c, quiet()).Leaf().VerifyHostname("192.168.1.18"); err != nil {
			t.Errorf("after %d days: %v", days, err)
		}
	}
}

func TestLearnDisabled(t *testing.T) {
	c := Config{Directory: t.TempDir()}
	open(t, c).Learn(calling("nas7"))
	c.LearnDisabled = true
	remove(t, c.path(certificateFile))
	source := open(t, c)
	source.Learn(calling("nas8"))
	for _, name := range []string{"nas7", "nas8"} {
		if source.Leaf().VerifyHostname(name) == nil {
			t.Errorf("%s is in the certificate", name)
		}
	}
}

// TestLearnIsBounded lets many clients call the registry by names that they make up.
func TestLearnIsBounded(t *testing.T) {
	c := Config{Directory: t.TempDir()}
	log, logger := newLog()
	source := openOn(t, newFake(t), c, logger)
	before := len(certificateNames(source.Leaf()))
	var clients sync.WaitGroup
	for client := range 8 {
		clients.Go(func() {
			for i := range 100 {
				source.Learn(calling(fmt.Sprintf("name%d:5000", (i+client)%50)))
			}
		})
	}
	clients.Wait()
	if learnt := len(certificateNames(source.Leaf())) - before; learnt != mostLearnt {
		t.Errorf("%d names were learnt", learnt)
	}
	if made := strings.Count(log.String(), "TLS certificate made"); made != 1+mostLearnt {
		t.Errorf("%d certificates were made", made)
	}
	if warned := strings.Count(log.String(), "no more names from requests"); warned != 1 {
		t.Errorf("it was said %d times", warned)
	}
	// A restart gives no more room.
	again := open(t, c)
	again.Learn(calling("another"))
	if again.Leaf().VerifyHostname("another") == nil {
		t.Error("another name was learnt after a restart")
	}
}

// TestLearnFromNearby has others call the registry by names that are learnt of no stranger.
func TestLearnFromNearby(t *testing.T) {
	f := newFake(t)
	f.addresses = append(f.addresses, "2001:db8:1::18/64", "203.0.113.18/24")
	source := openOn(t, f, Config{Directory: t.TempDir()}, quiet())
	for i, test := range []struct {
		peer, sni string
		want      bool
	}{
		{"127.0.0.1:1", "", true},
		{"[::1]:1", "", true},
		{"10.9.9.9:1", "", true},
		{"172.17.0.1:1", "", true},
		{"100.64.0.1:1", "", true},
		{"[fd12::1]:1", "", true},
		{"[fe80::1%eth0]:1", "", true},
		{"[::ffff:192.168.7.7]:1", "", true},
		{"[2001:db8:1::19]:1", "", true},
		{"203.0.113.19:1", "", true},
		{"203.0.114.19:1", "", false},
		{"[2001:db8:2::19]:1", "", false},
		{"8.8.8.8:1", "", false},
		{"@", "", false},
		{"", "", false},
		{"127.0.0.1:1", "name", true},
		{"127.0.0.1:1", "another", false},
		{"127.0.0.1:1", "registry.example.com", false},
	} {
		name := fmt.Sprintf("name%d", i)
		r := &http.Request{Host: strings.ToUpper(name) + ":5000", RemoteAddr: test.peer, TLS: &tls.ConnectionState{ServerName: test.sni}}
		if test.sni == "name" {
			r.TLS.ServerName = name
		}
		source.Learn(r)
		if got := source.Leaf().VerifyHostname(name) == nil; got != test.want {
			t.Errorf("%+v: learnt %t", test, got)
		}
	}
}

// TestLearnInTurn has names that somebody made up make room for those that are used, and not the other way round.
func TestLearnInTurn(t *testing.T) {
	c, f := Config{Directory: t.TempDir()}, newFake(t)
	log, logger := newLog()
	source := openOn(t, f, c, logger)
	call := func(name string) bool {
		source.Learn(calling(name))
		return source.Leaf().VerifyHostname(name) == nil
	}
	for i := range mostLearnt {
		call(fmt.Sprintf("name%d", i))
	}
	f.set(func(f *fake) { f.offset = 6 * day })
	if call("another") {
		t.Error("a name makes room before its time")
	}
	call("name0")
	f.set(func(f *fake) { f.offset = 8 * day })
	if call("name1") && !call("another") {
		t.Error("no name makes room")
	}
	gone := 0
	for i := range mostLearnt {
		if source.Leaf().VerifyHostname(fmt.Sprintf("name%d", i)) != nil {
			gone++
		}
	}
	if gone != 1 || !call("name0") || !call("name1") || !call("another") {
		t.Errorf("%d names are gone, or those in use: %v", gone, certificateNames(source.Leaf()))
	}
	names, err := readLearnt(c.path(learntFile))
	if err != nil || len(names) != mostLearnt || !slices.Contains(names, "another") {
		t.Errorf("kept are %v, %v", names, err)
	}
	wantLog(t, log, "name=another", "no more names from requests")
	// A restart knows no times: what it reads is used.
	source = openOn(t, f, c, quiet())
	if call("more") {
		t.Error("a name makes room at once after a restart")
	}
}

// TestLearnConfigured has a name that was learnt be configured later: it takes no place of those that are learnt, and makes room for none.
func TestLearnConfigured(t *testing.T) {
	c, f := Config{Directory: t.TempDir()}, newFake(t)
	source := openOn(t, f, c, quiet())
	for i := range mostLearnt {
		source.Learn(calling(fmt.Sprintf("name%d", i)))
	}
	c.Hosts = []string{"name0"}
	source = openOn(t, f, c, quiet())
	f.set(func(f *fake) { f.offset = 8 * day })
	for i := 1; i < mostLearnt; i++ {
		source.Learn(calling(fmt.Sprintf("name%d", i)))
	}
	source.Learn(calling("another"))
	for _, name := range []string{"name0", "name1", "another"} {
		if err := source.Leaf().VerifyHostname(name); err != nil {
			t.Error(err)
		}
	}
}

// TestLearnFullIsCheap has a client go on with a name that finds no room: its requests cost no certificate each.
func TestLearnFullIsCheap(t *testing.T) {
	f := newFake(t)
	source := openOn(t, f, Config{Directory: t.TempDir()}, quiet())
	for i := range mostLearnt + 1 {
		source.Learn(calling(fmt.Sprintf("name%d", i)))
	}
	request := calling("another")
	if n := testing.AllocsPerRun(100, func() { source.Learn(request) }); n > 20 {
		t.Errorf("each takes %v allocations", n)
	}
}

// TestLearnOfOthers shares a directory between two servers.
func TestLearnOfOthers(t *testing.T) {
	c := Config{Directory: t.TempDir()}
	one, other := open(t, c), open(t, c)
	one.Learn(calling("nas1"))
	other.Learn(calling("nas2"))
	if names, err := readLearnt(c.path(learntFile)); err != nil || !slices.Equal(names, []string{"nas1", "nas2"}) {
		t.Errorf("got %v, %v", names, err)
	}
}

// TestLearntFileIsNotTrusted has somebody write into the file.
func TestLearntFileIsNotTrusted(t *testing.T) {
	c := Config{Directory: t.TempDir()}
	text := "nas1\n\n8.8.8.8\nbank.example\nNAS2\nnas1\n nas3 \nnas:1\n"
	for i := range 2 * mostLearnt {
		text += fmt.Sprintf("more%d\n", i)
	}
	write(t, c.path(learntFile), []byte(text))
	names, err := readLearnt(c.path(learntFile))
	if err != nil || len(names) != mostLearnt || !slices.Equal(names[:3], []string{"nas1", "nas3", "more0"}) {
		t.Errorf("got %v, %v", names, err)
	}
	open(t, c)
	if _, err := readLearnt(c.Directory); err == nil {
		t.Error("a directory was read")
	}
}
