package adopt_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"berth/registry"
	"berth/registry/adopt"
	"berth/registry/fsck"
	"berth/registry/gc"

	"berth/storage"
	"berth/storage/filesystem"
	"berth/storage/metadata"
	"berth/storage/metadata/metatest"
	"berth/storage/storagetest"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// site is a registry on a legacy directory.
type site struct {
	*registry.Service
	t     *testing.T
	facts *metadata.Store
	blobs *filesystem.Store
}

func open(t *testing.T, l legacy, c metadata.Config) *site {
	t.Helper()
	c.Path = filepath.Join(t.TempDir(), "metadata.sqlite")
	facts, err := metadata.Open(t.Context(), c)
	must(t, err)
	t.Cleanup(func() { must(t, facts.Close()) })
	return &site{t: t, facts: facts, blobs: openBlobs(t, l)}
}

func openBlobs(t *testing.T, l legacy) *filesystem.Store {
	t.Helper()
	blobs, err := filesystem.Open(filesystem.Config{Root: l.root})
	must(t, err)
	return blobs
}

func (s *site) config() adopt.Config {
	return adopt.Config{Metadata: s.facts, Blobs: s.blobs, Lease: time.Hour}
}

// adopt takes the directory over.
func (s *site) adopt() adopt.Report {
	s.t.Helper()
	report, err := adopt.Run(s.t.Context(), s.config())
	must(s.t, err)
	if report == nil {
		s.t.Fatal("nothing was taken over")
	}
	s.Service = registry.New(registry.Config{Metadata: s.facts, Blobs: s.blobs})
	return *report
}

func (s *site) pull(repository, reference string) []byte {
	s.t.Helper()
	ref, err := registry.ParseReference(reference)
	must(s.t, err)
	m, err := s.Manifest(s.t.Context(), repository, ref)
	if err != nil {
		s.t.Errorf("pull %s:%s: %v", repository, reference, err)
	}
	return m.Body
}

func (s *site) wantBlob(repository, content string) {
	s.t.Helper()
	b, err := s.OpenBlob(s.t.Context(), repository, digest.FromString(content))
	if err != nil {
		s.t.Errorf("blob %q of %s: %v", content, repository, err)
		return
	}
	got, err := io.ReadAll(b)
	must(s.t, errors.Join(err, b.Close()))
	if string(got) != content {
		s.t.Errorf("blob %q of %s is %q", content, repository, got)
	}
}

func (s *site) wantSound() {
	s.t.Helper()
	report, err := fsck.Check(s.t.Context(), fsck.Config{Metadata: s.facts, Blobs: s.blobs, Rehash: true})
	must(s.t, err)
	for _, f := range report.Findings {
		s.t.Errorf("fsck: %s: %s", f.Subject, f.Problem)
	}
}

func TestAdopt(t *testing.T) {
	l := newLegacy(t)
	one, two := l.image("team/app", "one", "1-arm", "latest"), l.image("team/app", "two")
	index := l.index("team/app", "1", one, two)
	l.image("team", "one", "v1") // a repository above another, that shares a blob with it
	l.image("team/0", "three", "v1")
	pushed := time.Date(2021, 5, 4, 3, 2, 1, 0, time.UTC)
	must(t, os.Chtimes(l.path("repositories", "team/app", "_manifests", "revisions", "sha256", index.Digest.Encoded(), "link"), pushed, pushed))

	s := open(t, l, metadata.Config{})
	r := s.adopt()
	if r.Repositories != 3 || r.Tags != 5 || r.Manifests != 5 || r.Blobs != 4 || r.Stored != 8 || r.Unused != 0 || r.Problems != 0 {
		t.Errorf("%+v", r)
	}
	for _, d := range []v1.Descriptor{one, two, index} {
		if body := s.pull("team/app", d.Digest.String()); digest.FromBytes(body) != d.Digest {
			t.Errorf("%s is %q", d.Digest, body)
		}
	}
	if got := s.pull("team/app", "1"); digest.FromBytes(got) != index.Digest {
		t.Errorf("tag 1 is %q", got)
	}
	for _, repository := range []string{"team/app", "team"} {
		s.wantBlob(repository, "one")
		s.wantBlob(repository, armConfig)
	}
	if _, err := s.OpenBlob(t.Context(), "team", digest.FromString("two")); !errors.Is(err, registry.ErrBlobUnknown) {
		t.Errorf("a blob of another repository: %v", err)
	}
	p, err := s.facts.ManifestPlatform(t.Context(), "team/app", one.Digest)
	if (err != nil || p != metadata.Platform{OS: "linux", Architecture: "arm", Variant: "v7"}) {
		t.Errorf("the platform is %v, %v", p, err)
	}
	all, err := s.facts.Inventory(t.Context(), "team/app")
	must(t, err)
	if i := slices.IndexFunc(all.Manifests, func(m metadata.InventoryManifest) bool { return m.Digest == index.Digest }); i < 0 || !all.Manifests[i].Pushed.Equal(pushed) {
		t.Errorf("the index was not pushed at %s: %+v", pushed, all.Manifests)
	}
	s.wantSound()
	if again, err := adopt.Run(t.Context(), s.config()); again != nil || err != nil {
		t.Errorf("a second time: %v, %v", again, err)
	}
}

