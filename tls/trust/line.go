package trust

import (
	"net/netip"
	"strconv"
	"strings"
)

// placeholder stands where an address is not known.
const placeholder = "HOST:PORT"

// Line returns the command that makes a machine trust the registry at hostport: a host name, an IPv4 address or an IPv6
// address in brackets, with a port unless it is 443. Something else becomes the words HOST:PORT, for the reader to
// replace. It is one line for any shell, and it needs curl and sha256sum. The script's options can be put at its end.
//
// The certificate ca (PEM) is fetched without verification and compared with its checksum, which is part of the line;
// then the script is fetched over a connection that it vouches for, and run as root. What was fetched is removed.
//
// The line has neither " nor \, so that it is the same inside a JSON string, and looks for sudo in a shell without the
// aliases of the one that it is pasted into.
func Line(hostport string, ca []byte) string {
	return command(hostport, ca, `curl -fsSk -o $d/ca.crt https://HOST:PORT/trust/ca.crt`,
		`echo $2 *$d/ca.crt | sha256sum -c -`,
		`curl -fsS --cacert $d/ca.crt -o $d/install.sh https://HOST:PORT/trust/install.sh`)
}

// wgetLine is Line for machines without curl. Not every wget can be told which CA to believe, so this line has the
// checksum of the script, too, and is therefore good for this version of the registry only.
func wgetLine(hostport string, ca []byte) string {
	return command(hostport, ca, `wget -q --no-check-certificate -O $d/ca.crt https://HOST:PORT/trust/ca.crt`,
		`wget -q --no-check-certificate -O $d/install.sh https://HOST:PORT/trust/install.sh`,
		`echo $2 *$d/ca.crt | sha256sum -c -`,
		`echo `+Checksum(script)+` *$d/install.sh | sha256sum -c -`)
}

// command returns the line that takes these steps to get ca.crt and install.sh from HOST:PORT into the directory $d, and
// runs the script. In it $2 is the checksum of ca. Without splitting (IFS) and patterns (-f) nothing needs quotes.
func command(hostport string, ca []byte, steps ...string) string {
	address, _ := Address(hostport)
	get := strings.ReplaceAll(strings.Join(steps, " && "), placeholder, address)
	return `sh -c 'IFS=; set -f; d=$(mktemp -d) && c() { rm -rf $d; } && trap c EXIT && trap exit HUP INT TERM && ` +
		get + ` && $(command -v sudo) sh $d/install.sh $@' sh ` + quote(address) + " " + Checksum(ca)
}

// quote keeps the brackets of an IPv6 address from being taken for a pattern. Nothing else in an address means anything
// to a shell.
func quote(s string) string {
	if strings.Contains(s, "[") {
		return "'" + s + "'"
	}
	return s
}

// Address returns the address in a Host header (RFC 9110, section 7.2) with its port, 443 when it names none. It reports
// false, and returns the placeholder, for what is not an address; install.sh decides in the same way.
func Address(s string) (string, bool) {
	host, port := s, "443"
	if i := strings.LastIndexByte(s, ':'); i >= 0 && !strings.HasSuffix(s, "]") {
		host, port = s[:i], s[i+1:]
	}
	if !validPort(port) || !validHost(host) {
		return placeholder, false
	}
	return host + ":" + port, true
}

func validPort(port string) bool {
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n > 0 && port[0] != '0' && port[0] != '+'
}

// validHost allows the characters of names and of addresses, no other, and nothing that means something as a path or as an
// option.
func validHost(host string) bool {
	if bare, ok := strings.CutPrefix(host, "["); ok {
		bare, ok = strings.CutSuffix(bare, "]")
		address, err := netip.ParseAddr(bare)
		return ok && err == nil && address.Is6() && address.Zone() == ""
	}
	if host == "" || len(host) > 253 || strings.Contains(host, "..") || !letterOrDigit(rune(host[0])) {
		return false
	}
	return !strings.ContainsFunc(host, func(r rune) bool {
		return !letterOrDigit(r) && r != '.' && r != '-' && r != '_'
	})
}

func letterOrDigit(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9'
}
