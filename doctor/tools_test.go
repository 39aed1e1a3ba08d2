package doctor

import (
	"context"
	"net/netip"
	"os"
	"slices"
	"testing"
)

// TestMachines examines a registry whose CA the system does not know, from machines with these files.
func TestMachines(t *testing.T) {
	const docker, containers, containerd = "/etc/docker/certs.d/ADDRESS/", "/etc/containers/certs.d/ADDRESS/", "/etc/containerd/certs.d/ADDRESS/"
	other := newCA(t, "another CA").pem()
	for name, tt := range map[string]struct {
		files map[string]string
		want  []expectation
	}{
		"nothing": {nil, []expectation{{Fail, "system", "unknown authority", "--system"}}},
		"docker without the CA": {map[string]string{"/usr/bin/dockerd": ""}, []expectation{
			{Fail, "docker", "does not trust the certificate, neither by /etc/docker/certs.d/registry.lan:", "registry cert show"},
			{Note, "system", "unknown authority", "--system"}}},
		"docker with the CA":         {map[string]string{docker + "ca.crt": "CA.PEM"}, []expectation{{OK, "docker", "trusts", ""}, {Note, "system", "crane, docker buildx imagetools, curl, browsers and, for tokens, buildx", ""}}},
		"docker with two CAs":        {map[string]string{docker + "a.crt": other, docker + "b.crt": "CA.PEM"}, []expectation{{OK, "docker", "trusts", ""}}},
		"docker with another CA":     {map[string]string{docker + "ca.crt": other}, []expectation{{Fail, "docker", "unknown authority", "registry cert show"}}},
		"docker with another suffix": {map[string]string{docker + "ca.pem": "CA.PEM"}, []expectation{{Fail, "docker", "unknown authority", ""}}},
		"docker with rubbish":        {map[string]string{docker + "ca.crt": "x"}, []expectation{{Fail, "docker", "ca.crt holds no certificate", "PEM"}}},
		"docker with half a pair":    {map[string]string{docker + "ca.crt": "CA.PEM", docker + "client.cert": "x"}, []expectation{{Fail, "docker", "client.key, which belongs to it", "both"}}},
		"docker with the other half": {map[string]string{docker + "ca.crt": "CA.PEM", docker + "client.key": "x"}, []expectation{{Fail, "docker", "client.cert, which belongs to it", "both"}}},
		"docker with a whole pair":   {map[string]string{docker + "ca.crt": "CA.PEM", docker + "client.cert": "x", docker + "client.key": "x"}, []expectation{{OK, "docker", "trusts", ""}}},
		"docker for another port":    {map[string]string{"/etc/docker/certs.d/registry.lan/ca.crt": "CA.PEM"}, []expectation{{Fail, "docker", "unknown authority", ""}}},
		"insecure": {map[string]string{docker + "ca.crt": "CA.PEM", "/etc/docker/daemon.json": `{"insecure-registries": ["x:1", "ADDRESS"]}`},
			[]expectation{{Fail, "docker", "insecure-registries", "Remove the entry, restart Docker"}}},
		"insecure with a scheme": {map[string]string{docker + "ca.crt": "CA.PEM", "/etc/docker/daemon.json": `{"insecure-registries": ["http://ADDRESS/"]}`},
			[]expectation{{Fail, "docker", "ignores the CA in certs.d", ""}}},
		"insecure by network": {map[string]string{docker + "ca.crt": "CA.PEM", "/etc/docker/daemon.json": `{"insecure-registries": ["192.0.2.0/24"]}`},
			[]expectation{{Fail, "docker", `"192.0.2.0/24"`, ""}}},
		"others are insecure": {map[string]string{docker + "ca.crt": "CA.PEM", "/etc/docker/daemon.json": `{"insecure-registries": ["x:1", "10.0.0.0/8", "registry.lan"]}`},
			[]expectation{{OK, "docker", "does not list it", ""}}},
		"broken daemon.json": {map[string]string{docker + "ca.crt": "CA.PEM", "/etc/docker/daemon.json": `{"insecure-registries": "x",`},
			[]expectation{{Fail, "docker", "daemon.json is not valid", "Docker does not start"}}},
		"rootless without the CA": {map[string]string{"/home/me/.config/docker/": ""}, []expectation{
			{Fail, "docker (rootless)", "/home/me/.config/docker/certs.d/registry.lan:", ""}}},
		"rootless with the CA": {map[string]string{"/home/me/.config/docker/certs.d/ADDRESS/ca.crt": "CA.PEM"}, []expectation{{OK, "docker (rootless)", "trusts", ""}}},
		"rootless, insecure": {map[string]string{"/home/me/.config/docker/certs.d/ADDRESS/ca.crt": "CA.PEM",
			"/home/me/.config/docker/daemon.json": `{"insecure-registries": ["ADDRESS"]}`}, []expectation{{Fail, "docker (rootless)", "/home/me/.config/docker/daemon.json lists", ""}}},
		"podman without the CA": {map[string]string{"/usr/bin/podman": ""}, []expectation{{Fail, "containers", "/etc/containers/certs.d/registry.lan:", "registry cert show"}}},
		"podman with the CA":    {map[string]string{containers + "ca.crt": "CA.PEM"}, []expectation{{OK, "containers", "trusts", ""}}},
		"podman takes docker's": {map[string]string{"/usr/bin/skopeo": "", docker + "ca.crt": "CA.PEM"}, []expectation{{OK, "containers", "trusts", ""}, {OK, "docker", "trusts", ""}}},
		"podman takes the user's": {map[string]string{containers + "ca.crt": "CA.PEM", "/home/me/.config/containers/certs.d/ADDRESS/ca.crt": other},
			[]expectation{{Fail, "containers", "/home/me/.config/containers/certs.d/", ""}}},
		"podman takes the first": {map[string]string{containers: "", docker + "ca.crt": "CA.PEM"},
			[]expectation{{Fail, "containers", "neither by /etc/containers/certs.d/", ""}}},
		"containerd without the CA": {map[string]string{"/usr/bin/containerd": ""}, []expectation{{Fail, "containerd", "/etc/containerd/certs.d/registry.lan:", "registry cert show"}}},
		"containerd with hosts.toml": {map[string]string{containerd + "ca.crt": "CA.PEM",
			containerd + "hosts.toml": "server = \"https://ADDRESS\"\nca = \"ca.crt\"\n"}, []expectation{{OK, "containerd", "trusts", ""}}},
		"containerd without hosts.toml": {map[string]string{containerd + "ca.crt": "CA.PEM"}, []expectation{{OK, "containerd", "trusts", ""}}},
		"containerd with an empty one":  {map[string]string{containerd + "ca.crt": "CA.PEM", containerd + "hosts.toml": ""}, []expectation{{OK, "containerd", "trusts", ""}}},
		"containerd with a hosts.toml that lacks it": {map[string]string{containerd + "ca.crt": "CA.PEM", containerd + "hosts.toml": "server = \"https://ADDRESS\"\n"},
			[]expectation{{Fail, "containerd", "hosts.toml nor by the system's", ""}}},
		"containerd with a section": {map[string]string{containerd + "x.pem": "CA.PEM",
			containerd + "hosts.toml": "[host.\"https://ADDRESS\"]\n  capabilities = [\"pull\"]\n  ca = [ # two\n    \"x.pem\",\n  ]\n"}, []expectation{{OK, "containerd", "trusts", ""}}},
		"containerd with a mirror's section": {map[string]string{containerd + "x.pem": "CA.PEM",
			containerd + "hosts.toml": "[host.\"https://mirror.lan\"]\n  ca = \"x.pem\"\n  skip_verify = true\n"}, []expectation{{Fail, "containerd", "unknown authority", ""}}},
		"containerd with a server elsewhere": {map[string]string{containerd + "x.pem": "CA.PEM",
			containerd + "hosts.toml": "server = \"https://mirror.lan\"\nca = \"x.pem\"\n"}, []expectation{{Fail, "containerd", "unknown authority", ""}}},
		"containerd with a file that is not there": {map[string]string{containerd + "hosts.toml": "ca = \"/x.pem\"\n"},
			[]expectation{{Fail, "containerd", "/x.pem can't be read", ""}}},
		"containerd does not verify": {map[string]string{containerd + "hosts.toml": "[host.'https://ADDRESS']\nskip_verify = true # for now\n"},
			[]expectation{{Fail, "containerd", "turns verification off", "Remove skip_verify"}}},
		"containerd verifies": {map[string]string{containerd + "ca.crt": "CA.PEM", containerd + "hosts.toml": "ca = 'ca.crt'\nskip_verify = false\n"},
			[]expectation{{OK, "containerd", "trusts", ""}}},
		"containerd takes the other spelling": {map[string]string{containerd + "ca.crt": "CA.PEM", "/etc/containerd/certs.d/registry.lan_PORT_/": ""},
			[]expectation{{Fail, "containerd", "/etc/containerd/certs.d/registry.lan_", ""}}},
		"containerd takes the default": {map[string]string{"/etc/containerd/certs.d/_default/ca.crt": "CA.PEM"}, []expectation{{OK, "containerd", "trusts", ""}}},
		"containerd has another path": {map[string]string{containerd + "ca.crt": other, "/srv/certs/ADDRESS/ca.crt": "CA.PEM",
			"/etc/containerd/config.toml": "[plugins.\"io.containerd.cri.v1.images\".registry]\nconfig_path = \"/opt/none:/srv/certs\"\n"},
			[]expectation{{OK, "containerd", "trusts", ""}, {OK, "containerd", "config_path is /opt/none:/srv/certs", ""}}},
		"containerd has no path":              {map[string]string{containerd + "ca.crt": "CA.PEM", "/etc/containerd/config.toml": "version = 2\n"}, []expectation{{Note, "containerd", "no config_path", "config_path"}}},
		"containerd has an empty path":        {map[string]string{containerd + "ca.crt": "CA.PEM", "/etc/containerd/config.toml": "[plugins.x.registry]\nconfig_path = \"\"\n"}, []expectation{{Note, "containerd", "no config_path", "Change the config_path that is there, in [plugins.x.registry]"}}},
		"containerd has a path for others":    {map[string]string{containerd + "ca.crt": "CA.PEM", "/etc/containerd/config.toml": "[plugins.x]\nconfig_path = \"/y\"\n"}, []expectation{{Note, "containerd", "no config_path", ""}}},
		"Kubernetes without a path":           {map[string]string{containerd + "ca.crt": "CA.PEM", "/usr/bin/kubelet": ""}, []expectation{{Fail, "containerd", "Kubernetes' pulls ignore", "restart containerd"}}},
		"Kubernetes with a path in conf.d":    {map[string]string{containerd + "ca.crt": "CA.PEM", "/etc/kubernetes/": "", "/etc/containerd/conf.d/r.toml": "[plugins.'io.containerd.grpc.v1.cri'.registry]\n config_path = '/etc/containerd/certs.d'\n"}, []expectation{{OK, "containerd", "config_path is /etc/containerd/certs.d", ""}}},
		"Kubernetes with a path in a comment": {map[string]string{containerd + "ca.crt": "CA.PEM", "/etc/kubernetes/": "", "/etc/containerd/config.toml": "[plugins.x.registry]\n# config_path = '/etc/containerd/certs.d'\n"}, []expectation{{Fail, "containerd", "no config_path", ""}}},
		"docker's containerd":                 {map[string]string{containerd + "ca.crt": "CA.PEM", "/etc/containerd/config.toml": "disabled_plugins = [\n \"cri\",\n]\n"}, []expectation{{OK, "containerd", "trusts", ""}}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRegistry(t)
			r.config.Home = "/home/me"
			r.files = tt.files
			compare(t, r.examine(), tt.want...)
		})
	}
}