// TestSpaceComesBack deletes an image that was taken over: its blobs have no lease.
func TestSpaceComesBack(t *testing.T) {
	l := newLegacy(t)
	gone, kept := l.image("a/b", "gone", "gone"), l.image("a/b", "kept", "kept")
	s := open(t, l, metadata.Config{Grace: time.Millisecond})
	s.adopt()
	_, err := s.DeleteManifest(t.Context(), "a/b", gone.Digest, registry.Deletion{})
	must(t, err)
	reaper := gc.New(gc.Config{Metadata: s.facts, Blobs: s.blobs})
	for range 2 {
		_, err := reaper.Round(t.Context())
		must(t, err)
		time.Sleep(5 * time.Millisecond)
	}
	if _, err := os.Stat(l.path(l.data(digest.FromString("gone"))...)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the blob of the deleted image: %v", err)
	}
	s.pull("a/b", kept.Digest.String())
	s.wantBlob("a/b", "kept")
	s.wantBlob("a/b", armConfig)

	// Its bytes come again under another key.
	_, err = s.PushBlob(t.Context(), "a/b", digest.FromString("gone"), registry.Chunk{Body: io.NopCloser(strings.NewReader("gone")), Offset: -1, Length: 4})
	must(t, err)
	s.wantBlob("a/b", "gone")
	if _, err := os.Stat(l.path(l.data(digest.FromString("gone"))...)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a path that was taken over became a key again: %v", err)
	}
	s.wantSound()
}

