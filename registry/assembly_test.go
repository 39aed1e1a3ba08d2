package registry_test

import (
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"berth/registry"
	"berth/registry/manifest"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// assembler is a registry that makes indexes in the repository a.
type assembler struct {
	*fixture
	t testing.TB
}

func newAssembler(t testing.TB, rule registry.IndexRule, coverage ...registry.CoveragePolicy) assembler {
	t.Helper()
	f := newFixture(t)
	rule.Applies = func(repository string) bool { return repository == "a" }
	if rule.From == nil {
		rule.From = defaultPatterns(t)
	}
	f.Service = registry.New(registry.Config{Blobs: f.blobs, Metadata: f.facts, Indexes: []registry.IndexRule{rule}, Coverage: coverage})
	return assembler{f, t}
}

func platforms(t testing.TB, all ...string) (parsed []manifest.Platform) {
	t.Helper()
	for _, s := range all {
		p, err := manifest.ParsePlatform(s)
		if err != nil {
			t.Fatal(err)
		}
		parsed = append(parsed, p)
	}
	return parsed
}

// native pushes an image as a build on a machine of that architecture makes it, and returns what the push did. The name makes
// it differ from others.
func (a assembler) native(tag, architecture, name string) registry.ManifestPushed {
	a.t.Helper()
	return a.put(a.t, "a", tag, "", a.image(a.t, "a", config("linux", architecture), []byte(name)))
}

// attested pushes an image as buildx does: an index of the image and its provenance.
func (a assembler) attested(tag, architecture, name string) (index, image, provenance registry.ManifestPushed) {
	a.t.Helper()
	put := func(body []byte) registry.ManifestPushed {
		return a.put(a.t, "a", digest.FromBytes(body).String(), "", body)
	}
	image = put(a.image(a.t, "a", config("linux", architecture), []byte(name)))
	provenance = put(a.image(a.t, "a", config("unknown", "unknown"), []byte("provenance of "+name)))
	document := v1.Index{MediaType: v1.MediaTypeImageIndex, Manifests: []v1.Descriptor{image.Descriptor, provenance.Descriptor}}
	document.SchemaVersion = 2
	document.Manifests[0].Platform = &v1.Platform{OS: "linux", Architecture: architecture}
	document.Manifests[1].Platform = &v1.Platform{OS: "unknown", Architecture: "unknown"}
	document.Manifests[1].Annotations = map[string]string{
		"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": image.Digest.String(),
	}
	return a.put(a.t, "a", tag, "", encode(a.t, document)), image, provenance
}

// listed returns what a tag lists, as "platform name-of-digest" in order, or nothing when there is no such tag.
func (a assembler) listed(tag string, names map[string]registry.ManifestPushed) []string {
	a.t.Helper()
	m, err := a.Manifest(a.t.Context(), "a", ref(a.t, tag))
	if errors.Is(err, registry.ErrManifestUnknown) {
		return nil
	}
	if err != nil {
		a.t.Fatal(err)
	}
	parsed, err := manifest.Parse(m.MediaType, m.Body)
	if err != nil || !manifest.IsIndex(m.MediaType) {
		a.t.Fatalf("%s is a %s: %v", tag, m.MediaType, err)
	}
	all := []string{}
	for _, c := range parsed.Children {
		name := c.Digest.String()
		for n, pushed := range names {
			if pushed.Digest == c.Digest {
				name = n
			}
		}
		all = append(all, fmt.Sprintf("%s/%s%s %s", c.Platform.OS, c.Platform.Architecture, c.Platform.Variant, name))
	}
	return all
}

func (a assembler) want(tag string, names map[string]registry.ManifestPushed, want ...string) {
	a.t.Helper()
	if got := a.listed(tag, names); !slices.Equal(got, want) {
		a.t.Errorf("%s lists %q, want %q", tag, got, want)
	}
}

// wantWarning fails unless a push was answered with one warning that has a text, or with none when it is empty.
func wantWarning(t testing.TB, pushed registry.ManifestPushed, want string) {
	t.Helper()
	if want == "" && len(pushed.Warnings) > 0 || want != "" && (len(pushed.Warnings) != 1 || !strings.Contains(pushed.Warnings[0], want)) {
		t.Errorf("warnings are %q, want %q", pushed.Warnings, want)
	}
}

type pushes = map[string]registry.ManifestPushed

func TestAssembly(t *testing.T) {
	a := newAssembler(t, registry.IndexRule{})
	amd := a.native("1.2-amd64", "amd64", "amd")
	if len(amd.Assembled) != 1 || amd.Assembled[0].Tag != "1.2" {
		t.Errorf("the push says %v", amd.Assembled)
	}
	a.want("1.2", pushes{"amd": amd}, "linux/amd64 amd")
	arm := a.native("1.2-arm", "arm", "arm")
	wantWarning(t, arm, "")
	names := pushes{"amd": amd, "arm": arm}
	a.want("1.2", names, "linux/amd64 amd", "linux/armv7 arm")

	// The same platform again takes the place of what was there, under another of its names too.
	names["new arm"] = a.native("1.2-armv7", "arm", "another arm")
	a.want("1.2", names, "linux/amd64 amd", "linux/armv7 new arm")
	names["arm64"] = a.native("1.2-linux-aarch64", "arm64", "arm64")
	a.want("1.2", names, "linux/amd64 amd", "linux/armv7 new arm", "linux/arm64 arm64")

	// Pushing what is there changes nothing.
	if again := a.native("1.2-amd64", "amd64", "amd"); len(again.Assembled) != 0 {
		t.Errorf("a push of the same made %v", again.Assembled)
	}
	// Other tags and repositories are their own.
	a.native("1.3-arm", "arm", "arm")
	a.want("1.3", names, "linux/armv7 arm")
	a.put(t, "b", "1.2-arm", "", a.image(t, "b", config("linux", "arm"), []byte("arm")))
	if _, err := a.Manifest(t.Context(), "b", ref(t, "1.2")); !errors.Is(err, registry.ErrManifestUnknown) {
		t.Errorf("in a repository without a rule: %v", err)
	}
}

// TestAssemblyOfBareArchitectures is for those who push app:amd64 and app:arm.
func TestAssemblyOfBareArchitectures(t *testing.T) {
	a := newAssembler(t, registry.IndexRule{})
	names := pushes{"amd": a.native("amd64", "amd64", "amd"), "arm": a.native("arm", "arm", "arm")}
	a.want("latest", names, "linux/amd64 amd", "linux/armv7 arm")
}

// TestAssemblyReadsTagsOnce gives each tag to one index.
func TestAssemblyReadsTagsOnce(t *testing.T) {
	a := newAssembler(t, registry.IndexRule{})
	names := pushes{"amd": a.native("1.2-linux-amd64", "amd64", "amd"), "arm": a.native("1.2-linux-linux-arm", "arm", "arm")}
	a.want("1.2", names, "linux/amd64 amd")
	a.want("1.2-linux", names, "linux/armv7 arm")
}

// TestAssemblyTellsOfDeletes has a delete say what became of the tag.
func TestAssemblyTellsOfDeletes(t *testing.T) {
	a := newAssembler(t, registry.IndexRule{})
	amd, arm := a.native("1.2-amd64", "amd64", "amd"), a.native("1.2-arm", "arm", "arm")
	moved, err := a.DeleteManifest(t.Context(), "a", amd.Digest, registry.Deletion{User: "ann"})
	left, resolved := a.ResolveManifest(t.Context(), "a", ref(t, "1.2"))
	if err != nil || resolved != nil || !slices.Equal(moved, []registry.Assembled{{Tag: "1.2", Digest: left.Digest}}) {
		t.Errorf("the first delete says %v, %v; the tag is %v, %v", moved, err, left, resolved)
	}
	moved, err = a.DeleteManifest(t.Context(), "a", arm.Digest, registry.Deletion{User: "ann"})
	if err != nil || !slices.Equal(moved, []registry.Assembled{{Tag: "1.2"}}) {
		t.Errorf("the second delete says %v, %v", moved, err)
	}
}

// TestAssemblyWithinOfAttested pushes an index of what is there again, and deletes its tag: its image is as new as that push.
func TestAssemblyWithinOfAttested(t *testing.T) {
	a := newAssembler(t, registry.IndexRule{Within: 2 * time.Second})
	wrapped, image, provenance := a.attested("1-amd64", "amd64", "amd")
	names := pushes{"amd": image, "provenance": provenance}
	time.Sleep(2100 * time.Millisecond) // this is about time passing
	a.put(t, "a", "1-amd64", "", a.body(wrapped.Digest))
	if err := a.DeleteTag(t.Context(), "a", "1-amd64", registry.Deletion{}); err != nil {
		t.Fatal(err)
	}
	names["arm"] = a.native("1-arm", "arm", "arm")
	a.want("1", names, "linux/amd64 amd", "unknown/unknown provenance", "linux/armv7 arm")
}

// TestAssemblyJoins takes up what was pushed before there was a rule, or while another tag was in the way.
func TestAssemblyJoins(t *testing.T) {
	a := newAssembler(t, registry.IndexRule{})
	amd := a.native("1.2-amd64", "amd64", "amd")
	if err := a.DeleteTag(t.Context(), "a", "1.2", registry.Deletion{}); err != nil {
		t.Fatal(err)
	}
	names := pushes{"amd": amd, "arm": a.native("1.2-arm", "arm", "arm")}
	a.want("1.2", names, "linux/amd64 amd", "linux/armv7 arm")
}

// TestAssemblyEnds sees that a client's own tag is left alone.
func TestAssemblyEnds(t *testing.T) {
	a := newAssembler(t, registry.IndexRule{})
	amd := a.native("1.2-amd64", "amd64", "amd")
	index, err := a.Manifest(t.Context(), "a", ref(t, "1.2"))
	if err != nil {
		t.Fatal(err)
	}
	a.put(t, "a", "1.2", "", index.Body) // the very same
	arm := a.native("1.2-arm", "arm", "arm")
	wantWarning(t, arm, "a:1.2 was pushed as it is and does not follow 1.2-arm")
	names := pushes{"amd": amd, "arm": arm}
	a.want("1.2", names, "linux/amd64 amd")
	if _, err := a.DeleteManifest(t.Context(), "a", amd.Digest, registry.Deletion{}); !errors.Is(err, registry.ErrConflict) {
		t.Errorf("delete what a client's index has: %v", err)
	}
	if err := a.DeleteTag(t.Context(), "a", "1.2", registry.Deletion{}); err != nil {
		t.Fatal(err)
	}
	wantWarning(t, a.native("1.2-arm", "arm", "arm"), "")
	a.want("1.2", names, "linux/amd64 amd", "linux/armv7 arm")
}

func TestAssemblyOfAttested(t *testing.T) {
	a := newAssembler(t, registry.IndexRule{})
	wrapped, image, provenance := a.attested("1.2-amd64", "amd64", "amd")
	names := pushes{"amd": image, "provenance": provenance, "arm": a.native("1.2-arm", "arm", "arm")}
	a.want("1.2", names, "linux/amd64 amd", "unknown/unknown provenance", "linux/armv7 arm")

	_, names["new"], names["new provenance"] = a.attested("1.2-amd64", "amd64", "new")
	a.want("1.2", names, "linux/amd64 new", "unknown/unknown new provenance", "linux/armv7 arm")

	// Once more the first, and then it is deleted by what its tag points to.
	a.put(t, "a", "1.2-amd64", "", a.body(wrapped.Digest))
	a.want("1.2", names, "linux/amd64 amd", "unknown/unknown provenance", "linux/armv7 arm")
	if _, err := a.DeleteManifest(t.Context(), "a", wrapped.Digest, registry.Deletion{}); err != nil {
		t.Fatal(err)
	}
	a.want("1.2", names, "linux/armv7 arm")
}

func (a assembler) body(d digest.Digest) []byte {
	a.t.Helper()
	m, err := a.Manifest(a.t.Context(), "a", registry.Reference{Digest: d})
	if err != nil {
		a.t.Fatal(err)
	}
	return m.Body
}

// TestAssemblyIgnores pushes what is no image of one platform, under tags that look like one.
func TestAssemblyIgnores(t *testing.T) {
	a := newAssembler(t, registry.IndexRule{})
	amd := a.native("0-amd64", "amd64", "amd")
	arm := a.native("0-arm", "arm", "arm")
	image := string(a.image(t, "a", config("linux", "arm"), []byte("x")))
	as := func(configType string) []byte {
		return []byte(strings.Replace(image, v1.MediaTypeImageConfig, configType, 1))
	}
	subject := strings.Replace(image, `"schemaVersion":2,`, `"schemaVersion":2,"subject":`+string(encode(t, amd.Descriptor))+`,`, 1)
	artifact := strings.Replace(image, `"schemaVersion":2,`, `"schemaVersion":2,"artifactType":"application/spdx+json",`, 1)
	cacheIndex := v1.Index{MediaType: v1.MediaTypeImageIndex, Manifests: []v1.Descriptor{a.push(t, "a", []byte("layer")), a.push(t, "a", []byte("{}"))}}
	cacheIndex.SchemaVersion = 2
	cacheIndex.Manifests[0].MediaType, cacheIndex.Manifests[1].MediaType = v1.MediaTypeImageLayerGzip, "application/vnd.buildkit.cacheconfig.v0"
	for name, test := range map[string]struct {
		tag     string
		body    []byte
		warning string
	}{
		"cache as an image":       {"buildcache-arm64", as("application/vnd.buildkit.cacheconfig.v0"), ""},
		"chart":                   {"chart-arm64", as("application/vnd.cncf.helm.config.v1+json"), ""},
		"artifact":                {"artifact-arm", []byte(artifact), ""},
		"with a subject":          {"signed-arm", []byte(subject), ""},
		"index of two":            {"1.2-arm", index(t, pushes{"linux/amd64": amd, "linux/arm/v7": arm}), ""},
		"index of none":           {"1.2-arm", index(t, nil), ""},
		"no architecture":         {"1.2-alpine", []byte(image), ""},
		"another architecture":    {"1.2-amd64", []byte(image), "a:1.2-amd64 is named after linux/amd64, but its image is for linux/arm/v7: a:1.2 stays as it was"},
		"another variant":         {"1.2-armv6", []byte(image), "is named after linux/arm/v6, but its image is for linux/arm/v7"},
		"another system":          {"1.2-windows-arm", []byte(image), "is named after windows/arm/v7, but its image is for linux/arm/v7"},
		"config without platform": {"1.2-arm", a.image(t, "a", []byte(`{"rootfs":{"type":"layers","diff_ids":[]}}`)), "names no platform"},
		"index of another":        {"1.2-amd64", index(t, pushes{"linux/amd64": arm}), "is named after linux/amd64, but its image is for linux/arm/v7"},
	} {
		pushed := a.put(t, "a", test.tag, "", test.body)
		wantWarning(t, pushed, test.warning)
		whole, _, _ := strings.Cut(test.tag, "-")
		if len(pushed.Assembled) > 0 || a.listed(whole, nil) != nil {
			t.Errorf("%s: assembled %v, %s lists %v", name, pushed.Assembled, whole, a.listed(whole, nil))
		}
	}
	// BuildKit's cache as an index has layers where manifests should be, which are not there as manifests.
	lax := registry.New(registry.Config{Blobs: a.blobs, Metadata: a.facts, ChildRequired: func(*v1.Platform) bool { return false },
		Indexes: []registry.IndexRule{{Applies: func(string) bool { return true }, From: patterns(t, "{tag}-{arch}")}}})
	pushed, err := lax.PutManifest(t.Context(), "a", registry.ManifestPush{Reference: ref(t, "buildcache-arm64"), Body: encode(t, cacheIndex)})
	if err != nil || len(pushed.Assembled)+len(pushed.Warnings) > 0 {
		t.Errorf("cache as an index: %+v, %v", pushed, err)
	}
	// An index of several stays one when only one of them is there.
	elsewhere := registry.ManifestPushed{Descriptor: amd.Descriptor}
	elsewhere.Digest = digest.FromString("not here")
	pushed, err = lax.PutManifest(t.Context(), "a", registry.ManifestPush{Reference: ref(t, "1.2-arm"),
		Body: index(t, pushes{"linux/amd64": elsewhere, "linux/arm/v7": arm})})
	if err != nil || len(pushed.Assembled)+len(pushed.Warnings) > 0 {
		t.Errorf("index of two, one of them absent: %+v, %v", pushed, err)
	}
	// What was pushed under a name that does not fit adds nothing later.
	names := pushes{"arm": a.native("1.2-arm", "arm", "arm")}
	a.want("1.2", names, "linux/armv7 arm")
}

func TestAssemblyRequires(t *testing.T) {
	a := newAssembler(t, registry.IndexRule{Require: platforms(t, "linux/amd64", "linux/arm/v7")})
	amd := a.native("1.2-amd64", "amd64", "amd")
	wantWarning(t, amd, "a:1.2 is not moved yet, it waits for linux/arm/v7")
	a.want("1.2", nil)
	names := pushes{"amd": amd, "arm": a.native("1.2-arm", "arm", "arm")}
	a.want("1.2", names, "linux/amd64 amd", "linux/armv7 arm")
}

// TestAssemblyWithin sees that what is too old waits for its successor.
func TestAssemblyWithin(t *testing.T) {
	a := newAssembler(t, registry.IndexRule{Within: 50 * time.Millisecond, Require: platforms(t, "linux/amd64", "linux/arm/v7")})
	push := func(name string) (amd, arm registry.ManifestPushed) { // until both came within the time
		for range 100 {
			amd, arm = a.native("1-amd64", "amd64", name+" amd"), a.native("1-arm", "arm", name+" arm")
			if len(arm.Warnings) == 0 {
				return amd, arm
			}
		}
		t.Fatal("no two pushes within 50 ms")
		return amd, arm
	}
	amd, arm := push("old")
	names := pushes{"old amd": amd, "old arm": arm}
	time.Sleep(60 * time.Millisecond) // this is about time passing
	names["new amd"] = a.native("1-amd64", "amd64", "new amd")
	wantWarning(t, names["new amd"], "waits for linux/arm/v7")
	a.want("1", names, "linux/amd64 old amd", "linux/armv7 old arm")
	names["new amd"], names["new arm"] = push("new")
	a.want("1", names, "linux/amd64 new amd", "linux/armv7 new arm")
}

// large pushes what attested pushes, with as much more in the index, for a system of some name.
func (a assembler) large(tag, system string, more int) registry.ManifestPushed {
	a.t.Helper()
	body := a.image(a.t, "a", config(system, "amd64"), []byte(system))
	image := a.put(a.t, "a", digest.FromBytes(body).String(), "", body)
	document := v1.Index{MediaType: v1.MediaTypeImageIndex, Manifests: []v1.Descriptor{image.Descriptor}}
	document.SchemaVersion = 2
	document.Manifests[0].Annotations = map[string]string{"more": strings.Repeat("x", more)}
	return a.put(a.t, "a", tag, "", encode(a.t, document))
}

// TestAssemblyOfLarge makes no index that a client could not push, and of nothing that is too large to be read beside others.
func TestAssemblyOfLarge(t *testing.T) {
	a := newAssembler(t, registry.IndexRule{})
	a.large("1-amd64", "linux", registry.MaxPart)
	a.want("1", nil)
	for n := range registry.MaxManifestSize/registry.MaxPart + 1 {
		before, _ := a.ResolveManifest(t.Context(), "a", ref(t, "1"))
		pushed := a.large("1-amd64", fmt.Sprint("system", n), registry.MaxPart-1000)
		after, err := a.ResolveManifest(t.Context(), "a", ref(t, "1"))
		if err != nil || after.Size > registry.MaxManifestSize {
			t.Fatalf("after %d images: an index of %d bytes, %v", n, after.Size, err)
		}
		if before.Digest == after.Digest {
			wantWarning(t, pushed, "larger than a manifest may be")
			return
		}
	}
	t.Error("nothing was too large")
}

// TestAssemblyClockBack pushes after the clock was set back, as it is on a machine that forgets the time: what is pushed counts.
func TestAssemblyClockBack(t *testing.T) {
	a := newAssembler(t, registry.IndexRule{})
	names := pushes{"arm": a.native("1-arm", "arm", "arm")}
	a.native("1-amd64", "amd64", "amd")
	db, err := sql.Open("sqlite", a.database+"?_pragma=busy_timeout(10000)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, table := range []string{"manifests SET pushed_at = pushed_at", "tags SET updated_at = updated_at"} {
		if _, err := db.ExecContext(t.Context(), "UPDATE "+table+" + 3600000"); err != nil {
			t.Fatal(err)
		}
	}
	names["new amd"] = a.native("1-amd64", "amd64", "new amd")
	a.want("1", names, "linux/amd64 new amd", "linux/armv7 arm")
}

func TestAssemblyCoverage(t *testing.T) {
	for _, reject := range []bool{true, false} {
		a := newAssembler(t, registry.IndexRule{}, registry.CoveragePolicy{
			Applies: func(_, tag string) bool { return tag == "1.2" }, Require: platforms(t, "linux/arm/v7"), Reject: reject,
		})
		amd := a.native("1.2-amd64", "amd64", "amd")
		wantWarning(t, amd, "a:1.2 lacks linux/arm/v7")
		names := pushes{"amd": amd}
		if reject {
			a.want("1.2", names)
		} else {
			a.want("1.2", names, "linux/amd64 amd")
		}
		names["arm"] = a.native("1.2-arm", "arm", "arm")
		wantWarning(t, names["arm"], "")
		a.want("1.2", names, "linux/amd64 amd", "linux/armv7 arm")
	}
}

// TestAssemblyDelete deletes tags and manifests of what was assembled.
func TestAssemblyDelete(t *testing.T) {
	a := newAssembler(t, registry.IndexRule{})
	names := pushes{"amd": a.native("1.2-amd64", "amd64", "amd"), "arm": a.native("1.2-arm", "arm", "arm")}
	both, err := a.ResolveManifest(t.Context(), "a", ref(t, "1.2"))
	if err != nil {
		t.Fatal(err)
	}
	if err := a.DeleteTag(t.Context(), "a", "1.2-arm", registry.Deletion{}); err != nil {
		t.Fatal(err)
	}
	names["new amd"] = a.native("1.2-amd64", "amd64", "new amd")
	a.want("1.2", names, "linux/amd64 new amd", "linux/armv7 arm") // deleting the tag left the entry

	if _, err := a.DeleteManifest(t.Context(), "a", names["arm"].Digest, registry.Deletion{}); err != nil {
		t.Fatal(err)
	}
	a.want("1.2", names, "linux/amd64 new amd")
	// The index that a node may have pinned is there for the other platform.
	if m, err := a.ResolveManifest(t.Context(), "a", registry.Reference{Digest: both.Digest}); err != nil {
		t.Errorf("the index of before: %v, %v", m, err)
	}
	if got, err := a.PlatformManifest(t.Context(), "a", both.Digest); err != nil || got.Digest != names["amd"].Digest {
		t.Errorf("its image: %v, %v", got.Digest, err)
	}
	if _, err := a.DeleteManifest(t.Context(), "a", names["amd"].Digest, registry.Deletion{}); err != nil {
		t.Fatal(err)
	}
	if _, err := a.ResolveManifest(t.Context(), "a", registry.Reference{Digest: both.Digest}); !errors.Is(err, registry.ErrManifestUnknown) {
		t.Errorf("an index without an image is left: %v", err)
	}
	if _, err := a.DeleteManifest(t.Context(), "a", names["new amd"].Digest, registry.Deletion{}); err != nil {
		t.Fatal(err)
	}
	a.want("1.2", names)
	names["arm"] = a.native("1.2-arm", "arm", "arm")
	a.want("1.2", names, "linux/armv7 arm")
}

// TestAssemblyDeleteOld deletes an index that the tag has left, as those do who clean up: its images stay in the new one.
func TestAssemblyDeleteOld(t *testing.T) {
	a := newAssembler(t, registry.IndexRule{})
	names := pushes{"arm": a.native("1.2-arm", "arm", "arm")}
	old := a.native("1.2-amd64", "amd64", "amd").Assembled[0].Digest
	if err := a.DeleteTag(t.Context(), "a", "1.2-arm", registry.Deletion{}); err != nil {
		t.Fatal(err)
	}
	names["new amd"] = a.native("1.2-amd64", "amd64", "new amd")
	if _, err := a.DeleteManifest(t.Context(), "a", old, registry.Deletion{}); err != nil {
		t.Fatal(err)
	}
	a.want("1.2", names, "linux/amd64 new amd", "linux/armv7 arm")
}

// TestAssemblyOfDocker makes Docker's list of Docker's images.
func TestAssemblyOfDocker(t *testing.T) {
	a := newAssembler(t, registry.IndexRule{})
	for _, architecture := range []string{"amd64", "arm"} {
		body := a.image(t, "a", config("linux", architecture), []byte("layer"))
		body = []byte(strings.NewReplacer(
			v1.MediaTypeImageManifest, manifest.MediaTypeDockerManifest,
			v1.MediaTypeImageConfig, "application/vnd.docker.container.image.v1+json").Replace(string(body)))
		a.put(t, "a", "1-"+architecture, manifest.MediaTypeDockerManifest, body)
		if m, err := a.ResolveManifest(t.Context(), "a", ref(t, "1")); err != nil || m.MediaType != manifest.MediaTypeDockerManifestList {
			t.Errorf("after %s: %s, %v", architecture, m.MediaType, err)
		}
	}
	a.native("1-arm64", "arm64", "arm64")
	if m, err := a.ResolveManifest(t.Context(), "a", ref(t, "1")); err != nil || m.MediaType != v1.MediaTypeImageIndex {
		t.Errorf("after an OCI image: %s, %v", m.MediaType, err)
	}
}
