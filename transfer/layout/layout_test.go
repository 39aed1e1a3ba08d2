package layout

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/errdef"
)

// blob describes content, and opens it.
func blob(content string) (v1.Descriptor, opener) {
	return v1.Descriptor{MediaType: v1.MediaTypeImageLayer, Digest: digest.FromString(content), Size: int64(len(content))}, reader(content)
}

func reader(content string) opener {
	return func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(content)), nil }
}

var errBroken = errors.New("the source broke")

// broken is content that can't be read to its end.
func broken(content string) opener {
	return func() (io.ReadCloser, error) {
		return io.NopCloser(io.MultiReader(strings.NewReader(content), failing{})), nil
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errBroken }

// blobWriter is what the repositories of all layouts have in common.
type blobWriter interface {
	HasBlob(ctx context.Context, d v1.Descriptor) (bool, error)
	WriteBlob(ctx context.Context, d v1.Descriptor, open func() (io.ReadCloser, error)) error
}

// TestWriteBlobFails has a blob fail to be read, in every layout: nothing of it stays, and then it can be written.
func TestWriteBlobFails(t *testing.T) {
	file := filepath.Join(t.TempDir(), "layout.tar")
	directory, other := t.TempDir(), t.TempDir()
	inFile, err := CreateOCI(file, "registry.lan")
	if err != nil {
		t.Fatal(err)
	}
	inDirectory, err := CreateOCI(directory, "registry.lan")
	if err != nil {
		t.Fatal(err)
	}
	d, open := blob("content of a blob")
	before, openBefore := blob("written before")
	for name, w := range map[string]blobWriter{
		"file": inFile.Repository("app"), "directory": inDirectory.Repository("app"), "distribution": OpenDistribution(other).Repository("app"),
	} {
		if err := w.WriteBlob(t.Context(), before, openBefore); err != nil {
			t.Fatal(err)
		}
		for problem, bad := range map[string]opener{
			"the source broke": broken("content"), "other bytes": reader("CONTENT of a blob"), "16 bytes of 17": reader("content of a blo"),
			"more than 17 bytes": reader("content of a blob and more"),
			"never opened":       func() (io.ReadCloser, error) { return nil, errors.New("never opened") },
		} {
			if err := w.WriteBlob(t.Context(), d, bad); err == nil || !strings.Contains(err.Error(), problem) {
				t.Errorf("%s: got %v, want %q", name, err, problem)
			}
			if has, err := w.HasBlob(t.Context(), d); has || err != nil {
				t.Errorf("%s: after %s it has the blob: %v, %v", name, problem, has, err)
			}
		}
		if err := w.WriteBlob(t.Context(), d, open); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := w.WriteBlob(t.Context(), d, broken("")); err != nil {
			t.Errorf("%s: it reads what it has: %v", name, err)
		}
		if has, err := w.HasBlob(t.Context(), d); !has || err != nil {
			t.Errorf("%s: it has the blob: %v, %v", name, has, err)
		}
	}
	if err := errors.Join(inFile.Close(), inDirectory.Close()); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, directory} {
		s, err := OpenSource(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"content of a blob", "written before"} {
			d, _ := blob(want)
			if got, err := s.manifest(d); err != nil || string(got) != want {
				t.Errorf("%s: read %q, %v", path, got, err)
			}
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	for _, path := range []string{filepath.Dir(file), directory, other} {
		err := filepath.WalkDir(path, func(path string, _ fs.DirEntry, err error) error {
			if strings.HasPrefix(filepath.Base(path), ".new-") {
				t.Errorf("%s was left", path)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// TestDiscard wants nothing in the place of a file that is not to be, and an old one as it was.
func TestDiscard(t *testing.T) {
	path := filepath.Join(t.TempDir(), "layout.tar")
	if err := os.WriteFile(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	o, err := CreateOCI(path, "registry.lan")
	if err == nil {
		err = o.Discard()
	}
	content, readErr := os.ReadFile(path)
	entries, listErr := os.ReadDir(filepath.Dir(path))
	if err != nil || readErr != nil || listErr != nil || string(content) != "old" || len(entries) != 1 {
		t.Errorf("%v, %v, %v: %q and %v", err, readErr, listErr, content, entries)
	}
}

// TestOCIIndex writes the same name again, and opens what is there to add to it.
func TestOCIIndex(t *testing.T) {
	path := t.TempDir()
	write := func(repository, tag, body string) {
		t.Helper()
		o, err := CreateOCI(path, "registry.lan")
		if err != nil {
			t.Fatal(err)
		}
		d, _ := blob(body)
		if err := errors.Join(o.Repository(repository).WriteManifest(t.Context(), d, []byte(body), tag), o.Close()); err != nil {
			t.Fatal(err)
		}
	}
	write("b", "1", "first")
	write("a", "1", "other")
	write("b", "1", "second")
	o, err := CreateOCI(path, "registry.lan")
	if err != nil {
		t.Fatal(err)
	}
	want, _ := blob("second")
	d, err := o.Repository("b").Resolve(t.Context(), "1")
	if err != nil || d.Digest != want.Digest || d.Annotations[containerdName] != "registry.lan/b:1" {
		t.Errorf("b:1 is %+v, %v", d, err)
	}
	if err := os.Remove(filepath.Join(path, blobPath(want.Digest))); err != nil {
		t.Fatal(err)
	}
	if d, err := o.Repository("b").Resolve(t.Context(), "1"); !errors.Is(err, errdef.ErrNotFound) {
		t.Errorf("without its file b:1 is %+v, %v", d, err)
	}
	s, err := OpenSource(path)
	if err != nil || len(s.Images()) != 2 || s.Images()[0].Repository != "a" {
		t.Errorf("the layout names %+v, %v", s.Images(), err)
	}
}

func TestOCIIndexWithoutDigests(t *testing.T) {
	path := t.TempDir()
	body := `{"schemaVersion":2,"manifests":[{"mediaType":"` + v1.MediaTypeImageManifest + `","digest":"x","size":1}]}`
	if err := os.WriteFile(filepath.Join(path, v1.ImageIndexFile), []byte(body), fileMode); err != nil {
		t.Fatal(err)
	}
	if _, err := CreateOCI(path, "registry.lan"); err == nil || !strings.Contains(err.Error(), "can be added to") {
		t.Errorf("it is added to: %v", err)
	}
}

// TestLink adds referrers to the index by which registries without an API for them are asked.
func TestLink(t *testing.T) {
	root := t.TempDir()
	r := OpenDistribution(root).Repository("team/app")
	subject, _ := blob("subject")
	one, _ := blob("one")
	two, _ := blob("two")
	tag := "sha256-" + subject.Digest.Encoded()
	var last v1.Descriptor
	for i, referrers := range [][]v1.Descriptor{{one}, {two, one}, {one}} {
		if err := r.Link(t.Context(), subject, referrers); err != nil {
			t.Fatal(err)
		}
		index, err := r.index(t.Context(), tag)
		if err != nil || len(index.Manifests) != min(i+1, 2) || index.Manifests[0].Digest != one.Digest {
			t.Errorf("after %v: %+v, %v", referrers, index, err)
		}
		if last, err = r.Resolve(t.Context(), tag); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.WriteManifest(t.Context(), one, []byte("one"), tag); err != nil {
		t.Fatal(err)
	}
	if err := r.Link(t.Context(), subject, []v1.Descriptor{two}); err == nil || !strings.Contains(err.Error(), "no index") {
		t.Errorf("over what is no index (it was %s): %v", last.Digest, err)
	}
	link, err := os.ReadFile(filepath.Join(root, "docker/registry/v2/repositories/team/app/_manifests/tags", tag, "current/link"))
	if err != nil || string(link) != one.Digest.String() {
		t.Errorf("the link is %q, %v", link, err)
	}
}

func TestParseName(t *testing.T) {
	for name, want := range map[string]string{
		"v1": " v1", "latest": " latest", "app:v1": "app v1", "team/app": "team/app latest", "docker.io/library/app:v1": "library/app v1",
		"registry.lan:5000/app:v1": "app v1", "localhost/app": "app latest", "registry.lan/app:v1@sha256:00": "app v1",
		"": "error", "App:v1": "error", "app:": "app latest", ":v1": "error", "../../app:v1": "error", "app:v 1": "error", "a/../b": "error",
		"registry.lan:5000/": "error",
	} {
		repository, tag, err := parseName(name)
		if got := repository + " " + tag; err == nil && got != want || err != nil && want != "error" {
			t.Errorf("%q: got %q, %v, want %q", name, got, err, want)
		}
	}
}

func FuzzParseName(f *testing.F) {
	for _, name := range []string{"v1", "app:v1", "registry.lan:5000/team/app:v1@sha256:00", "a/../b"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		repository, tag, err := parseName(name)
		if err == nil && (strings.Contains(repository, "..") || strings.ContainsAny(tag, "/:") || tag == "") {
			t.Errorf("%q is %q and %q", name, repository, tag)
		}
	})
}

// FuzzSpans reads files that may be archives: what it finds is within the file.
func FuzzSpans(f *testing.F) {
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	err := w.WriteHeader(&tar.Header{Name: "./oci-layout", Size: 4, Mode: 0o644, Typeflag: tar.TypeReg})
	if err == nil {
		_, err = w.Write([]byte("body"))
	}
	if err = errors.Join(err, w.Close()); err != nil {
		f.Fatal(err)
	}
	f.Add(archive.Bytes())
	f.Add(archive.Bytes()[:600])
	f.Add([]byte("no archive"))
	f.Fuzz(func(t *testing.T, body []byte) {
		entries, err := spans(bytes.NewReader(body))
		for name, s := range entries {
			if s.offset < 0 || s.size < 0 || s.offset > int64(len(body)) {
				t.Errorf("%q is at %+v, %v", name, s, err)
			}
		}
	})
}

// TestDistributionSource reads a data directory that has what such directories have after a crash: links without content, links to nothing,
// files that are none of a registry's.
func TestDistributionSource(t *testing.T) {
	dir := t.TempDir()
	store := OpenDistribution(dir)
	for _, name := range []string{"app", "team/app"} {
		r := store.Repository(name)
		d, open := blob("content of a blob")
		if err := r.WriteBlob(t.Context(), d, open); err != nil {
			t.Fatal(err)
		}
		index := []byte(`{"schemaVersion":2,"manifests":[]}`)
		for body, tag := range map[string]string{string(index): "v1", `{"schemaVersion":1,"fsLayers":[]}`: "old", "damaged": "damaged", "lost": "lost"} {
			if err := r.WriteManifest(t.Context(), v1.Descriptor{Digest: digest.FromString(body), Size: int64(len(body))}, []byte(body), tag); err != nil {
				t.Fatal(err)
			}
		}
	}
	for path, content := range map[string]string{
		store.data(digest.FromString("damaged")):                        "DAMAGED",
		filepath.Join(store.root, "repositories", "README"):             "x",
		store.Repository("app").current("empty"):                        "",
		store.Repository("app").current("nonsense"):                     "sha256:../../etc/passwd",
		filepath.Join(store.root, "repositories/UPPER/_manifests/tags"): "x",
	} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(content), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(store.data(digest.FromString("lost"))); err != nil {
		t.Fatal(err)
	}
	if IsDistribution(filepath.Dir(dir)) || !IsDistribution(dir) {
		t.Error("it is not told from others")
	}
	var names, tags []string
	if err := store.Repositories(t.Context(), func(page []string) error { names = append(names, page...); return nil }); err != nil {
		t.Fatal(err)
	}
	source := store.Source("app")
	if err := source.Tags(t.Context(), func(page []string) error { tags = append(tags, page...); return nil }); err != nil {
		t.Fatal(err)
	}
	if strings.Join(names, " ") != "app team/app" || strings.Join(tags, " ") != "damaged empty lost nonsense old v1" {
		t.Errorf("repositories %q, tags %q", names, tags)
	}
	for tag, want := range map[string]string{"v1": v1.MediaTypeImageIndex, "old": mediaTypeUnknown} {
		if d, err := source.Resolve(t.Context(), tag); err != nil || d.MediaType != want {
			t.Errorf("%s is %+v, %v", tag, d, err)
		}
	}
	for _, tag := range []string{"empty", "nonsense", "lost", "absent"} {
		if _, err := source.Resolve(t.Context(), tag); !errors.Is(err, errdef.ErrNotFound) {
			t.Errorf("%s: %v", tag, err)
		}
	}
	if _, err := source.Resolve(t.Context(), "damaged"); err == nil || errors.Is(err, errdef.ErrNotFound) {
		t.Errorf("a damaged manifest: %v", err)
	}
	if err := store.Source("absent").Tags(t.Context(), nil); !errors.Is(err, errdef.ErrNotFound) {
		t.Errorf("an absent repository: %v", err)
	}
	d, _ := blob("content of a blob")
	f, err := source.ReadBlob(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(f)
	if errors.Join(err, f.Close()) != nil || string(content) != "content of a blob" {
		t.Errorf("%q, %v", content, err)
	}
	for _, bad := range []digest.Digest{"", "sha256:../../../../etc/passwd", digest.FromString("absent")} {
		if _, err := source.ReadBlob(t.Context(), v1.Descriptor{Digest: bad}); err == nil {
			t.Errorf("a blob with digest %q", bad)
		}
	}
}
