package metadata_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"berth/storage/metadata"
	"berth/storage/metadata/metatest"
	"berth/storage/storagetest"

	"github.com/opencontainers/go-digest"
)

// step is one call of a scenario.
type step struct {
	name string
	call func(ctx context.Context, s *metadata.Store) error
	// repeated is what the call may say when it is repeated after it happened but was reported as failed.
	repeated error
	// check reports what is wrong when the call succeeded, then and at the end of the scenario.
	check func(ctx context.Context, s *metadata.Store) error
}

// TestFaults has each statement of each scenario fail, in both ways: after an error the call can be repeated, nothing
// that was acknowledged is lost, and the facts agree after a restart.
func TestFaults(t *testing.T) {
	t.Parallel()
	template := filepath.Join(t.TempDir(), "metadata.sqlite")
	keys := prepareFaults(t, template)
	for name, scenario := range map[string]func() []step{
		"Uploads":   uploadSteps,
		"Manifests": manifestSteps,
		"Deletes":   deleteSteps,
		"Upkeep":    func() []step { return upkeepSteps(keys) },
	} {
		t.Run(name, func(t *testing.T) {
			storagetest.Sweep(t, func(t *testing.T, f *storagetest.Faults) {
				path := filepath.Join(memoryDir(t), "metadata.sqlite")
				mustCopy(t, template, path)
				runFaults(t, path, f, scenario())
			})
		})
	}
}

// TestFaultsOfOpen has each statement of the first start fail.
func TestFaultsOfOpen(t *testing.T) {
	t.Parallel() // goose waits a second before it repeats what failed
	storagetest.Sweep(t, func(t *testing.T, f *storagetest.Faults) {
		runFaults(t, filepath.Join(memoryDir(t), "metadata.sqlite"), f, nil)
	})
}

// runFaults runs a scenario on the database at path.
func runFaults(t *testing.T, path string, f *storagetest.Faults, steps []step) {
	s := openFaulty(t, path, f)
	for _, step := range steps {
		err := step.call(t.Context(), s)
		if err != nil {
			wantInjected(t, step.name, err)
			err = step.call(t.Context(), s)
		}
		if err != nil && (step.repeated == nil || !errors.Is(err, step.repeated)) {
			t.Errorf("%s, repeated: %v", step.name, err)
		}
		if err := retry(func() error { return step.check(t.Context(), s) }); err != nil {
			t.Errorf("%s: %v", step.name, err)
		}
	}
	if err := s.Close(); err != nil {
		wantInjected(t, "close", err)
	}
	s = open(t, metadata.Config{Path: path})
	for _, step := range steps {
		if err := step.check(t.Context(), s); err != nil {
			t.Errorf("%s, after a restart: %v", step.name, err)
		}
	}
	mustAudit(t, s)
}

// retry repeats a call that failed by an injected fault.
func retry(call func() error) error {
	err := call()
	if errors.Is(err, storagetest.ErrInjected) {
		err = call()
	}
	return err
}

// openFaulty opens a store whose statements fail as f says. Opening it may be what fails.
func openFaulty(t *testing.T, path string, f *storagetest.Faults) *metadata.Store {
	c := metadata.Config{Path: path, Wrap: metatest.Faults{Faults: f}.Wrap}
	s, err := metadata.Open(t.Context(), c)
	if err != nil {
		wantInjected(t, "open", err)
		s, err = metadata.Open(t.Context(), c)
	}
	must(t, err)
	return s
}

func wantInjected(t *testing.T, what string, err error) {
	t.Helper()
	if !errors.Is(err, storagetest.ErrInjected) {
		t.Errorf("%s: %v", what, err)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func mustAudit(t *testing.T, s *metadata.Store) {
	t.Helper()
	problems, err := s.Audit(t.Context(), 10)
	must(t, err)
	for _, p := range problems {
		t.Errorf("audit: %s", p)
	}
}

// memoryDir is a folder in memory where there is one: what is tested does not depend on how long a disk takes.
func memoryDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "metadata")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	return dir
}

func mustCopy(t *testing.T, from, to string) {
	t.Helper()
	content, err := os.ReadFile(from)
	must(t, err)
	must(t, os.WriteFile(to, content, 0o600))
}

func blob(n int) digest.Digest { return digest.FromString(fmt.Sprint("blob ", n)) }

// image is a manifest that references blobs.
func image(name string, tags []string, blobs ...digest.Digest) metadata.NewManifest {
	body := []byte("manifest " + name)
	m := metadata.NewManifest{
		Manifest: metadata.Manifest{Digest: digest.FromBytes(body), MediaType: "x", Size: int64(len(body))},
		Body:     body, Tags: tags,
	}
	for _, d := range blobs {
		m.Blobs = append(m.Blobs, metadata.Edge{Digest: d, Size: 10})
	}
	return m
}

