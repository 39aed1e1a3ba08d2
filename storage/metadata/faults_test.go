package metadata_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
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
	// check reports what is wrong when the call succeeded, then and at any time later.
	check func(ctx context.Context, s *metadata.Store) error
}

// scenario makes steps that no other round has anything in common with, after preparing for them.
type scenario func(ctx context.Context, s *metadata.Store, round int) ([]step, error)

func scenarios() map[string]scenario {
	return map[string]scenario{"Uploads": uploadSteps, "Manifests": manifestSteps, "Deletes": deleteSteps, "Upkeep": upkeepSteps,
		"Robots": robotSteps, "Assembly": assemblySteps, "Quarantine": quarantineSteps, "Quotas": quotaSteps, "Small": smallSteps}
}

// quick lets no time pass: leases, graces and uploads are over at once.
func quick(path string) metadata.Config {
	return metadata.Config{Path: path, Lease: 1, Grace: 1, UploadExpiry: 1}
}

// TestFaults has each statement of each scenario fail, in both ways: after an error the call can be repeated, nothing
// that was acknowledged is lost, also after a restart, and the facts agree.
func TestFaults(t *testing.T) {
	t.Parallel()
	for name, scenario := range scenarios() {
		t.Run(name, func(t *testing.T) {
			c, f := quick(filepath.Join(memoryDir(t), "metadata.sqlite")), &storagetest.Faults{}
			c.Wrap = metatest.Faults{Faults: f}.Wrap
			s, err := metadata.Open(t.Context(), c)
			must(t, err)
			must(t, metadata.LimitLog(t.Context(), s, 1<<40, 1<<40)) // so that nobody else makes statements
			done := sweep(t, s, f, scenario)
			must(t, s.Close())
			s = open(t, quick(c.Path))
			for _, step := range done {
				if err := step.check(t.Context(), s); err != nil {
					t.Errorf("%s, after a restart: %v", step.name, err)
				}
			}
			mustAudit(t, s)
		})
	}
}

// sweep runs a scenario with its first statement failing, then with its second, until none is left, and returns all
// steps.
func sweep(t *testing.T, s *metadata.Store, f *storagetest.Faults, run scenario) (all []step) {
	t.Helper()
	for round := 0; ; round++ {
		n, mode := round/2+1, storagetest.Mode(round%2)
		f.At = 0
		steps, err := run(t.Context(), s, round)
		must(t, err)
		f.Mode, f.At = mode, len(f.Calls())+n
		for i, step := range steps {
			steps[i].name = fmt.Sprintf("statement %d %s: %s", n, mode, step.name)
			runStep(t, s, steps[i])
		}
		all = append(all, steps...)
		if calls := f.Calls(); len(calls) < f.At {
			if n < 10 {
				t.Errorf("only %d statements failed", n)
			}
			f.At = 0
			return all
		}
	}
}

func runStep(t *testing.T, s *metadata.Store, step step) {
	t.Helper()
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

// TestFaultsOfOpen has each statement of the first start, and of its stop, fail: the next start finds what it needs.
func TestFaultsOfOpen(t *testing.T) {
	t.Parallel() // goose waits a second before it repeats what failed
	storagetest.Sweep(t, func(t *testing.T, f *storagetest.Faults) {
		c := metadata.Config{Path: filepath.Join(memoryDir(t), "metadata.sqlite"), Wrap: metatest.Faults{Faults: f}.Wrap}
		s, err := metadata.Open(t.Context(), c)
		if err == nil {
			err = s.Close()
		}
		if err != nil {
			wantInjected(t, "open and close", err)
		}
		c.Wrap = nil
		s = open(t, c)
		mustAudit(t, s)
	})
}

// retry repeats a call that failed by an injected fault.
func retry(call func() error) error {
	err := call()
	if errors.Is(err, storagetest.ErrInjected) {
		err = call()
	}
	return err
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
func memoryDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "metadata")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	return dir
}

