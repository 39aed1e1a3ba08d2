package clients

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// cache is where the programs that the tests run are built.
const cache = "../../.cache"

// program builds the registry once and returns its path.
var program = sync.OnceValues(func() (string, error) {
	path, err := filepath.Abs(filepath.Join(cache, "clients", "registry"))
	if err != nil {
		return "", err
	}
	return path, build("../..", "-o", path, "./cmd/registry")
})

// builders returns the folder with the clients that are built: buildx and buildkitd among them. BERTH_TOOLS names one where
// they are already.
var builders = sync.OnceValues(func() (string, error) {
	dir, err := filepath.Abs(cmp.Or(os.Getenv("BERTH_TOOLS"), filepath.Join(cache, "bin")))
	if err != nil || os.Getenv("BERTH_TOOLS") != "" {
		return dir, err
	}
	for _, module := range []string{"../../tools", "../../tools/builders", "../../tools/clients"} {
		if err := build(module, "-o", dir+"/", "tool"); err != nil {
			return dir, err
		}
	}
	return dir, nil
})

func build(module string, args ...string) error {
	cmd := exec.Command("go", append([]string{"build", "-trimpath", "-buildvcs=false"}, args...)...)
	cmd.Dir = module
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOTOOLCHAIN=local")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build in %s: %w\n%s", module, err, out)
	}
	return nil
}

// unavailable ends a test that can't run here: in CI as a failure, elsewhere as a skip.
func unavailable(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf("%s, and in CI every test has to run", why)
	}
	t.Skip(why)
}

// need ends a test that can't run without root or without one of these programs.
func need(t *testing.T, programs ...string) {
	t.Helper()
	if os.Getuid() != 0 {
		unavailable(t, "this test needs root")
	}
	for _, name := range append(programs, "curl", "ip", "nsenter") {
		if _, err := exec.LookPath(name); err != nil {
			unavailable(t, "this test needs "+name)
		}
	}
}

const (
	// hostAddress is where the machine is that the registry runs on, and host is the registry's address there.
	hostAddress, nodeAddress = "10.83.0.1", "10.83.0.2"
	host                     = hostAddress + ":5000"
	// dataDirectory is the registry's, on its machine.
	dataDirectory = "/run/registry"
)

// network returns two machines: one for a registry and one, the node, for its clients.
func network(t *testing.T) (server, node *machine) {
	t.Helper()
	server, node = newMachine(t), newMachine(t)
	connect(server, hostAddress, node, nodeAddress)
	return server, node
}

// serve runs the real program on a machine, as it comes, except that everybody may push. It returns the command with which
// the program is asked about itself.
func serve(m *machine) string {
	m.t.Helper()
	executable, err := program()
	if err != nil {
		m.t.Fatal(err)
	}
	command := "env REGISTRY_AUTH=none REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY=" + dataDirectory + " " + executable
	m.start(command+" serve", answers)
	return command
}

// answers succeeds on the machine of a registry that answers. It does not say the machine's address.
const answers = "curl --silent --insecure https://127.0.0.1:5000/v2/"

// trustLine returns the line that makes a machine trust the registry on m, as that prints it.
func trustLine(m *machine, registry string) string {
	m.t.Helper()
	return trustLineFor(m, registry, host)
}

// trustLineFor is trustLine for those who call the registry by another address.
func trustLineFor(m *machine, registry, address string) string {
	m.t.Helper()
	return lastLine(m.do(registry + " cert show --address " + address + " 2>/dev/null"))
}

// distrusts fails the test unless a command on the machine fails because of the registry's certificate.
func (m *machine) distrusts(command, why string) {
	m.t.Helper()
	out, err := m.try(command)
	if err == nil || !strings.Contains(out, why) {
		m.t.Errorf("%s: %v; it should fail with %q, and printed:\n%s", command, err, why, out)
	}
	m.t.Logf("%s: %s", command, lastLine(out))
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndexByte(s, '\n')+1:]
}
