package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"berth/client"
	"berth/registry/manifest"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
)

const secretPassword = "correct-horse"

// gallery is a registry with HTTPS that wants a login, and a user who has logged in and has its configuration.
type gallery struct {
	*running
	t       *testing.T
	host    string // HOST:PORT
	environ []string
	client  *auth.Client
}

func newGallery(t *testing.T, environ ...string) *gallery {
	t.Helper()
	g := &gallery{t: t, running: serve(t, t.TempDir(), append(environ, "REGISTRY_AUTH_INITIALPASSWORD="+secretPassword)...)}
	t.Cleanup(func() { g.end(t) })
	g.host = strings.TrimPrefix(g.url(), "https://")
	home := t.TempDir()
	g.environ = []string{"HOME=" + home, "DOCKER_CONFIG=" + home, "DESTDIR=" + home,
		"REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY=" + g.directory, "REGISTRY_HTTP_ADDR=" + g.host}
	login := `{"auths":{"` + g.host + `":{"username":"admin","password":"` + secretPassword + `"}}}`
	if err := os.WriteFile(filepath.Join(home, "config.json"), []byte(login), 0o600); err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(filepath.Join(g.directory, "tls", "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	g.client = &auth.Client{
		Client:     &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}},
		Credential: auth.StaticCredential(g.host, auth.Credential{Username: "admin", Password: secretPassword}),
	}
	return g
}

// try runs a command as that user.
func (g *gallery) try(args ...string) (out, errOut string, err error) {
	g.t.Helper()
	out, errOut, err = command(g.t, g.environ, args...)
	if strings.Contains(out+errOut, secretPassword) || err != nil && strings.Contains(err.Error(), secretPassword) {
		g.t.Errorf("%v prints the password: %s%s%v", args, out, errOut, err)
	}
	return out, errOut, err
}

// do runs a command that has to succeed, and returns what it prints.
func (g *gallery) do(args ...string) string {
	g.t.Helper()
	out, _, err := g.try(args...)
	if err != nil {
		g.t.Fatalf("%v: %v", args, err)
	}
	return out
}

// report runs a command with --json.
func (g *gallery) report(args ...string) client.Manifest {
	g.t.Helper()
	var m client.Manifest
	if err := json.Unmarshal([]byte(g.do(append(args, "--json")...)), &m); err != nil {
		g.t.Fatal(err)
	}
	return m
}

func (g *gallery) repository(name string) *remote.Repository {
	return &remote.Repository{Client: g.client, Reference: registry.Reference{Registry: g.host, Repository: name}}
}

// blob stores a blob in a repository.
func (g *gallery) blob(repository, mediaType, content string) v1.Descriptor {
	g.t.Helper()
	d := v1.Descriptor{MediaType: mediaType, Digest: digest.FromString(content), Size: int64(len(content))}
	if err := g.repository(repository).Blobs().Push(g.t.Context(), d, strings.NewReader(content)); err != nil {
		g.t.Fatal(err)
	}
	return d
}

// manifest stores a manifest under a tag, or under its digest where that is empty.
func (g *gallery) manifest(repository, tag, mediaType string, document any) v1.Descriptor {
	g.t.Helper()
	content, err := json.Marshal(document)
	if err != nil {
		g.t.Fatal(err)
	}
	d := v1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
	if tag == "" {
		tag = d.Digest.String()
	}
	if err := g.repository(repository).Manifests().PushReference(g.t.Context(), d, bytes.NewReader(content), tag); err != nil {
		g.t.Fatal(err)
	}
	return d
}

// image stores an image of one layer for a platform.
func (g *gallery) image(repository, tag, mediaType, platform string) v1.Descriptor {
	g.t.Helper()
	p := append(strings.Split(platform, "/"), "")
	config := `{"os":"` + p[0] + `","architecture":"` + p[1] + `","variant":"` + p[2] + `","created":"2026-01-02T03:04:05Z","rootfs":{}}`
	d := g.manifest(repository, tag, mediaType, v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: mediaType,
		Config: g.blob(repository, v1.MediaTypeImageConfig, config),
		Layers: []v1.Descriptor{g.blob(repository, v1.MediaTypeImageLayerGzip, strings.Repeat(platform, 1000))},
	})
	d.Platform = &v1.Platform{OS: p[0], Architecture: p[1], Variant: p[2]}
	return d
}

