package conformance

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// transferred is a line of `registry import --json` and `export --json`.
type transferred struct {
	Repository, Tag, Digest, Status, Reason string
	Blobs, Bytes                            int64
}

// command is a run of the registry's program, as a user of its machine with the logins of the shell.
func (s shell) command(args ...string) *exec.Cmd {
	cmd := exec.CommandContext(s.t.Context(), s.Program, args...)
	cmd.Dir, cmd.Env = s.home, append([]string{"HOME=" + s.home, "DOCKER_CONFIG=" + s.home}, s.Env...)
	return cmd
}

// transfer imports or exports, which has to succeed, and returns the results by REPO:TAG.
func (s shell) transfer(args ...string) map[string]transferred {
	s.t.Helper()
	results, err := s.tryTransfer(args...)
	if err != nil {
		s.t.Fatalf("%s: %v", strings.Join(args, " "), err)
	}
	return results
}

func (s shell) tryTransfer(args ...string) (map[string]transferred, error) {
	s.t.Helper()
	cmd := s.command(append(args, "--json")...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%w\n%s%s", err, out, stderr.String())
	}
	results := map[string]transferred{}
	for line := range strings.Lines(string(out)) {
		var r transferred
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			s.t.Fatalf("%v in %s", err, line)
		}
		results[r.Repository+":"+r.Tag] = r
	}
	return results, err
}

// countStatus returns how many results have a status.
func countStatus(results map[string]transferred, status string) (n int) {
	for _, r := range results {
		if r.Status == status {
			n++
		}
	}
	return n
}

// fill pushes into a registry what has to survive a move, and returns its REPO:TAGs.
func (s shell) fill(host string) []string {
	s.t.Helper()
	l, index := newLayout(s.t, "v1")
	s.do("crane", "push", l.dir, host+"/app:v1")
	child := s.do("crane", "digest", "--platform", "linux/arm64", host+"/app:v1")
	s.do("crane", "copy", host+"/app@"+child, host+"/app:arm")
	s.do("crane", "copy", host+"/app:v1", host+"/team/mirrored/app:v1") // its blobs are mounted
	if err := os.WriteFile(filepath.Join(s.home, "layer.txt"), []byte("a layer"), 0o600); err != nil {
		s.t.Fatal(err)
	}
	archive := filepath.Join(s.home, "layer.tar")
	tar := exec.CommandContext(s.t.Context(), "tar", "--create", "--file", archive, "--directory", s.home, "layer.txt")
	if out, err := tar.CombinedOutput(); err != nil {
		s.t.Fatalf("%v\n%s", err, out)
	}
	s.do("crane", "append", "--new_layer", archive, "--new_tag", host+"/docker:schema2") // Docker's media types
	attach := []string{"attach", host + "/app:v1", "--artifact-type", "application/vnd.example.sbom", "layer.txt:text/plain"}
	s.do("oras", append(attach, s.plain(host+"/app")...)...)
	all := []string{"app:v1", "app:arm", "team/mirrored/app:v1", "docker:schema2", "app:sha256-" + index.Digest.Encoded() + ".sig"}
	s.do("crane", "copy", host+"/docker:schema2", host+"/"+all[4])
	for i := range 4 {
		tag := fmt.Sprintf("many:%03d", i)
		s.do("crane", "copy", host+"/docker:schema2", host+"/"+tag)
		all = append(all, tag)
	}
	slices.Sort(all)
	return all
}

// same fails the test unless two registries have the same bytes under each tag, with everything below.
func (s shell) same(one, other string, all []string) {
	s.t.Helper()
	for _, image := range all {
		want, got := s.do("crane", "manifest", one+"/"+image), s.do("crane", "manifest", other+"/"+image)
		if want != got {
			s.t.Errorf("%s became\n%s\nof\n%s", image, got, want)
		}
		if !strings.HasPrefix(image, "many:") { // which are all the same
			s.do("crane", "validate", "--remote", other+"/"+image)
		}
	}
}

// pulled pulls an image as an OCI image layout.
func (s shell) pulled(image string) layout {
	s.t.Helper()
	dir := filepath.Join(s.t.TempDir(), "pulled")
	s.do("crane", "pull", "--format", "oci", image, dir)
	return layout{t: s.t, dir: dir}
}

