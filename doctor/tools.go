package doctor

import (
	"encoding/json"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// docker looks at what Docker's daemons are told about this registry.
func (e *examination) docker() {
	if e.found("/etc/docker", "dockerd", "docker") {
		e.daemon("docker", "/etc/docker/daemon.json")
		e.loopback()
	}
	if e.Home != "" && e.found(e.Home+"/.config/docker") {
		e.daemon("docker (rootless)", e.Home+"/.config/docker/daemon.json")
	}
}

// daemon reads a daemon.json. A registry that is insecure there is not verified, and its certs.d not read.
func (e *examination) daemon(check, path string) {
	data, err := os.ReadFile(e.path(path))
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		e.note(check, "Run it again as root", "%s can't be read: %v", path, plain(err))
		return
	}
	var settings struct {
		Insecure []string `json:"insecure-registries"`
	}
	if err := json.Unmarshal(data, &settings); err != nil {
		e.fail(check, "Mend the file: Docker does not start with it", "%s is not valid: %v", path, err)
		return
	}
	for _, entry := range settings.Insecure {
		if e.covers(entry) {
			e.fail(check, "Remove the entry, restart Docker, and run the trust line",
				"%s lists %q in insecure-registries: Docker verifies nothing, and ignores the CA in certs.d", path, entry)
			return
		}
	}
	e.ok(check, "%s does not list it in insecure-registries", path)
}

// covers reports whether an entry of insecure-registries is about this registry: its name, or a network with one of its
// addresses.
func (e *examination) covers(entry string) bool {
	if network, err := netip.ParsePrefix(entry); err == nil {
		return slices.ContainsFunc(e.resolved, network.Contains)
	}
	for _, scheme := range []string{"http://", "https://"} {
		entry = strings.TrimPrefix(entry, scheme)
	}
	return strings.EqualFold(strings.TrimSuffix(entry, "/"), e.name)
}

// loopback: by such an address nothing that works here says anything about other machines.
func (e *examination) loopback() {
	if e.onLoopback() {
		e.note("docker", "Examine it by the address that other machines use", "Docker verifies no registry on this machine's own loopback address")
	}
}

func (e *examination) onLoopback() bool {
	return len(e.resolved) > 0 && !slices.ContainsFunc(e.resolved, func(a netip.Addr) bool { return !a.IsLoopback() })
}

const certsDirectory = "/etc/containerd/certs.d"

// containerd looks at whether Kubernetes' pulls use the files for registries at all.
func (e *examination) containerd() {
	if !e.found("/etc/containerd", "containerd") {
		return
	}
	c := e.containerdConfig()
	switch {
	case c.disabled:
	case len(c.paths) > 0:
		e.ok("containerd", "config_path is %s", strings.Join(c.paths, ":"))
	case e.found("/etc/kubernetes", "kubelet"):
		e.fail("containerd", c.remedy(), noConfigPath)
	default:
		e.note("containerd", c.remedy(), noConfigPath)
	}
}

const noConfigPath = "its configuration has no config_path: Kubernetes' pulls ignore " + certsDirectory

// containerdConfig is what containerd's configuration says about registries.
type containerdConfig struct {
	paths    []string // where the files for registries are
	disabled bool     // whether the part that Kubernetes uses is off
	version  string   // of config.toml, or nothing when the file is as good as empty
	table    string   // the table for registries as it is written there, or nothing
	file     string   // the file that it is in
	set      bool     // whether config_path is in that table, if only as ""
	mirrors  bool     // whether there are settings that containerd refuses beside config_path
}

// remedy says how to set config_path. A second table, or a second config_path in it, would keep containerd from starting.
func (c containerdConfig) remedy() string {
	const value = `config_path = "` + certsDirectory + `"`
	var what string
	switch {
	case c.set:
		what = "Change the config_path that is there, in [" + c.table + "] in " + c.file + ", to " + value
	case c.table != "":
		what = "Add " + value + " to the section that is there, [" + c.table + "] in " + c.file
	default:
		what = "Add " + c.newTable() + " with " + value + " to /etc/containerd/config.toml"
	}
	if c.mirrors {
		what += ", remove registry.mirrors and registry.configs…tls, which containerd refuses beside it"
	}
	return what + ", and restart containerd"
}

func (c containerdConfig) newTable() string {
	switch c.version {
	case "":
		return "version = 2 and a section [plugins.\"io.containerd.grpc.v1.cri\".registry]"
	case "1":
		return "a section [plugins.cri.registry]"
	case "2":
		return "a section [plugins.\"io.containerd.grpc.v1.cri\".registry]"
	}
	return "a section [plugins.\"io.containerd.cri.v1.images\".registry]"
}

