package registry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"berth/registry"
	"berth/registry/fsck"
	"berth/registry/gc"
	"berth/storage"
	"berth/storage/filesystem"
	"berth/storage/metadata"
	"berth/storage/small"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// fixture is a registry over real stores in a temporary directory.
type fixture struct {
	*registry.Service
	blobs    storage.Blobs
	facts    *metadata.Store
	journal  *memoryJournal // nil without one
	files    small.Backend  // behind an inline fixture's blobs
	database string         // its file, where the fixture has one of its own
}

// onBoth runs a test on a registry that has every blob in a file, and on one that keeps small ones in the metadata.
func onBoth(t *testing.T, test func(t *testing.T, f *fixture)) {
	t.Run("files", func(t *testing.T) { test(t, newFixture(t)) })
	t.Run("inline", func(t *testing.T) { test(t, newInlineFixture(t)) })
}

func newFixture(t testing.TB) *fixture {
	t.Helper()
	return newFixtureOf(t, assembleFiles)
}

func newInlineFixture(t testing.TB) *fixture {
	t.Helper()
	return newFixtureOf(t, assembleInline)
}

// assembling makes a registry over a backend of files.
type assembling func(files small.Backend, facts *metadata.Store) *fixture

func assembleFiles(files small.Backend, facts *metadata.Store) *fixture {
	return assemble(files, facts, registry.Config{})
}

func assembleInline(files small.Backend, facts *metadata.Store) *fixture {
	return assembleWith(new(memoryJournal), files, facts)
}

func assembleWith(journal *memoryJournal, files small.Backend, facts *metadata.Store) *fixture {
	f := assemble(small.New(files, facts), facts, registry.Config{Inline: small.Limit, Journal: journal})
	f.files = files
	return f
}

// memoryJournal is a journal that outlives its registry.
type memoryJournal struct {
	mu      sync.Mutex
	records [][]byte
	fails   error
}

func (j *memoryJournal) Append(record []byte) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.fails == nil {
		j.records = append(j.records, bytes.Clone(record))
	}
	return j.fails
}

func (j *memoryJournal) Replace(records [][]byte) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.fails == nil {
		j.records = slices.Clone(records)
	}
	return j.fails
}

// read returns the records as one that was read from a file at once does: what is behind one is the next.
func (j *memoryJournal) read() (records [][]byte) {
	all := slices.Concat(j.records...)
	for _, r := range j.records {
		records, all = append(records, all[:len(r)]), all[len(r):]
	}
	return records
}

func (j *memoryJournal) Size() (size int64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, r := range j.records {
		size += int64(len(r))
	}
	return size
}

