package fsck_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"berth/registry"
	"berth/registry/fsck"
	"berth/storage"
	"berth/storage/metadata"
	"berth/storage/metadata/metatest"
	"berth/storage/small"
	"berth/storage/storagetest"

	"github.com/opencontainers/go-digest"
)

func (s *site) run(t *testing.T, c fsck.Config) fsck.Report {
	t.Helper()
	c.Metadata = s.facts
	if c.Blobs == nil {
		c.Blobs = s.blobs
	}
	report, err := fsck.Check(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// service is the registry over the site.
func (s *site) service() *registry.Service {
	return registry.New(registry.Config{Blobs: s.blobs, Metadata: s.facts})
}

// pushLayer pushes the layer again.
func (s *site) pushLayer(t *testing.T) {
	t.Helper()
	if _, err := s.service().PushBlob(t.Context(), "a/b", digest.FromString(layerContent), chunk(layerContent)); err != nil {
		t.Fatal(err)
	}
}

// layerError is what is said of the layer: nil when it is there.
func (s *site) layerError(t *testing.T) error {
	t.Helper()
	_, err := s.facts.Blob(t.Context(), "a/b", digest.FromString(layerContent))
	return err
}

// write puts a file in the place of one that is there, or where none is.
func write(t *testing.T, path, content string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(content), 0o600)); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
}

func (s *site) stray() string { return filepath.Join(s.directory, "blobs/deadbeef/0000/stray") }

// TestRepair repairs damage of all kinds that can be. A blob that is quarantined stays to be told of until it is pushed again.
func TestRepair(t *testing.T) {
	statements := func(all ...string) func(*testing.T, *site) {
		return func(t *testing.T, s *site) { s.sql(t, all...) }
	}
	for _, test := range []struct {
		name     string
		damage   func(*testing.T, *site)
		rehash   bool
		repaired string
		push     bool // which is left to do
	}{
		{"bytes are gone", func(t *testing.T, s *site) { remove(t, s.layer) }, false, "quarantined", true},
		{"bytes are cut", func(t *testing.T, s *site) { write(t, s.layer, "a lay") }, false, "quarantined", true},
		{"bytes rotted", func(t *testing.T, s *site) { write(t, s.layer, "a laser") }, true, "quarantined", true},
		{"a file that no row knows", func(t *testing.T, s *site) { write(t, s.stray(), "x") }, false, "deleted after gc.grace (24h0m0s)", false},
		{"a link that is never reviewed", statements(`DELETE FROM gc_queue`), false, "queued", false},
		{"an edge that was not filled", statements(`UPDATE manifest_blobs SET linked = NULL WHERE position = 1`), false, "linked", false},
		{"a link in the trash", statements(`UPDATE repository_blobs SET deleted_at = 1 WHERE digest = (SELECT linked FROM manifest_blobs WHERE position = 1)`),
			false, "out of the trash", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newSite(t)
			test.damage(t, s)
			before := s.run(t, fsck.Config{Rehash: test.rehash})
			if len(before.Findings) != 1 || before.Left != 1 || before.Findings[0].Repaired != "" {
				t.Fatalf("before: %+v", before)
			}
			report := s.run(t, fsck.Config{Rehash: test.rehash, Repair: true})
			if len(report.Findings) != 1 || !strings.Contains(report.Findings[0].Repaired, test.repaired) || report.Findings[0].Left() != test.push {
				t.Fatalf("%+v", report)
			}
			if test.push {
				if remedy := report.Findings[0].Remedy; report.Left != 1 || remedy != "push it again; it is in a/b" {
					t.Errorf("%d left, %s", report.Left, remedy)
				}
				for _, again := range []fsck.Config{{}, {Repair: true}, {Repair: true, Rehash: true}} {
					found := s.run(t, again).Findings
					if len(found) != 1 || !strings.HasPrefix(found[0].Problem, "quarantined since 20") || found[0].Repaired != "" {
						t.Errorf("%+v: %+v", again, found)
					}
				}
				s.pushLayer(t)
			}
			if after := s.check(t, true); len(after.Findings) > 0 {
				t.Errorf("after: %+v", after)
			}
		})
	}
}