// built stores what buildx pushes for one platform: an index of the image and what is attested about it.
func (g *gallery) built(repository, tag, platform string) (image, attestation v1.Descriptor) {
	g.t.Helper()
	image = g.image(repository, "", v1.MediaTypeImageManifest, platform)
	statement := g.blob(repository, "application/vnd.in-toto+json", `{"of":"`+platform+`"}`)
	statement.Annotations = map[string]string{"in-toto.io/predicate-type": "https://slsa.dev/provenance/v1"}
	attestation = g.manifest(repository, "", v1.MediaTypeImageManifest, v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest, Layers: []v1.Descriptor{statement},
		Config: g.blob(repository, v1.MediaTypeImageConfig, `{"os":"unknown","architecture":"unknown","rootfs":{}}`)})
	attestation.Platform = &v1.Platform{OS: "unknown", Architecture: "unknown"}
	attestation.Annotations = map[string]string{
		"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": image.Digest.String()}
	g.manifest(repository, tag, v1.MediaTypeImageIndex, v1.Index{Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: v1.MediaTypeImageIndex, Manifests: []v1.Descriptor{attestation, image}})
	return image, attestation
}

// TestImageCommands works on images with the commands for them, in one registry with a repository for each test.
func TestImageCommands(t *testing.T) {
	g := newGallery(t, `REGISTRY_POLICY_PLATFORMS=[
		{repositories: [policed], tags: [warned], require: [linux/arm]},
		{repositories: [policed], tags: [refused], require: [linux/arm], on: reject}]`)
	for name, test := range map[string]func(*testing.T, *gallery){
		"index create":                      testIndexCreate,
		"index create of Docker's images":   testIndexCreateDocker,
		"index create of the same platform": testIndexCreateSamePlatform,
		"index create of what is no image":  testIndexCreateRefuses,
		"index create under a policy":       testIndexCreatePolicy,
		"text":                              testInspectText,
		"reach":                             testReach,
	} {
		t.Run(name, func(t *testing.T) {
			mine := *g
			mine.t = t
			test(t, &mine)
		})
	}
}

// testIndexCreate makes one tag of what was built on two machines, one of them into another repository, and looks at it.
func testIndexCreate(t *testing.T, g *gallery) {
	arm, attested := g.built("build/made", "1-arm", "linux/arm")
	amd := g.image("made", "1-amd64", v1.MediaTypeImageManifest, "linux/amd64")

	if out := g.do("index", "create", "made:1", "build/made:1-arm", "made:1-amd64", "--dry-run"); !strings.Contains(out, amd.Digest.String()) {
		t.Errorf("dry run:\n%s", out)
	}
	if _, _, err := g.try("index", "show", "made:1"); err == nil || !strings.Contains(err.Error(), "has no tag 1; it has 1-amd64") {
		t.Errorf("after a dry run: %v", err)
	}
	made := g.report("index", "create", "made:1", "build/made:1-arm", "made:1-amd64")
	if made.Reference != g.host+"/made:1" || made.MediaType != v1.MediaTypeImageIndex || len(made.Manifests) != 2 {
		t.Fatalf("made %+v", made)
	}
	first, second := made.Manifests[0], made.Manifests[1]
	if first.Digest != amd.Digest || first.Platform != "linux/amd64" || first.From != g.host+"/made:1-amd64" {
		t.Errorf("the first is %+v", first)
	}
	if second.Digest != arm.Digest || second.Platform != "linux/arm/v7" || second.From != g.host+"/build/made:1-arm" ||
		len(second.Attestations) != 1 || second.Attestations[0].Digest != attested.Digest {
		t.Errorf("the second is %+v", second)
	}
	if shown := g.report("index", "show", "made:1"); shown.Digest != made.Digest || len(shown.Manifests) != 2 || shown.Manifests[0].From != "" {
		t.Errorf("shown %+v", shown)
	}
	for _, child := range g.report("inspect", "made:1").Manifests {
		if child.Missing || child.Layers != 1 || child.Created.Year() != 2026 {
			t.Errorf("%+v", child)
		}
	}
	if again := g.report("index", "create", "other:1", "made:1"); again.Digest != made.Digest {
		t.Errorf("of its own images it makes %s, want %s", again.Digest, made.Digest)
	}
}