// On loopback Docker and containerd work without a CA. Podman does not.
func TestLoopback(t *testing.T) {
	other := newCA(t, "another CA").pem()
	for name, tt := range map[string]struct {
		files map[string]string
		want  []expectation
	}{
		"docker with the CA":    {map[string]string{"/etc/docker/certs.d/ADDRESS/ca.crt": "CA.PEM"}, []expectation{{OK, "docker", "trusts", ""}}},
		"docker without the CA": {map[string]string{"/etc/docker/": ""}, []expectation{{Note, "docker", "does not trust", "registry cert show"}, {Note, "docker", "loopback", "other machines"}}},
		"docker with rubbish":   {map[string]string{"/etc/docker/certs.d/ADDRESS/ca.crt": "x"}, []expectation{{Note, "docker", "holds no certificate", ""}}},
		"rootless docker":       {map[string]string{"/home/me/.config/docker/": ""}, []expectation{{Note, "docker (rootless)", "does not trust", ""}}},
		"containerd":            {map[string]string{"/etc/containerd/certs.d/ADDRESS/ca.crt": other}, []expectation{{Note, "containerd", "does not trust", ""}}},
		"containerd's file":     {map[string]string{"/etc/containerd/certs.d/ADDRESS/hosts.toml": "ca = \"x\"\n"}, []expectation{{Note, "containerd", "x can't be read", ""}}},
		"podman":                {map[string]string{"/usr/bin/podman": ""}, []expectation{{Fail, "containers", "does not trust", ""}}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRegistry(t)
			r.onLoopback()
			r.config.Home = "/home/me"
			r.files = tt.files
			compare(t, r.examine(), tt.want...)
		})
	}
}

