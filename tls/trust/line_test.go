package trust

import (
	"regexp"
	"strings"
	"testing"
)

func goodAddresses() []string {
	return []string{
		"registry.lan:5000", "localhost:1", "a:65535", "192.168.1.18:5000", "my_registry:443", "r-1.example.com:8443",
		"[::1]:5000", "[fd00::18]:443", "[2001:DB8::1]:5000", "[::ffff:10.0.0.1]:1", "1:1", "Registry.LAN:5000",
	}
}

// badAddresses are none, neither for this package nor for install.sh.
func badAddresses() []string {
	return []string{
		"", ":", ":5000", "a:", "a:0", "a:05", "a:+5", "a:65536", "a:99999999999999999999", "a:5000x", "a:-1", "a: 1",
		"-a:1", "--system:1", ".a:1", "..:1", "a..b:1", "../a:1", "/etc:1", "a/b:1", "_default:443", "a:1/..",
		"a b:1", "a;b:1", "a$(id):1", "a`id`:1", "a'b:1", `a"b:1`, `a\b:1`, "a|b:1", "a&b:1", "a>b:1", "a*:1", "a?:1",
		"a#b:1", "~a:1", "a%b:1", "a=b:1", "a{b}:1", "a!b:1", "a,b:1", "a@b:1", "a\nb:1", "a:1\n", "\na:1", "a\r:1",
		"a\tb:1", "ä:1", "\xff:1", "<b>:1", "a:b:1", "::1:5000", "[::1:5000", "::1]:5000", "[]:1", "[::1]x:1", "x[::1]:1",
		"[::1%eth0]:1", "[fe80::1%25eth0]:1", "[a]:1", "[[::1]]:1", "[::1]5000", "[../..]:1", "[::g]:1", "[127.0.0.1]:1",
		"https://a:1", strings.Repeat("a", 254) + ":1",
	}
}

func TestAddress(t *testing.T) {
	for _, s := range goodAddresses() {
		if got, ok := Address(s); !ok || got != s {
			t.Errorf("%q is %q, %v", s, got, ok)
		}
	}
	for _, s := range badAddresses() {
		if got, ok := Address(s); ok || got != placeholder {
			t.Errorf("%q is %q, %v", s, got, ok)
		}
	}
	for s, want := range map[string]string{"registry.lan": "registry.lan:443", "10.0.0.1": "10.0.0.1:443", "[::1]": "[::1]:443"} {
		if got, ok := Address(s); !ok || got != want {
			t.Errorf("%q is %q, %v", s, got, ok)
		}
	}
}

// FuzzAddress: whatever a Host header says, what comes out is an address, alone on its line and without meaning for a
// shell, HTML or a path.
func FuzzAddress(f *testing.F) {
	for _, s := range append(goodAddresses(), badAddresses()...) {
		f.Add(s)
	}
	address := regexp.MustCompile(`^([A-Za-z0-9][A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\]):[1-9][0-9]{0,4}$`)
	f.Fuzz(func(t *testing.T, s string) {
		got, ok := Address(s)
		if !ok {
			if got != placeholder {
				t.Errorf("%q is %q", s, got)
			}
			return
		}
		if !address.MatchString(got) || strings.Contains(got, "..") {
			t.Errorf("%q is %q", s, got)
		}
		if again, ok := Address(got); !ok || again != got {
			t.Errorf("%q is %q, and that is %q", s, got, again)
		}
		if got != s && got != s+":443" {
			t.Errorf("%q became %q", s, got)
		}
	})
}

func TestLine(t *testing.T) {
	const hash = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
	got := Line("192.168.1.18:5000", []byte("abc"))
	want := `sh -c 'IFS=; set -f; d=$(mktemp -d) && c() { rm -rf $d; } && trap c EXIT && trap exit HUP INT TERM` +
		` && curl -fsSk -o $d/ca.crt https://192.168.1.18:5000/trust/ca.crt && echo $2 *$d/ca.crt | sha256sum -c -` +
		` && curl -fsS --cacert $d/ca.crt -o $d/install.sh https://192.168.1.18:5000/trust/install.sh` +
		` && $(command -v sudo) sh $d/install.sh $@' sh 192.168.1.18:5000 ` + hash
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got := Line("[::1]:5000", nil); !strings.Contains(got, " '[::1]:5000' ") {
		t.Errorf("brackets are not quoted: %s", got)
	}
	for _, bad := range badAddresses() {
		if got := Line(bad, nil); got != Line("", nil) || strings.Count(got, placeholder) != 3 {
			t.Errorf("the line for %q is %s", bad, got)
		}
	}
	for name, line := range lines("[::1]:5000", nil) {
		if strings.ContainsAny(line, "\"\\!`\n") {
			t.Errorf("the line for %s is another one inside JSON, or in an interactive shell: %s", name, line)
		}
	}
}
