package clients

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// oldImages are in the registry that the guide moves.
func oldImages() []string { return []string{"app:v1", "app:v2", "team/app:v1"} }

// moveFromRegistry2 does what docs/guides/from-registry2.md says, with distribution's program in an image called registry:2,
// and has a node pull what was in it.
func moveFromRegistry2(dockerHost, node *machine) {
	t := dockerHost.t
	old := tool(t, "distribution", "../../tools/peers", "github.com/distribution/distribution/v3/cmd/registry")
	tools, err := builders()
	if err != nil {
		t.Fatal(err)
	}
	at := dockerHost.during(t, "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin:"+tools)
	at.write("/etc/docker/registry/config.yml", "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: /var/lib/registry\nhttp:\n  addr: :5000\n")
	at.do("mkdir -p /run/old/bin /run/old/etc/docker/registry /run/old/tmp /run/srv && mount --mkdir --bind /run/srv /srv && " +
		"cp " + old + " /run/old/bin/registry && cp /etc/docker/registry/config.yml /run/old/etc/docker/registry/ && " +
		"tar --create --directory /run/old . | docker import --change 'ENTRYPOINT [\"/bin/registry\", \"serve\"]' " +
		"--change 'CMD [\"/etc/docker/registry/config.yml\"]' - registry:2 && rm -r /run/old")
	page := readMove(t, "../../docs/guides/from-registry2.md")
	at.do(strings.Join(page.blocks("console"), "\n"))
	defer at.do("docker rm --force registry registry-2")
	at.await("curl --silent --fail http://localhost:5000/v2/", func() bool { return true })
	for _, image := range oldImages() {
		at.do("echo " + image + " >/run/content && tar --create --directory /run content | docker import - localhost:5000/" + image + " && docker push localhost:5000/" + image)
	}
	out := at.do("cd /run/home && set -eu\n" + strings.Join(page.blocks("sh"), "\n"))
	node.do(lastLine(out))
	password := strings.TrimSpace(at.do("cat /srv/registry/initial-admin-password"))
	user := node.during(t, "PASSWORD="+password)
	user.do("printf %s \"$PASSWORD\" | docker login --username admin --password-stdin " + host)
	for _, image := range oldImages() {
		user.do("docker pull " + host + "/" + image)
	}
}

// tool returns a program of the tools modules, which it builds where BERTH_TOOLS does not say that it is there.
func tool(t *testing.T, name, module, pkg string) string {
	t.Helper()
	dir, err := builders()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, name)
	if os.Getenv("BERTH_TOOLS") == "" {
		if err := build(module, "-o", path, pkg); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

// move is the guide, in which the machine's name is its address.
type move string

func readMove(t *testing.T, path string) move {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return move(strings.ReplaceAll(string(content), "registry.lan", hostAddress))
}

// blocks returns the blocks of code in a language.
func (p move) blocks(language string) (all []string) {
	for _, part := range strings.Split(string(p), "\n```"+language+"\n")[1:] {
		block, _, _ := strings.Cut(part, "\n```")
		all = append(all, block)
	}
	return all
}
