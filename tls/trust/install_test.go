package trust

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const hosts = "192.168.1.18:5000"

func TestInstall(t *testing.T) {
	for name, tt := range map[string]struct {
		has     []string
		address string
		env     []string
		args    []string
		want    []string
	}{
		"docker by its program": {[]string{"/usr/bin/dockerd"}, hosts, nil, nil, []string{"/etc/docker/certs.d/" + hosts + "/ca.crt"}},
		"docker by its folder":  {[]string{"/etc/docker/"}, hosts, nil, nil, []string{"/etc/docker/certs.d/" + hosts + "/ca.crt"}},
		"port 443": {[]string{"/etc/docker/"}, "r.lan:443", nil, nil,
			[]string{"/etc/docker/certs.d/r.lan/ca.crt", "/etc/docker/certs.d/r.lan:443/ca.crt"}},
		"IPv6": {[]string{"/usr/bin/docker"}, "[fd00::18]:5000", nil, nil, []string{"/etc/docker/certs.d/[fd00::18]:5000/ca.crt"}},
		"IPv6 and 443": {[]string{"/usr/bin/docker"}, "[::1]:443", nil, nil,
			[]string{"/etc/docker/certs.d/[::1]/ca.crt", "/etc/docker/certs.d/[::1]:443/ca.crt"}},
		"podman":  {[]string{"/usr/bin/podman"}, hosts, nil, nil, []string{"/etc/containers/certs.d/" + hosts + "/ca.crt"}},
		"skopeo":  {[]string{"/usr/bin/skopeo"}, hosts, nil, nil, []string{"/etc/containers/certs.d/" + hosts + "/ca.crt"}},
		"buildah": {[]string{"/usr/bin/buildah"}, hosts, nil, nil, []string{"/etc/containers/certs.d/" + hosts + "/ca.crt"}},
		"containerd": {[]string{"/usr/local/bin/containerd"}, hosts, nil, nil,
			[]string{"/etc/containerd/certs.d/" + hosts + "/ca.crt", "/etc/containerd/certs.d/" + hosts + "/hosts.toml"}},
		"containerd and 443": {[]string{"/etc/containerd/"}, "r.lan:443", nil, nil, []string{
			"/etc/containerd/certs.d/r.lan/ca.crt", "/etc/containerd/certs.d/r.lan/hosts.toml",
			"/etc/containerd/certs.d/r.lan:443/ca.crt", "/etc/containerd/certs.d/r.lan:443/hosts.toml"}},
		"k3s":             {[]string{"/etc/rancher/k3s/"}, hosts, nil, nil, []string{"/etc/rancher/k3s/certs.d/" + hosts + "/ca.crt"}},
		"rke2":            {[]string{"/usr/local/bin/rke2"}, hosts, nil, nil, []string{"/etc/rancher/rke2/certs.d/" + hosts + "/ca.crt"}},
		"rootless docker": {[]string{"/home/me/.config/docker/"}, hosts, nil, nil, []string{"/home/me/.config/docker/certs.d/" + hosts + "/ca.crt"}},
		"rootless docker by its data": {[]string{"/home/me/.local/share/docker/"}, hosts, nil, nil,
			[]string{"/home/me/.config/docker/certs.d/" + hosts + "/ca.crt"}},
		"rootless docker by its service": {[]string{"/home/me/x/systemd/user/docker.service"}, hosts, []string{"XDG_CONFIG_HOME=/home/me/x"}, nil,
			[]string{"/home/me/x/docker/certs.d/" + hosts + "/ca.crt"}},
		"all of them": {[]string{"/etc/docker/", "/etc/containers/", "/etc/containerd/", "/home/me/.config/docker/"}, hosts, nil, nil, []string{
			"/etc/containerd/certs.d/" + hosts + "/ca.crt", "/etc/containerd/certs.d/" + hosts + "/hosts.toml",
			"/etc/containers/certs.d/" + hosts + "/ca.crt", "/etc/docker/certs.d/" + hosts + "/ca.crt",
			"/home/me/.config/docker/certs.d/" + hosts + "/ca.crt"}},
		"Debian's store": {[]string{"/usr/sbin/update-ca-certificates"}, hosts, nil, []string{"--system"},
			[]string{"/usr/local/share/ca-certificates/berth-192.168.1.18_5000.crt"}},
		"RHEL's store": {[]string{"/etc/pki/ca-trust/source/anchors/"}, "[fd00::18]:5000", nil, []string{"--system"},
			[]string{"/etc/pki/ca-trust/source/anchors/berth-_fd00__18__5000.crt"}},
		"SUSE's store": {[]string{"/etc/pki/trust/anchors/", "/usr/sbin/update-ca-certificates"}, hosts, nil, []string{"--system"},
			[]string{"/etc/pki/trust/anchors/berth-192.168.1.18_5000.crt"}},
		"the store is left alone": {[]string{"/etc/docker/", "/usr/sbin/update-ca-certificates"}, hosts, nil, nil,
			[]string{"/etc/docker/certs.d/" + hosts + "/ca.crt"}},
	} {
		t.Run(name, func(t *testing.T) {
			eachShell(t, func(t *testing.T, shell []string) {
				n := newNode(t, shell, tt.has...)
				n.env, n.umask = tt.env, "077"
				before := n.tree()
				first := n.install(tt.address, tt.args...)
				installed := n.tree()
				if got := unmarked(changed(before, installed)); !slices.Equal(got, tt.want) {
					t.Fatalf("installed %q, want %q\n%s", got, tt.want, first)
				}
				n.checkInstalled(tt.want)
				again := n.install(tt.address, tt.args...)
				if !maps.Equal(installed, n.tree()) || strings.Count(again, "unchanged  ") != len(tt.want) || strings.Contains(again, "installed  ") {
					t.Errorf("the second time it says\n%s\nand has changed %q", again, changed(installed, n.tree()))
				}
				n.uninstall(tt.address)
				if got := changed(before, n.tree()); len(got) != 0 {
					t.Errorf("uninstalled, there remain %q", got)
				}
				if !maps.Equal(before, n.tree()) {
					t.Errorf("uninstalled, it is another machine: %q, not %q", n.tree(), before)
				}
				if out := n.uninstall(tt.address); out != "nothing to remove\n" {
					t.Errorf("the second time it uninstalls %s", out)
				}
			})
		})
	}
}