// What is to be changed in containerd's configuration depends on what is there.
func TestConfigPathRemedy(t *testing.T) {
	const v2, v3 = `[plugins."io.containerd.grpc.v1.cri".registry]`, `[plugins.'io.containerd.cri.v1.images'.registry]`
	for config, want := range map[string]string{
		"":              `Add version = 2 and a section ` + v2 + ` with config_path = "/etc/containerd/certs.d" to /etc/containerd/config.toml, and restart`,
		"version = 2\n": `Add a section ` + v2 + ` with`,
		"[grpc]\n":      `Add a section [plugins.cri.registry] with`,
		"version = 3\n[plugins.'io.containerd.transfer.v1.local']\nconfig_path = ''\n": `Add a section [plugins."io.containerd.cri.v1.images".registry] with`,
		v2 + "\n":                          `Add config_path = "/etc/containerd/certs.d" to the section that is there, ` + v2 + ` in /etc/containerd/config.toml, and restart`,
		v3 + "\nconfig_path = ''\n[x]\n":   `Change the config_path that is there, in ` + v3 + ` in /etc/containerd/config.toml, to config_path = "/etc`,
		"[plugins.cri.registry.mirrors.x]": `config.toml, remove registry.mirrors`,
	} {
		r := newRegistry(t)
		r.config.System = r.ca.pool()
		r.files = map[string]string{"/etc/containerd/config.toml": config, "/usr/bin/kubelet": ""}
		compare(t, r.examine(), expectation{Fail, "containerd", "Kubernetes' pulls ignore", want})
	}
}