// Docker's own images make a list that its old versions know.
func testIndexCreateDocker(t *testing.T, g *gallery) {
	g.image("docker", "arm", manifest.MediaTypeDockerManifest, "linux/arm/v6")
	g.image("docker", "amd", manifest.MediaTypeDockerManifest, "linux/amd64")
	if made := g.report("index", "create", "docker:1", "docker:arm", "docker:amd"); made.MediaType != manifest.MediaTypeDockerManifestList {
		t.Errorf("made %+v", made)
	}
}

func testIndexCreateSamePlatform(t *testing.T, g *gallery) {
	g.image("same", "old", v1.MediaTypeImageManifest, "linux/arm/v7")
	amd := g.image("same", "amd", v1.MediaTypeImageManifest, "linux/amd64")
	arm, _ := g.built("same", "new", "linux/arm") // the same platform, said otherwise
	g.do("index", "create", "same:1", "same:old", "same:amd")
	_, _, err := g.try("index", "create", "same:1", "same:1", "same:new")
	for _, want := range []string{g.host + "/same:1 and " + g.host + "/same:new", "linux/arm/v7", "--replace"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	made := g.report("index", "create", "same:1", "same:1", "same:new", "--replace")
	if len(made.Manifests) != 2 || made.Manifests[0].Digest != amd.Digest || made.Manifests[1].Digest != arm.Digest ||
		len(made.Manifests[1].Attestations) != 1 {
		t.Errorf("made %+v", made.Manifests)
	}
	if made = g.report("index", "create", "same:same", "same:amd", "same:amd"); len(made.Manifests) != 1 {
		t.Errorf("of the same image twice: %+v", made.Manifests)
	}
}

func testIndexCreateRefuses(t *testing.T, g *gallery) {
	image := g.image("refused", "1", v1.MediaTypeImageManifest, "linux/amd64")
	g.manifest("refused", "nested", v1.MediaTypeImageIndex, v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []v1.Descriptor{
		g.manifest("refused", "inner", v1.MediaTypeImageIndex, v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []v1.Descriptor{image}})}})
	empty := g.blob("refused", v1.MediaTypeEmptyJSON, "{}")
	artifact := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, ArtifactType: "application/x-chart", Config: empty, Layers: []v1.Descriptor{empty}}
	g.manifest("refused", "chart", v1.MediaTypeImageManifest, artifact)
	g.manifest("refused", "charts", v1.MediaTypeImageIndex, v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []v1.Descriptor{}})
	config := g.blob("refused", v1.MediaTypeImageConfig, `{"rootfs":{}}`)
	g.manifest("refused", "untold", v1.MediaTypeImageManifest, v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, Config: config,
		Layers: []v1.Descriptor{empty}})
	_, attestation := g.built("refused", "built", "linux/arm")
	for from, want := range map[string]string{
		"refused@" + attestation.Digest.String(): "does not say for which platform",
		"refused:nested":                         "has an index in it", "refused:chart": "application/x-chart", "refused:charts": "lists no image",
		"refused:untold": "does not say for which platform", "refused:2": "has no tag 2", "nowhere:1": "has no repository nowhere", "App": "no reference",
	} {
		if _, _, err := g.try("index", "create", "refused:made", "refused:1", from); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", from, err, want)
		}
	}
	if _, _, err := g.try("index", "create", "refused@"+image.Digest.String(), "refused:1"); err == nil || !strings.Contains(err.Error(), "under a tag") {
		t.Errorf("by digest: %v", err)
	}
	if _, _, err := g.try("inspect", "refused:made"); err == nil {
		t.Error("what was refused is there")
	}
}

