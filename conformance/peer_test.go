package conformance

import (
	"os"
	"path/filepath"
	"testing"

	"berth/conformance/server"
)

// peer starts distribution's registry, on plain HTTP and open to everybody, until the end of the test.
func peer(t *testing.T) *server.Server {
	t.Helper()
	return peerIn(t, t.TempDir(), "")
}

// peerIn starts it on a data directory, with more configuration, in a file and by the environment.
func peerIn(t *testing.T, root, configuration string, env ...string) *server.Server {
	t.Helper()
	bin, err := tools()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(bin, "distribution")
	if os.Getenv("BERTH_TOOLS") == "" {
		err = build("../tools/peers", "-o", program, "github.com/distribution/distribution/v3/cmd/registry")
	}
	address, addressErr := server.FreeAddress()
	if err != nil || addressErr != nil {
		t.Fatal(err, addressErr)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "config.yml")
	content := "version: 0.1\nhttp: {addr: '" + address + "'}\n" + configuration
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if root != "" {
		env = append(env, "REGISTRY_STORAGE=filesystem", "REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY="+root)
	}
	s, err := server.Start(t.Context(), server.Config{
		Program: program, Args: []string{"serve", file}, Dir: dir, URL: "http://" + address,
		Env: append(env, "REGISTRY_STORAGE_DELETE_ENABLED=true"),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Kill)
	return s
}