// What can be seen on the machine is looked at when the registry can't be reached, too.
func TestUnreachable(t *testing.T) {
	r := newRegistry(t)
	r.address = "registry.lan:1"
	r.write(map[string]string{"/etc/docker/daemon.json": `{"insecure-registries": ["registry.lan:1"]}`, "/usr/bin/kubelet": "", "/etc/containerd/": ""})
	r.config.Root = r.root
	r.config.Lookup = func(context.Context, string) ([]netip.Addr, error) { return nil, nil }
	compare(t, Run(t.Context(), "https://registry.lan:1", r.config),
		expectation{Fail, "name", "not known here", ""},
		expectation{Fail, "docker", "insecure-registries", ""},
		expectation{Fail, "containerd", "config_path", ""})
}

// A file that can't be read is not the same as one that is not there.
func TestUnreadable(t *testing.T) {
	r := newRegistry(t)
	r.start()
	r.files = map[string]string{"/etc/docker/daemon.json/": "", "/etc/containerd/certs.d/ADDRESS/hosts.toml/": "", "/etc/docker/certs.d/ADDRESS": ""}
	r.write(r.files)
	r.config.Root = r.root
	compare(t, Run(t.Context(), "https://"+r.address, r.config),
		expectation{Note, "docker", "/etc/docker/daemon.json can't be read: is a directory", "as root"},
		expectation{Note, "containerd", "hosts.toml can't be read: is a directory", "as root"},
		expectation{Fail, "docker", "can't be read: not a directory", "readable"})
}