func (e *examination) containerdConfig() containerdConfig {
	var c containerdConfig
	files, _ := filepath.Glob(e.path("/etc/containerd/conf.d/*.toml")) // the pattern is a good one
	for _, file := range append([]string{e.path("/etc/containerd/config.toml")}, files...) {
		data, err := os.ReadFile(file)
		if err != nil {
			continue // absent: the defaults
		}
		c.read(string(data), strings.TrimPrefix(file, e.path("/")))
	}
	return c
}

func (c *containerdConfig) read(text, file string) {
	if c.version == "" && (len(tables(text)) > 0 || len(settings(text)) > 0) {
		c.version = "1" // unless it says another
	}
	for _, table := range tables(text) {
		switch {
		case strings.HasSuffix(table, ".registry"):
			c.table, c.file = table, "/"+strings.TrimPrefix(file, "/")
		case strings.Contains(table, ".registry.mirrors"), strings.Contains(table, ".registry.configs.") && strings.HasSuffix(table, ".tls"):
			c.mirrors = true
		}
	}
	for _, s := range settings(text) {
		switch {
		case s.key == "config_path" && strings.HasSuffix(s.table, ".registry") && len(s.strings) == 1:
			c.set = true
			c.paths = strings.FieldsFunc(s.strings[0], func(r rune) bool { return r == ':' })
		case s.key == "disabled_plugins":
			c.disabled = slices.ContainsFunc(s.strings, func(p string) bool { return p == "cri" || strings.HasSuffix(p, ".cri") })
		case s.key == "version" && s.table == "":
			c.version = s.raw
		}
	}
}

// containerdStore judges the directory that containerd takes for this registry.
func (e *examination) containerdStore() {
	const check = "containerd"
	directory := e.hostDirectory()
	hosts, err := os.ReadFile(e.path(directory + "/hosts.toml"))
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(hosts) == 0 {
		e.store(check, directory)
		return
	}
	if err != nil {
		e.note(check, "Run it again as root", "%s/hosts.toml can't be read: %v", directory, plain(err))
		return
	}
	pool := e.System.Clone()
	for _, s := range e.ours(settings(string(hosts))) {
		switch s.key {
		case "skip_verify":
			if s.raw == "true" {
				e.fail(check, "Remove skip_verify, and run the trust line", "%s/hosts.toml turns verification off (skip_verify)", directory)
				return
			}
		case "ca":
			for _, file := range s.strings {
				if !strings.HasPrefix(file, "/") {
					file = directory + "/" + file
				}
				if err := e.loadFile(file, pool); err != nil {
					e.lacks(check, e.trustRemedy(), "%s/hosts.toml: %v", directory, err)
					return
				}
			}
		}
	}
	e.judge(check, directory+"/hosts.toml", pool)
}

// ours are the settings of a hosts.toml for this registry: those of its own section, and those at the top if they are for
// it.
func (e *examination) ours(all []setting) []setting {
	server := e.name
	for _, s := range all {
		if s.table == "" && s.key == "server" && len(s.strings) == 1 {
			server = s.strings[0]
		}
	}
	return slices.DeleteFunc(all, func(s setting) bool {
		if s.table == "" {
			return !e.isHere(server)
		}
		kind, host, _ := strings.Cut(s.table, ".")
		return kind != "host" || !e.isHere(strings.Trim(host, `"'`))
	})
}

// isHere reports whether a URL, or a host without a scheme, is this registry.
func (e *examination) isHere(address string) bool {
	if _, rest, ok := strings.Cut(address, "://"); ok {
		address = rest
	}
	host, _, _ := strings.Cut(address, "/")
	return strings.EqualFold(strings.TrimSuffix(host, ":443"), strings.TrimSuffix(e.name, ":443"))
}

// hostDirectory is the directory that containerd takes: the first that is there, in its order.
func (e *examination) hostDirectory() string {
	roots := e.containerdConfig().paths
	if len(roots) == 0 {
		roots = []string{certsDirectory}
	}
	names := []string{e.name, "_default"}
	if i := strings.LastIndexByte(e.name, ':'); i > 0 && !strings.HasSuffix(e.name, "]") {
		names = append([]string{e.name[:i] + "_" + e.name[i+1:] + "_"}, names...)
	}
	for _, root := range roots {
		for _, name := range names {
			if e.exists(root + "/" + name) {
				return root + "/" + name
			}
		}
	}
	return roots[0] + "/" + e.name
}
