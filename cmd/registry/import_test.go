package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"berth/transfer"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// transfer imports or exports and returns the results by REPO:TAG.
func (g *gallery) transfer(args ...string) (map[string]transfer.Result, error) {
	g.t.Helper()
	out, _, err := g.try(append(args, "--json")...)
	results := map[string]transfer.Result{}
	for line := range strings.Lines(out) {
		var r transfer.Result
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			g.t.Fatalf("%v in %s", err, line)
		}
		results[r.Repository+":"+r.Tag] = r
	}
	return results, err
}

// transfers expects of each REPO:TAG a status, with a part of the reason after a space, and no others.
func (g *gallery) transfers(want map[string]string, args ...string) map[string]transfer.Result {
	g.t.Helper()
	results, err := g.transfer(args...)
	failed := false
	for name, r := range results {
		status, reason, _ := strings.Cut(want[name], " ")
		if r.Status != status || !strings.Contains(r.Reason, reason) {
			g.t.Errorf("%s: %+v, want %q", name, r, want[name])
		}
		failed = failed || status == transfer.Failed
	}
	if len(results) != len(want) || (err != nil) != failed {
		g.t.Errorf("%v: got %v and %v, want %v", args, results, err, want)
	}
	return results
}

// TestTransfer imports and exports with one registry, with repositories for each test.
func TestTransfer(t *testing.T) {
	g := newGallery(t, "REGISTRY_IMMUTABILITY=[{repositories: [fixed], tags: [\"*\"]}]")
	for name, test := range map[string]func(*testing.T, *gallery){
		"odd sources":      testImportOdd,
		"odd exports":      testExportOdd,
		"broken sources":   testImportBroken,
		"refused catalogs": testImportCatalog,
		"logins":           testImportLogin,
		"what is new":      testImportNews,
		"one tag":          testTransferTag,
		"layouts by name":  testImportLayouts,
		"text":             testTransferText,
		"arguments":        testTransferArguments,
	} {
		t.Run(name, func(t *testing.T) {
			mine := *g
			mine.t = t
			test(t, &mine)
		})
	}
}

// testImportOdd imports what can't be copied as it is, which keeps nothing else from being copied.
func testImportOdd(t *testing.T, g *gallery) {
	s := newShelf(t)
	foreign := v1.Descriptor{MediaType: "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
		Digest: digest.FromString("elsewhere"), Size: 9, URLs: []string{"https://example.com/layer"}}
	there := s.image("there", nil, "odd:there", "odd/two:also")
	gone := v1.Descriptor{MediaType: v1.MediaTypeImageManifest, Digest: digest.FromString("gone"), Size: 4,
		Platform: &v1.Platform{OS: "linux", Architecture: "arm"}}
	s.index([]v1.Descriptor{there, gone}, "odd:sparse")
	s.index([]v1.Descriptor{s.index([]v1.Descriptor{there})}, "odd:nested")
	s.image("with a foreign layer", []v1.Descriptor{foreign}, "odd:foreign")
	s.put("application/vnd.docker.distribution.manifest.v1+prettyjws", `{"schemaVersion":1}`, "odd:schema1")
	s.put("application/vnd.oci.artifact.manifest.v1+json", `{}`, "odd:artifact")
	s.put(v1.MediaTypeImageManifest, `{"schemaVersion":2,"schemaVersion":2}`, "odd:invalid")
	s.tags["odd"]["deleted"] = digest.FromString("deleted")
	s.tags["../odd"], s.tags["odd/empty"] = map[string]digest.Digest{"x": there.Digest}, map[string]digest.Digest{}
	results := g.transfers(map[string]string{
		"odd:there": "copied", "odd/two:also": "copied", "odd:nested": "copied", "odd:foreign": "copied",
		"odd:sparse": "failed the source lacks 1 of what it lists", "odd:schema1": "skipped schema 1", "odd:artifact": "skipped not supported",
		"odd:invalid": "failed twice", "odd:deleted": "skipped has no manifest", "../odd:": "failed repository",
	}, "import", "--from", s.URL)
	if missing := results["odd:sparse"].Missing; !slices.Equal(missing, []digest.Digest{gone.Digest}) {
		t.Errorf("missing are %v", missing)
	}
	if got := g.report("inspect", "odd:nested"); len(got.Manifests) != 1 || got.Manifests[0].Manifests[0].Missing {
		t.Errorf("nested became %+v", got)
	}
	if slices.Contains(s.asked, "GET odd/blobs/"+foreign.Digest.String()) {
		t.Error("it asked for a foreign layer")
	}
}