// checkInstalled looks at contents and modes: everybody may read them, whatever the umask was.
func (n *node) checkInstalled(files []string) {
	n.t.Helper()
	for _, name := range files {
		content := n.read(name)
		if strings.HasSuffix(name, ".crt") && content != string(n.ca.pem) {
			n.t.Errorf("%s is\n%s", name, content)
		}
		if address := filepath.Base(filepath.Dir(name)); strings.HasSuffix(name, ".toml") &&
			content != fmt.Sprintf("server = %q\nca = %q\n", "https://"+address, filepath.Dir(name)+"/ca.crt") {
			n.t.Errorf("%s is\n%s", name, content)
		}
		info, err := os.Stat(filepath.Join(n.root, name))
		n.check(err)
		directory, err := os.Stat(filepath.Join(n.root, filepath.Dir(name)))
		n.check(err)
		if info.Mode().Perm() != 0o644 || directory.Mode().Perm() != 0o755 {
			n.t.Errorf("%s has mode %v in a directory with %v", name, info.Mode(), directory.Mode())
		}
	}
}

func TestInstallLeavesHostsToml(t *testing.T) {
	eachShell(t, func(t *testing.T, shell []string) {
		directory := "/etc/containerd/certs.d/" + hosts
		mine := "[host.\"https://mirror.lan\"]\n"
		n := newNode(t, shell)
		n.write(directory+"/hosts.toml", mine)
		out := n.install(hosts)
		if n.read(directory+"/hosts.toml") != mine {
			t.Error("hosts.toml was overwritten")
		}
		if want := "ca = \"" + directory + "/ca.crt\"\n"; !strings.Contains(out, want) {
			t.Errorf("it does not say what to add:\n%s", out)
		}
		n.write(directory+"/hosts.toml", mine+"  ca = [\""+directory+"/ca.crt\"]\n")
		if out := n.install(hosts); strings.Contains(out, "add this line") {
			t.Errorf("it is there, and yet:\n%s", out)
		}
		n.uninstall(hosts)
		if n.read(directory+"/hosts.toml") == "" {
			t.Error("hosts.toml is gone")
		}
	})
}

