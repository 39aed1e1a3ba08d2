// Package metatest is the contract of package metadata as a test suite and as benchmarks for any database, and a driver
// whose statements fail on demand.
//
// The suite holds a store to what its methods promise and looks at the rows where no method tells: it speaks SQL that
// every database of package metadata understands. It never restarts the store and does not cut the power; tests of one
// database do that on their own.
package metatest

import (
	"database/sql"
	"database/sql/driver"
	"encoding/hex"
	"errors"
	"fmt"
	"reflect"
	"testing"
	"time"

	"berth/storage/metadata"

	"github.com/opencontainers/go-digest"
)

// Open opens a store over a database of its own, empty, as c says; where the database is, it decides itself. It fails
// the test when it can't, and leaves to t.Cleanup what has to be cleaned up.
type Open func(t testing.TB, c metadata.Config) *metadata.Store

// suite is what Run runs.
type suite []struct {
	name string
	run  func(t *testing.T, f *fixture)
}

// Run checks a store against the contract. After each test the facts must not contradict each other.
func Run(t *testing.T, open Open) {
	for _, area := range []struct {
		name   string
		tests  suite
		trash  time.Duration
		quotas []metadata.Quota
	}{
		{"Uploads", uploadTests(), 0, nil},
		{"Small", smallTests(), 0, nil},
		{"Blobs", blobTests(), 0, nil},
		{"Quarantine", quarantineTests(), 0, nil},
		{"Manifests", manifestTests(), 0, nil},
		{"ManifestsWithTrash", manifestTests(), time.Hour, nil}, // nobody sees what is in it
		{"Collect", collectTests(), 0, nil},
		{"Trash", trashTests(), time.Hour, nil},
		{"Retention", retentionTests(), time.Hour, nil},
		{"Usage", usageTests(), time.Hour, nil},
		{"Lists", listTests(), 0, nil},
		{"ListsWithTrash", listTests(), time.Hour, nil},
		{"Keys", keyTests(), 0, nil},
		{"Facts", factTests(), 0, nil},
		{"Robots", robotTests(), 0, nil},
		{"Walk", walkTests(), 0, nil},
		{"WalkWithTrash", walkTests(), time.Hour, nil},
		{"WalkWithQuotas", walkTests(), time.Hour, wideQuotas()},
		{"Quotas", quotaTests(), time.Hour, nil},
		{"Concurrent", concurrentTests(), 0, nil},
		{"ConcurrentWithTrash", concurrentTests(), time.Hour, nil},
		{"ConcurrentWithQuotas", concurrentTests(), 0, wideQuotas()},
	} {
		t.Run(area.name, func(t *testing.T) {
			for _, test := range area.tests {
				t.Run(test.name, func(t *testing.T) {
					f := newFixture(t, open, metadata.Config{Trash: area.trash})
					f.setQuotas(t, area.quotas...)
					test.run(t, f)
					f.audit(t)
				})
			}
		})
	}
}

// fixture is a store with a way around it.
type fixture struct {
	*metadata.Store
	open Open
	// sql is the same database, for what no method tells and to let time pass.
	sql *sql.DB
	ids int // of uploads
	// trash is set when what is deleted is kept there.
	trash bool
}

func newFixture(t testing.TB, open Open, c metadata.Config) *fixture {
	t.Helper()
	var writing driver.Connector
	c.Wrap = func(d driver.Connector) driver.Connector {
		if writing == nil { // a store may read through another one, which can't write
			writing = d
		}
		return d
	}
	f := &fixture{Store: open(t, c), open: open, trash: c.Trash > 0}
	if writing == nil {
		t.Fatal("the store does not wrap its driver with Config.Wrap")
	}
	f.sql = sql.OpenDB(writing)
	t.Cleanup(func() { must(t, f.sql.Close()) })
	return f
}

func (f *fixture) audit(t *testing.T) {
	t.Helper()
	problems, err := f.Audit(t.Context(), 10)
	must(t, err)
	for _, p := range problems {
		t.Errorf("audit: %s", p)
	}
}

// number returns what a query for one number finds.
func (f *fixture) number(t *testing.T, query string, args ...any) (n int64) {
	t.Helper()
	must(t, f.sql.QueryRowContext(t.Context(), query, args...).Scan(&n))
	return n
}