// What has no one right end is only told of.
func TestNotRepaired(t *testing.T) {
	for _, statement := range []string{
		`INSERT INTO dead_keys (key, delete_after) SELECT key, 9e15 FROM blobs WHERE size = 7`,
		`UPDATE manifest_bodies SET body = CAST(' ' || CAST(body AS TEXT) AS BLOB)`,
		`DELETE FROM manifest_bodies`,
		`DELETE FROM blobs WHERE size = 7`,
		`UPDATE uploads SET size = 1000`,
	} {
		s := newSite(t)
		s.sql(t, statement)
		first := s.run(t, fsck.Config{Repair: true})
		if first.Left == 0 || len(s.run(t, fsck.Config{}).Findings) < first.Left {
			t.Errorf("%s: %+v", statement, first)
		}
	}
}

// TestQuarantineEnds has the bytes of a quarantined blob come back, as those of a disk that was not mounted do. Only reading them all
// proves it.
func TestQuarantineEnds(t *testing.T) {
	s := newSite(t)
	remove(t, s.layer)
	s.run(t, fsck.Config{Repair: true})
	write(t, s.layer, layerContent)
	for _, c := range []fsck.Config{{}, {Repair: true}, {Rehash: true}} {
		if report := s.run(t, c); report.Left != 1 || s.layerError(t) == nil {
			t.Errorf("%+v: %+v", c, report)
		}
	}
	report := s.run(t, fsck.Config{Repair: true, Rehash: true})
	if report.Left != 0 || len(report.Findings) != 1 || report.Findings[0].Repaired != "the quarantine ended" || s.layerError(t) != nil {
		t.Errorf("%+v, %v", report, s.layerError(t))
	}
	if after := s.check(t, true); len(after.Findings) > 0 {
		t.Errorf("after: %+v", after)
	}
}

// TestEmptyStore repairs nothing where all bytes are gone, since a disk that is not mounted looks like that.
func TestEmptyStore(t *testing.T) {
	s := newSite(t)
	remove(t, filepath.Join(s.directory, "blobs"))
	report := s.run(t, fsck.Config{Repair: true})
	if report.Left != 4 || !strings.Contains(report.Findings[0].Remedy, "mount its disk") || s.layerError(t) != nil {
		t.Fatalf("%+v, %v", report, s.layerError(t))
	}
	if _, err := s.service().PushBlob(t.Context(), "new", digest.FromString("new"), chunk("new")); err != nil {
		t.Fatal(err)
	}
	s.run(t, fsck.Config{Repair: true})
	if !errors.Is(s.layerError(t), metadata.ErrQuarantined) {
		t.Errorf("not quarantined: %v", s.layerError(t))
	}
}

// inline has the site keep small blobs in the metadata from now on.
func (s *site) inline(files small.Backend) *registry.Service {
	s.blobs = small.New(files, s.facts)
	return registry.New(registry.Config{Blobs: s.blobs, Metadata: s.facts, Inline: small.Limit})
}

// TestEmptyStoreOfInline has blobs in the metadata, and repairs nothing all the same where all others are gone. One in the metadata that
// is gone is damage as any other.
func TestEmptyStoreOfInline(t *testing.T) {
	s := newSite(t)
	service := s.inline(s.blobs)
	for _, content := range []string{"inline", "too"} {
		if _, err := service.PushBlob(t.Context(), "inline", digest.FromString(content), chunk(content)); err != nil {
			t.Fatal(err)
		}
	}
	if report := s.run(t, fsck.Config{Rehash: true}); report.Left != 0 || report.Blobs != 5 || report.Objects != 6 {
		t.Fatalf("%+v", report)
	}
	remove(t, filepath.Join(s.directory, "blobs"))
	report := s.run(t, fsck.Config{Repair: true})
	if report.Left != 4 || !strings.Contains(report.Findings[0].Remedy, "mount its disk") || s.layerError(t) != nil {
		t.Fatalf("%+v, %v", report, s.layerError(t))
	}

	whole := newSite(t)
	files := whole.blobs
	service = whole.inline(files)
	if _, err := service.PushBlob(t.Context(), "inline", digest.FromString("inline"), chunk("inline")); err != nil {
		t.Fatal(err)
	}
	b, err := whole.facts.Blob(t.Context(), "inline", digest.FromString("inline"))
	if err != nil {
		t.Fatal(err)
	}
	whole.sql(t, `UPDATE small_objects SET content = CAST('damage' AS BLOB) WHERE key = '`+b.Key+`'`)
	service = whole.inline(files)
	whole.run(t, fsck.Config{Repair: true, Rehash: true})
	if _, err := whole.facts.Blob(t.Context(), "inline", b.Digest); !errors.Is(err, metadata.ErrQuarantined) {
		t.Errorf("not quarantined: %v", err)
	}
	if _, err := service.PushBlob(t.Context(), "inline", b.Digest, chunk("inline")); err != nil {
		t.Fatal(err)
	}
	if report := whole.run(t, fsck.Config{Rehash: true}); report.Left != 0 {
		t.Errorf("%+v", report)
	}
}