// TestDamage passes over what is damaged, and serves the rest.
func TestDamage(t *testing.T) {
	l := newLegacy(t)
	image := func(repository, layer string, tags ...string) v1.Descriptor {
		l.image(repository, "good", "good")
		return l.image(repository, layer, tags...)
	}
	link := func(repository string, d v1.Descriptor, kind ...string) string {
		return l.path(append(append([]string{"repositories", repository}, kind...), "sha256", d.Digest.Encoded(), "link")...)
	}
	layer := func(content string) v1.Descriptor { return v1.Descriptor{Digest: digest.FromString(content)} }

	image("empty-layer-link", "e")
	must(t, os.Truncate(link("empty-layer-link", layer("e"), "_layers"), 0))
	emptyRevision := image("empty-revision-link", "e", "t")
	must(t, os.Truncate(link("empty-revision-link", emptyRevision, "_manifests", "revisions"), 0))
	image("empty-tag-link", "e", "t")
	must(t, os.Truncate(l.path("repositories", "empty-tag-link", "_manifests", "tags", "t", "current", "link"), 0))
	image("damaged-tag-link", "e", "t")
	l.write([]byte("sha256:nonsense"), "repositories", "damaged-tag-link", "_manifests", "tags", "t", "current", "link")
	image("unlinked-layer", "u", "t")
	must(t, os.Remove(link("unlinked-layer", layer("u"), "_layers")))
	deleted := image("deleted", "d", "t")
	must(t, os.Remove(link("deleted", deleted, "_manifests", "revisions")))
	image("missing-blob", "missing", "t")
	must(t, os.Remove(l.path(l.data(layer("missing").Digest)...)))
	image("short-blob", "short blob", "t")
	must(t, os.Truncate(l.path(l.data(layer("short blob").Digest)...), 3))

	noManifest := image("missing-manifest", "m", "t")
	must(t, os.Remove(l.path(l.data(noManifest.Digest)...)))
	wrong := image("wrong-manifest", "w", "t")
	l.write([]byte(`{"schemaVersion":2}`), l.data(wrong.Digest)...)
	schema1 := l.put("schema1", "", map[string]any{"schemaVersion": 1, "fsLayers": []any{}}, "old")
	l.layer("schema1", "layer of schema 1")
	l.layer("dangling-link", "dangling")
	must(t, os.Remove(l.path(l.data(layer("dangling").Digest)...)))
	sparse := l.index("sparse", "t", v1.Descriptor{MediaType: v1.MediaTypeImageManifest, Digest: digest.FromString("elsewhere"), Size: 9})

	l.layer("pushing", "layer of an unfinished push")
	l.write([]byte("half"), "repositories", "pushing", "_uploads", "d5c4cb5a", "data")
	l.write([]byte("2026"), "repositories", "pushing", "_uploads", "d5c4cb5a", "startedat")
	l.blob([]byte("nobody's"))
	l.write([]byte("x"), "repositories", "README")
	l.image("UPPER", "x", "t", "u")
	l.write([]byte("x"), "repositories", "bad-tag", "_manifests", "tags", "-x", "current", "link")
	l.write([]byte("x"), "repositories", "bad-digest", "_layers", "md5", "0123", "link")

	s := open(t, l, metadata.Config{})
	r := s.adopt()
	want := []string{
		"damaged-tag-link:t: the tag's link is damaged: DIGEST_INVALID: digest \"sha256:nonsense\": sha256 needs 64 lower-case hex digits",
		"dangling-link@" + layer("dangling").Digest.String() + ": a blob is linked that is not there",
		"deleted:t: it points to the manifest " + deleted.Digest.String() + ", which is not there",
		"empty-layer-link@" + layer("e").Digest.String() + ": its link is empty; it is taken over nevertheless",
		"empty-revision-link@" + emptyRevision.Digest.String() + ": its link is empty; it is taken over nevertheless",
		"empty-tag-link:t: the tag's link is empty",
		"missing-manifest:t: it points to the manifest " + noManifest.Digest.String() + ", which is not there",
		"missing-manifest@" + noManifest.Digest.String() + ": the manifest's bytes are not there",
		"schema1:old: it points to the manifest " + schema1.Digest.String() + ", which is not there",
		"schema1@" + schema1.Digest.String() + ": Docker schema 1 manifests are not supported",
		"UPPER: it is not taken over: NAME_INVALID: ",
		"bad-tag:-x: it is not taken over: TAG_INVALID: ",
		"bad-digest: it is not taken over: DIGEST_INVALID: ",
		"schema1: 1 blobs that no manifest references are kept for good",
		"wrong-manifest: 1 blobs that no manifest references are kept for good",
		"wrong-manifest:t: it points to the manifest " + wrong.Digest.String() + ", which is not there",
		"wrong-manifest@" + wrong.Digest.String() + ": the manifest's 19 bytes have digest " + digest.FromString(`{"schemaVersion":2}`).String(),
		"the blob " + layer("missing").Digest.String() + " that it references is not there",
		"the blob " + layer("short blob").Digest.String() + " that it references has 3 bytes of 10",
		"the blob " + layer("u").Digest.String() + " that it references is not linked in the repository; it is taken over nevertheless",
	}
	for _, w := range want {
		n := 0
		for _, f := range r.Findings {
			if strings.Contains(f.Subject+": "+f.Problem, w) {
				n++
			}
		}
		if n != 1 {
			t.Errorf("%d findings say %q", n, w)
		}
	}
	if r.Problems != len(want) || r.Uploads != 1 || r.Kept != 2 || r.Unused != 4 { // the deleted manifest, nobody's, and those of UPPER
		t.Errorf("%d problems, %d uploads, %d unused: %+v", r.Problems, r.Uploads, r.Unused, r.Findings)
	}
	for _, repository := range []string{"empty-layer-link", "empty-revision-link", "empty-tag-link", "damaged-tag-link", "unlinked-layer", "deleted",
		"missing-blob", "short-blob", "missing-manifest", "wrong-manifest"} {
		s.pull(repository, "good")
		s.wantBlob(repository, "good")
	}
	s.pull("sparse", sparse.Digest.String())
	s.pull("missing-blob", "t")
	for content, repository := range map[string]string{"missing": "missing-blob", "short blob": "short-blob"} {
		if _, err := s.OpenBlob(t.Context(), repository, digest.FromString(content)); !errors.Is(err, registry.ErrBlobUnknown) {
			t.Errorf("%s of %s: %v", content, repository, err)
		}
	}
	problems, err := s.facts.Audit(t.Context(), 100)
	if err != nil || len(problems) > 0 {
		t.Errorf("%q, %v", problems, err)
	}

	// What a manifest may need that could not be read, stays; what was being pushed has its lease.
	if done, err := s.facts.Collect(t.Context(), 1000); done.Links != 0 || err != nil {
		t.Errorf("collected %+v, %v", done, err)
	}
	queue, err := s.facts.Queue(t.Context())
	if err != nil || queue.Due != 0 || queue.Unused != 0 {
		t.Errorf("the collector's queue: %+v, %v", queue, err)
	}
}