func newFixtureOf(t testing.TB, assemble assembling) *fixture {
	t.Helper()
	directory := t.TempDir()
	blobs := openBlobs(t, filesystem.Config{Root: directory})
	database := filepath.Join(directory, "metadata.sqlite")
	f := assemble(blobs, openFacts(t, metadata.Config{Path: database, Trash: time.Hour}))
	f.database = database
	t.Cleanup(func() {
		f.checkClean(t)
		if err := f.facts.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return f
}

func openBlobs(t testing.TB, c filesystem.Config) *filesystem.Store {
	t.Helper()
	blobs, err := filesystem.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	return blobs
}

func openFacts(t testing.TB, c metadata.Config) *metadata.Store {
	t.Helper()
	facts, err := metadata.Open(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	return facts
}

func assemble(blobs storage.Blobs, facts *metadata.Store, c registry.Config) *fixture {
	c.Blobs, c.Metadata = blobs, facts
	f := &fixture{Service: registry.New(c), blobs: blobs, facts: facts}
	f.journal, _ = c.Journal.(*memoryJournal)
	return f
}

// restart is the registry as another process would find it when this one was killed: nothing but the stores is the same.
func (f *fixture) restart(t testing.TB) *fixture {
	t.Helper()
	if f.journal == nil {
		return assemble(f.blobs, f.facts, registry.Config{})
	}
	again := assembleWith(f.journal, f.files, f.facts)
	if err := again.RecoverUploads(t.Context(), f.journal.read()); err != nil {
		t.Fatal(err)
	}
	return again
}

// checkClean fails the test when fsck finds something.
func (f *fixture) checkClean(t testing.TB) fsck.Report {
	t.Helper()
	report, err := fsck.Check(context.Background(), fsck.Config{Metadata: f.facts, Blobs: f.blobs, Rehash: true})
	if err != nil {
		t.Errorf("fsck: %v", err)
	}
	for _, finding := range report.Findings {
		t.Errorf("fsck: %s: %s", finding.Subject, finding.Problem)
	}
	return report
}

// reap deletes everything that is dead.
func (f *fixture) reap(t testing.TB) gc.Report {
	t.Helper()
	report, err := gc.New(gc.Config{Metadata: f.facts, Blobs: f.blobs}).Round(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// chunk is a piece of an upload that goes wherever the upload ends.
func chunk(content []byte) registry.Chunk {
	return registry.Chunk{Body: io.NopCloser(bytes.NewReader(content)), Offset: -1, Length: int64(len(content))}
}

func (f *fixture) push(t testing.TB, repository string, content []byte) v1.Descriptor {
	t.Helper()
	d, err := f.PushBlob(t.Context(), repository, digest.FromBytes(content), chunk(content))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// read returns the bytes of a blob.
func (f *fixture) read(t testing.TB, repository string, d digest.Digest) []byte {
	t.Helper()
	b, err := f.OpenBlob(t.Context(), repository, d)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	content, err := io.ReadAll(b)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// config is an image config for a platform.
func config(os, architecture string) []byte {
	return fmt.Appendf(nil, `{"os":%q,"architecture":%q,"created":"2026-01-02T03:04:05Z","rootfs":{"type":"layers","diff_ids":[]}}`, os, architecture)
}

// imageOf is the manifest of an image of one layer.
func imageOf(config, layer []byte) []byte {
	return fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",`+
		`"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":%d},`+
		`"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":%q,"size":%d}]}`,
		digest.FromBytes(config), len(config), digest.FromBytes(layer), len(layer))
}

func encode(t testing.TB, document any) []byte {
	t.Helper()
	body, err := json.Marshal(document)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// image makes an image manifest of a pushed config and layers.
func (f *fixture) image(t testing.TB, repository string, config []byte, layers ...[]byte) []byte {
	t.Helper()
	m := v1.Manifest{MediaType: v1.MediaTypeImageManifest, Config: f.push(t, repository, config), Layers: []v1.Descriptor{}}
	m.SchemaVersion = 2
	m.Config.MediaType = v1.MediaTypeImageConfig
	for _, layer := range layers {
		d := f.push(t, repository, layer)
		d.MediaType = v1.MediaTypeImageLayer
		m.Layers = append(m.Layers, d)
	}
	return encode(t, m)
}

func (f *fixture) put(t testing.TB, repository, reference, mediaType string, body []byte) registry.ManifestPushed {
	t.Helper()
	ref, err := registry.ParseReference(reference)
	if err != nil {
		t.Fatal(err)
	}
	pushed, err := f.PutManifest(t.Context(), repository, registry.ManifestPush{Reference: ref, MediaType: mediaType, Body: body})
	if err != nil {
		t.Fatal(err)
	}
	return pushed
}

func ref(t testing.TB, s string) registry.Reference {
	t.Helper()
	r, err := registry.ParseReference(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// pages collects a list page by page.
func pages(t testing.TB, n int, list func(context.Context, registry.Page) ([]string, bool, error)) (all []string) {
	t.Helper()
	for page, more := (registry.Page{N: n}), true; more; page.Last = all[len(all)-1] {
		var names []string
		var err error
		names, more, err = list(t.Context(), page)
		if err != nil || more && len(names) != n {
			t.Fatalf("page after %q: %v, more %t, %v", page.Last, names, more, err)
		}
		all = append(all, names...)
	}
	return all
}

// waitForUsers waits until so many requests have an upload of a/b or wait for it.
func waitForUsers(t testing.TB, s *registry.Service, id string, n int) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); s.SessionUsers("a/b", id) != n; time.Sleep(100 * time.Microsecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d requests on the upload, not %d", s.SessionUsers("a/b", id), n)
		}
	}
}