// What is to be changed in containerd's configuration depends on what is there: a table twice, or a key twice, and
// containerd does not start.
func TestContainerdConfigPath(t *testing.T) {
	const v2, v3 = `[plugins."io.containerd.grpc.v1.cri".registry]`, `[plugins."io.containerd.cri.v1.images".registry]`
	const v3default = "version = 3\n[plugins]\n  [plugins.'io.containerd.cri.v1.images']\n    [plugins.'io.containerd.cri.v1.images'.registry]\n"
	const transfer = "\n  [plugins.'io.containerd.transfer.v1.local']\n    config_path = ''\n"
	const add, line, change = "Add this, and restart containerd:\n\n", "add this line to the section\n\n", "set the config_path that is there, in the section\n\n"
	const path = `config_path = "/etc/containerd/certs.d"`
	for name, tt := range map[string]struct {
		config string
		want   string // what it says to do, or nothing
	}{
		"none":                {"", add + "version = 2\n\n" + v2 + "\n  " + path},
		"no version":          {"[grpc]\naddress = \"/x\"\n", add + `[plugins."cri".registry]`},
		"version 2":           {"version = 2\n", add + v2},
		"version 3":           {"version = 3\n", add + v3},
		"commented":           {"# " + v2 + "\n# " + path + "\n", add + "version = 2\n\n" + v2},
		"of something else":   {"version = 2\n" + transfer, add + v2},
		"mirrors alone":       {"version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry.mirrors.\"x\"]\nendpoint = []\n", add + v2},
		"empty table":         {v2 + "\n", line + v2},
		"empty":               {v2 + "\nconfig_path = \"\"\n", change + v2},
		"the default of 2.0":  {v3default + "      config_path = ''\n" + transfer, change + strings.ReplaceAll(v3, `"`, "'")},
		"spaces and a remark": {"[ plugins.cri.registry ] # mine\n\tconfig_path=\"\" # none", change + "[ plugins.cri.registry ]"},
		"set":                 {v2 + "\n  " + path + "\n", ""},
		"one of two":          {v2 + "\nconfig_path = '/etc/docker/certs.d:/etc/containerd/certs.d'\n", ""},
		"elsewhere":           {v2 + "\nconfig_path = '/srv/certs'\n", ""},
		"docker's own":        {"disabled_plugins = [\"cri\"]\n", ""},
		"disabled":            {"disabled_plugins = ['io.containerd.grpc.v1.cri']\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			eachShell(t, func(t *testing.T, shell []string) {
				n := newNode(t, shell)
				n.write("/etc/containerd/config.toml", tt.config)
				out := n.install(hosts)
				if tt.want == "" && strings.Contains(out, "config_path") {
					t.Errorf("it needs nothing, and yet:\n%s", out)
				}
				if !strings.Contains(out, tt.want) {
					t.Errorf("it does not say %q:\n%s", tt.want, out)
				}
				if got := strings.Contains(out, "Remove the sections registry.mirrors"); got != strings.Contains(tt.config, "mirrors") {
					t.Errorf("about mirrors it says\n%s", out)
				}
			})
		})
	}
}