func TestHostDirectory(t *testing.T) {
	for name, want := range map[string]string{
		"registry.lan":   "/etc/containerd/certs.d/registry.lan",
		"registry.lan:1": "/etc/containerd/certs.d/registry.lan:1",
		"[::1]:5000":     "/etc/containerd/certs.d/[::1]:5000",
		"[::1]":          "/etc/containerd/certs.d/[::1]",
	} {
		e := &examination{Config: Config{Root: t.TempDir()}, name: name}
		if got := e.hostDirectory(); got != want {
			t.Errorf("%s is in %s", name, got)
		}
		if err := os.MkdirAll(e.path(want), 0o755); err != nil {
			t.Fatal(err)
		}
		if got := e.hostDirectory(); got != want {
			t.Errorf("%s, which is there, is in %s", name, got)
		}
	}
}

func TestIsHere(t *testing.T) {
	for _, tt := range []struct {
		name, address string
		want          bool
	}{
		{"a:1", "https://a:1", true}, {"a:1", "a:1", true}, {"a:1", "https://A:1/v2", true}, {"a", "https://a:443", true},
		{"a:443", "https://a", true}, {"a:1", "https://a", false}, {"a:1", "https://b:1", false}, {"a:1", "", false},
	} {
		if got := (&examination{name: tt.name}).isHere(tt.address); got != tt.want {
			t.Errorf("%q for %q is %v", tt.address, tt.name, got)
		}
	}
}

func TestSettings(t *testing.T) {
	got := settings("a = 1 # one\r\n[ t.\"x#y\" ] # table\nb = \"#\\\"\" # c\nc=['d',\n  # no\n \"e\" ]\n[[u]]\nd.e = 1\nf = { g = 1 }\n= x\n[\nh = [\n")
	want := []setting{
		{"", "a", "1", nil}, {`t."x#y"`, "b", `"#\""`, []string{`#\"`}}, {`t."x#y"`, "c", `['d',  "e" ]`, []string{"d", "e"}},
		{`t."x#y"`, "f", "{ g = 1 }", nil}, {`t."x#y"`, "h", "[ ", nil},
	}
	if !slices.EqualFunc(got, want, func(a, b setting) bool {
		return a.table == b.table && a.key == b.key && a.raw == b.raw && slices.Equal(a.strings, b.strings)
	}) {
		t.Errorf("got\n%q\nwant\n%q", got, want)
	}
}

func FuzzSettings(f *testing.F) {
	f.Add("a = [\n'b',\n]\n[c]\nd = \"e\"")
	f.Fuzz(func(t *testing.T, text string) {
		for _, s := range settings(text) {
			if s.key == "" {
				t.Errorf("a setting without a key: %q", s)
			}
		}
	})
}
