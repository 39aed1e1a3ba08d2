package registry_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"berth/registry"
	"berth/registry/manifest"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// covering returns a registry that wants some tags to be for two platforms.
func covering(t *testing.T, reject bool) *fixture {
	t.Helper()
	f := newFixture(t)
	f.Service = covered(f, reject)
	return f
}

// covered returns a service on what a registry has.
func covered(f *fixture, reject bool) *registry.Service {
	var require []manifest.Platform
	for _, s := range []string{"linux/amd64", "linux/arm/v7"} {
		p, err := manifest.ParsePlatform(s)
		if err != nil {
			panic(err)
		}
		require = append(require, p)
	}
	return registry.New(registry.Config{Blobs: f.blobs, Metadata: f.facts, Coverage: []registry.CoveragePolicy{{
		Applies: func(repository, tag string) bool { return repository == "a" && tag == "latest" },
		Require: require, Reject: reject,
	}}})
}

func TestCoverage(t *testing.T) {
	f := covering(t, true)
	amd64 := f.put(t, "a", "amd64", "", f.image(t, "a", config("linux", "amd64"), []byte("layer")))
	arm := f.put(t, "a", "arm", "", f.image(t, "a", config("linux", "arm"), []byte("layer"))) // without a variant: v7
	unnamed := func(children ...registry.ManifestPushed) []byte {
		document := v1.Index{MediaType: v1.MediaTypeImageIndex, Manifests: []v1.Descriptor{}}
		document.SchemaVersion = 2
		for _, c := range children {
			document.Manifests = append(document.Manifests, c.Descriptor)
		}
		return encode(t, document)
	}
	attested := strings.Replace(string(index(t, map[string]registry.ManifestPushed{"linux/amd64": amd64, "linux/arm/v7": arm})),
		`"manifests":[`, `"manifests":[{"mediaType":"`+v1.MediaTypeImageManifest+`","digest":"`+arm.Digest.String()+
			`","size":1,"platform":{"os":"unknown","architecture":"unknown"}},`, 1)
	for name, test := range map[string]struct {
		body []byte
		want string // in the refusal, empty where there is none
	}{
		"image":             {f.image(t, "a", config("linux", "amd64"), []byte("layer")), "a:latest lacks linux/arm/v7: it is for linux/amd64; build it with --platform linux/amd64,linux/arm/v7"},
		"image of another":  {f.image(t, "a", config("linux", "riscv64"), []byte("layer")), "lacks linux/amd64 and linux/arm/v7: it is for linux/riscv64"},
		"half an index":     {index(t, map[string]registry.ManifestPushed{"linux/arm/v7": arm}), "lacks linux/amd64: it is for linux/arm/v7"},
		"another variant":   {index(t, map[string]registry.ManifestPushed{"linux/amd64": amd64, "linux/arm/v6": arm}), "lacks linux/arm/v7"},
		"empty index":       {unnamed(), ""},
		"whole":             {index(t, map[string]registry.ManifestPushed{"linux/amd64": amd64, "linux/arm/v7": arm}), ""},
		"arm for arm/v7":    {index(t, map[string]registry.ManifestPushed{"linux/amd64": amd64, "linux/arm": arm}), ""},
		"without platforms": {unnamed(amd64, arm), ""},
		"attested":          {[]byte(attested), ""},
		"artifact":          {[]byte(strings.Replace(string(f.image(t, "a", []byte("{}"))), v1.MediaTypeImageConfig, "application/vnd.cncf.helm.config.v1+json", 1)), ""},
	} {
		push := registry.ManifestPush{Reference: ref(t, "latest"), Body: test.body}
		pushed, err := f.PutManifest(t.Context(), "a", push)
		if test.want == "" && (err != nil || len(pushed.Warnings) > 0) {
			t.Errorf("%s: got %v, %v", name, pushed.Warnings, err)
		}
		if test.want != "" && (!errors.Is(err, registry.ErrDenied) || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: got %v, want %q", name, err, test.want)
		}
		push.Reference = ref(t, "other")
		if _, err := f.PutManifest(t.Context(), "a", push); err != nil {
			t.Errorf("%s, another tag: %v", name, err)
		}
		push.Tags = []string{"latest"}
		if _, err := f.PutManifest(t.Context(), "a", push); (err != nil) != (test.want != "") {
			t.Errorf("%s, the tag as a parameter: %v", name, err)
		}
	}
}

