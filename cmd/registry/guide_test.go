package main

import (
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"berth/config"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestMain lets the tests run this program as a command of its own.
func TestMain(m *testing.M) {
	if os.Getenv("BERTH_TEST_COMMAND") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// trusted serves a registry from a data directory until the test ends, and returns its HOST:PORT.
func trusted(t *testing.T, directory string) string {
	t.Helper()
	r := serve(t, directory)
	t.Cleanup(func() { r.end(t) })
	return strings.TrimPrefix(r.url(), "https://")
}

// TestAccessGuide does what docs/guides/access.md says, with its configuration. docker is a stand-in that asks the registry
// whether the password is right.
func TestAccessGuide(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("curl is not installed")
		}
		t.Skip("curl is not installed")
	}
	const page = "../../docs/guides/access.md"
	work, bin := t.TempDir(), t.TempDir()
	address := freeAddress(t)
	content, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	_, configuration, _ := strings.Cut(string(content), "```yaml\n")
	configuration, _, _ = strings.Cut(configuration, "```")
	configuration = strings.Replace(configuration, ":5000", address, 1)
	if err := os.WriteFile(filepath.Join(work, "config.yml"), []byte(configuration), 0o600); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	script(t, filepath.Join(bin, "registry"), `BERTH_TEST_COMMAND=1 exec `+self+` "$@"`)
	script(t, filepath.Join(bin, "docker"), `printf 'user = "%s:%s"\n' "$3" "$(cat)" | curl --fail --silent --cacert data/tls/ca.pem --config - https://$5/v2/`)
	guide := guideRunner{t, work, []string{"PATH=" + bin + ":" + os.Getenv("PATH"), "HOME=" + work}}
	var all strings.Builder
	for i, block := range shellBlocks(t, page) {
		if i == 1 { // the users are there
			stop := guide.start("registry", "serve", "config.yml")
			defer stop()
			guide.run("until curl --silent --insecure https://" + address + "/v2/ >/dev/null; do sleep 0.05; done")
		}
		all.WriteString(guide.run(strings.ReplaceAll(block, "localhost:5000", address)))
	}
	for _, want := range []string{"ann\nci\n", "allowed: rule 2 allows it", "allowed: rule 1 allows it", "{}", "nodes", "token build is revoked", `"subject":"robot:nodes"`} {
		if !strings.Contains(all.String(), want) {
			t.Errorf("%q is not in\n%s", want, all.String())
		}
	}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// start runs a program beside the guide until the returned function is called.
func (g guideRunner) start(name string, args ...string) (stop func()) {
	g.t.Helper()
	path := strings.TrimPrefix(strings.Split(g.environ[0], ":")[0], "PATH=")
	command := exec.CommandContext(g.t.Context(), filepath.Join(path, name), args...)
	command.Dir, command.Env = g.directory, g.environ
	var out output
	command.Stdout, command.Stderr = &out, &out
	if err := command.Start(); err != nil {
		g.t.Fatal(err)
	}
	return func() {
		_ = command.Process.Signal(syscall.SIGTERM)
		if err := command.Wait(); err != nil {
			g.t.Errorf("%s: %v\n%s", name, err, out.String())
		}
	}
}

// script writes an executable file.
func script(t *testing.T, path string, lines ...string) {
	t.Helper()
	content := "#!/bin/sh\n" + strings.Join(lines, "\n") + "\n"
	if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
		t.Fatal(err)
	}
}

// shellBlocks returns the blocks of a page that a reader would paste into a shell.
func shellBlocks(t *testing.T, path string) []string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var blocks []string
	for _, part := range strings.Split(string(content), "```sh\n")[1:] {
		block, _, ok := strings.Cut(part, "```")
		if !ok {
			t.Fatalf("a block does not end:\n%s", part)
		}
		blocks = append(blocks, block)
	}
	return blocks
}