// What the registry says of a tag that it takes is shown, and what it refuses is said.
func testIndexCreatePolicy(t *testing.T, g *gallery) {
	g.image("policed", "1", v1.MediaTypeImageManifest, "linux/amd64")
	if _, errOut, err := g.try("index", "create", "policed:warned", "policed:1"); err != nil || !strings.Contains(errOut, "warning: policed:warned lacks linux/arm/v7") {
		t.Errorf("got %v and %q", err, errOut)
	}
	if _, _, err := g.try("index", "create", "policed:refused", "policed:1"); err == nil || !strings.Contains(err.Error(), "lacks linux/arm/v7") {
		t.Errorf("got %v", err)
	}
}

// testInspectText pins what people see, but for the figures.
func testInspectText(t *testing.T, g *gallery) {
	image, _ := g.built("text", "1", "linux/arm")
	image.Platform = nil
	empty := g.blob("text", v1.MediaTypeEmptyJSON, "{}")
	g.manifest("text", "", v1.MediaTypeImageManifest, v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: v1.MediaTypeImageManifest, ArtifactType: "application/spdx+json", Subject: &image, Config: empty,
		Layers: []v1.Descriptor{empty}, Annotations: map[string]string{"a": "b"}})
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"inspect", "text:1"}, `HOST/text:1
 digest DIGEST
 type OCI index, 1 image
 size SIZE

PLATFORM DIGEST SIZE CREATED LAYERS
linux/arm/v7 DIGEST SIZE 2026-01-02 03:04:05 1
 provenance DIGEST SIZE - 1

REFERRER DIGEST SIZE ANNOTATIONS OF
application/spdx+json DIGEST SIZE 1 linux/arm/v7
`},
		{[]string{"index", "show", "text:1"}, `HOST/text:1
 digest DIGEST
 type OCI index, 1 image

PLATFORM DIGEST SIZE
linux/arm/v7 DIGEST SIZE
 attestation DIGEST SIZE
`},
		{[]string{"index", "create", "text:2", "text:1"}, `HOST/text:2
 digest DIGEST
 type OCI index, 1 image

PLATFORM DIGEST SIZE FROM
linux/arm/v7 DIGEST SIZE HOST/text:1
 attestation DIGEST SIZE HOST/text:1
`},
	} {
		out := strings.ReplaceAll(g.do(test.args...), g.host, "HOST")
		if got := withoutFigures(out); got != test.want {
			t.Errorf("%v: got\n%swant\n%s", test.args, got, test.want)
		}
		for _, table := range strings.Split(out, "\n\n")[1:] {
			checkAligned(t, table)
		}
	}
}

// withoutFigures puts words in the place of digests and sizes, and single spaces between columns.
func withoutFigures(out string) string {
	out = regexp.MustCompile(`sha256:[0-9a-f]{64}`).ReplaceAllString(out, "DIGEST")
	out = regexp.MustCompile(`[0-9.]+ (K?i?B)\b`).ReplaceAllString(out, "SIZE")
	return regexp.MustCompile(` +`).ReplaceAllString(out, " ")
}

// checkAligned wants the digests of a table below their head.
func checkAligned(t *testing.T, table string) {
	t.Helper()
	lines := strings.Split(strings.TrimSuffix(table, "\n"), "\n")
	column := strings.Index(lines[0], "DIGEST")
	for _, line := range lines[1:] {
		if strings.Index(line, "sha256:") != column {
			t.Errorf("not aligned:\n%s", table)
		}
	}
}

