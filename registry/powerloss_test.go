package registry_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"berth/registry"
	"berth/registry/gc"
	"berth/storage/filesystem"
	"berth/storage/filesystem/filesystemtest"
	"berth/storage/metadata"
	"berth/storage/storagetest"

	"github.com/opencontainers/go-digest"
)

// machine is a registry whose power can be cut. Its disk forgets what was not synced: files and directories as
// filesystemtest.PowerLoss says, the database by losing the end of its write-ahead log back to the last durable commit.
type machine struct {
	*fixture
	directory string
	assemble  assembling
	disk      *filesystemtest.PowerLoss
	database  string
	synced    int64 // length of the log that is durable
	written   int64 // length of the log when the power went

	blobs     map[digest.Digest][]byte // answered as stored
	manifests map[digest.Digest][]byte
	tags      map[string]digest.Digest
	uploads   map[string][]byte // begun, with the bytes that were answered as received
}

// powerSwitch notes how long the log was when the power went.
type powerSwitch struct {
	filesystem.FS
	m *machine
}

func (p powerSwitch) note(err error) error {
	if errors.Is(err, filesystemtest.ErrPowerLoss) && p.m.written == 0 {
		p.m.written = p.m.logSize()
	}
	return err
}

func (p powerSwitch) OpenFile(name string, flag int, perm os.FileMode) (filesystem.File, error) {
	f, err := p.FS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, p.note(err)
	}
	return fileSwitch{f, p}, nil
}

func (p powerSwitch) Mkdir(name string, perm os.FileMode) error {
	return p.note(p.FS.Mkdir(name, perm))
}
func (p powerSwitch) Remove(name string) error  { return p.note(p.FS.Remove(name)) }
func (p powerSwitch) SyncDir(name string) error { return p.note(p.FS.SyncDir(name)) }

type fileSwitch struct {
	filesystem.File
	p powerSwitch
}

func (f fileSwitch) Write(b []byte) (int, error) {
	n, err := f.File.Write(b)
	return n, f.p.note(err)
}
func (f fileSwitch) Truncate(size int64) error { return f.p.note(f.File.Truncate(size)) }
func (f fileSwitch) Sync() error               { return f.p.note(f.File.Sync()) }

func newMachine(t *testing.T, cutAt int, keep *rand.Rand, assemble assembling) *machine {
	t.Helper()
	m := &machine{
		directory: t.TempDir(), assemble: assemble,
		blobs: make(map[digest.Digest][]byte), manifests: make(map[digest.Digest][]byte),
		tags: make(map[string]digest.Digest), uploads: make(map[string][]byte),
	}
	m.database = filepath.Join(t.TempDir(), "metadata.sqlite")
	var err error
	if m.disk, err = filesystemtest.New(m.directory, filesystemtest.Config{CutAt: cutAt, Keep: keep}); err != nil {
		t.Fatal(err)
	}
	blobs := openBlobs(t, filesystem.Config{Root: m.directory, FS: powerSwitch{m.disk, m}})
	facts := openFacts(t, metadata.Config{Path: m.database})
	t.Cleanup(func() { _ = facts.Close() })
	m.fixture = assemble(blobs, facts)
	m.synced = m.logSize()
	return m
}

func (m *machine) logSize() int64 {
	info, err := os.Stat(m.database + "-wal")
	if err != nil {
		return 0
	}
	return info.Size()
}

// on reports whether there is power.
func (m *machine) on() bool { return m.written == 0 }

// stored notes that the log is durable as it is, for what was answered as stored after it.
func (m *machine) stored() { m.synced = m.logSize() }

// work does something that a client would.
func (m *machine) work(random *rand.Rand) {
	ctx := context.Background()
	content := storagetest.Content(random.Uint64(), random.IntN(5000)<<random.IntN(4))
	d := digest.FromBytes(content)
	switch random.IntN(8) {
	case 0:
		if _, err := m.PushBlob(ctx, "a/b", d, chunk(content)); err == nil {
			m.stored()
			m.blobs[d] = content
		}
	case 1:
		if u, err := m.StartUpload(ctx, "a/b", ""); err == nil {
			m.uploads[u.ID] = nil
		}
	case 2:
		id, received := m.anyUpload(random)
		if id == "" {
			return
		}
		if u, err := m.WriteUpload(ctx, "a/b", id, chunk(content)); err == nil && u.Size == int64(len(received)+len(content)) {
			m.uploads[id] = append(received[:len(received):len(received)], content...)
		}
	case 3:
		id, received := m.anyUpload(random)
		if id == "" {
			return
		}
		whole := append(received[:len(received):len(received)], content...)
		if _, err := m.FinishUpload(ctx, "a/b", id, chunk(content), digest.FromBytes(whole)); err == nil {
			m.stored()
			m.blobs[digest.FromBytes(whole)] = whole
			delete(m.uploads, id)
		}
	case 4:
		if id, _ := m.anyUpload(random); id != "" && m.CancelUpload(ctx, "a/b", id) == nil {
			m.stored()
			delete(m.uploads, id)
		}
	case 5:
		m.pushImage(random, content)
	case 6, 7:
		_ = m.KeepUploads(ctx, 0) // what it could not keep is not promised
	}
}

func (m *machine) anyUpload(random *rand.Rand) (string, []byte) {
	for id, received := range m.uploads {
		if random.IntN(len(m.uploads)) == 0 {
			return id, received
		}
	}
	return "", nil
}