// TestImport moves what clients pushed to distribution's registry, which wants a password, into one that wants another.
func TestImport(t *testing.T) {
	t.Parallel()
	p := peerIn(t, t.TempDir(), "auth: {htpasswd: {realm: x, path: "+writeHtpasswd(t)+"}}\n")
	b := start(t, options{tls: true, htpasswd: true})
	s := loggedIn(t, b)
	old := strings.TrimPrefix(p.URL, "http://")
	from := []string{"import", "--from", p.URL}
	if _, err := s.tryTransfer(from...); err == nil || !strings.Contains(err.Error(), "docker login "+old) {
		t.Errorf("without a login: %v", err)
	}
	s.do("crane", "auth", "login", old, "--username", user, "--password", password)
	all := s.fill(old)

	if planned := s.transfer(append(from, "--dry-run")...); countStatus(planned, "planned") != len(all)+1 { // the referrers' tag
		t.Errorf("a dry run would copy %d tags, want %d", countStatus(planned, "planned"), len(all)+1)
	}
	if got := s.do("crane", "catalog", b.host()); got != "" {
		t.Errorf("a dry run copied %s", got)
	}
	first := s.transfer(from...)
	if countStatus(first, "copied") != len(all)+1 {
		t.Errorf("copied %v, want %d tags", first, len(all)+1)
	}
	var blobs int64
	for _, r := range first {
		blobs += r.Blobs
	}
	// Two images of three blobs each, the schema 2 image's two, and the attached file with its empty config.
	if blobs != 10 {
		t.Errorf("%d blobs were sent, want each once: 10", blobs)
	}
	s.same(old, b.host(), all)
	s.pulled(old + "/app:v1").equal(s.pulled(b.host() + "/app:v1").dir)
	digest := s.do("crane", "digest", b.host()+"/app:v1")
	if found := s.referrers(b.host()+"/app@"+digest, "application/vnd.example.sbom"); len(found) != 1 {
		t.Errorf("attached are %v", found)
	}

	again := s.transfer(from...)
	if countStatus(again, "present") != len(all)+1 || len(again) != len(all)+1 {
		t.Errorf("again: %v", again)
	}
	one := s.transfer(append(from, "--prefix", "one/", "app:v1")...)
	sum := "sha256-" + strings.TrimPrefix(digest, "sha256:")
	for _, tag := range []string{"v1", sum, sum + ".sig"} {
		if len(one) != 3 || one["one/app:"+tag].Status != "copied" {
			t.Errorf("one tag brings %v", one)
		}
	}
	s.do("crane", "copy", old+"/app:arm", old+"/many:000") // a tag moves
	moved := s.transfer(append(from, "many", "docker*")...)
	if len(moved) != 5 || countStatus(moved, "copied") != 1 || moved["many:000"].Status != "copied" {
		t.Errorf("after a tag was moved: %v", moved)
	}
	s.same(old, b.host(), all)
	if _, err := s.tryTransfer(append(from, "app", "nowhere")...); err == nil || !strings.Contains(err.Error(), "has no repository nowhere") {
		t.Errorf("of a repository that is not there: %v", err)
	}
	b.fsck("--rehash")
}

// TestImportGoesOn kills an import again and again: what it had copied is not sent again, and in the end all is there.
func TestImportGoesOn(t *testing.T) {
	t.Parallel()
	p, b := peer(t), start(t, options{})
	s, old := newShell(t, b), strings.TrimPrefix(p.URL, "http://")
	l, _ := newLayout(t, "v1")
	var all []string
	for i := range 8 {
		image := l.addImage("amd64", uint64(1000+i))
		all = append(all, fmt.Sprintf("app%d:v1", i%3*10+i))
		l.write(v1.ImageIndexFile, v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []v1.Descriptor{image}})
		s.do("crane", "push", l.dir, old+"/"+all[i])
	}
	var copied int
	for range 5 {
		cmd := s.command("import", "--from", p.URL, "--json", "--jobs", "1")
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			if strings.Contains(lines.Text(), `"copied"`) {
				copied++
				break
			}
		}
		time.Sleep(10 * time.Millisecond) // in the middle of the next one
		_ = cmd.Process.Signal(syscall.SIGKILL)
		for lines.Scan() {
			if strings.Contains(lines.Text(), `"copied"`) {
				copied++
			}
		}
		_ = cmd.Wait() // it was killed
	}
	rest := s.transfer("import", "--from", p.URL)
	if len(rest) != len(all) || countStatus(rest, "present") < copied || countStatus(rest, "failed") > 0 {
		t.Errorf("%d tags were copied before, and then: %v", copied, rest)
	}
	if copied < 5 {
		t.Errorf("the kills came too early for this test to mean anything: %d tags", copied)
	}
	s.same(old, b.host(), all)
	b.stop()
	b.fsck("--rehash")
}