// TestForeignFacts deletes nothing beside facts that name no blob, or none that is in the blob store.
func TestForeignFacts(t *testing.T) {
	s := newSite(t)
	facts, err := metadata.Open(t.Context(), metadata.Config{Path: filepath.Join(t.TempDir(), "metadata.sqlite")})
	if err != nil {
		t.Fatal(err)
	}
	defer facts.Close()
	for range 2 {
		report, err := fsck.Check(t.Context(), fsck.Config{Metadata: facts, Blobs: small.New(s.blobs, facts), Repair: true})
		if err != nil || report.Left != 4 || !strings.Contains(report.Findings[0].Remedy, "correct the configuration") {
			t.Errorf("%+v, %v", report, err)
		}
		whole := metadata.Upload{ID: "whole", Repository: "a", Algorithm: digest.SHA256, Size: 6, Content: []byte("inline")}
		if err := facts.CommitWhole(t.Context(), whole, digest.FromString("inline")); err != nil {
			t.Fatal(err)
		}
	}
	queue, err := facts.Queue(t.Context())
	if err != nil || queue.DeadKeys != 0 {
		t.Errorf("%d keys are dead, %v", queue.DeadKeys, err)
	}
}

// odd is a blob store that does as it is told when one key is opened.
type odd struct {
	small.Backend
	key   string
	open  func(call int) (io.ReadSeekCloser, error)
	calls int
}

func (o *odd) Open(ctx context.Context, key string, size int64) (io.ReadSeekCloser, error) {
	if key != o.key {
		return o.Backend.Open(ctx, key, size)
	}
	o.calls++
	return o.open(o.calls)
}

// oddly is a blob store that is odd about the layer.
func (s *site) oddly(t *testing.T, open func(call int) (io.ReadSeekCloser, error)) *odd {
	t.Helper()
	key, err := filepath.Rel(s.directory, s.layer)
	if err != nil {
		t.Fatal(err)
	}
	return &odd{Backend: s.blobs, key: key, open: open}
}

// source is an object that is read with errors.
type source struct {
	*strings.Reader
	read, close error
}

func (s source) Read(p []byte) (int, error) {
	if s.read != nil && s.Len() == 0 {
		return 0, s.read
	}
	return s.Reader.Read(p)
}

func (s source) Close() error { return s.close }

// TestErrorsOfReading has reading fail: whatever it was that came until then, nothing is quarantined, and no quarantine ends.
func TestErrorsOfReading(t *testing.T) {
	for name, open := range map[string]func(int) (io.ReadSeekCloser, error){
		"away":          func(int) (io.ReadSeekCloser, error) { return nil, fmt.Errorf("open: %w", storage.ErrUnavailable) },
		"no permission": func(int) (io.ReadSeekCloser, error) { return nil, os.ErrPermission },
		"a bad disk":    func(int) (io.ReadSeekCloser, error) { return source{strings.NewReader("a l"), syscall.EIO, nil}, nil },
		"a broken line": func(int) (io.ReadSeekCloser, error) {
			return source{strings.NewReader("a l"), io.ErrUnexpectedEOF, nil}, nil
		},
		"lost in between": func(int) (io.ReadSeekCloser, error) {
			return source{strings.NewReader(""), storage.ErrUnavailable, nil}, nil
		},
		"no clean end": func(int) (io.ReadSeekCloser, error) {
			return source{strings.NewReader("a laser"), nil, syscall.EIO}, nil
		},
		"bad once, then away": func(call int) (io.ReadSeekCloser, error) {
			if call%2 == 1 {
				return source{strings.NewReader("a laser"), nil, nil}, nil
			}
			return nil, storage.ErrUnavailable
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			blobs := s.oddly(t, open)
			report := s.run(t, fsck.Config{Blobs: blobs, Repair: true, Rehash: true})
			if len(report.Findings) != 1 || report.Left != 1 || report.Findings[0].Repaired != "" || s.layerError(t) != nil {
				t.Errorf("%+v, %v", report, s.layerError(t))
			}
			if done, err := s.facts.Quarantine(t.Context(), digest.FromString(layerContent), blobs.key); err != nil || !done {
				t.Fatal(done, err)
			}
			report = s.run(t, fsck.Config{Blobs: blobs, Repair: true, Rehash: true})
			if report.Left != 1 || s.layerError(t) == nil {
				t.Errorf("quarantined: %+v, %v", report, s.layerError(t))
			}
		})
	}
}

