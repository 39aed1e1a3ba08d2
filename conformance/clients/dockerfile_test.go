package clients

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// buildTimeout bounds the build of an image when nothing of it is cached.
	buildTimeout = 15 * time.Minute
	// imageVersion is the version that the program in the images says it is.
	imageVersion = "conformance"
	// mostImage is how large an unpacked image may be, in bytes.
	mostImage = 30_000_000
)

// berthImage is what the Dockerfile makes for a platform.
type berthImage struct {
	platform string
	name     string // by which docker knows it
	archive  string // path of what `docker load` reads
}

// images are those that the tests run.
func images(t *testing.T) (amd64, arm berthImage) {
	dir := t.TempDir()
	return berthImage{"linux/amd64", "berth", filepath.Join(dir, "amd64.tar")}, berthImage{"linux/arm/v7", "berth-arm", filepath.Join(dir, "arm.tar")}
}

// buildImages builds images with the project's Dockerfile and a BuildKit that can reach nobody: in the place of golang's image
// it gets this machine's Go beside a shell, and in the place of a download the modules that are here. What BuildKit compiled
// is kept for the next time.
func buildImages(t *testing.T, all ...berthImage) {
	t.Helper()
	state, err := filepath.Abs(filepath.Join(cache, "image"))
	if err != nil {
		t.Fatal(err)
	}
	source, modules := filepath.Dir(filepath.Dir(state)), filepath.Join(state, "modules")
	copyModules(t, modules)
	m := installBuildx(newMachine(t))
	m.env = append(m.env, "GOROOT="+goEnv(t, "GOROOT"), "STATE="+state)
	m.do(golangStandIn)
	m.write("/run/buildkitd.toml", keepCompiled)
	m.start("sh -c 'echo $$ >/run/buildkitd.pid && exec $BUILDKITD --config /run/buildkitd.toml --root $STATE/buildkit "+
		"--addr unix:///run/buildkitd.sock --containerd-worker=false'", "test -S /run/buildkitd.sock")
	m.do("docker buildx create --name image --driver remote unix:///run/buildkitd.sock --bootstrap --use")
	for _, i := range all {
		m.build("docker buildx build --progress plain --platform " + i.platform + " --build-arg VERSION=" + imageVersion +
			" --build-context golang:1.26=/run/golang --build-context modules=" + modules +
			" --tag " + i.name + " --output type=docker,dest=" + i.archive + " " + source)
	}
	// It writes down what it keeps when it is asked to end.
	m.do("kill $(cat /run/buildkitd.pid) && while kill -0 $(cat /run/buildkitd.pid) 2>/dev/null; do sleep 0.05; done")
}

// keepCompiled has BuildKit keep what it compiled, even on a disk that is nearly full, which its own rule would not.
const keepCompiled = `
[[worker.oci.gcpolicy]]
  all = true
  maxUsedSpace = "4GB"
`

// golangStandIn makes /run/golang, which has what the Dockerfile uses of golang's image.
const golangStandIn = `
cd /run && mkdir -p golang/bin golang/tmp golang/etc/ssl/certs golang/usr/local/bin golang/usr/local/go
cp "$(command -v busybox)" golang/bin/
for name in sh mkdir cp; do ln -s busybox golang/bin/$name; done
cp /etc/ssl/certs/ca-certificates.crt golang/etc/ssl/certs/
ln -s ../go/bin/go golang/usr/local/bin/go
mount --bind "$GOROOT" golang/usr/local/go`

// copyModules fills a module cache with what go.mod names, from the cache of this machine as far as it is there.
func copyModules(t *testing.T, to string) {
	t.Helper()
	download := exec.CommandContext(t.Context(), "go", "mod", "download")
	download.Dir = "../.."
	download.Env = append(os.Environ(), "GOWORK=off", "GOTOOLCHAIN=local", "GOFLAGS=-modcacherw", "GOMODCACHE="+to,
		"GOPROXY=file://"+goEnv(t, "GOMODCACHE")+"/cache/download,"+goEnv(t, "GOPROXY"))
	if out, err := download.CombinedOutput(); err != nil {
		t.Fatalf("go mod download: %v\n%s", err, out)
	}
}

func goEnv(t *testing.T, name string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "env", name).Output()
	if err != nil {
		t.Fatalf("go env %s: %v", name, err)
	}
	return strings.TrimSpace(string(out))
}

// build is do for what may take as long as a compiler does.
func (m *machine) build(command string) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), buildTimeout)
	defer cancel()
	c := exec.CommandContext(ctx, "nsenter", m.enter(command)...)
	c.Env, c.WaitDelay = m.env, time.Second
	if out, err := c.CombinedOutput(); err != nil {
		m.t.Fatalf("%s: %v; it printed:\n%s", command, err, out)
	}
}

// compressedSize is what a registry transfers of an image: its layers, in bytes.
func compressedSize(t *testing.T, archive string) (size int64) {
	t.Helper()
	var index v1.Index
	readEntry(t, archive, v1.ImageIndexFile, &index)
	for range 2 { // an index in the index where there are attestations
		d := index.Manifests[0]
		name := v1.ImageBlobsDir + "/" + d.Digest.Algorithm().String() + "/" + d.Digest.Encoded()
		if d.MediaType != v1.MediaTypeImageIndex {
			var manifest v1.Manifest
			readEntry(t, archive, name, &manifest)
			for _, layer := range manifest.Layers {
				size += layer.Size
			}
			return size
		}
		readEntry(t, archive, name, &index)
	}
	t.Fatalf("there is no image in %s", archive)
	return 0
}

// readEntry decodes a JSON file in an archive.
func readEntry(t *testing.T, archive, name string, into any) {
	t.Helper()
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for entries := tar.NewReader(f); ; {
		entry, err := entries.Next()
		if errors.Is(err, io.EOF) {
			t.Fatalf("there is no %s in %s", name, archive)
		}
		if err != nil {
			t.Fatal(err)
		}
		if entry.Name == name {
			if err := json.NewDecoder(entries).Decode(into); err != nil {
				t.Fatal(fmt.Errorf("decode %s: %w", name, err))
			}
			return
		}
	}
}
