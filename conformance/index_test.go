package conformance

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// seen is what a test looks at in the JSON of `registry inspect` and `registry index`.
type seen struct {
	Digest    string `json:"digest"`
	Platform  string `json:"platform"`
	TotalSize int64  `json:"totalSize"`
	Layers    int    `json:"layers"`
	Missing   bool   `json:"missing"`
	Manifests []seen `json:"manifests"`
	Referrers []struct {
		ArtifactType string `json:"artifactType"`
	} `json:"referrers"`
}

// registry runs a command of the registry with --json, as a user of its machine with the logins of the shell.
func (s shell) registry(args ...string) seen {
	s.t.Helper()
	cmd := exec.CommandContext(s.t.Context(), s.Program, append(args, "--json")...)
	cmd.Dir, cmd.Env = s.home, append([]string{"HOME=" + s.home, "DOCKER_CONFIG=" + s.home}, s.Env...)
	out, err := cmd.Output()
	if err != nil {
		if exit, ok := err.(*exec.ExitError); ok {
			s.t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, exit.Stderr)
		}
		s.t.Fatal(err)
	}
	var found seen
	if err := json.Unmarshal(out, &found); err != nil {
		s.t.Fatalf("%s: %v in %s", strings.Join(args, " "), err, out)
	}
	return found
}

// TestIndexCommands makes indexes by hand of what clients pushed, here, in another registry and back, and looks at them. What
// clients pull is the judge.
func TestIndexCommands(t *testing.T) {
	t.Parallel()
	b, p := start(t, options{tls: true, htpasswd: true}), peer(t)
	s := loggedIn(t, b)
	_, there, _ := strings.Cut(p.URL, "://")
	here := b.host()
	l, pushed := newLayout(t, "v1")
	s.do("crane", "push", l.dir, here+"/pushed:v1")
	for _, architecture := range []string{"amd64", "arm64"} {
		child := s.do("crane", "digest", "--platform", "linux/"+architecture, here+"/pushed:v1")
		s.do("crane", "copy", here+"/pushed@"+child, here+"/built:v1-"+architecture)
	}

	// The same images in the same form are the same index, and its blobs are mounted: no bytes are sent.
	made := s.registry("index", "create", "app:v1", "built:v1-arm64", "built:v1-amd64")
	if made.Digest != pushed.Digest.String() {
		t.Errorf("made %+v, want %s", made, pushed.Digest)
	}
	if log := b.Printed(); !strings.Contains(log, "endpoint=uploads repository=app status=201") || strings.Contains(log, "endpoint=upload repository=app ") {
		t.Errorf("blobs are sent that could be mounted:\n%s", log)
	}
	s.do("crane", "validate", "--remote", here+"/app:v1")

	// Over to a registry of another make, where part of it is there, and back into another repository.
	s.registry("index", "create", there+"/team/app:v1", here+"/app:v1", "--plain-http")
	s.registry("index", "create", there+"/team/app:v2", there+"/team/app:v1", "--plain-http")
	s.registry("index", "create", "back:v2", there+"/team/app:v2", "--from-plain-http")
	s.do("crane", "validate", "--insecure", "--remote", there+"/team/app:v2")
	s.do("crane", "validate", "--remote", here+"/back:v2")
	back := filepath.Join(t.TempDir(), "back")
	s.do("crane", "pull", "--format", "oci", here+"/back:v2", back)
	l.equal(back)

	// A signature is found in both, by the referrers API here and by the tag there.
	writeSBOM(t, s.home)
	for _, name := range []string{here + "/app:v1", there + "/team/app:v1"} {
		plain := []string{"--plain-http"}[:len(strings.Split(name, "/"))-2]
		s.do("oras", append([]string{"attach", name, "--artifact-type", "application/vnd.example.sbom", "sbom.txt:text/plain"}, plain...)...)
		found := s.registry(append([]string{"inspect", name}, plain...)...)
		platforms := []string{}
		for _, m := range found.Manifests {
			platforms = append(platforms, m.Platform)
			if m.Missing || m.Layers != 2 || m.TotalSize <= 3<<20 {
				t.Errorf("%s: %+v", name, m)
			}
		}
		if !slices.Equal(platforms, []string{"linux/amd64", "linux/arm64"}) || found.TotalSize <= 6<<20 {
			t.Errorf("%s: %+v", name, found)
		}
		if len(found.Referrers) != 1 || found.Referrers[0].ArtifactType != "application/vnd.example.sbom" {
			t.Errorf("%s: referrers %+v", name, found.Referrers)
		}
	}
	b.fsck("--rehash")
}

func writeSBOM(t *testing.T, dir string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, "sbom.txt"), []byte("what is in the image"), 0o600); err != nil {
		t.Fatal(err)
	}
}