func (m *machine) pushImage(random *rand.Rand, layer []byte) {
	ctx := context.Background()
	c := config("linux", fmt.Sprint("arch", random.IntN(1000)))
	for _, content := range [][]byte{c, layer} {
		d := digest.FromBytes(content)
		if _, err := m.PushBlob(ctx, "a/b", d, chunk(content)); err != nil {
			return
		}
		m.stored()
		m.blobs[d] = content
	}
	body := imageOf(c, layer)
	tag := fmt.Sprint("tag", random.IntN(3))
	p, err := m.PutManifest(ctx, "a/b", registry.ManifestPush{Reference: registry.Reference{Tag: tag}, Body: body})
	if err != nil {
		return
	}
	m.stored()
	m.manifests[p.Digest] = body
	m.tags[tag] = p.Digest
}

// reboot is the machine after the power came back. Of the log's unsynced end a random part is there.
func (m *machine) reboot(t *testing.T, random *rand.Rand) *fixture {
	t.Helper()
	if m.on() {
		m.written = m.logSize()
	}
	if err := m.disk.Cut(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "metadata.sqlite")
	for suffix, keep := range map[string]int64{"": -1, "-wal": m.synced + random.Int64N(m.written-m.synced+1)} {
		content, err := os.ReadFile(m.database + suffix)
		if err != nil {
			t.Fatal(err)
		}
		if keep >= 0 {
			content = content[:keep]
		}
		if err := os.WriteFile(path+suffix, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	facts := openFacts(t, metadata.Config{Path: path})
	t.Cleanup(func() { _ = facts.Close() })
	f := m.assemble(openBlobs(t, filesystem.Config{Root: m.directory}), facts)
	if m.journal != nil && random.IntN(2) == 0 { // it is not synced, which does not say that it is lost
		f.journal.records = m.journal.records[:random.IntN(len(m.journal.records)+1)]
		f = f.restart(t)
	}
	if err := gc.New(gc.Config{Metadata: f.facts, Blobs: f.blobs}).Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	return f
}

// checkPromises looks for everything that was answered as stored.
func (m *machine) checkPromises(t *testing.T, f *fixture) {
	t.Helper()
	for d, content := range m.blobs {
		if !bytes.Equal(f.read(t, "a/b", d), content) {
			t.Errorf("blob %s has other bytes", d)
		}
	}
	for d, body := range m.manifests {
		got, err := f.Manifest(t.Context(), "a/b", registry.Reference{Digest: d})
		if err != nil || !bytes.Equal(got.Body, body) {
			t.Errorf("manifest %s: %v", d, err)
		}
	}
	for tag, d := range m.tags {
		got, err := f.ResolveManifest(t.Context(), "a/b", registry.Reference{Tag: tag})
		// A push that moved the tag may have happened although its answer was an error.
		if err != nil || m.manifests[got.Digest] != nil && got.Digest != d {
			t.Errorf("tag %s: %s, %v, not %s", tag, got.Digest, err, d)
		}
	}
}

// resume goes on with the uploads from where the registry says that they are.
func (m *machine) resume(t *testing.T, f *fixture) (resumed int) {
	t.Helper()
	for id, received := range m.uploads {
		u, err := f.UploadStatus(t.Context(), "a/b", id)
		if errors.Is(err, registry.ErrUploadUnknown) {
			continue // it was never promised
		}
		if err != nil {
			t.Errorf("status of upload %s: %v", id, err)
			continue
		}
		if u.Size > int64(len(received)) {
			continue // what was sent last arrived, but the answer did not: this script forgot what it was
		}
		rest := append(received[u.Size:len(received):len(received)], "the end"...)
		whole := append(received[:len(received):len(received)], "the end"...)
		if _, err := f.FinishUpload(t.Context(), "a/b", id, chunk(rest), digest.FromBytes(whole)); err != nil {
			t.Errorf("resume upload of %d bytes from %d: %v", len(whole), u.Size, err)
			continue
		}
		if !bytes.Equal(f.read(t, "a/b", digest.FromBytes(whole)), whole) {
			t.Errorf("resumed upload %s has other bytes", id)
		}
		resumed++
	}
	return resumed
}

func TestPowerLoss(t *testing.T) {
	t.Parallel()
	// Where small blobs are in the metadata, there are fewer calls at which the power can go.
	t.Run("files", func(t *testing.T) { testPowerLoss(t, assembleFiles, 120) })
	t.Run("inline", func(t *testing.T) { testPowerLoss(t, assembleInline, 25) })
}

func testPowerLoss(t *testing.T, assemble assembling, calls int) {
	cuts, resumed := 0, 0
	for seed := range uint64(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 1))
			var keep *rand.Rand
			if seed%2 == 1 {
				keep = rand.New(rand.NewPCG(seed, 2))
			}
			m := newMachine(t, 10+random.IntN(calls), keep, assemble) // opening the store takes a few calls
			for step := 0; step < 40 && m.on(); step++ {
				m.work(random)
			}
			if !m.on() {
				cuts++
			}
			f := m.reboot(t, random)
			m.checkPromises(t, f)
			resumed += m.resume(t, f)
			f.reap(t)
			f.checkClean(t)
		})
	}
	if cuts < 30 || resumed < 30 {
		t.Errorf("only %d cuts and %d resumed uploads: the script has become too easy", cuts, resumed)
	}
}
