package clients

import (
	"encoding/json"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestBuildxGuide follows docs/guides/buildx.md: attestations of both kinds, a cache in the registry, copies, and images
// that are joined.
func TestBuildxGuide(t *testing.T) {
	t.Parallel()
	need(t, "dockerd", "docker", "runc", "iptables")
	alfred, rpi1 := home(t)
	rpi1.env = append(rpi1.env, "DOCKER_DEFAULT_PLATFORM=linux/arm/v7") // what it would build by itself on such a machine
	registry := serveAnn(alfred)
	guide := readGuide(t, "buildx.md", map[string]*machine{"alfred": alfred, "rpi1": rpi1})
	trust := alfred.do(registry + " cert show --address " + alfredHost + " --line")
	for _, m := range guide.machines {
		installBuildx(m)
		m.do(trust)
		m.do("echo ann! | docker login --username ann --password-stdin " + alfredHost)
	}

	guide.follow("Make a builder", "docker buildx create") // BuildKit's own image can't be pulled here
	group := controlGroup(alfred, "buildkit")
	alfred.useBuilder("berth", guide.file("buildkitd.toml")+"[worker.oci]\n  defaultCgroupParent = \"/"+group+"\"\n")

	mention(t, guide.follow("Push for two platforms"), "linux/amd64", "linux/arm/v7", "unknown/unknown")
	mention(t, guide.follow("Attest what is in an image"), "./app", "./motd", `"linux/amd64"`, `"linux/arm/v7"`, "buildDefinition")
	expectAttestations(t, alfred, "app:1.1")
	expectCached(t, guide.follow("Keep the cache in the registry"))
	guide.follow("Copy, and give another tag")
	expectSame(t, alfred, "app:1.2", "app:stable", "released/app:1.2")
	copyGuide(alfred, rpi1)
	guide.follow("Join what each machine built")
	expectPlatforms(t, alfred, "app:native", "linux/amd64", "linux/arm/v7")
	expectPlatforms(t, alfred, "app:joined", "linux/amd64", "linux/arm/v7")
	guide.finish()

	name := alfredHost + "/app:native"
	alfred.do("docker manifest create " + name + "-v6 " + name + "-arm && docker manifest annotate --variant v6 " + name + "-v6 " + name + "-arm && " +
		"docker manifest push " + name + "-v6")
	expectPlatforms(t, alfred, "app:native-v6", "linux/arm/v6")
	alfred.do(registry + " fsck --rehash")
}

// expectAttestations fails the test unless each of two images of an index has a provenance and an SBOM.
func expectAttestations(t *testing.T, m *machine, image string) {
	t.Helper()
	var images, described []string
	for _, d := range inspectIndex(m, image).Manifests {
		if d.Platform.OS != "unknown" {
			images = append(images, d.Digest.String())
			continue
		}
		described = append(described, d.Annotations["vnd.docker.reference.digest"])
		repository, _, _ := strings.Cut(image, ":")
		mention(t, raw(m, repository+"@"+d.Digest.String()), "https://spdx.dev/Document", "https://slsa.dev/provenance/")
	}
	slices.Sort(images)
	slices.Sort(described)
	if len(images) != 2 || !slices.Equal(images, described) {
		t.Errorf("%s has the images %q, and attestations of %q", image, images, described)
	}
}

// expectCached looks at the builds that follow after the builder lost its cache: one of the same, and one after a change.
func expectCached(t *testing.T, printed string) {
	t.Helper()
	builds := regexp.MustCompile(`(?m)^Total:.*$`).Split(printed, -1)
	if len(builds) != 3 {
		t.Fatalf("the builder's cache should be pruned twice:\n%s", printed)
	}
	for _, platform := range []string{"linux/amd64", "linux/arm/v7"} {
		if step := stepOf(t, builds[1], platform+" stage-1 2/2"); !strings.Contains(step, "CACHED") {
			t.Errorf("the same build for %s is done again:\n%s", platform, step)
		}
		if step := stepOf(t, builds[2], platform+" app 1/1"); !strings.Contains(step, "extracting sha256:") {
			t.Errorf("the stage app for %s is not fetched from the cache:\n%s", platform, step)
		}
	}
}

// stepOf returns what a build printed of one of its steps.
func stepOf(t *testing.T, build, name string) string {
	t.Helper()
	number := regexp.MustCompile(`(?m)^(#\d+) \[` + regexp.QuoteMeta(name) + `\]`).FindStringSubmatch(build)
	if number == nil {
		t.Fatalf("there is no step %q in\n%s", name, build)
	}
	return strings.Join(regexp.MustCompile(`(?m)^`+number[1]+` .*$`).FindAllString(build, -1), "\n")
}

// copyGuide copies what was written for a guide to another machine.
func copyGuide(from, to *machine) {
	from.t.Helper()
	shared := filepath.Join(from.t.TempDir(), "guide.tar")
	from.do("tar -C " + workDirectory + " -cf " + shared + " .")
	to.do("tar -C " + workDirectory + " -xf " + shared)
}

// raw returns the manifest of an image.
func raw(m *machine, image string) string {
	m.t.Helper()
	return m.do("SSL_CERT_FILE=/etc/docker/certs.d/" + alfredHost + "/ca.crt docker buildx imagetools inspect --raw " + alfredHost + "/" + image)
}

func inspectIndex(m *machine, image string) v1.Index {
	m.t.Helper()
	var i v1.Index
	if err := json.Unmarshal([]byte(raw(m, image)), &i); err != nil {
		m.t.Fatal(err)
	}
	return i
}

// expectSame fails the test unless images are the same as one.
func expectSame(t *testing.T, m *machine, image string, others ...string) {
	t.Helper()
	want := digest.FromString(raw(m, image))
	for _, other := range others {
		if got := digest.FromString(raw(m, other)); got != want {
			t.Errorf("%s is %s, want %s", other, got, want)
		}
	}
}

// expectPlatforms fails the test unless an index has images for these platforms, in this order.
func expectPlatforms(t *testing.T, m *machine, image string, want ...string) {
	t.Helper()
	var got []string
	for _, d := range inspectIndex(m, image).Manifests {
		got = append(got, strings.TrimSuffix(d.Platform.OS+"/"+d.Platform.Architecture+"/"+d.Platform.Variant, "/"))
	}
	if !slices.Equal(got, want) {
		t.Errorf("%s has %q, want %q", image, got, want)
	}
}
