package conformance

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"berth/conformance/client"
	"berth/conformance/server"

	"golang.org/x/crypto/bcrypt"
)

// cache is where the programs that the tests run are built.
const cache = "../.cache/bin"

// program builds the registry once and returns its path.
var program = sync.OnceValues(func() (string, error) {
	path, err := filepath.Abs(filepath.Join(cache, "registry"))
	if err != nil {
		return "", err
	}
	return path, build("..", "-o", path, "./cmd/registry")
})

// tools returns the folder with the suite and the clients. BERTH_TOOLS names one where they are built already.
var tools = sync.OnceValues(func() (string, error) {
	dir, err := filepath.Abs(cmp.Or(os.Getenv("BERTH_TOOLS"), cache))
	if err != nil || os.Getenv("BERTH_TOOLS") != "" {
		return dir, err
	}
	return dir, build("../tools", "-o", dir+"/", "tool")
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

// needRoot ends a test that can't run without root.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		unavailable(t, "this test needs root")
	}
}

// options says how a test wants its registry.
type options struct {
	program  string   // by default the one for this machine
	root     string   // data directory; by default a new one
	tls      bool     // serve HTTPS with the certificate that Berth makes, instead of HTTP
	htpasswd bool     // let only user, with password, in
	env      []string // besides
}

const (
	user     = "someone"
	password = "pass word+%/é" // what clients escape wrongly
)

// berth is a registry that runs for a test.
type berth struct {
	*server.Server
	t    *testing.T
	root string
}

// start runs a registry until the end of the test.
func start(t *testing.T, o options) *berth {
	t.Helper()
	if o.root == "" {
		o.root = t.TempDir()
	}
	b := &berth{t: t, root: o.root}
	b.run(configure(t, o))
	t.Cleanup(func() {
		b.Kill()
		if t.Failed() {
			t.Logf("the registry printed:\n%s", b.Printed())
		}
	})
	return b
}

// configure says how to run a registry on a free port.
func configure(t *testing.T, o options) server.Config {
	t.Helper()
	executable, err := o.program, error(nil)
	if executable == "" {
		executable, err = program()
	}
	if err != nil {
		t.Fatal(err)
	}
	address, err := server.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	c := server.Config{Program: executable, Args: []string{"serve"}, Dir: t.TempDir(), URL: "http://" + address}
	c.Env = append(storeEnv(o), "REGISTRY_HTTP_ADDR="+address, "REGISTRY_HTTP_TLS_MODE=off")
	if o.tls {
		c.URL, c.CA = "https://"+address, server.AutomaticCA(o.root)
		c.Env = append(c.Env, "REGISTRY_HTTP_TLS_MODE=auto")
	}
	if o.htpasswd {
		c.Env = append(c.Env, "REGISTRY_AUTH=htpasswd", "REGISTRY_AUTH_HTPASSWD_REALM=test",
			"REGISTRY_AUTH_HTPASSWD_PATH="+writeHtpasswd(t))
	}
	c.Env = append(c.Env, o.env...)
	return c
}

// storeEnv is the environment that names the data directory and lets everybody in.
func storeEnv(o options) []string {
	return []string{"REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY=" + o.root, "REGISTRY_AUTH=none"}
}

func writeHtpasswd(t *testing.T) string {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "htpasswd")
	if err := os.WriteFile(path, fmt.Appendf(nil, "%s:%s\n", user, hash), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func (b *berth) run(c server.Config) {
	b.t.Helper()
	s, err := server.Start(b.t.Context(), c)
	if err != nil {
		b.t.Fatal(err)
	}
	b.Server = s
}

// restart starts the registry again, which has to have ended.
func (b *berth) restart() {
	b.t.Helper()
	b.run(b.Config)
}

// stop ends the registry in an orderly way, which has to work.
func (b *berth) stop() {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), time.Minute)
	defer cancel()
	if err := b.Stop(ctx); err != nil {
		b.t.Fatal(err)
	}
}

// client returns a new client with connections of its own.
func (b *berth) client() *client.Client {
	b.t.Helper()
	transport, err := b.Transport()
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(transport.CloseIdleConnections)
	return &client.Client{URL: b.URL, HTTP: &http.Client{Transport: transport}}
}

// host returns the registry's name as clients write it in front of a repository's.
func (b *berth) host() string {
	_, host, _ := strings.Cut(b.URL, "://")
	return host
}

// fsck checks the registry's store, which must be without findings, whether or not the registry runs.
func (b *berth) fsck(flags ...string) {
	b.t.Helper()
	if out, err := b.tryFsck(flags...); err != nil {
		b.t.Fatalf("fsck %s: %v\n%s", strings.Join(flags, " "), err, out)
	}
}

func (b *berth) tryFsck(flags ...string) ([]byte, error) {
	cmd := exec.CommandContext(b.t.Context(), b.Program, append([]string{"fsck"}, flags...)...)
	cmd.Dir, cmd.Env = b.Dir, append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + b.Dir}, b.Env...)
	return cmd.CombinedOutput()
}