// TestTrustGuide does what docs/guides/trust.md says, on a machine in a folder (DESTDIR) that has Docker. Programs that would
// reach beyond it are stand-ins: sudo runs its arguments, and docker says what it was asked.
func TestTrustGuide(t *testing.T) {
	for _, tool := range []string{"curl", "sha256sum"} {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("CI") != "" {
				t.Fatalf("%s is not installed", tool)
			}
			t.Skipf("%s is not installed", tool)
		}
	}
	data, machine, bin, work := t.TempDir(), t.TempDir(), t.TempDir(), t.TempDir()
	address := trusted(t, data)
	if err := os.MkdirAll(filepath.Join(machine, "etc/docker"), 0o755); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	script(t, filepath.Join(bin, "registry"), `BERTH_TEST_COMMAND=1 exec `+self+` "$@"`)
	script(t, filepath.Join(bin, "sudo"), `exec "$@"`)
	script(t, filepath.Join(bin, "docker"), `echo "docker $*"`)
	guide := guideRunner{t, work, []string{
		"PATH=" + bin + ":" + os.Getenv("PATH"), "HOME=" + work, "DESTDIR=" + machine,
		"REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY=" + data,
	}}
	installed := filepath.Join(machine, "etc/docker/certs.d", address, "ca.crt")
	var all strings.Builder
	for i, block := range shellBlocks(t, "../../docs/guides/trust.md") {
		block = strings.ReplaceAll(block, "registry.lan:5000", address)
		if i == 1 { // the reader pasted the line before this
			guide.run("registry cert show --address " + address + " --line | sh")
		}
		all.WriteString(guide.run(block))
		if _, err := os.Stat(installed); strings.Contains(block, "install.sh") && (err == nil) == strings.Contains(block, "--uninstall") {
			t.Errorf("after\n%s%s is there: %v", block, installed, err == nil)
		}
	}
	for _, want := range []string{"docker login " + address, "--config buildkitd.toml", "installed  ", "unchanged  ", "removed  ", "mirror/key.pem"} {
		if !strings.Contains(all.String(), want) {
			t.Errorf("%q is not in\n%s", want, all.String())
		}
	}
}

// TestMultiarchGuide does what docs/guides/multiarch.md says, with images that were built on two machines. The registry has the
// configuration of the guide.
func TestMultiarchGuide(t *testing.T) {
	page, err := os.ReadFile("../../docs/guides/multiarch.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(page), "```yaml\nindexes:\n")
	rule, _, ok := strings.Cut(rest, "```")
	if !ok {
		t.Fatal("the guide has no rule")
	}
	standard, err := json.Marshal(config.IndexPatterns())
	if err != nil || !strings.Contains(string(page), "| `"+strings.ReplaceAll(string(standard), ",", ", ")+"` |") {
		t.Errorf("the guide has other patterns than %s, %v", standard, err)
	}
	_, rest, _ = strings.Cut(string(page), "```yaml\npolicy:\n  platforms:\n")
	policies, _, _ := strings.Cut(rest, "```")
	if _, _, err := command(t, []string{"REGISTRY_POLICY_PLATFORMS=" + policies}, "config", "check"); err != nil || policies == "" {
		t.Errorf("the guide's policies: %v", err)
	}
	g := newGallery(t, "REGISTRY_INDEXES="+rule)
	g.image("app", "1.2-amd64", v1.MediaTypeImageManifest, "linux/amd64")
	g.built("app", "1.2-arm", "linux/arm")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	script(t, filepath.Join(bin, "registry"), `BERTH_TEST_COMMAND=1 exec `+self+` "$@"`)
	guide := guideRunner{t, t.TempDir(), append([]string{"PATH=" + bin + ":" + os.Getenv("PATH")}, g.environ...)}
	var all strings.Builder
	for i, block := range shellBlocks(t, "../../docs/guides/multiarch.md") {
		out := guide.run(strings.ReplaceAll(block, "registry.lan:5000", g.host))
		if i == 1 && (!strings.Contains(out, "linux/amd64") || !strings.Contains(out, "linux/arm/v7") || !strings.Contains(out, "provenance")) {
			t.Errorf("the registry made no index of both:\n%s", out)
		}
		all.WriteString(out)
	}
	for _, want := range []string{"dry run: nothing was changed", "OCI index, 2 images", "\n  provenance", `"platform": "linux/amd64"`, `"platform": "linux/arm/v7"`} {
		if !strings.Contains(all.String(), want) {
			t.Errorf("%q is not in\n%s", want, all.String())
		}
	}
}

// TestDeleteGuide does what docs/guides/delete.md says, with its configuration.
func TestDeleteGuide(t *testing.T) {
	const path = "../../docs/guides/delete.md"
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(page), "```yaml\nimmutability:\n")
	rules, _, ok := strings.Cut(rest, "```")
	_, rest, also := strings.Cut(string(page), "```yaml\nretention:\n  rules:\n")
	retention, _, _ := strings.Cut(rest, "```")
	_, rest, too := strings.Cut(string(page), "```yaml\nquota:\n")
	quota, _, _ := strings.Cut(rest, "```")
	if !ok || !also || !too {
		t.Fatal("the guide has no rules")
	}
	g := newGallery(t, "REGISTRY_IMMUTABILITY="+rules, "REGISTRY_RETENTION_RULES="+retention, "REGISTRY_QUOTA="+quota)
	for _, repository := range []string{"app", "old/app"} {
		g.image(repository, "1.2", v1.MediaTypeImageManifest, "linux/amd64")
	}
	time.Sleep(5 * time.Millisecond)
	pushed := time.Now().Format(time.RFC3339Nano) // nobody waits for the guide's five minutes
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	script(t, filepath.Join(bin, "registry"), `BERTH_TEST_COMMAND=1 exec `+self+` "$@"`)
	guide := guideRunner{t, t.TempDir(), append([]string{"PATH=" + bin + ":" + os.Getenv("PATH")}, g.environ...)}
	var all []string
	for _, block := range shellBlocks(t, path) {
		all = append(all, guide.run(strings.NewReplacer("registry.lan:5000", g.host, "--before 5m", "--before "+pushed).Replace(block)))
	}
	for i, want := range []string{"it can be restored until", "/app:1.2 points to sha256:", "old/app: 1 tags, 1 manifests", "2 manifests, ", "TRASH", "nothing would go", "500.0 GiB"} {
		if i >= len(all) || !strings.Contains(all[i], want) {
			t.Errorf("%q is not in block %d of %q", want, i, all)
		}
	}
}