// TestRefused leaves alone what is not this registry's to take over.
func TestRefused(t *testing.T) {
	t.Run("nothing there", func(t *testing.T) {
		s := open(t, newLegacy(t), metadata.Config{})
		if r, err := adopt.Run(t.Context(), s.config()); r != nil || err != nil {
			t.Errorf("%v, %v", r, err)
		}
	})
	t.Run("facts of another", func(t *testing.T) {
		l := newLegacy(t)
		l.image("a", "x", "t")
		s := open(t, l, metadata.Config{})
		service := registry.New(registry.Config{Metadata: s.facts, Blobs: s.blobs})
		_, err := service.PushBlob(t.Context(), "b", digest.FromString(""), registry.Chunk{Offset: -1})
		must(t, err)
		if r, err := adopt.Run(t.Context(), s.config()); r != nil || err != nil {
			t.Errorf("%v, %v", r, err)
		}
	})
	t.Run("taken over before", func(t *testing.T) {
		l := newLegacy(t)
		l.image("a", "x", "t")
		open(t, l, metadata.Config{}).adopt()
		second := open(t, l, metadata.Config{})
		_, err := adopt.Run(t.Context(), second.config())
		if err == nil || !strings.Contains(err.Error(), "taken over before") || !strings.Contains(err.Error(), "delete docker/registry/v2/adopted-by-berth.json") {
			t.Errorf("%v", err)
		}
		if empty, err := second.facts.Empty(t.Context()); !empty || err != nil {
			t.Errorf("it recorded something: %v", err)
		}
		must(t, os.Remove(l.path("adopted-by-berth.json")))
		if _, err := adopt.Run(t.Context(), second.config()); err != nil {
			t.Error(err)
		}
	})
}

// TestInterrupted fails each statement and each write in turn, and goes on with the next start.
func TestInterrupted(t *testing.T) {
	build := func(t *testing.T) legacy {
		l := legacy{t, memoryDir(t)}
		l.index("a", "1", l.image("a", "one"))
		l.layer("b", "unreferenced")
		return l
	}
	template := filepath.Join(t.TempDir(), "metadata.sqlite") // whose migrations are not what this is about
	migrated, err := metadata.Open(t.Context(), metadata.Config{Path: template})
	must(t, err)
	must(t, migrated.Close())
	empty, err := os.ReadFile(template)
	must(t, err)
	storagetest.Sweep(t, func(t *testing.T, f *storagetest.Faults) {
		l := build(t)
		path := filepath.Join(memoryDir(t), "metadata.sqlite")
		must(t, os.WriteFile(path, empty, 0o600))
		var report *adopt.Report
		for try := 0; report == nil; try++ {
			facts, err := metadata.Open(t.Context(), metadata.Config{Path: path, Wrap: metatest.Faults{Faults: f}.Wrap})
			if err != nil {
				if !errors.Is(err, storagetest.ErrInjected) || try > 2 {
					t.Fatal(err)
				}
				continue
			}
			report, err = adopt.Run(t.Context(), adopt.Config{Metadata: facts, Blobs: storagetest.Faulty{Blobs: openBlobs(t, l), Faults: f}, Lease: time.Hour})
			if err != nil && !errors.Is(err, storagetest.ErrInjected) {
				t.Error(err)
			}
			if err == nil && report == nil { // the answer to its end was lost
				report = &adopt.Report{}
			}
			closed := facts.Close()
			if closed != nil && !errors.Is(closed, storagetest.ErrInjected) || try > 2 {
				t.Fatal(closed, err)
			}
		}
		facts, err := metadata.Open(t.Context(), metadata.Config{Path: path})
		must(t, err)
		defer func() { must(t, facts.Close()) }()
		s := &site{t: t, facts: facts, blobs: openBlobs(t, l)}
		s.Service = registry.New(registry.Config{Metadata: s.facts, Blobs: s.blobs})
		s.pull("a", "1")
		s.wantBlob("a", "one")
		s.wantBlob("b", "unreferenced")
		s.wantSound()
		if again, err := adopt.Run(t.Context(), s.config()); again != nil || err != nil {
			t.Errorf("once more: %v, %v", again, err)
		}
	})
}