func push(ctx context.Context, s *metadata.Store, repository, id string, d digest.Digest) error {
	u, err := s.StartUpload(ctx, id, repository, digest.SHA256, "")
	if err != nil {
		return err
	}
	u.Size = 10
	return s.CommitUpload(ctx, u, d)
}

// prepareFaults makes the database that the scenarios begin with, in which time is short, and returns its dead keys:
// repository a has the blobs 1 and 2, a manifest of 1 tagged x and y, and uploads that are over.
func prepareFaults(t *testing.T, path string) []string {
	t.Helper()
	ctx := t.Context()
	s, err := metadata.Open(ctx, metadata.Config{Path: path, Lease: time.Millisecond, Grace: time.Millisecond, UploadExpiry: time.Millisecond})
	must(t, err)
	must(t, push(ctx, s, "a", "1", blob(1)))
	must(t, push(ctx, s, "a", "2", blob(2)))
	must(t, push(ctx, s, "a", "3", blob(3)))
	must(t, s.PutManifest(ctx, "a", image("prepared", []string{"x", "y"}, blob(1))))
	must(t, s.DeleteBlob(ctx, "a", blob(3)))
	_, err = s.StartUpload(ctx, "expired", "a", digest.SHA256, "")
	must(t, err)
	_, err = s.StartUpload(ctx, "pinning", "a", digest.SHA256, blob(2))
	must(t, err)
	time.Sleep(5 * time.Millisecond) // the clock of the database counts in milliseconds
	keys, err := s.DeadKeys(ctx, 10)
	must(t, err)
	if len(keys) != 1 {
		t.Fatalf("dead keys %q", keys)
	}
	must(t, s.Close())
	return keys
}

// uploadSteps is the life of two uploads.
func uploadSteps() []step {
	var u, known metadata.Upload
	ids := 0
	start := func(into *metadata.Upload) func(context.Context, *metadata.Store) error {
		return func(ctx context.Context, s *metadata.Store) (err error) {
			ids++ // ids are not used twice
			*into, err = s.StartUpload(ctx, fmt.Sprint("upload ", ids), "new", digest.SHA256, "")
			return err
		}
	}
	committed := func(want digest.Digest) func(context.Context, *metadata.Store) error {
		return func(ctx context.Context, s *metadata.Store) error {
			_, err := s.Blob(ctx, "new", want)
			return err
		}
	}
	return []step{
		{name: "start", call: start(&u), check: uploadExists(&u)},
		{name: "claim", call: func(ctx context.Context, s *metadata.Store) error {
			claimed, err := s.ClaimUpload(ctx, u.Repository, u.ID, blob(1))
			if err == nil {
				u = claimed
			}
			return err
		}, check: uploadExists(&u)},
		{name: "checkpoint", call: func(ctx context.Context, s *metadata.Store) error {
			u.Size = 7
			return s.CheckpointUpload(ctx, u)
		}, check: uploadExists(&u)},
		{name: "commit", call: func(ctx context.Context, s *metadata.Store) error {
			return s.CommitUpload(ctx, u, blob(4))
		}, repeated: metadata.ErrSuperseded, check: committed(blob(4))},
		{name: "start another", call: start(&known), check: uploadExists(&known)},
		{name: "commit what is known", call: func(ctx context.Context, s *metadata.Store) error {
			return s.CommitUpload(ctx, known, blob(1))
		}, repeated: metadata.ErrSuperseded, check: committed(blob(1))},
	}
}

func uploadExists(u *metadata.Upload) func(context.Context, *metadata.Store) error {
	return func(ctx context.Context, s *metadata.Store) error {
		got, err := s.Upload(ctx, u.Repository, u.ID)
		if err == nil && (got.Epoch < u.Epoch || got.Size != u.Size) {
			err = fmt.Errorf("the store has %+v, not %+v", got, *u)
		}
		return err
	}
}

// manifestSteps mounts and puts, with one put that is refused.
func manifestSteps() []step {
	child, moved := image("child", nil, blob(1)), image("moved", []string{"x", "z"}, blob(1), blob(1))
	moved.Children = []metadata.Edge{{Digest: child.Digest}}
	put := func(m metadata.NewManifest) func(context.Context, *metadata.Store) error {
		return func(ctx context.Context, s *metadata.Store) error { return s.PutManifest(ctx, "a", m) }
	}
	return []step{
		{name: "mount", call: func(ctx context.Context, s *metadata.Store) error {
			return s.MountBlob(ctx, "c", "a", blob(1))
		}, check: func(ctx context.Context, s *metadata.Store) error {
			_, err := s.Blob(ctx, "c", blob(1))
			return err
		}},
		{name: "put what lacks its child", call: func(ctx context.Context, s *metadata.Store) error {
			var missing *metadata.MissingError
			if err := s.PutManifest(ctx, "a", moved); !errors.As(err, &missing) {
				return fmt.Errorf("not refused: %w", err)
			}
			return nil
		}, check: func(context.Context, *metadata.Store) error { return nil }},
		{name: "put", call: put(child), check: isThere(child)},
		{name: "put and move tags", call: put(moved), check: isThere(moved)},
		{name: "put again", call: put(moved), check: isThere(moved)},
	}
}