// TestVerifyGuide does what docs/guides/verify.md says, with a disk that lost something before the repair. docker is a stand-in, for which
// the test pushes.
func TestVerifyGuide(t *testing.T) {
	const path = "../../docs/guides/verify.md"
	c := newClinic(t, true)
	layer, bin, work := c.layer(), t.TempDir(), t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	script(t, filepath.Join(bin, "registry"), `BERTH_TEST_COMMAND=1 exec `+self+` "$@"`)
	script(t, filepath.Join(bin, "docker"), `echo "docker $*"`)
	c.write(filepath.Join(work, "config.yml"), "version: 0.1\nstorage: {filesystem: {rootdirectory: "+c.directory+"}}\n")
	guide := guideRunner{t, work, []string{"PATH=" + bin + ":" + os.Getenv("PATH")}}
	var all []string
	for _, block := range shellBlocks(t, path) {
		if strings.Contains(block, "||") {
			c.write(layer, "a lay")
		}
		all = append(all, guide.run(block))
		if strings.HasPrefix(block, "docker push ") {
			c.visitor().push("app", clinicLayer)
		}
	}
	for i, want := range []string{": 0 findings\n", ": 0 findings\n", "push it again; it is in app", "docker push ", ": 0 findings\n"} {
		if i >= len(all) || !strings.Contains(all[i], want) {
			t.Errorf("%q is not in block %d of %q", want, i, all)
		}
	}
	if !strings.Contains(all[2], "something is left to do\n") {
		t.Errorf("the exit code says that all is well:\n%s", all[2])
	}
	c.running.end(t)
}

// TestMoveGuide does what docs/guides/move.md says, with an old registry that has what it names.
func TestMoveGuide(t *testing.T) {
	const path = "../../docs/guides/move.md"
	g, old := newGallery(t), newShelf(t)
	for _, name := range []string{"app:1.2", "team/a:1", "team/b/c:1"} {
		old.image(name, nil, name)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	script(t, filepath.Join(bin, "registry"), `BERTH_TEST_COMMAND=1 exec `+self+` "$@"`)
	guide := guideRunner{t, t.TempDir(), append([]string{"PATH=" + bin + ":" + os.Getenv("PATH")}, g.environ...)}
	var all []string
	for _, block := range shellBlocks(t, path) {
		all = append(all, guide.run(strings.ReplaceAll(block, "http://old.lan:5000", old.URL)))
	}
	for i, want := range []string{"3 tags would be copied", "3 tags copied", "0 tags copied (0 B), 3 there already", "copied   mirror/app:1.2", "4 tags copied",
		"0 tags copied (0 B), 1 there already", "copied   restored/team/b/c:1", "copied   mirror/app:1.2"} {
		if i >= len(all) || !strings.Contains(all[i], want) {
			t.Errorf("%q is not in block %d of %q", want, i, all)
		}
	}
}

type guideRunner struct {
	t         *testing.T
	directory string
	environ   []string
}

// run runs a block as a reader does, and expects it to succeed.
func (g guideRunner) run(block string) string {
	g.t.Helper()
	command := exec.CommandContext(g.t.Context(), "sh", "-eu", "-c", block)
	command.Dir, command.Env = g.directory, g.environ
	out, err := command.CombinedOutput()
	if err != nil {
		g.t.Fatalf("%v\n%s\n%s", err, block, out)
	}
	return string(out)
}