// Where containerd's configuration points is where the files have to be.
func TestContainerdElsewhere(t *testing.T) {
	eachShell(t, func(t *testing.T, shell []string) {
		n := newNode(t, shell)
		n.write("/etc/containerd/conf.d/r.toml", "[plugins.'io.containerd.grpc.v1.cri'.registry]\nconfig_path = '/srv/certs:/opt/certs'\n")
		before := n.tree()
		n.install("r.lan:443")
		var want []string
		for _, directory := range []string{"/etc/containerd/certs.d", "/srv/certs"} {
			for _, name := range []string{"/r.lan", "/r.lan:443"} {
				want = append(want, directory+name+"/ca.crt", directory+name+"/hosts.toml")
			}
		}
		if got := unmarked(changed(before, n.tree())); !slices.Equal(got, want) {
			t.Errorf("installed %q, want %q", got, want)
		}
		n.checkInstalled(want)
		n.uninstall("r.lan:443")
		if after := n.tree(); !maps.Equal(before, after) {
			t.Errorf("changed %q", changed(before, after))
		}
	})
}

// What is printed for buildx and k3s can be pasted as it stands.
func TestInstallAdvice(t *testing.T) {
	eachShell(t, func(t *testing.T, shell []string) {
		out := newNode(t, shell, "/etc/docker/", "/etc/rancher/k3s/").install("[::1]:5000")
		for _, want := range []string{
			"\n[registry.\"[::1]:5000\"]\n  http = false\n  ca = [\"/etc/docker/certs.d/[::1]:5000/ca.crt\"]\n\n",
			"\ndocker buildx create --name berth --driver docker-container --config buildkitd.toml --bootstrap --use\n",
			"\nmirrors:\n  \"[::1]:5000\":\n    endpoint:\n      - \"https://[::1]:5000\"\nconfigs:\n  \"[::1]:5000\":\n    tls:\n" +
				"      ca_file: \"/etc/rancher/k3s/certs.d/[::1]:5000/ca.crt\"\n",
			"--system", "SSL_CERT_FILE=/etc/docker/certs.d/[::1]:5000/ca.crt\n", "BUILDKIT_NO_CLIENT_TOKEN=1", "Bearer",
		} {
			if !strings.Contains(out, want) {
				t.Errorf("%q is not in\n%s", want, out)
			}
		}
		if strings.Contains(out, "WARNING") {
			t.Errorf("it warns of what it did not do:\n%s", out)
		}
		system := newNode(t, shell, "/usr/sbin/update-ca-certificates").install(hosts, "--system")
		if !strings.Contains(system, "WARNING: every program") || !strings.Contains(system, "any site") {
			t.Errorf("it does not warn:\n%s", system)
		}
	})
}

// A registry on port 443 has two names, and people use both.
func TestInstallAdviceForPort443(t *testing.T) {
	eachShell(t, func(t *testing.T, shell []string) {
		out := newNode(t, shell, "/etc/rancher/k3s/").install("r.lan:443")
		var stanzas, mirrors, configs string
		for _, name := range []string{"r.lan:443", "r.lan"} {
			stanzas += "\n[registry.\"" + name + "\"]\n  http = false\n  ca = [\"/etc/rancher/k3s/certs.d/r.lan:443/ca.crt\"]\n"
			mirrors += "  \"" + name + "\":\n    endpoint:\n      - \"https://" + name + "\"\n"
			configs += "  \"" + name + "\":\n    tls:\n      ca_file: \"/etc/rancher/k3s/certs.d/" + name + "/ca.crt\"\n"
		}
		for _, want := range []string{stanzas, "\nmirrors:\n" + mirrors + "configs:\n" + configs} {
			if !strings.Contains(out, want) {
				t.Errorf("%s is not in\n%s", want, out)
			}
		}
	})
}