// exec changes exactly n rows behind the store's back.
func (f *fixture) exec(t *testing.T, n int64, query string, args ...any) {
	t.Helper()
	result, err := f.sql.ExecContext(t.Context(), query, args...)
	must(t, err)
	if got, err := result.RowsAffected(); got != n || err != nil {
		t.Fatalf("%s: %d rows, %v", query, got, err)
	}
}

func (f *fixture) newID() string {
	f.ids++
	return fmt.Sprintf("upload-%d", f.ids)
}

func (f *fixture) start(t *testing.T, repository string) metadata.Upload {
	t.Helper()
	u, err := f.StartUpload(t.Context(), f.newID(), repository, digest.SHA256, "")
	must(t, err)
	return u
}

// push stores a blob in a repository and returns its key, or that of the upload when the blob was there.
func (f *fixture) push(t *testing.T, repository string, d digest.Digest) string {
	t.Helper()
	return f.pushConfig(t, repository, d, nil)
}

func (f *fixture) pushConfig(t *testing.T, repository string, d digest.Digest, c *metadata.ImageConfig) string {
	t.Helper()
	u := f.start(t, repository)
	u.Size, u.Config = blobSize, c
	must(t, f.CommitUpload(t.Context(), u, d))
	return u.Key
}

func (f *fixture) put(t *testing.T, repository string, m metadata.NewManifest) {
	t.Helper()
	must(t, f.PutManifest(t.Context(), repository, m))
}

// wantUse fails unless a key is in exactly the one place, or in none when use is empty.
func (f *fixture) wantUse(t *testing.T, key, use string) {
	t.Helper()
	uses, err := f.KeyUses(t.Context(), []string{key})
	must(t, err)
	if use == "" && len(uses) == 0 || len(uses) == 1 && uses[0].Use == use && uses[0].Key == key {
		return
	}
	t.Errorf("key %s: %+v, want %q", key, uses, use)
}

// blobSize is the size of every blob that the suite pushes.
const blobSize = 1000

// blob is the digest of a blob that differs from other numbers'.
func blob(n int) digest.Digest { return digest.FromString(fmt.Sprint("blob ", n)) }

// encoded is a SHA-256 digest as SQL holds it.
func encoded(d digest.Digest) []byte {
	raw, _ := hex.DecodeString(d.Encoded()) // the digest of a test
	return append([]byte{1}, raw...)
}

// image is a manifest that references blobs, the first of them as its config.
func image(name string, blobs ...digest.Digest) metadata.NewManifest {
	m := manifest(name, "application/vnd.oci.image.manifest.v1+json")
	for i, d := range blobs {
		if i == 0 {
			m.Config = d
		}
		m.Blobs = append(m.Blobs, metadata.Edge{Digest: d, Size: blobSize, MediaType: "application/octet-stream"})
	}
	return m
}

// index is a manifest that references manifests.
func index(name string, children ...digest.Digest) metadata.NewManifest {
	m := manifest(name, "application/vnd.oci.image.index.v1+json")
	for _, d := range children {
		m.Children = append(m.Children, metadata.Edge{Digest: d, Size: 10, MediaType: "application/vnd.oci.image.manifest.v1+json"})
	}
	return m
}

func manifest(name, mediaType string) metadata.NewManifest {
	body := []byte("manifest " + name)
	return metadata.NewManifest{
		Manifest: metadata.Manifest{Digest: digest.FromBytes(body), MediaType: mediaType, Size: int64(len(body))},
		Body:     body,
		User:     "tester",
	}
}

func tagged(m metadata.NewManifest, tags ...string) metadata.NewManifest {
	m.Tags = tags
	return m
}

// known is what lookups tell of a manifest.
func known(m metadata.NewManifest) metadata.Manifest {
	return metadata.Manifest{Digest: m.Digest, MediaType: m.MediaType, Size: m.Size}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantError(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: got %v, want %v", what, err, want)
	}
}

// wantInUse fails unless err names exactly the users.
func wantInUse(t *testing.T, what string, err error, users ...digest.Digest) {
	t.Helper()
	var inUse *metadata.InUseError
	if !errors.As(err, &inUse) {
		t.Errorf("%s: got %v, want an InUseError", what, err)
		return
	}
	wantEqual(t, what, inUse.By, sorted(users))
}

func wantEqual(t *testing.T, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s:\n got %+v\nwant %+v", what, got, want)
	}
}