// TestExportDistribution has distribution's registry serve what was exported, and another Berth import it from there.
func TestExportDistribution(t *testing.T) {
	t.Parallel()
	b, root := start(t, options{}), t.TempDir()
	s := newShell(t, b)
	all := s.fill(b.host())
	first := s.transfer("export", "--layout", "distribution", root)
	if countStatus(first, "copied") != len(all) {
		t.Errorf("exported %v, want %d tags", first, len(all))
	}
	again := s.transfer("export", "--layout", "distribution", root)
	if countStatus(again, "present") != len(all) {
		t.Errorf("again: %v", again)
	}
	p := peerIn(t, root, "")
	old := strings.TrimPrefix(p.URL, "http://")
	s.same(b.host(), old, all)
	s.pulled(b.host() + "/app:v1").equal(s.pulled(old + "/app:v1").dir)
	digest := s.do("crane", "digest", old+"/app:v1")
	if found := s.referrers(old+"/app@"+digest, "application/vnd.example.sbom"); len(found) != 1 {
		t.Errorf("attached are %v", found)
	}
	s.do("crane", "copy", old+"/app:v1", old+"/pushed:v1") // it is a registry to push to
	other := start(t, options{})
	o := newShell(t, other)
	o.transfer("import", "--from", p.URL)
	s.same(b.host(), other.host(), all)
	p.Kill()
	direct := start(t, options{})
	d := newShell(t, direct)
	if out := d.transfer("import", "--from", root); countStatus(out, "copied") < len(all) {
		t.Errorf("imported from the directory: %v", out)
	}
	s.same(b.host(), direct.host(), all)
	if found := s.referrers(direct.host()+"/app@"+digest, "application/vnd.example.sbom"); len(found) != 1 {
		t.Errorf("attached in the directory are %v", found)
	}
	other.fsck("--rehash")
	direct.fsck("--rehash")
}

// TestExportOCI reads an exported layout with other programs, and imports it again, as a directory and as a file.
func TestExportOCI(t *testing.T) {
	t.Parallel()
	b := start(t, options{})
	s := newShell(t, b)
	all := s.fill(b.host())
	dir, file := filepath.Join(t.TempDir(), "layout"), filepath.Join(t.TempDir(), "layout.tar")
	for _, path := range []string{dir, file} {
		if out := s.transfer("export", "--layout", "oci", path); countStatus(out, "copied") != len(all) {
			t.Errorf("exported %v, want %d tags", out, len(all))
		}
		other := start(t, options{})
		o := newShell(t, other)
		if out := o.transfer("import", "--from", path); countStatus(out, "copied") != len(all) {
			t.Errorf("imported %v, want %d tags", out, len(all))
		}
		s.same(b.host(), other.host(), all)
		digest := s.do("crane", "digest", other.host()+"/app:v1")
		if found := s.referrers(other.host()+"/app@"+digest, "application/vnd.example.sbom"); len(found) != 1 {
			t.Errorf("attached are %v", found)
		}
		if out := o.transfer("import", "--from", path); countStatus(out, "present") != len(all) {
			t.Errorf("imported again: %v", out)
		}
	}
	if out := s.transfer("export", "--layout", "oci", dir); countStatus(out, "present") != len(all) {
		t.Errorf("exported again: %v", out)
	}
	testForeignReaders(t, s, dir, file)
}

// testForeignReaders has other programs read a layout.
func testForeignReaders(t *testing.T, s shell, dir, file string) {
	want := s.do("crane", "digest", s.host()+"/app:v1")
	if got := s.do("oras", "resolve", "--oci-layout-path", dir, "app:v1"); got != want {
		t.Errorf("oras resolves %s, want %s", got, want)
	}
	if got := s.do("oras", "discover", "--oci-layout", dir+"@"+want); !strings.Contains(got, "application/vnd.example.sbom") {
		t.Errorf("oras finds attached %s", got)
	}
	skopeo, err := exec.LookPath("skopeo")
	if err != nil {
		unavailable(t, "skopeo is not installed")
	}
	for _, from := range []string{"oci:" + dir + ":app:v1", "oci-archive:" + file + ":app:v1"} {
		cmd := exec.CommandContext(t.Context(), skopeo, "copy", "--all", "--preserve-digests", "--insecure-policy", "--dest-tls-verify=false",
			from, "docker://"+s.host()+"/skopeo:v1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("skopeo %s: %v\n%s", from, err, out)
		}
		if got := s.do("crane", "digest", s.host()+"/skopeo:v1"); got != want {
			t.Errorf("skopeo copied %s, want %s", got, want)
		}
		s.do("crane", "delete", s.host()+"/skopeo:v1")
	}
	asDocker := "docker-archive:" + file + ":" + s.host() + "/app:arm" // as docker load reads it
	cmd := exec.CommandContext(t.Context(), skopeo, "copy", "--insecure-policy", asDocker, "dir:"+t.TempDir())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("skopeo %s: %v\n%s", asDocker, err, out)
	}
}

// TestImportTo copies between two registries of others, the one with an API for referrers and the other without.
func TestImportTo(t *testing.T) {
	t.Parallel()
	b, p := start(t, options{}), peer(t)
	s, target := newShell(t, b), strings.TrimPrefix(p.URL, "http://")
	all := s.fill(b.host())
	to := []string{"import", "--from", b.URL, "--to", target, "--plain-http"}
	if first := s.transfer(to...); countStatus(first, "copied") != len(all) {
		t.Errorf("copied %v, want %d tags", first, len(all))
	}
	s.same(b.host(), target, all)
	digest := s.do("crane", "digest", target+"/app:v1")
	if found := s.referrers(target+"/app@"+digest, "application/vnd.example.sbom"); len(found) != 1 {
		t.Errorf("attached are %v", found)
	}
	if again := s.transfer(to...); countStatus(again, "present") != len(all) {
		t.Errorf("again: %v", again)
	}
}
