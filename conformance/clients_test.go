package conformance

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// shell runs clients against a registry, as a user who has logged in.
type shell struct {
	*berth
	t    *testing.T
	bin  string
	home string
}

func newShell(t *testing.T, b *berth) shell {
	t.Helper()
	bin, err := tools()
	if err != nil {
		t.Fatal(err)
	}
	return shell{berth: b, t: t, bin: bin, home: t.TempDir()}
}

// do runs a client, which has to succeed, and returns what it printed.
func (s shell) do(name string, args ...string) string {
	s.t.Helper()
	out, err := s.try(name, args...)
	if err != nil {
		s.t.Fatalf("%s %s: %v", name, strings.Join(args, " "), err)
	}
	return out
}

// try runs a client. Its error has what the client printed.
func (s shell) try(name string, args ...string) (string, error) {
	cmd := exec.CommandContext(s.t.Context(), filepath.Join(s.bin, name), args...)
	cmd.Dir = s.home
	cmd.Env = []string{"HOME=" + s.home, "DOCKER_CONFIG=" + s.home, "SSL_CERT_FILE=" + s.CA}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%w; it printed:\n%s%s", err, &stdout, &stderr)
	}
	return strings.TrimSpace(stdout.String()), nil
}

// TestClients pushes and pulls with the clients that people use, over HTTPS and with a password.
func TestClients(t *testing.T) {
	t.Parallel()
	b := start(t, options{tls: true, htpasswd: true})
	t.Run("log in", func(t *testing.T) { testLogin(t, b) })
	t.Run("crane", func(t *testing.T) { testCrane(t, b) })
	t.Run("oras", func(t *testing.T) { testOras(t, b) })
	t.Run("artifact", func(t *testing.T) { testArtifact(t, b) })
	b.fsck("--rehash")
	b.stop()
}

func loggedIn(t *testing.T, b *berth) shell {
	t.Helper()
	s := newShell(t, b)
	s.do("crane", "auth", "login", b.host(), "--username", user, "--password", password)
	return s
}

func testLogin(t *testing.T, b *berth) {
	s := newShell(t, b)
	if _, err := s.try("crane", "catalog", b.host()); err == nil {
		t.Error("crane sees the catalog without a password")
	}
	if _, err := s.try("oras", "login", b.host(), "--username", user, "--password", "wrong"); err == nil {
		t.Error("oras logs in with a wrong password")
	}
	s.do("oras", "login", b.host(), "--username", user, "--password", password)
	s.do("crane", "catalog", b.host())
}

func testCrane(t *testing.T, b *berth) {
	s := loggedIn(t, b)
	l, index := newLayout(t, "v1")
	indexName, imageName, copyName := b.host()+"/crane/index", b.host()+"/crane/image", b.host()+"/crane/copy"

	s.do("crane", "push", l.dir, indexName+":v1")
	if got := s.do("crane", "digest", indexName+":v1"); got != index.Digest.String() {
		t.Errorf("the index has digest %s, want %s", got, index.Digest)
	}
	s.do("crane", "copy", indexName+":v1", copyName+":v2") // mounts the blobs
	if got := s.do("crane", "ls", copyName); got != "v2" {
		t.Errorf("the copy has tags %q, want v2", got)
	}
	back := filepath.Join(t.TempDir(), "back")
	s.do("crane", "pull", "--format", "oci", copyName+":v2", back)
	l.equal(back)

	child := s.do("crane", "digest", "--platform", "linux/arm64", indexName+":v1")
	s.do("crane", "copy", indexName+"@"+child, imageName+":v1")
	s.do("crane", "validate", "--remote", imageName+":v1")
	s.do("crane", "delete", copyName+":v2")
	if got := s.do("crane", "ls", copyName); got != "" {
		t.Errorf("the copy still has tags %q", got)
	}
}

func testOras(t *testing.T, b *berth) {
	s := loggedIn(t, b)
	l, _ := newLayout(t, "v1")
	name := b.host() + "/oras/index:v1"
	s.do("oras", "cp", "--from-oci-layout", l.dir+":v1", name)
	s.do("crane", "validate", "--remote", name)
	back := t.TempDir()
	s.do("oras", "cp", "--to-oci-layout", name, back+":v1")
	l.equal(back)
}

// testArtifact attaches an artifact to an image, and finds and pulls it by way of its subject.
func testArtifact(t *testing.T, b *berth) {
	s := loggedIn(t, b)
	l, index := newLayout(t, "v1")
	name := b.host() + "/oras/subject"
	s.do("crane", "push", l.dir, name+":v1")
	body := []byte("what is in the image")
	if err := os.WriteFile(filepath.Join(s.home, "sbom.txt"), body, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"application/vnd.example.sbom", "application/vnd.example.other"} {
		s.do("oras", "attach", name+":v1", "--artifact-type", kind, "sbom.txt:text/plain")
	}

	found := s.referrers(name+"@"+index.Digest.String(), "application/vnd.example.sbom")
	if len(found) != 1 {
		t.Fatalf("%d artifacts of the type are attached, want 1: %v", len(found), found)
	}
	back := t.TempDir()
	s.do("oras", "pull", name+"@"+found[0].Digest.String(), "--output", back)
	got, err := os.ReadFile(filepath.Join(back, "sbom.txt"))
	if err != nil || !bytes.Equal(got, body) {
		t.Errorf("pulled %q, %v; want %q", got, err, body)
	}
}

// plain returns the flag that oras needs for a reference to another registry than that with HTTPS.
func (s shell) plain(name string) []string {
	if s.CA != "" && strings.HasPrefix(name, s.host()+"/") {
		return nil
	}
	return []string{"--plain-http"}
}

// referrers returns what is attached to a manifest.
func (s shell) referrers(name, artifactType string) []v1.Descriptor {
	s.t.Helper()
	out := s.do("oras", append([]string{"discover", "--format", "json", "--artifact-type", artifactType, name}, s.plain(name)...)...)
	var answer struct {
		Referrers []v1.Descriptor `json:"referrers"`
	}
	if err := json.Unmarshal([]byte(out), &answer); err != nil {
		s.t.Fatalf("oras discover: %v in %s", err, out)
	}
	return answer.Referrers
}
