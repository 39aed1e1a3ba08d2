package trust

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// distribution is how a Linux distribution lets an administrator add a CA: the files that make it recognisable, and a
// stand-in for the tool. The stand-ins note how they were called and make the bundle as the real ones do.
type distribution struct {
	files   []string
	tool    string // its path
	content string
	anchors string
	bundle  string
	refresh string // how the tool is called after installing
	undo    string // and after uninstalling
}

func distributions() map[string]distribution {
	const debian = `#!/bin/sh
echo "update-ca-certificates $*" >>/called
cat /usr/local/share/ca-certificates/*.crt >/etc/ssl/certs/ca-certificates.crt 2>/dev/null
exit 0
`
	const redhat = `#!/bin/sh
echo "update-ca-trust $*" >>/called
cat /etc/pki/ca-trust/source/anchors/* >/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem 2>/dev/null
exit 0
`
	return map[string]distribution{
		"Debian": {[]string{"/etc/ssl/certs/", "/usr/local/share/ca-certificates/"}, "/usr/sbin/update-ca-certificates", debian,
			"/usr/local/share/ca-certificates", "/etc/ssl/certs/ca-certificates.crt",
			"update-ca-certificates \n", "update-ca-certificates \n"},
		"Alpine": {[]string{"/etc/ssl/certs/", "/etc/apk/"}, "/usr/sbin/update-ca-certificates", debian,
			"/usr/local/share/ca-certificates", "/etc/ssl/certs/ca-certificates.crt",
			"update-ca-certificates \n", "update-ca-certificates \n"},
		"RHEL": {[]string{"/etc/pki/ca-trust/source/anchors/", "/etc/pki/ca-trust/extracted/pem/"}, "/usr/bin/update-ca-trust", redhat,
			"/etc/pki/ca-trust/source/anchors", "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
			"update-ca-trust extract\n", "update-ca-trust extract\n"},
	}
}

// newChroot makes a system of busybox, the script and a CA's certificate.
func newChroot(t *testing.T) *node {
	t.Helper()
	if os.Getuid() != 0 {
		unavailable(t, "chroot needs root")
	}
	n := newNode(t, nil, "/tmp/", "/dev/", "/root/", "/etc/docker/")
	n.copy(program(t, "busybox"), "/bin/busybox")
	for _, applet := range []string{"sh", "cat", "chmod", "cp", "cut", "grep", "id", "mkdir", "mktemp", "mv", "rm", "rmdir", "sha256sum", "tr"} {
		n.check(os.Symlink("busybox", filepath.Join(n.root, "bin", applet)))
	}
	n.write("/dev/null", "")
	n.copy("install.sh", "/root/install.sh")
	n.copy(n.file, "/root/ca.crt")
	return n
}

func (n *node) copy(from, to string) {
	n.t.Helper()
	source, err := os.Open(from)
	n.check(err)
	defer source.Close()
	n.write(to, "")
	target, err := os.OpenFile(filepath.Join(n.root, to), os.O_WRONLY|os.O_TRUNC, 0)
	n.check(err)
	_, err = io.Copy(target, source)
	n.check(err)
	n.check(target.Close())
}

// chroot runs the script inside, with the PATH that su leaves.
func (n *node) chroot(args ...string) string {
	n.t.Helper()
	command := exec.CommandContext(n.t.Context(), program(n.t, "chroot"),
		slices.Concat([]string{n.root, "/bin/sh", "/root/install.sh", hosts, Checksum(n.ca.pem)}, args)...)
	command.Env = []string{"PATH=/bin", "HOME=/root"}
	out, err := command.CombinedOutput()
	if err != nil {
		n.t.Fatalf("%v\n%s", err, out)
	}
	return string(out)
}

// The ways of the distributions, in a system of its own: there the script is root without DESTDIR and runs their tools.
func TestSystemStore(t *testing.T) {
	for name, d := range distributions() {
		t.Run(name, func(t *testing.T) {
			n := newChroot(t)
			for _, f := range d.files {
				n.write(f, "")
			}
			n.write(d.tool, d.content)
			before := n.tree()
			out := n.chroot("--ca", "/root/ca.crt", "--system")
			if !strings.Contains(out, "WARNING: every program") {
				t.Errorf("it does not warn:\n%s", out)
			}
			anchor := d.anchors + "/berth-192.168.1.18_5000.crt"
			n.checkInstalled([]string{anchor, "/etc/docker/certs.d/" + hosts + "/ca.crt"})
			if got := n.read(d.bundle); got != string(n.ca.pem) {
				t.Errorf("the bundle is %q", got)
			}
			out = n.chroot("--uninstall")
			if got := n.read("/called"); got != d.refresh+d.undo {
				t.Errorf("the tool was called as %q", got)
			}
			if got := n.read(d.bundle); got != "" {
				t.Errorf("uninstalled, the bundle is %q", got)
			}
			left := changed(before, n.tree())
			left = slices.DeleteFunc(left, func(name string) bool { return name == "/called" || name == "/dev/null" || name == d.bundle })
			if len(left) != 0 {
				t.Errorf("there remain %q\n%s", left, out)
			}
		})
	}
}