// The commands find the registry of this machine, its CA and the login, or take them from flags.
func testReach(t *testing.T, g *gallery) {
	g.image("reached", "1", v1.MediaTypeImageManifest, "linux/amd64")
	ca, empty := filepath.Join(g.directory, "tls", "ca.pem"), []string{"HOME=" + t.TempDir(), "DESTDIR=" + t.TempDir()}
	_, port, _ := strings.Cut(g.host, ":")
	for _, test := range []struct {
		name    string
		environ []string
		stdin   string
		args    []string
		want    string // a part of the error, or nothing
	}{
		{"by configuration", g.environ, "", []string{"reached:1"}, ""},
		{"by name", g.environ, "", []string{g.host + "/reached:1"}, ""},
		{"by another name", g.environ, "", []string{"localhost:" + port + "/reached:1"}, ""},
		{"by flags", empty, secretPassword + "\n", []string{g.host + "/reached:1", "--ca", ca, "-u", "admin", "--password-stdin"}, ""},
		{"without CA", empty, "", []string{g.host + "/reached:1"}, "registry cert show"},
		{"without login", empty, "", []string{g.host + "/reached:1", "--ca", ca}, "docker login " + g.host},
		{"wrong password", g.environ, "x", []string{"reached:1", "-u", "admin", "--password-stdin"}, `the login of "admin"`},
		{"no password", g.environ, "", []string{"reached:1", "-u", "admin", "--password-stdin"}, "no password"},
		{"half a login", g.environ, "", []string{"reached:1", "-u", "admin"}, "password-stdin"},
		{"no such CA", g.environ, "", []string{"reached:1", "--ca", "/nowhere"}, "--ca"},
		{"a CA that is none", g.environ, "", []string{"reached:1", "--ca", "main.go"}, "no certificate"},
		{"no such configuration", g.environ, "", []string{"reached:1", "--config", "/nowhere"}, "/nowhere"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var out, errOut output
			err := run(t.Context(), append([]string{"inspect"}, test.args...), test.environ, strings.NewReader(test.stdin), &out, &errOut)
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
			if test.want == "" && !strings.Contains(out.String(), "linux/amd64") {
				t.Errorf("it prints\n%s", out.String())
			}
		})
	}
}

func TestLocalRegistry(t *testing.T) {
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	loopbacks := []string{"localhost:5000", "127.0.0.1:5000", "[::1]:5000"}
	for _, test := range []struct {
		environ    string
		host, dial string
		aliases    []string
		plain      bool
	}{
		{"REGISTRY_HTTP_ADDR=:5000", strings.ToLower(name) + ":5000", "localhost:5000", loopbacks, false},
		{"REGISTRY_HTTP_ADDR=0.0.0.0:5000", strings.ToLower(name) + ":5000", "localhost:5000", loopbacks, false},
		{"REGISTRY_HTTP_ADDR=127.0.0.1:5000", "127.0.0.1:5000", "", loopbacks, false},
		{"REGISTRY_HTTP_ADDR=localhost:5000", "localhost:5000", "", loopbacks, false},
		{"REGISTRY_HTTP_ADDR=192.0.2.1:5000", "192.0.2.1:5000", "", nil, false},
		{"REGISTRY_HTTP_HOST=https://registry.lan", "registry.lan", "", nil, false},
		{"REGISTRY_HTTP_HOST=http://registry.lan", "registry.lan", "", nil, true},
		{"REGISTRY_HTTP_TLS_MODE=off", strings.ToLower(name) + ":5000", "localhost:5000", loopbacks, true},
	} {
		s := streams{environ: []string{"HOME=" + t.TempDir(), test.environ}}
		local, err := s.localRegistry("")
		if err != nil {
			t.Errorf("%s: %v", test.environ, err)
			continue
		}
		if local.Host != test.host || local.Dial != test.dial || strings.Join(local.Aliases, " ") != strings.Join(test.aliases, " ") || local.PlainHTTP != test.plain {
			t.Errorf("%s: got %+v", test.environ, local)
		}
	}
	s := streams{environ: []string{"HOME=" + t.TempDir(), "REGISTRY_HTTP_NET=unix", "REGISTRY_HTTP_ADDR=/run/registry.sock"}}
	if local, err := s.localRegistry(""); err == nil || !strings.Contains(err.Error(), "HOST:PORT") {
		t.Errorf("of a socket: %+v, %v", local, err)
	}
}

func TestPrintable(t *testing.T) {
	if got := printable("a\x1b[2Jb\n\u009bäö"); got != "a?[2Jb??äö" {
		t.Errorf("got %q", got)
	}
}
