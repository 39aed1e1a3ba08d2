package trust

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Files of the administrator's are kept, come back, and are never removed.
func TestInstallKeepsWhatWasThere(t *testing.T) {
	eachShell(t, func(t *testing.T, shell []string) {
		directory := "/etc/docker/certs.d/" + hosts + "/"
		n := newNode(t, shell)
		n.write(directory+"ca.crt", "another CA\n")
		n.write(directory+"client.cert", "mine\n")
		before := n.tree()
		out := n.install(hosts)
		if !strings.Contains(out, "kept       "+directory+"ca.crt.before-berth\n") {
			t.Errorf("it says\n%s", out)
		}
		if got := n.read(directory + "ca.crt"); got != string(n.ca.pem) {
			t.Errorf("ca.crt is %s", got)
		}
		out = n.uninstall(hosts)
		if after := n.tree(); !maps.Equal(before, after) {
			t.Errorf("changed %q\n%s", changed(before, after), out)
		}
	})
}

// A new CA of the registry takes the place of the old one; what was there before both comes back in the end.
func TestInstallNewCA(t *testing.T) {
	eachShell(t, func(t *testing.T, shell []string) {
		path := "/etc/docker/certs.d/" + hosts + "/ca.crt"
		n := newNode(t, shell)
		n.write(path, "another CA\n")
		before := n.tree()
		n.install(hosts)
		old := n.ca
		n.ca = newAuthority(t)
		n.check(os.WriteFile(n.file, n.ca.pem, 0o600))
		n.install(hosts)
		if got := n.read(path); got != string(n.ca.pem) {
			t.Errorf("ca.crt is %s", got)
		}
		out, _, err := n.run(hosts, Checksum(old.pem), "--uninstall")
		if err != nil || !strings.Contains(out, "left       "+path) || n.read(path) != string(n.ca.pem) {
			t.Errorf("uninstalling the old one: %v\n%s", err, out)
		}
		n.uninstall(hosts)
		if after := n.tree(); !maps.Equal(before, after) {
			t.Errorf("changed %q", changed(before, after))
		}
	})
}

// An old CA of the registry's is not what was there before, and does not come back.
func TestUninstallAfterNewCA(t *testing.T) {
	eachShell(t, func(t *testing.T, shell []string) {
		n := newNode(t, shell, "/etc/docker/", "/usr/sbin/update-ca-certificates")
		before := n.tree()
		n.install(hosts, "--system")
		n.ca = newAuthority(t)
		n.check(os.WriteFile(n.file, n.ca.pem, 0o600))
		if out := n.install(hosts, "--system"); strings.Contains(out, "kept") {
			t.Errorf("it keeps the old one:\n%s", out)
		}
		out := n.uninstall(hosts)
		if after := n.tree(); !maps.Equal(before, after) {
			t.Errorf("changed %q\n%s", changed(before, after), out)
		}
	})
}

// A file that the administrator put in the place of the script's is the administrator's, also the second time.
func TestInstallKeepsWhatCameBetween(t *testing.T) {
	eachShell(t, func(t *testing.T, shell []string) {
		path := "/etc/docker/certs.d/" + hosts + "/ca.crt"
		n := newNode(t, shell, "/etc/docker/")
		n.install(hosts)
		n.write(path, "mine\n")
		n.install(hosts)
		n.uninstall(hosts)
		if got := n.read(path); got != "mine\n" {
			t.Errorf("it is %q", got)
		}
	})
}

// Whoever has the script, but neither the network nor the checksum, can uninstall what the script installed.
func TestUninstallWithoutChecksum(t *testing.T) {
	eachShell(t, func(t *testing.T, shell []string) {
		const mine = "/etc/containers/certs.d/" + hosts + "/ca.crt"
		n := newNode(t, shell, "/usr/bin/docker", "/etc/containerd/", "/usr/sbin/update-ca-certificates", "/home/me/.config/docker/")
		before := n.tree()
		n.env = []string{"PATH=" + bin(t, "true")}
		n.install(hosts, "--system")
		n.write(mine, "mine\n")
		out, errOut, err := n.run(hosts, "--uninstall")
		if err != nil || errOut != "" || !strings.Contains(out, "left       "+mine) {
			t.Errorf("%v\n%s%s", err, out, errOut)
		}
		n.check(os.RemoveAll(filepath.Join(n.root, "etc/containers")))
		if after := n.tree(); !maps.Equal(before, after) {
			t.Errorf("changed %q\n%s", changed(before, after), out)
		}
		if out, _, err := n.run(hosts, "--uninstall"); err != nil || out != "nothing to remove\n" {
			t.Errorf("the second time: %v\n%s", err, out)
		}
	})
}

// A directory that the script made goes with the last registry in it, and with nothing else in it.
func TestUninstallLeavesDirectories(t *testing.T) {
	eachShell(t, func(t *testing.T, shell []string) {
		n := newNode(t, shell, "/usr/bin/podman")
		n.install(hosts)
		n.install("other.lan:5000")
		n.uninstall(hosts)
		if got := n.read("/etc/containers/certs.d/other.lan:5000/ca.crt"); got != string(n.ca.pem) {
			t.Errorf("the other is %s", got)
		}
		n.write("/etc/containers/certs.d/.mine", "")
		n.uninstall("other.lan:5000")
		if got := n.read("/etc/containers/certs.d/.mine"); got != "" {
			t.Errorf("what came later is %s", got)
		}
		if _, err := os.Stat(filepath.Join(n.root, "/etc/containers/certs.d/other.lan:5000")); err == nil {
			t.Error("the registry's own directory remains")
		}
	})
}