// TestLookedAtTwice finds nothing where a second look does not.
func TestLookedAtTwice(t *testing.T) {
	s := newSite(t)
	for name, first := range map[string]func() (io.ReadSeekCloser, error){
		"wrong":   func() (io.ReadSeekCloser, error) { return source{strings.NewReader("a laser"), nil, nil}, nil },
		"missing": func() (io.ReadSeekCloser, error) { return nil, storage.ErrNotFound },
	} {
		report := s.run(t, fsck.Config{Repair: true, Rehash: true, Blobs: s.oddly(t, func(call int) (io.ReadSeekCloser, error) {
			if call == 1 {
				return first()
			}
			return source{strings.NewReader(layerContent), nil, nil}, nil
		})})
		if len(report.Findings) > 0 || s.layerError(t) != nil {
			t.Errorf("%s: %+v, %v", name, report, s.layerError(t))
		}
	}
}

// TestHealedMeanwhile leaves a blob alone that gets other bytes while it is looked at.
func TestHealedMeanwhile(t *testing.T) {
	s := newSite(t)
	var blobs *odd
	blobs = s.oddly(t, func(call int) (io.ReadSeekCloser, error) {
		if call == 2 {
			if done, err := s.facts.Quarantine(t.Context(), digest.FromString(layerContent), blobs.key); err != nil || !done {
				t.Error(done, err)
			}
			s.pushLayer(t)
		}
		return nil, storage.ErrNotFound
	})
	report := s.run(t, fsck.Config{Repair: true, Blobs: blobs})
	if len(report.Findings) > 0 || s.layerError(t) != nil || blobs.calls != 2 {
		t.Errorf("%+v, %v, opened %d times", report, s.layerError(t), blobs.calls)
	}
}

// TestFaults has each statement of a repair fail, in both ways. What is reported as repaired is, after a restart, and the next repair
// does what is left.
func TestFaults(t *testing.T) {
	t.Parallel()
	storagetest.Sweep(t, func(t *testing.T, f *storagetest.Faults) {
		s := newSite(t)
		s.sql(t, `DELETE FROM gc_queue`)
		remove(t, s.layer)
		write(t, s.stray(), "x")
		if err := s.facts.Close(); err != nil {
			t.Fatal(err)
		}
		facts, err := metadata.Open(t.Context(), metadata.Config{Path: s.database, Wrap: metatest.Faults{Faults: f}.Wrap})
		if errors.Is(err, storagetest.ErrInjected) {
			facts, err = metadata.Open(t.Context(), metadata.Config{Path: s.database})
		}
		if err != nil {
			t.Fatal(err)
		}
		repaired, err := fsck.Check(t.Context(), fsck.Config{Metadata: facts, Blobs: s.blobs, Repair: true})
		if err != nil && !errors.Is(err, storagetest.ErrInjected) {
			t.Error(err)
		}
		if err := facts.Close(); err != nil && !errors.Is(err, storagetest.ErrInjected) {
			t.Error(err)
		}
		s.open(t)
		for _, left := range s.run(t, fsck.Config{}).Findings {
			for _, done := range repaired.Findings {
				quarantined := strings.HasPrefix(left.Problem, "quarantined since")
				if done.Repaired != "" && done.Subject == left.Subject && !quarantined {
					t.Errorf("%+v is reported as repaired, and there is %+v", done, left)
				}
			}
		}
		s.run(t, fsck.Config{Repair: true})
		s.pushLayer(t)
		if after := s.check(t, true); len(after.Findings) > 0 {
			t.Errorf("after: %+v", after)
		}
	})
}

// TestRate ends a check that is far from its end when its context ends: at a byte a second it would take days.
func TestRate(t *testing.T) {
	s := newSite(t)
	content := string(storagetest.Content(1, 1<<20))
	if _, err := s.service().PushBlob(t.Context(), "a/b", digest.FromString(content), chunk(content)); err != nil {
		t.Fatal(err)
	}
	s.run(t, fsck.Config{Rehash: true, Rate: 1 << 40})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	report, err := fsck.Check(ctx, fsck.Config{Metadata: s.facts, Blobs: s.blobs, Rehash: true, Repair: true, Rate: 1})
	if !errors.Is(err, context.DeadlineExceeded) || len(report.Findings) > 0 {
		t.Errorf("%+v, %v", report, err)
	}
}
