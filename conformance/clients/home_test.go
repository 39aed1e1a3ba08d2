package clients

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The machines of the guides, by the addresses that the guides use.
const (
	alfredAddress, rpi1Address = "192.168.1.10", "192.168.1.11"
	alfredHost                 = alfredAddress + ":5000"
)

// home returns two machines with a dockerd each: alfred, which also has the registry's program and Go, and rpi1.
func home(t *testing.T) (alfred, rpi1 *machine) {
	t.Helper()
	alfred, rpi1 = newMachine(t), newMachine(t)
	installRegistry(alfred)
	connect(alfred, alfredAddress, rpi1, rpi1Address)
	for name, m := range map[string]*machine{"alfred": alfred, "rpi1": rpi1} {
		m.do("hostname " + name)
		startDockerd(m, controlGroup(m, name))
	}
	return alfred, rpi1
}

// controlGroup returns a name for a group of control groups, which are in no namespace: what a machine leaves in it is
// removed before the machine ends.
func controlGroup(m *machine, name string) string {
	name = fmt.Sprintf("berth-%d-%s-%s", os.Getpid(), m.t.Name(), name)
	m.t.Cleanup(func() { m.do("find /sys/fs/cgroup -depth -type d -path '*/" + name + "*' -exec rmdir {} +") })
	return name
}

// startDockerd starts a dockerd that runs containers, and ends those before the machine ends.
func startDockerd(m *machine, group string) {
	m.t.Helper()
	m.start(dockerd+"--exec-opt native.cgroupdriver=cgroupfs --cgroup-parent /"+group, "docker info")
	m.t.Cleanup(func() { m.do("docker ps --all --quiet | xargs --no-run-if-empty docker rm --force") })
}

// installRegistry puts the program in the PATH of a machine, and makes Go find there what it compiled elsewhere: the parts of
// the standard library that the programs of the guides need, for which a command on a machine may be too short.
func installRegistry(m *machine) {
	m.t.Helper()
	executable, err := program()
	if err != nil {
		m.t.Fatal(err)
	}
	for _, architecture := range []string{"amd64", "arm"} {
		compile := exec.CommandContext(m.t.Context(), "go", "build", "net/http", "encoding/json")
		compile.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+architecture, "GOARM=7")
		if out, err := compile.CombinedOutput(); err != nil {
			m.t.Fatalf("compile for %s: %v\n%s", architecture, err, out)
		}
	}
	compiled, err := exec.CommandContext(m.t.Context(), "go", "env", "GOCACHE").Output()
	if err != nil {
		m.t.Fatal(err)
	}
	m.env = append(m.env, "GOCACHE="+strings.TrimSpace(string(compiled)), "PATH="+filepath.Dir(executable)+":"+os.Getenv("PATH")+":/usr/sbin:/sbin")
}

// serveAnn runs the registry on alfred for a user ann whose password is ann!. It returns the command with which the program
// is asked about itself.
func serveAnn(alfred *machine) string {
	alfred.t.Helper()
	alfred.do("echo 'ann!' | registry user add ann --file /run/htpasswd --password-stdin")
	command := "env REGISTRY_AUTH=htpasswd REGISTRY_AUTH_HTPASSWD_PATH=/run/htpasswd " +
		"REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY=" + dataDirectory + " registry"
	alfred.start(command+" serve", answers)
	return command
}

// mention fails the test unless a text has all the words.
func mention(t *testing.T, text string, words ...string) {
	t.Helper()
	for _, word := range words {
		if !strings.Contains(text, word) {
			t.Errorf("it does not mention %q:\n%s", word, text)
		}
	}
}