// isThere checks that a manifest is in repository a, under its digest and its tags.
func isThere(m metadata.NewManifest) func(context.Context, *metadata.Store) error {
	return func(ctx context.Context, s *metadata.Store) error {
		_, body, err := s.Manifest(ctx, "a", m.Digest, true)
		if err != nil || string(body) != string(m.Body) {
			return fmt.Errorf("manifest: %q, %w", body, err)
		}
		for _, tag := range m.Tags {
			if got, _, err := s.TaggedManifest(ctx, "a", tag, true); err != nil || got.Digest != m.Digest {
				return fmt.Errorf("tag %s: %v, %w", tag, got, err)
			}
		}
		return nil
	}
}

// isGone makes a check of a lookup that has to find nothing.
func isGone(lookup func(context.Context, *metadata.Store) error) func(context.Context, *metadata.Store) error {
	return func(ctx context.Context, s *metadata.Store) error {
		if err := lookup(ctx, s); !errors.Is(err, metadata.ErrNotFound) {
			return fmt.Errorf("found: %w", err)
		}
		return nil
	}
}

// deleteSteps deletes what was prepared.
func deleteSteps() []step {
	prepared := image("prepared", nil)
	return []step{
		{name: "delete tag", call: func(ctx context.Context, s *metadata.Store) error {
			return s.DeleteTag(ctx, "a", "x")
		}, repeated: metadata.ErrNotFound, check: isGone(func(ctx context.Context, s *metadata.Store) error {
			_, _, err := s.TaggedManifest(ctx, "a", "x", false)
			return err
		})},
		{name: "delete manifest", call: func(ctx context.Context, s *metadata.Store) error {
			return s.DeleteManifest(ctx, "a", prepared.Digest)
		}, repeated: metadata.ErrNotFound, check: isGone(func(ctx context.Context, s *metadata.Store) error {
			_, _, err := s.Manifest(ctx, "a", prepared.Digest, false)
			return err
		})},
		{name: "delete blob", call: func(ctx context.Context, s *metadata.Store) error {
			return s.DeleteBlob(ctx, "a", blob(1))
		}, repeated: metadata.ErrNotFound, check: isGone(func(ctx context.Context, s *metadata.Store) error {
			_, err := s.Blob(ctx, "a", blob(1))
			return err
		})},
		{name: "cancel upload", call: func(ctx context.Context, s *metadata.Store) error {
			return s.CancelUpload(ctx, "a", "pinning")
		}, repeated: metadata.ErrNotFound, check: isGone(func(ctx context.Context, s *metadata.Store) error {
			_, err := s.Upload(ctx, "a", "pinning")
			return err
		})},
	}
}

// upkeepSteps is what the background does.
func upkeepSteps(dead []string) []step {
	const orphan = "blobs/0/0"
	used := func(key string, want int) func(context.Context, *metadata.Store) error {
		return func(ctx context.Context, s *metadata.Store) error {
			uses, err := s.KeyUses(ctx, []string{key})
			if len(uses) != want {
				return fmt.Errorf("key %s: %+v, %w", key, uses, err)
			}
			return err
		}
	}
	return []step{
		{name: "lease", call: func(ctx context.Context, s *metadata.Store) error {
			_, err := s.LeaseBlob(ctx, "a", blob(1))
			return err
		}, check: func(ctx context.Context, s *metadata.Store) error {
			_, err := s.Blob(ctx, "a", blob(1))
			return err
		}},
		{name: "expire uploads", call: func(ctx context.Context, s *metadata.Store) error {
			_, err := s.ExpireUploads(ctx, 10)
			return err
		}, check: isGone(func(ctx context.Context, s *metadata.Store) error {
			_, err := s.Upload(ctx, "a", "expired")
			return err
		})},
		{name: "forget keys", call: func(ctx context.Context, s *metadata.Store) error {
			return s.ForgetKeys(ctx, dead)
		}, check: used(dead[0], 0)},
		{name: "bury orphans", call: func(ctx context.Context, s *metadata.Store) error {
			_, err := s.BuryOrphans(ctx, []string{orphan})
			return err
		}, check: used(orphan, 1)},
		{name: "set setting", call: func(ctx context.Context, s *metadata.Store) error {
			_, err := s.SetSettingOnce(ctx, "x", []byte("y"))
			return err
		}, check: func(ctx context.Context, s *metadata.Store) error {
			if got, err := s.Setting(ctx, "x"); !slices.Equal(got, []byte("y")) {
				return fmt.Errorf("setting %q: %w", got, err)
			}
			return nil
		}},
	}
}