// testExportOdd exports what distribution's registry has and Berth would not take: the index of a build cache, and a sparse one.
func testExportOdd(t *testing.T, g *gallery) {
	s, root := newShelf(t), t.TempDir()
	cache := s.put("application/vnd.buildkit.cacheconfig.v0", "cache")
	gone := v1.Descriptor{MediaType: v1.MediaTypeImageManifest, Digest: digest.FromString("gone"), Size: 4}
	s.index([]v1.Descriptor{cache}, "cache:1")
	s.index([]v1.Descriptor{s.image("there", nil), gone}, "sparse:1")
	host := strings.TrimPrefix(s.URL, "http://")
	args := []string{"export", "--layout", "distribution", "--from", host, "--plain-http", root}
	results := g.transfers(map[string]string{"cache:1": "copied", "sparse:1": "copied"}, args...)
	if missing := results["sparse:1"].Missing; !slices.Equal(missing, []digest.Digest{gone.Digest}) {
		t.Errorf("missing are %v", missing)
	}
	below := filepath.Join(root, "docker/registry/v2")
	link, err := os.ReadFile(filepath.Join(below, "repositories/cache/_layers/sha256", cache.Digest.Encoded(), "link"))
	if err != nil || string(link) != cache.Digest.String() {
		t.Errorf("the link is %q, %v", link, err)
	}
	data, err := os.ReadFile(filepath.Join(below, "blobs/sha256", cache.Digest.Encoded()[:2], cache.Digest.Encoded(), "data"))
	if err != nil || string(data) != "cache" {
		t.Errorf("the blob is %q, %v", data, err)
	}
	g.transfers(map[string]string{"cache:1": "present", "sparse:1": "present"}, args...)
}

// testImportBroken imports blobs that are damaged, missing or broken off.
func testImportBroken(t *testing.T, g *gallery) {
	s := newShelf(t)
	s.bare = true
	s.image("damaged", nil, "broken:damaged")
	s.held[digest.FromString("damaged")] = held{v1.MediaTypeImageLayerGzip, "DAMAGED"}
	s.image("missing", nil, "broken:missing")
	delete(s.held, digest.FromString("missing"))
	s.image("broken off", nil, "broken:off")
	s.image("resumed", nil, "broken:resumed")
	s.image("whole", nil, "broken:whole", "fixed:1")
	var breaks, resumes sync.Once
	ranges := ""
	s.refuse = func(w http.ResponseWriter, r *http.Request) (refused bool) {
		if strings.HasSuffix(r.URL.Path, "/blobs/"+digest.FromString("broken off").String()) {
			breaks.Do(func() {
				refused = true
				w.Header().Set("Content-Length", "10")
				_, _ = w.Write([]byte("bro"))
			})
		}
		if strings.HasSuffix(r.URL.Path, "/blobs/"+digest.FromString("resumed").String()) {
			refused = true
			resumes.Do(func() { w = brokenOff{w} })
			ranges += r.Header.Get("Range")
			http.ServeContent(w, r, "", time.Time{}, strings.NewReader("resumed"))
		}
		return refused
	}
	want := map[string]string{"broken:damaged": "failed damaged there", "broken:missing": "failed not found", "broken:off": "copied",
		"broken:resumed": "copied", "broken:whole": "copied", "fixed:1": "copied"}
	g.transfers(want, "import", "--from", s.URL)
	if ranges != "bytes=3-6" {
		t.Errorf("after three of seven bytes it asked for %q", ranges)
	}
	s.image("another", nil, "fixed:1") // which the target never moves
	g.transfers(map[string]string{"fixed:1": "failed refused it"}, "import", "--from", s.URL, "fixed")
}