func TestInstallRefuses(t *testing.T) {
	good := strings.Repeat("0", 64)
	type refusal struct {
		args []string
		why  string
	}
	refusals := map[string]refusal{
		"wrong checksum":     {[]string{hosts, good}, "refused: the certificate has the checksum"},
		"no checksum":        {[]string{hosts}, "usage:"},
		"nothing":            {nil, "usage:"},
		"short checksum":     {[]string{hosts, good[1:]}, "not a SHA-256 checksum"},
		"long checksum":      {[]string{hosts, good + "0"}, "not a SHA-256 checksum"},
		"capital checksum":   {[]string{hosts, "A" + good[1:]}, "not a SHA-256 checksum"},
		"checksum and line":  {[]string{hosts, good + "\n"}, "not a SHA-256 checksum"},
		"unknown option":     {[]string{hosts, good, "--force"}, "unknown option: --force"},
		"a third argument":   {[]string{hosts, good, "x"}, "too many arguments: x"},
		"--ca without file":  {[]string{hosts, good, "--ca"}, "--ca needs a file"},
		"no store to system": {[]string{hosts, good, "--system"}, "install the package ca-certificates first"},
	}
	for _, address := range badAddresses() {
		refusals[fmt.Sprintf("address %.40q", address)] = refusal{[]string{address, good}, ""}
	}
	eachShell(t, func(t *testing.T, shell []string) {
		n := newNode(t, shell, "/etc/docker/", "/etc/containerd/")
		before := n.tree()
		for name, tt := range refusals {
			if !slices.Contains(tt.args, "--ca") {
				tt.args = append(slices.Clone(tt.args), "--ca", n.file)
			}
			_, errOut, err := n.run(tt.args...)
			if err == nil || !strings.Contains(errOut, tt.why) {
				t.Errorf("%s: %v: %s", name, err, errOut)
			}
		}
		if after := n.tree(); !maps.Equal(before, after) {
			t.Errorf("changed %q", changed(before, after))
		}
		if _, errOut, err := n.run(hosts, Checksum(n.ca.pem), "--ca", "/nowhere"); err == nil || !strings.Contains(errOut, "can't read /nowhere") {
			t.Errorf("a file that is not there: %v: %s", err, errOut)
		}
	})
}

func TestInstallTakesGoodAddresses(t *testing.T) {
	eachShell(t, func(t *testing.T, shell []string) {
		n := newNode(t, shell, "/etc/docker/")
		for _, address := range goodAddresses() {
			n.install(address)
			if got := n.read("/etc/docker/certs.d/" + address + "/ca.crt"); got != string(n.ca.pem) {
				t.Errorf("for %s it is %s", address, got)
			}
		}
	})
}

// Nothing to install for is a failure, as nobody trusts anything afterwards.
func TestInstallFindsNothing(t *testing.T) {
	eachShell(t, func(t *testing.T, shell []string) {
		n := newNode(t, shell)
		_, errOut, err := n.run(hosts, Checksum(n.ca.pem), "--ca", n.file)
		if err == nil || !strings.Contains(errOut, "found neither Docker nor containerd") || len(n.tree()) != 0 {
			t.Errorf("%v: %s%q", err, errOut, n.tree())
		}
	})
}

// With sudo, the files in the home of the user who called it are that user's.
func TestInstallForTheUserOfSudo(t *testing.T) {
	if os.Getuid() != 0 {
		unavailable(t, "this test needs root")
	}
	eachShell(t, func(t *testing.T, shell []string) {
		n := newNode(t, shell, "/home/you/.config/docker/", "/etc/docker/")
		n.behindSudo()
		n.install(hosts)
		for name, uid := range map[string]uint32{
			"/home/you/.config/docker/certs.d":                      12345,
			"/home/you/.config/docker/certs.d/" + hosts:             12345,
			"/home/you/.config/docker/certs.d/" + hosts + "/ca.crt": 12345,
			"/etc/docker/certs.d/" + hosts + "/ca.crt":              0,
			"/home/you/.config/docker":                              0, // it was there before
			"/etc/docker/certs.d":                                   0,
		} {
			if got := n.owner(name); got != uid {
				t.Errorf("%s belongs to %d, not to %d", name, got, uid)
			}
		}
	})
}