// memoryDir is a directory whose syncs cost nothing, where there is one.
func memoryDir(t *testing.T) string {
	t.Helper()
	directory, err := os.MkdirTemp("/dev/shm", "berth-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(directory) })
	return directory
}

// away is a blob store of which some can't be read.
type away struct {
	*filesystem.Store
	key string
	err error
}

func (a away) Open(ctx context.Context, key string, size int64) (io.ReadSeekCloser, error) {
	if strings.Contains(key, a.key) {
		return nil, a.err
	}
	return a.Store.Open(ctx, key, size)
}

// TestUnreadable ends when something can't be read, and goes on at the next start: what can't be read now is not damaged.
func TestUnreadable(t *testing.T) {
	l := newLegacy(t)
	image := l.image("a", "x", "t")
	for name, key := range map[string]string{
		"manifest": image.Digest.Encoded(), "config": digest.FromString(armConfig).Encoded(), "tag": "tags/t/current/link",
	} {
		for _, problem := range []error{storage.ErrUnavailable, fs.ErrPermission, syscall.EIO} {
			t.Run(name+" "+problem.Error(), func(t *testing.T) {
				must(t, os.RemoveAll(l.path("adopted-by-berth.json")))
				s := open(t, l, metadata.Config{})
				c := s.config()
				c.Blobs = away{s.blobs, key, problem}
				if r, err := adopt.Run(t.Context(), c); !errors.Is(err, problem) {
					t.Fatalf("%v, %v", r, err)
				}
				if r := s.adopt(); r.Problems > 0 {
					t.Errorf("%+v", r)
				}
				s.pull("a", "t")
			})
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestAfterwards has fsck look at what lies where the data were taken over: what nothing needs, and what another registry writes there
// although this one took it over.
func TestAfterwards(t *testing.T) {
	l := newLegacy(t)
	l.image("a", "kept", "kept")
	gone := l.image("a", "gone", "gone")
	l.blob([]byte("nobody's"))
	s := open(t, l, metadata.Config{Grace: time.Millisecond})
	s.adopt()
	s.wantSound()
	_, err := s.DeleteManifest(t.Context(), "a", gone.Digest, registry.Deletion{})
	must(t, err)
	check := func(repair bool) fsck.Report {
		t.Helper()
		report, err := fsck.Check(t.Context(), fsck.Config{Metadata: s.facts, Blobs: s.blobs, Repair: repair})
		must(t, err)
		return report
	}
	if r := check(false); r.Leftovers != 2 || r.LeftoverBytes != int64(len("nobody's"))+gone.Size || len(r.Findings) > 0 { // and the deleted manifest
		t.Errorf("%+v", r)
	}
	if r := check(true); len(r.Findings) != 1 || r.Left != 0 || !strings.Contains(r.Findings[0].Repaired, "deleted after gc.grace") {
		t.Errorf("%+v", r)
	}
	reaper := gc.New(gc.Config{Metadata: s.facts, Blobs: s.blobs})
	for range 2 {
		time.Sleep(5 * time.Millisecond)
		_, err := reaper.Round(t.Context())
		must(t, err)
	}
	if _, err := os.Stat(l.path(l.data(digest.FromString("nobody's"))...)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what nothing needs is still there: %v", err)
	}
	s.pull("a", "kept")
	s.wantSound()

	pushed := l.image("a", "pushed to the old registry", "new")
	later := time.Now().Add(time.Hour)
	for _, path := range []string{
		l.path(l.data(pushed.Digest)...), l.path(l.data(digest.FromString("pushed to the old registry"))...),
		l.path("repositories", "a", "_manifests", "revisions", "sha256", pushed.Digest.Encoded(), "link"),
	} {
		must(t, os.Chtimes(path, later, later))
	}
	for _, repair := range []bool{false, true} {
		r := check(repair)
		if len(r.Findings) != 1 || r.Left != 1 || r.Leftovers != 0 || !strings.HasPrefix(r.Findings[0].Problem, "3 files") {
			t.Errorf("%+v", r)
		}
	}
}