// Debian's own tool tells its hooks, of which one makes Java's keystore, what was added and what was removed. Neither it
// nor they get to say more.
func TestSystemStoreOfDebian(t *testing.T) {
	const tool, pem = "/usr/sbin/update-ca-certificates", "/etc/ssl/certs/berth-192.168.1.18_5000.pem"
	if content, err := os.ReadFile(tool); err != nil || !strings.Contains(string(content), "run-parts") {
		unavailable(t, "this is not Debian: it has another update-ca-certificates")
	}
	n := newChroot(t)
	n.copy(tool, tool)
	for _, applet := range []string{"basename", "find", "ln", "readlink", "run-parts", "sed", "sort", "test", "wc"} {
		n.check(os.Symlink("busybox", filepath.Join(n.root, "bin", applet)))
	}
	n.write("/bin/openssl", "#!/bin/sh\n") // it makes links by the hashes of names
	other := string(newAuthority(t).pem)
	n.write("/usr/share/ca-certificates/other.crt", other)
	n.write("/etc/ca-certificates.conf", "other.crt\n")
	n.write("/etc/ssl/certs/", "")
	n.write("/usr/local/share/ca-certificates/", "")
	n.write("/etc/ca-certificates/update.d/java", "#!/bin/sh\necho \"what it says\"\ncat >>/told\n")
	n.write("/told", "")
	out := n.chroot("--ca", "/root/ca.crt", "--system") + n.chroot("--uninstall")
	if got, want := n.read("/told"), "+/etc/ssl/certs/other.pem\n+"+pem+"\n-"+pem+"\n"; got != want {
		t.Errorf("the hook was told %q, not %q\n%s", got, want, out)
	}
	if got := n.read("/etc/ssl/certs/ca-certificates.crt"); strings.TrimSpace(got) != strings.TrimSpace(other) {
		t.Errorf("the bundle is %s", got)
	}
	if got := n.tree()[pem]; got != "" {
		t.Errorf("the link remains: %s", got)
	}
	if strings.Contains(out, "Updating certificates") || strings.Contains(out, "what it says") {
		t.Errorf("it says\n%s", out)
	}
}

// A tool that fails is heard.
func TestSystemStoreFails(t *testing.T) {
	n := newChroot(t)
	n.write("/usr/sbin/update-ca-certificates", "#!/bin/sh\necho no space\nexit 1\n")
	command := exec.CommandContext(t.Context(), program(t, "chroot"), n.root, "/bin/sh", "/root/install.sh", hosts, Checksum(n.ca.pem),
		"--ca", "/root/ca.crt", "--system")
	command.Env = []string{"PATH=/bin", "HOME=/root"}
	if out, err := command.CombinedOutput(); err == nil || !strings.Contains(string(out), "no space\ninstall.sh: update-ca-certificates failed\n") {
		t.Errorf("%v\n%s", err, out)
	}
}

// Without --system the store stays as it is, even in a system that has one.
func TestSystemStoreIsAskedFor(t *testing.T) {
	for name, d := range distributions() {
		t.Run(name, func(t *testing.T) {
			n := newChroot(t)
			for _, f := range d.files {
				n.write(f, "")
			}
			n.write(d.tool, d.content)
			before := n.tree()
			n.chroot("--ca", "/root/ca.crt")
			if got := changed(before, n.tree()); slices.Contains(got, "/called") || slices.Contains(got, d.bundle) {
				t.Errorf("it changed %q", got)
			}
		})
	}
}

// Without root there is only what is the user's, and it is said for what root is needed.
func TestInstallWithoutRoot(t *testing.T) {
	for name, tt := range map[string]struct {
		files   []string
		want    []string // the lines that say something was skipped
		failure string
	}{
		"podman alone":    {[]string{"/bin/podman"}, nil, ""},
		"podman and more": {[]string{"/bin/podman", "/bin/dockerd", "/etc/containerd/", "/bin/k3s"}, []string{"Docker,", "containerd,", "k3s,"}, ""},
		"docker alone":    {[]string{"/bin/dockerd"}, nil, "run it as root to install for the machine"},
	} {
		t.Run(name, func(t *testing.T) {
			n := newChroot(t)
			n.check(os.Remove(filepath.Join(n.root, "etc/docker")))
			n.write("/home/me/", "")
			for _, f := range tt.files {
				n.write(f, "")
			}
			n.check(os.Chmod(filepath.Join(n.root, "tmp"), 0o777))
			n.check(os.Chmod(filepath.Join(n.root, "root/ca.crt"), 0o644))
			n.check(os.Chown(filepath.Join(n.root, "home/me"), 12345, 12345))
			command := exec.CommandContext(t.Context(), "/bin/sh", "/root/install.sh", hosts, Checksum(n.ca.pem), "--ca", "/root/ca.crt")
			command.Env = []string{"PATH=/bin", "HOME=/home/me"}
			command.Dir = "/"
			command.SysProcAttr = &syscall.SysProcAttr{Chroot: n.root, Credential: &syscall.Credential{Uid: 12345, Gid: 12345}}
			out, err := command.CombinedOutput()
			if (err != nil) != (tt.failure != "") || !strings.Contains(string(out), tt.failure) {
				t.Errorf("%v\n%s", err, out)
			}
			if strings.Count(string(out), "skipped    ") != len(tt.want) {
				t.Errorf("it skips others than %q\n%s", tt.want, out)
			}
			for _, tool := range tt.want {
				if !strings.Contains(string(out), "skipped    "+tool) || !strings.Contains(string(out), "run this as root") {
					t.Errorf("it does not say that it skips %s\n%s", tool, out)
				}
			}
		})
	}
}
