package fsck_test

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"berth/registry"
	"berth/registry/fsck"
	"berth/storage/filesystem"
	"berth/storage/metadata"
	"berth/storage/small"

	"github.com/opencontainers/go-digest"

	_ "modernc.org/sqlite"
)

// site is a registry with an image, an open upload and a blob that nothing references.
type site struct {
	directory, database string
	blobs               small.Backend
	facts               *metadata.Store
	layer               string // path of the layer's file
}

const layerContent = "a layer"

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{directory: memoryDir(t)}
	s.database = filepath.Join(s.directory, "metadata.sqlite")
	var err error
	if s.blobs, err = filesystem.Open(filesystem.Config{Root: s.directory}); err != nil {
		t.Fatal(err)
	}
	s.open(t)
	service := registry.New(registry.Config{Blobs: s.blobs, Metadata: s.facts})
	push := func(content string) digest.Digest {
		d := digest.FromString(content)
		if _, err := service.PushBlob(t.Context(), "a/b", d, chunk(content)); err != nil {
			t.Fatal(err)
		}
		return d
	}
	config := push(`{"os":"linux","architecture":"arm","rootfs":{"type":"layers"}}`)
	layer := push(layerContent)
	push("unreferenced")
	body := fmt.Appendf(nil, `{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":1},`+
		`"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":%q,"size":7}],"mediaType":"application/vnd.oci.image.manifest.v1+json"}`, config, layer)
	if _, err := service.PutManifest(t.Context(), "a/b", registry.ManifestPush{Reference: registry.Reference{Tag: "x"}, Body: body}); err != nil {
		t.Fatal(err)
	}
	u, err := service.StartUpload(t.Context(), "a/b", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := service.WriteUpload(t.Context(), "a/b", u.ID, chunk("begun")); err != nil {
		t.Fatal(err)
	}
	found, err := s.facts.Blob(t.Context(), "a/b", layer)
	if err != nil {
		t.Fatal(err)
	}
	s.layer = filepath.Join(s.directory, found.Key)
	return s
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

func (s *site) open(t *testing.T) {
	t.Helper()
	var err error
	if s.facts, err = metadata.Open(context.Background(), metadata.Config{Path: s.database}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.facts.Close() })
}

func chunk(content string) registry.Chunk {
	return registry.Chunk{Body: io.NopCloser(strings.NewReader(content)), Offset: -1, Length: -1}
}

// sql changes the database behind the store's back.
func (s *site) sql(t *testing.T, statements ...string) {
	t.Helper()
	if err := s.facts.Close(); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", s.database)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, statement := range statements {
		if _, err := db.Exec(statement); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	s.open(t)
}

func (s *site) check(t *testing.T, rehash bool) fsck.Report {
	t.Helper()
	report, err := fsck.Check(t.Context(), fsck.Config{Metadata: s.facts, Blobs: s.blobs, Rehash: rehash})
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func TestClean(t *testing.T) {
	s := newSite(t)
	for _, rehash := range []bool{false, true} {
		report := s.check(t, rehash)
		if len(report.Findings) > 0 || report.Blobs != 3 || report.Manifests != 1 || report.Objects != 4 {
			t.Errorf("rehash %t: %+v", rehash, report)
		}
	}
}

// Every kind of damage is found, and named.
func TestDamage(t *testing.T) {
	layer := digest.FromString(layerContent).String()
	file := func(path string, content []byte) func(*testing.T, *site) {
		return func(t *testing.T, s *site) {
			name := s.layer
			if path != "" {
				name = filepath.Join(s.directory, path)
				if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(name, content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	statements := func(all ...string) func(*testing.T, *site) {
		return func(t *testing.T, s *site) { s.sql(t, all...) }
	}
	for _, test := range []struct {
		name    string
		damage  func(*testing.T, *site)
		rehash  bool
		subject string
		says    string
	}{
		{"bytes are gone", func(t *testing.T, s *site) {
			if err := os.Remove(s.layer); err != nil {
				t.Fatal(err)
			}
		}, false, layer, "no such"},
		{"bytes are cut", file("", []byte("a lay")), false, layer, "5 bytes of 7"},
		{"bytes rotted", file("", []byte("a laser")), true, layer, digest.FromString("a laser").String()},
		{"a file that no row knows", file("blobs/deadbeef/0000/stray", []byte("x")), false, "blobs/deadbeef/0000/stray", "no row"},
		{"a key in two places", statements(`INSERT INTO dead_keys (key, delete_after) SELECT key, 9e15 FROM blobs WHERE size = 7`), false, "metadata", "2 places"},
		{"a body was changed", statements(`UPDATE manifest_bodies SET body = CAST(' ' || CAST(body AS TEXT) AS BLOB)`), false, "a/b@", "digest"},
		{"an edge is gone", statements(`DELETE FROM manifest_blobs WHERE position = 1`), false, "a/b@", "not those of the body"},
		{"a body is gone", statements(`DELETE FROM manifest_bodies`), false, "metadata", "no body"},
		{"a link that is never reviewed", statements(`DELETE FROM gc_queue`), false, "metadata", "not queued"},
		{"a broken reference", statements(`DELETE FROM blobs WHERE size = 7`), false, "metadata", "missing row of blobs"},
		{"an edge that was not filled", statements(`UPDATE manifest_blobs SET linked = NULL WHERE position = 1`), false, "metadata", "waits for a blob"},
		{"an upload without its bytes", statements(`UPDATE uploads SET size = 1000`), false, "blobs/", "lacks some of its 1000 bytes"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newSite(t)
			test.damage(t, s)
			report := s.check(t, test.rehash)
			for _, f := range report.Findings {
				if strings.HasPrefix(f.Subject, test.subject) && strings.Contains(f.Problem, test.says) {
					return
				}
			}
			t.Errorf("not found: %+v", report.Findings)
		})
	}
}

// What an unclean stop left is no damage: recovery will find it.
func TestUnrecovered(t *testing.T) {
	s := newSite(t)
	s.sql(t, `INSERT INTO generations (prefix, opened_at) VALUES ('blobs/deadbeef', 1)`)
	stray := filepath.Join(s.directory, "blobs/deadbeef/0000/stray")
	if err := os.MkdirAll(filepath.Dir(stray), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(stray, bytes.Repeat([]byte("x"), 10), 0o600); err != nil {
		t.Fatal(err)
	}
	if report := s.check(t, true); len(report.Findings) > 0 || report.Unrecovered != 1 {
		t.Errorf("%+v", report)
	}
}

func TestCancelled(t *testing.T) {
	s := newSite(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := fsck.Check(ctx, fsck.Config{Metadata: s.facts, Blobs: s.blobs, Rehash: true}); err == nil {
		t.Error("a check that could not be finished says that all is well")
	}
}