func TestCoverageWarns(t *testing.T) {
	f := covering(t, false)
	pushed := f.put(t, "a", "latest", "", f.image(t, "a", config("linux", "amd64"), []byte("layer")))
	if len(pushed.Warnings) != 1 || !strings.Contains(pushed.Warnings[0], "lacks linux/arm/v7") {
		t.Errorf("warnings are %q", pushed.Warnings)
	}
	if d, err := f.ResolveManifest(t.Context(), "a", ref(t, "latest")); err != nil || d.Digest != pushed.Digest {
		t.Errorf("the tag is %s, %v", d.Digest, err)
	}
}

// TestCoverageOfRestored has a tag pointed at what could not be pushed under it. What it pointed to already, it may point to again.
func TestCoverageOfRestored(t *testing.T) {
	f := covering(t, false)
	before := f.put(t, "a", "latest", "", f.image(t, "a", config("linux", "amd64"), []byte("before")))
	f.Service = covered(f, true)
	amd64 := f.put(t, "a", "amd64", "", f.image(t, "a", config("linux", "amd64"), []byte("layer")))
	arm := f.put(t, "a", "arm", "", f.image(t, "a", config("linux", "arm"), []byte("layer")))
	gone := f.put(t, "a", "gone", "", f.image(t, "a", config("linux", "arm"), []byte("gone")))
	if _, err := f.DeleteManifest(t.Context(), "a", gone.Digest, registry.Deletion{}); err != nil {
		t.Fatal(err)
	}
	both := f.put(t, "a", "latest", "", index(t, map[string]registry.ManifestPushed{"linux/amd64": amd64, "linux/arm/v7": arm}))
	for _, test := range []struct {
		name    string
		to      digest.Digest
		refused string
	}{
		{"one platform", amd64.Digest, "a:latest lacks linux/arm/v7"},
		{"in the trash", gone.Digest, "restore it under another tag first"},
		{"as before", before.Digest, ""},
		{"whole", both.Digest, ""},
	} {
		_, err := f.RestoreTag(t.Context(), "a", "latest", registry.Restoration{To: test.to})
		if test.refused == "" && err != nil || test.refused != "" && (!errors.Is(err, registry.ErrDenied) || !strings.Contains(err.Error(), test.refused)) {
			t.Errorf("%s: %v", test.name, err)
		}
		if _, err := f.RestoreTag(t.Context(), "a", "other", registry.Restoration{To: test.to}); err != nil {
			t.Errorf("%s, under another tag: %v", test.name, err)
		}
	}
	if _, err := f.RestoreTag(t.Context(), "a", "latest", registry.Restoration{To: gone.Digest}); err == nil {
		t.Error("what came back from the trash is for one platform still")
	}
}

// TestCoverageMessage has an index of very many platforms, which a message does not name all.
func TestCoverageMessage(t *testing.T) {
	f := covering(t, false)
	image := f.put(t, "a", "x", "", f.image(t, "a", config("linux", "amd64"), []byte("layer")))
	all := make(map[string]registry.ManifestPushed)
	for i := range 1000 {
		all[fmt.Sprintf("linux/amd64/v%d", i)] = image
	}
	pushed := f.put(t, "a", "latest", "", index(t, all))
	if len(pushed.Warnings) != 1 || len(pushed.Warnings[0]) > 1000 || !strings.Contains(pushed.Warnings[0], " and 990 more") {
		t.Errorf("warnings are %q", pushed.Warnings)
	}
}