func mustCopy(t testing.TB, from, to string) {
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

// uploadSteps is the life of two uploads.
func uploadSteps(ctx context.Context, s *metadata.Store, round int) ([]step, error) {
	var u, other metadata.Upload
	repository, held, fresh, ids := fmt.Sprint("uploads-", round), blob(10*round), blob(10*round+1), 0
	start := func(into *metadata.Upload) func(context.Context, *metadata.Store) error {
		return func(ctx context.Context, s *metadata.Store) (err error) {
			ids++ // ids are not used twice
			*into, err = s.StartUpload(ctx, fmt.Sprintf("%s-%d", repository, ids), repository, digest.SHA256, "")
			return err
		}
	}
	return []step{
		{name: "start", call: start(&u), check: uploadExists(&u)},
		{name: "claim", call: func(ctx context.Context, s *metadata.Store) error {
			claimed, err := s.ClaimUpload(ctx, u.Repository, u.ID, held)
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
			return s.CommitUpload(ctx, u, fresh)
		}, repeated: metadata.ErrSuperseded, check: blobExists(repository, fresh)},
		{name: "start another", call: start(&other), check: uploadExists(&other)},
		{name: "commit what is known", call: func(ctx context.Context, s *metadata.Store) error {
			return s.CommitUpload(ctx, other, held)
		}, repeated: metadata.ErrSuperseded, check: blobExists(repository, held)},
	}, push(ctx, s, "elsewhere", "held-"+repository, held)
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

func blobExists(repository string, d digest.Digest) func(context.Context, *metadata.Store) error {
	return func(ctx context.Context, s *metadata.Store) error {
		_, err := s.Blob(ctx, repository, d)
		return err
	}
}

// manifestSteps mounts and puts, with one put that is refused.
func manifestSteps(ctx context.Context, s *metadata.Store, round int) ([]step, error) {
	repository, d := fmt.Sprint("manifests-", round), blob(10*round)
	child, parent := image("child", []string{"x", "y"}, d), image("parent", []string{"y", "z"}, d, d)
	parent.Children = []metadata.Edge{{Digest: child.Digest}}
	put := func(m metadata.NewManifest) func(context.Context, *metadata.Store) error {
		return func(ctx context.Context, s *metadata.Store) error { return s.PutManifest(ctx, repository, m) }
	}
	return []step{
		{name: "mount", call: func(ctx context.Context, s *metadata.Store) error {
			return s.MountBlob(ctx, repository, "elsewhere", d)
		}, check: blobExists(repository, d)},
		{name: "put what lacks its child", call: func(ctx context.Context, s *metadata.Store) error {
			err := s.PutManifest(ctx, repository, parent)
			var missing *metadata.MissingError
			if errors.As(err, &missing) {
				return nil
			}
			return fmt.Errorf("not refused: %w", err)
		}, check: blobExists(repository, d)},
		{name: "put", call: put(child), check: manifestExists(repository, child, "x")},
		{name: "put and move a tag", call: put(parent), check: manifestExists(repository, parent, "y", "z")},
		{name: "put again", call: put(parent), check: manifestExists(repository, parent, "y", "z")},
	}, push(ctx, s, "elsewhere", "held-"+repository, d)
}

// assemblySteps pushes two images of which an index is made, and deletes one of them. After a failure the tag of the index is
// where it was, or where it should be.
func assemblySteps(ctx context.Context, s *metadata.Store, round int) ([]step, error) {
	repository, d := fmt.Sprint("assembly-", round), blob(10*round)
	of := func(parts []metadata.AssemblyPart) *metadata.NewManifest {
		if len(parts) == 0 {
			return nil
		}
		name := "index"
		for _, p := range parts {
			name += " " + p.Digest.String()
		}
		made := image(name, nil)
		for _, p := range parts {
			made.Children = append(made.Children, metadata.Edge{Digest: p.Digest})
		}
		return &made
	}
	one, two := image("one", []string{"1-one"}, d), image("two", []string{"1-two"}, d)
	both := of([]metadata.AssemblyPart{{Manifest: one.Manifest}, {Manifest: two.Manifest}})
	left := of([]metadata.AssemblyPart{{Manifest: two.Manifest}})
	put := func(m metadata.NewManifest) func(context.Context, *metadata.Store) error {
		m.Assemblies = []metadata.Assembly{{Tag: "1", From: []string{"1-one", "1-two"}, MaxSize: 1 << 10, Build: func(parts metadata.AssemblyParts) *metadata.NewManifest {
			slices.SortFunc(parts.Tagged, func(a, b metadata.AssemblyPart) int { return strings.Compare(a.Tag, b.Tag) })
			return of(parts.Tagged)
		}}}
		return func(ctx context.Context, s *metadata.Store) error { return s.PutManifest(ctx, repository, m) }
	}
	remove := func(m metadata.NewManifest) func(context.Context, *metadata.Store) error {
		return func(ctx context.Context, s *metadata.Store) error {
			return s.DeleteManifest(ctx, repository, m.Digest, metadata.Deletion{Rebuild: func(p metadata.AssemblyPart) *metadata.NewManifest { return of(p.Children) }})
		}
	}
	tagged := func(ctx context.Context, s *metadata.Store) error {
		_, _, err := s.TaggedManifest(ctx, repository, "1", false)
		return err
	}
	return []step{
		{name: "put one", call: put(one), check: tagged},
		{name: "put two", call: put(two), check: func(ctx context.Context, s *metadata.Store) error {
			return errors.Join(manifestExists(repository, two, "1-two")(ctx, s), manifestExists(repository, *both)(ctx, s))
		}},
		{name: "delete one", call: remove(one), repeated: metadata.ErrNotFound, check: manifestExists(repository, *left, "1")},
	}, push(ctx, s, repository, "pushed-"+repository, d)
}

// manifestExists checks that a manifest is there, under its digest and under tags.
func manifestExists(repository string, m metadata.NewManifest, tags ...string) func(context.Context, *metadata.Store) error {
	return func(ctx context.Context, s *metadata.Store) error {
		_, body, err := s.Manifest(ctx, repository, m.Digest, true)
		if err != nil || string(body) != string(m.Body) {
			return fmt.Errorf("manifest: %q, %w", body, err)
		}
		for _, tag := range tags {
			if got, _, err := s.TaggedManifest(ctx, repository, tag, true); err != nil || got.Digest != m.Digest {
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

// deleteSteps pushes and takes it all back.
func deleteSteps(ctx context.Context, s *metadata.Store, round int) ([]step, error) {
	repository, d := fmt.Sprint("deletes-", round), blob(10*round)
	m := image("m", []string{"x", "y"}, d)
	err := errors.Join(push(ctx, s, repository, "pushed-"+repository, d), s.PutManifest(ctx, repository, m))
	if err == nil {
		_, err = s.StartUpload(ctx, repository, repository, digest.SHA256, d) // which pins it
	}
	return []step{
		{name: "delete tag", call: func(ctx context.Context, s *metadata.Store) error {
			return s.DeleteTag(ctx, repository, "x", metadata.Deletion{})
		}, repeated: metadata.ErrNotFound, check: isGone(func(ctx context.Context, s *metadata.Store) error {
			_, _, err := s.TaggedManifest(ctx, repository, "x", false)
			return err
		})},
		{name: "delete manifest", call: func(ctx context.Context, s *metadata.Store) error {
			return s.DeleteManifest(ctx, repository, m.Digest, metadata.Deletion{})
		}, repeated: metadata.ErrNotFound, check: isGone(func(ctx context.Context, s *metadata.Store) error {
			_, _, err := s.Manifest(ctx, repository, m.Digest, false)
			return err
		})},
		{name: "delete blob", call: func(ctx context.Context, s *metadata.Store) error {
			return s.DeleteBlob(ctx, repository, d)
		}, repeated: metadata.ErrNotFound, check: isGone(func(ctx context.Context, s *metadata.Store) error {
			_, err := s.Blob(ctx, repository, d)
			return err
		})},
		{name: "cancel upload", call: func(ctx context.Context, s *metadata.Store) error {
			return s.CancelUpload(ctx, repository, repository)
		}, repeated: metadata.ErrNotFound, check: isGone(func(ctx context.Context, s *metadata.Store) error {
			_, err := s.Upload(ctx, repository, repository)
			return err
		})},
	}, err
}

// upkeepSteps is what goes on in the background.
func upkeepSteps(ctx context.Context, s *metadata.Store, round int) ([]step, error) {
	repository, d, orphan := fmt.Sprint("upkeep-", round), blob(10*round), fmt.Sprint("blobs/0/", round)
	dead, err := s.StartUpload(ctx, "dead-"+repository, repository, digest.SHA256, "")
	if err == nil {
		err = errors.Join(s.CancelUpload(ctx, repository, dead.ID), push(ctx, s, repository, "pushed-"+repository, d))
	}
	if err == nil {
		_, err = s.StartUpload(ctx, repository, repository, digest.SHA256, "")
	}
	return []step{
		{name: "lease", call: func(ctx context.Context, s *metadata.Store) error {
			_, err := s.LeaseBlob(ctx, repository, d)
			return err
		}, check: blobExists(repository, d)},
		{name: "expire uploads", call: func(ctx context.Context, s *metadata.Store) error {
			_, err := s.ExpireUploads(ctx, false, 10)
			return err
		}, check: isGone(func(ctx context.Context, s *metadata.Store) error {
			_, err := s.Upload(ctx, repository, repository)
			return err
		})},
		{name: "forget keys", call: func(ctx context.Context, s *metadata.Store) error {
			return s.ForgetKeys(ctx, []string{dead.Key})
		}, check: keyUsed(dead.Key, 0)},
		{name: "bury orphans", call: func(ctx context.Context, s *metadata.Store) error {
			_, err := s.BuryOrphans(ctx, []string{orphan}, 0)
			return err
		}, check: keyUsed(orphan, 1)},
		{name: "set setting", call: func(ctx context.Context, s *metadata.Store) error {
			_, err := s.SetSettingOnce(ctx, repository, []byte("x"))
			return err
		}, check: func(ctx context.Context, s *metadata.Store) error {
			if got, err := s.Setting(ctx, repository); string(got) != "x" {
				return fmt.Errorf("setting %q: %w", got, err)
			}
			return nil
		}},
	}, err
}

// quarantineSteps quarantines two blobs, of which one is healed by a push and the other stays, and puts a row right.
func quarantineSteps(ctx context.Context, s *metadata.Store, round int) ([]step, error) {
	repository, healed, stays, ids := fmt.Sprint("quarantine-", round), blob(-2*round-1), blob(-2*round-2), 0 // nobody else's
	err := errors.Join(push(ctx, s, repository, "healed-"+repository, healed), push(ctx, s, repository, "stays-"+repository, stays))
	quarantine := func(d digest.Digest) func(context.Context, *metadata.Store) error {
		return func(ctx context.Context, s *metadata.Store) error {
			b, err := s.Blob(ctx, repository, d)
			if err == nil {
				_, err = s.Quarantine(ctx, d, b.Key)
			}
			return err
		}
	}
	isQuarantined := func(ctx context.Context, s *metadata.Store) error {
		if _, err := s.Blob(ctx, repository, stays); !errors.Is(err, metadata.ErrQuarantined) {
			return fmt.Errorf("not quarantined: %w", err)
		}
		return nil
	}
	none := func(context.Context, *metadata.Store) error { return nil }
	return []step{
		{name: "quarantine", call: quarantine(healed), repeated: metadata.ErrQuarantined, check: none},
		{name: "quarantine another", call: quarantine(stays), repeated: metadata.ErrQuarantined, check: isQuarantined},
		{name: "heal", call: func(ctx context.Context, s *metadata.Store) error {
			ids++ // ids are not used twice
			return push(ctx, s, repository, fmt.Sprintf("heal-%s-%d", repository, ids), healed)
		}, check: blobExists(repository, healed)},
		{name: "end and quarantine", call: func(ctx context.Context, s *metadata.Store) error {
			blobs, err := s.Blobs(ctx, "", 1<<20)
			for _, b := range blobs {
				if err == nil && b.Digest == stays {
					_, err = s.EndQuarantine(ctx, stays, b.Key)
				}
			}
			if err == nil {
				err = quarantine(stays)(ctx, s)
			}
			return err
		}, repeated: metadata.ErrQuarantined, check: isQuarantined},
	}, err
}

// robotSteps makes two robots, of which one goes again.
func robotSteps(_ context.Context, _ *metadata.Store, round int) ([]step, error) {
	id, used := fmt.Sprint("robot-", round), time.UnixMilli(1_700_000_000_000)
	add := func(id string) func(context.Context, *metadata.Store) error {
		return func(ctx context.Context, s *metadata.Store) error {
			_, err := s.AddRobot(ctx, metadata.Robot{ID: id, Name: id, Repositories: []string{"**"}, Actions: "pull"}, []byte(id), time.Hour)
			return err
		}
	}
	get := func(id string) func(context.Context, *metadata.Store) error {
		return func(ctx context.Context, s *metadata.Store) error {
			_, err := s.Robot(ctx, id)
			return err
		}
	}
	gone := add(id + "-gone")
	return []step{
		{name: "add robot", call: add(id), repeated: metadata.ErrExists, check: get(id)},
		{name: "add and delete robot", call: func(ctx context.Context, s *metadata.Store) error {
			if err := gone(ctx, s); err != nil && !errors.Is(err, metadata.ErrExists) {
				return err
			}
			return s.DeleteRobot(ctx, id+"-gone")
		}, check: isGone(get(id + "-gone"))},
		{name: "note use", call: func(ctx context.Context, s *metadata.Store) error {
			return s.NoteRobotUses(ctx, map[string]time.Time{id: used})
		}, check: func(ctx context.Context, s *metadata.Store) error {
			if r, err := s.Robot(ctx, id); err != nil || !r.LastUsedAt.Equal(used) {
				return fmt.Errorf("last used %v: %w", r.LastUsedAt, err)
			}
			return nil
		}},
	}, nil
}

// keyUsed checks in how many places a key is.
func keyUsed(key string, places int) func(context.Context, *metadata.Store) error {
	return func(ctx context.Context, s *metadata.Store) error {
		uses, err := s.KeyUses(ctx, []string{key})
		if err == nil && len(uses) != places {
			err = fmt.Errorf("key %s is in %+v", key, uses)
		}
		return err
	}
}