// brokenOff writes three bytes of an answer.
type brokenOff struct{ http.ResponseWriter }

func (b brokenOff) Write(p []byte) (int, error) {
	n, _ := b.ResponseWriter.Write(p[:min(3, len(p))]) // it fails anyway
	return n, io.ErrShortWrite
}

func testImportCatalog(t *testing.T, g *gallery) {
	s := newShelf(t)
	s.image("refused", nil, "refused:1")
	s.refuse = func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/v2/_catalog" {
			w.WriteHeader(http.StatusForbidden)
		}
		return r.URL.Path == "/v2/_catalog"
	}
	for _, args := range [][]string{{}, {"ref*"}} {
		_, err := g.transfer(append([]string{"import", "--from", s.URL}, args...)...)
		if err == nil || !strings.Contains(err.Error(), "have to be named") {
			t.Errorf("%v: %v", args, err)
		}
	}
	g.transfers(map[string]string{"refused:1": "copied"}, "import", "--from", s.URL, "refused")
	s.refuse = func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	}
	if _, _, err := g.try("import", "--from", s.URL); err == nil || !strings.Contains(err.Error(), "--from-username") {
		t.Errorf("without a login: %v", err)
	}
}

// testImportLogin logs in to a source as its user, and to the target as another one.
func testImportLogin(t *testing.T, g *gallery) {
	s := newShelf(t)
	s.image("guarded", nil, "guarded:1")
	s.refuse = func(w http.ResponseWriter, r *http.Request) bool {
		if user, password, _ := r.BasicAuth(); user == "ann" && password == "the-password" {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	}
	for password, want := range map[string]string{"the-password\n": "", "wrong": `the login of "ann"`, "": "no password"} {
		var out, errOut output
		args := []string{"import", "--from", s.URL, "guarded", "--from-username", "ann", "--from-password-stdin"}
		err := run(t.Context(), args, g.environ, strings.NewReader(password), &out, &errOut)
		all := out.String() + errOut.String() + fmt.Sprint(err)
		if (err == nil) != (want == "") || !strings.Contains(all, want) || strings.Contains(all, "the-password") {
			t.Errorf("got %s, want %q", all, want)
		}
	}
	if got := g.report("inspect", "guarded:1"); got.Layers != 1 {
		t.Errorf("copied %+v", got)
	}
}

// TestImportSparse imports an index that lists more than there is, with what docs/guides/move.md says for that.
func TestImportSparse(t *testing.T) {
	page, err := os.ReadFile("../../docs/guides/move.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(page), "```yaml\nvalidation:\n")
	validation, _, _ := strings.Cut(rest, "```")
	if !ok {
		t.Fatal("the guide has no configuration")
	}
	g, s := newGallery(t, "REGISTRY_VALIDATION="+validation), newShelf(t)
	gone := v1.Descriptor{MediaType: v1.MediaTypeImageManifest, Digest: digest.FromString("gone"), Size: 4}
	s.index([]v1.Descriptor{s.image("there", nil), gone}, "sparse:1")
	results := g.transfers(map[string]string{"sparse:1": "copied"}, "import", "--from", s.URL)
	if missing := results["sparse:1"].Missing; !slices.Equal(missing, []digest.Digest{gone.Digest}) {
		t.Errorf("missing are %v", missing)
	}
	if out := g.do("import", "--from", s.URL, "--prefix", "again/"); !strings.Contains(out, "missing  again/sparse:1  "+gone.Digest.String()) {
		t.Errorf("it prints\n%s", out)
	}
}

// testImportNews imports from a registry that knows referrers: a signature that came later is brought, under a tag that did not move.
func testImportNews(t *testing.T, g *gallery) {
	image := g.image("news", "1", v1.MediaTypeImageManifest, "linux/amd64")
	image.Platform = nil
	args := []string{"import", "--from", g.host, "--prefix", "copy/", "news"}
	g.transfers(map[string]string{"copy/news:1": "planned"}, append(args, "--dry-run")...)
	r := g.transfers(map[string]string{"copy/news:1": "copied"}, args...)
	if r["copy/news:1"].Blobs != 0 {
		t.Errorf("within a registry %d blobs were sent, where all can be mounted", r["copy/news:1"].Blobs)
	}
	g.transfers(map[string]string{"copy/news:1": "present"}, args...)
	empty := g.blob("news", v1.MediaTypeEmptyJSON, "{}")
	g.manifest("news", "", v1.MediaTypeImageManifest, v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: v1.MediaTypeImageManifest, ArtifactType: "application/x-signature", Subject: &image, Config: empty,
		Layers: []v1.Descriptor{empty}})
	g.transfers(map[string]string{"copy/news:1": "copied"}, args...)
	if found := g.report("inspect", "copy/news:1").Referrers; len(found) != 1 || found[0].ArtifactType != "application/x-signature" {
		t.Errorf("the copy has %+v", found)
	}
	g.transfers(map[string]string{"copy/news:1": "present"}, args...)
}

// testTransferTag copies one tag, with what cosign keeps about it.
func testTransferTag(t *testing.T, g *gallery) {
	image := g.image("single", "1", v1.MediaTypeImageManifest, "linux/amd64")
	g.image("single", "2", v1.MediaTypeImageManifest, "linux/arm")
	signature := "sha256-" + image.Digest.Encoded() + ".sig"
	g.image("single", signature, v1.MediaTypeImageManifest, "linux/arm64")
	want := map[string]string{"single:1": "copied", "single:" + signature: "copied"}
	path := filepath.Join(t.TempDir(), "single.tar")
	g.transfers(want, "export", "--layout", "oci", path, "single:1")
	want = map[string]string{"again/single:1": "copied", "again/single:" + signature: "copied"}
	g.transfers(want, "import", "--from", path, "--prefix", "again/")
	g.transfers(map[string]string{"x/single:2": "copied"}, "import", "--from", g.host, "--prefix", "x/", "single:2")
	g.transfers(map[string]string{"x/single:3": "failed not found"}, "import", "--from", g.host, "--prefix", "x/", "single:3")
}

// testImportLayouts imports layouts that do not say where their images belong.
func testImportLayouts(t *testing.T, g *gallery) {
	s := newShelf(t)
	one, other := s.image("one", nil), s.image("other", nil)
	named := func(d v1.Descriptor, annotation, name string) v1.Descriptor {
		d.Annotations = map[string]string{annotation: name}
		return d
	}
	layout := func(entries ...v1.Descriptor) string {
		path := filepath.Join(t.TempDir(), "layout.tar")
		s.tar(path, entries)
		return path
	}
	tagged := layout(named(one, v1.AnnotationRefName, "v1"), named(other, v1.AnnotationRefName, "v2"))
	full := layout(named(one, "io.containerd.image.name", "docker.io/library/one:v1"), named(other, v1.AnnotationRefName, "localhost/other"))
	nameless, none := layout(one), t.TempDir()
	if err := os.MkdirAll(filepath.Join(none, "docker/registry/v2/repositories"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		args  []string
		want  map[string]string
		error string
	}{
		{[]string{tagged, "layouts/a"}, map[string]string{"layouts/a:v1": "copied", "layouts/a:v2": "copied"}, ""},
		{[]string{tagged, "layouts/b:v2"}, map[string]string{"layouts/b:v2": "copied"}, ""},
		{[]string{tagged}, nil, "does not say for which repository"},
		{[]string{tagged, "layouts/a:v3"}, nil, "has none of what is named"},
		{[]string{full}, map[string]string{"library/one:v1": "copied", "other:latest": "copied"}, ""},
		{[]string{full, "library/*"}, map[string]string{"library/one:v1": "present"}, ""},
		{[]string{nameless, "layouts/c:1"}, map[string]string{"layouts/c:1": "copied"}, ""},
		{[]string{nameless, "layouts/c"}, nil, "as REPO:TAG"},
		{[]string{filepath.Join(none, "docker")}, nil, "within the data directory of a registry"},
		{[]string{t.TempDir()}, nil, "no OCI image layout"},
		{[]string{"main.go"}, nil, "no tar file"},
		{[]string{"/nowhere"}, nil, "/nowhere"},
		{[]string{"nowhere.tar"}, nil, "nowhere.tar"},
		{[]string{layout(named(one, v1.AnnotationRefName, "A:b"))}, nil, "no name such as REPO:TAG"},
	} {
		args := append([]string{"import", "--from"}, test.args...)
		if test.error == "" {
			g.transfers(test.want, args...)
			continue
		}
		if _, err := g.transfer(args...); err == nil || !strings.Contains(err.Error(), test.error) {
			t.Errorf("%v: got %v, want %q", test.args, err, test.error)
		}
	}
}

// testTransferText pins what people see.
func testTransferText(t *testing.T, g *gallery) {
	s := newShelf(t)
	s.image("spoken", nil, "spoken:1")
	s.put("application/vnd.docker.distribution.manifest.v1+json", `{"schemaVersion":1}`, "spoken:old")
	run := func(args ...string) string {
		out, _, _ := g.try(append([]string{"import", "--from", s.URL, "--jobs", "1"}, args...)...)
		return withoutFigures(out)
	}
	skipped := "skipped spoken:old Docker schema 1 manifests are not supported: push the image again with Docker 1.10 or newer, or " +
		"convert it with: skopeo copy --format v2s2 docker://SOURCE docker://DESTINATION\n"
	host := strings.TrimPrefix(s.URL, "http://")
	for _, test := range []struct{ got, want string }{
		{run("--dry-run"), "planned spoken:1 DIGEST\n" + skipped + "dry run: nothing was changed; 1 tag would be copied, 0 are there already\n"},
		{run(), "copied spoken:1 DIGEST SIZE\n" + skipped + "1 tag copied (SIZE), 0 there already, 1 skipped\n"},
		{run(), skipped + "0 tags copied (SIZE), 1 there already, 1 skipped\n"},
		{run("unspoken"), "failed unspoken " + host + " has no repository unspoken\n0 tags copied (SIZE), 0 there already, 1 failed\n"},
	} {
		if test.got != test.want {
			t.Errorf("got\n%swant\n%s", test.got, test.want)
		}
	}
	fetched := map[string]bool{}
	for _, request := range s.asked {
		if strings.HasPrefix(request, "GET") && !strings.Contains(request, "/referrers/") {
			if fetched[request] {
				t.Errorf("more than once: %s", request)
			}
			fetched[request] = true
		}
	}
}

func testTransferArguments(t *testing.T, g *gallery) {
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"import"}, `"from" not set`},
		{[]string{"import", "--from", "nohost"}, "neither HOST:PORT nor the path"},
		{[]string{"import", "--from", ""}, "neither HOST:PORT nor the path"},
		{[]string{"import", "--from", "https://u:secret@a.lan/x"}, "name the registry as https://a.lan"},
		{[]string{"import", "--from", "a.lan", "--jobs", "0"}, "--jobs 0"},
		{[]string{"import", "--from", "a.lan", "b.lan/x"}, "leave out b.lan/"},
		{[]string{"import", "--from", "a.lan", "x@sha256:" + strings.Repeat("0", 64)}, "leave out the digest"},
		{[]string{"import", "--from", "a.lan", "a**"}, "** stands alone"},
		{[]string{"import", "--from", "a.lan", "--from-username", "x"}, "from-password-stdin"},
		{[]string{"import", "--from", full, "--from-plain-http"}, "is a path"},
		{[]string{"export", "--layout", "zip", full}, "oci or distribution"},
		{[]string{"export", "--layout", "distribution", "x.tar"}, "is a directory"},
		{[]string{"export", "--layout", "oci", full}, "neither empty nor an OCI image layout"},
		{[]string{"export", "--layout", "oci", filepath.Join(full, "none/x.tar")}, "no such file"},
		{[]string{"export", "--layout", "oci", filepath.Join(full, "y.tar"), "nothing/**"}, "no repository matches"},
	} {
		out, _, err := g.try(test.args...)
		if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(out+err.Error(), "secret") {
			t.Errorf("%v: got %v, want %q", test.args, err, test.want)
		}
	}
	if left, err := os.ReadDir(full); err != nil || len(left) != 1 {
		t.Errorf("left are %v, %v", left, err)
	}
}