// behindSudo has the user called you run the script with sudo.
func (n *node) behindSudo() {
	n.t.Helper()
	bin := n.t.TempDir()
	n.check(os.WriteFile(filepath.Join(bin, "getent"), []byte("#!/bin/sh\n[ \"$*\" = 'passwd 12345' ] && echo you:x:12345:12345::/home/you:/bin/sh\n"), 0o755))
	n.env = []string{"SUDO_UID=12345", "SUDO_GID=12345", "PATH=" + bin + ":" + os.Getenv("PATH")}
}

// Root writes through no link that a user planted: neither in the place of the files, nor of those that it makes on the
// way, nor of a directory above them.
func TestInstallFollowsNoLinks(t *testing.T) {
	if os.Getuid() != 0 {
		unavailable(t, "this test needs root")
	}
	const directory = "/home/you/.config/docker/certs.d/" + hosts
	for name, tt := range map[string]struct {
		link    string
		skipped bool
	}{
		"the file":              {directory + "/ca.crt", true},
		"the new file":          {directory + "/ca.crt.new", false},
		"the file that is kept": {directory + "/ca.crt.before-berth", false},
		"the mark":              {directory + "/ca.crt.by-berth", false},
		"the new mark":          {directory + "/ca.crt.by-berth.new", false},
		"the directory":         {directory, true},
		"a directory above":     {"/home/you/.config", true},
	} {
		t.Run(name, func(t *testing.T) {
			eachShell(t, func(t *testing.T, shell []string) {
				n := newNode(t, shell, "/etc/docker/", "/outside/docker/")
				n.behindSudo()
				if filepath.Base(tt.link) == ".config" {
					n.write("/home/you/", "")
				} else {
					n.write(filepath.Dir(tt.link)+"/", "")
				}
				if tt.link != directory+"/ca.crt" && strings.HasPrefix(tt.link, directory+"/") {
					n.write(directory+"/ca.crt", "before\n")
				}
				target := filepath.Join(n.root, "outside")
				if strings.Contains(tt.link, "ca.crt") {
					target += "/file"
				}
				n.check(os.Symlink(target, filepath.Join(n.root, tt.link)))
				before := n.tree()
				out := n.install(hosts)
				if strings.Contains(out, "skipped    "+directory) != tt.skipped {
					t.Errorf("it says\n%s", out)
				}
				for _, name := range changed(before, n.tree()) {
					if strings.HasPrefix(name, "/outside/") || tt.skipped && !strings.HasPrefix(name, "/etc/docker/") {
						t.Errorf("it wrote %s", name)
					}
				}
				n.uninstall(hosts)
				for _, name := range changed(before, n.tree()) {
					if strings.HasPrefix(name, "/outside/") {
						t.Errorf("uninstalling, it wrote %s", name)
					}
				}
			})
		})
	}
}

// A copy that was cut off anywhere does nothing, and never half of it.
func TestTruncatedScriptDoesNothing(t *testing.T) {
	shell := program(t, "dash")
	n := newNode(t, []string{shell}, "/etc/docker/")
	before := n.tree()
	path := filepath.Join(t.TempDir(), "install.sh")
	for size := 0; size < len(script)-len("main \"$@\"\n"); size += 97 {
		n.check(os.WriteFile(path, script[:size], 0o600))
		command := exec.CommandContext(t.Context(), shell, path, hosts, Checksum(n.ca.pem), "--ca", n.file)
		command.Env = []string{"PATH=" + os.Getenv("PATH"), "DESTDIR=" + n.root}
		out, _ := command.CombinedOutput()
		if after := n.tree(); !maps.Equal(before, after) || bytes.Contains(out, []byte("installed")) {
			t.Fatalf("cut at %d, it changed %q\n%s", size, changed(before, after), out)
		}
	}
}

func TestShellcheck(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), program(t, "shellcheck"), "--shell=sh", "install.sh").CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
