package metadata_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"berth/filelock"
	"berth/storage/metadata"
	"berth/storage/metadata/metatest"
	"berth/storage/metadata/postgrestest"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/opencontainers/go-digest"
)

// postgres is the server of this package's tests, started for the first that asks.
var postgres struct {
	once   sync.Once
	server *postgrestest.Server
	err    error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if postgres.server != nil {
		if err := postgres.server.Remove(); err != nil {
			println(err.Error())
			code = 1
		}
	}
	os.Exit(code)
}

// postgresServer returns the server. Where none can be run, the test is skipped; in CI it fails.
func postgresServer(t testing.TB) *postgrestest.Server {
	t.Helper()
	postgres.once.Do(func() {
		directory, err := os.MkdirTemp("", "postgres")
		if err != nil {
			postgres.err = err
			return
		}
		// What these tests are about survives no crash of the machine.
		postgres.server, postgres.err = postgrestest.Start(context.Background(), directory, "fsync=off")
	})
	if errors.Is(postgres.err, postgrestest.ErrUnavailable) && os.Getenv("CI") == "" {
		t.Skip(postgres.err)
	}
	if postgres.err != nil {
		t.Fatal(postgres.err)
	}
	return postgres.server
}

func TestContractOnPostgres(t *testing.T) {
	server := postgresServer(t)
	template := server.NewDatabase(t, "")
	s, err := metadata.Open(t.Context(), metadata.Config{DSN: template})
	must(t, err)
	must(t, s.Close())
	open := func(t testing.TB, c metadata.Config) *metadata.Store {
		c.DSN = server.NewDatabase(t, "test1")
		return open(t, c)
	}
	metatest.Run(t, open)
	t.Run("Interleave", func(t *testing.T) { metatest.Interleave(t, open) })
	t.Run("WholeObjects", func(t *testing.T) { metatest.RunWholeObjects(t, open) })
}

// TestStartsAtOnce has several servers meet an empty database.
func TestStartsAtOnce(t *testing.T) {
	dsn := postgresServer(t).NewDatabase(t, "")
	var all sync.WaitGroup
	for range 6 {
		all.Go(func() {
			s, err := metadata.Open(t.Context(), metadata.Config{DSN: dsn})
			if err != nil {
				t.Error(err)
				return
			}
			if err := errors.Join(s.Ping(t.Context()), s.Close()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

// TestServersTogether has two servers push, mount and delete the same few things, and each see at once what the other did.
func TestServersTogether(t *testing.T) {
	dsn := postgresServer(t).NewDatabase(t, "")
	one, two := open(t, metadata.Config{DSN: dsn}), open(t, metadata.Config{DSN: dsn})
	for i := range 50 {
		m := image(fmt.Sprint(i), []string{"latest"})
		must(t, one.PutManifest(t.Context(), "a", m))
		if got, _, err := two.TaggedManifest(t.Context(), "a", "latest", true); err != nil || got.Digest != m.Digest {
			t.Fatalf("the other server finds %v, %v", got, err)
		}
		must(t, two.DeleteManifest(t.Context(), "a", m.Digest, metadata.Deletion{}))
		if _, _, err := one.Manifest(t.Context(), "a", m.Digest, false); !errors.Is(err, metadata.ErrNotFound) {
			t.Fatalf("deleted at the other server: %v", err)
		}
	}
	if prefixes, err := two.UnclosedGenerations(t.Context()); err != nil || len(prefixes) > 0 {
		t.Errorf("a server that runs is taken for one that stopped: %v, %v", prefixes, err)
	}
}

// TestQuotasTogether has two servers add to the same quotas.
func TestQuotasTogether(t *testing.T) {
	dsn := postgresServer(t).NewDatabase(t, "")
	metatest.QuotaCrowd(t, open(t, metadata.Config{DSN: dsn}), open(t, metadata.Config{DSN: dsn}))
}

// TestRestartOfPostgres stops the database below a store: reads and writes fail as unavailable, and go on when it is back.
func TestRestartOfPostgres(t *testing.T) {
	directory, err := os.MkdirTemp("", "postgres")
	must(t, err)
	if postgresServer(t) == nil {
		return
	}
	server, err := postgrestest.Start(t.Context(), directory)
	must(t, err)
	t.Cleanup(func() { must(t, server.Remove()) })
	s := open(t, metadata.Config{DSN: server.NewDatabase(t, "")})
	m := image("one", []string{"latest"})
	must(t, s.PutManifest(t.Context(), "a", m))
	for _, stop := range []func() error{server.Stop, server.Kill} {
		must(t, stop())
		if _, _, err := s.TaggedManifest(t.Context(), "a", "latest", true); !errors.Is(err, metadata.ErrUnavailable) {
			t.Errorf("a read without a database: %v", err)
		}
		if err := s.PutManifest(t.Context(), "a", image("two", nil)); !errors.Is(err, metadata.ErrUnavailable) {
			t.Errorf("a write without a database: %v", err)
		}
		must(t, server.Run(t.Context()))
		if got, _, err := s.TaggedManifest(t.Context(), "a", "latest", true); err != nil || got.Digest != m.Digest {
			t.Errorf("a read after the restart: %v, %v", got, err)
		}
		must(t, s.PutManifest(t.Context(), "a", m))
	}
}

// TestManyFirstCalls has more callers than connections make the first calls of a server, whose statements are not prepared yet: for that
// each needs a second connection.
func TestManyFirstCalls(t *testing.T) {
	server := postgresServer(t)
	for _, connections := range []int{1, 4} {
		s := open(t, metadata.Config{DSN: server.NewDatabase(t, ""), Connections: connections})
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second) // it takes less than one
		defer cancel()
		var all sync.WaitGroup
		for i := range 64 {
			all.Go(func() {
				id := fmt.Sprint("upload-", i)
				u, err := s.StartUpload(ctx, id, "a", digest.SHA256, blob(i%3))
				if err == nil {
					err = s.CommitUpload(ctx, u, blob(i%3))
				}
				if err != nil {
					t.Errorf("with %d connections: %v", connections, err)
				}
			})
		}
		all.Wait()
		if ctx.Err() != nil {
			t.Errorf("with %d connections it took 20 seconds", connections)
		}
	}
}

func TestBadDSN(t *testing.T) {
	for _, dsn := range []string{"postgres://berth:hunter2@[/x", "host=/nowhere user=x password=hunter2 dbname=x"} {
		_, err := metadata.Open(t.Context(), metadata.Config{DSN: dsn})
		if err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%v", err)
		}
		t.Log(err)
	}
}

// TestMove copies the facts of an SQLite database that has some of every kind, and goes on there.
func TestMove(t *testing.T) {
	path, dsn := filepath.Join(t.TempDir(), "metadata.sqlite"), postgresServer(t).NewDatabase(t, "")
	s, err := metadata.Open(t.Context(), quick(path))
	must(t, err)
	for name, run := range scenarios() {
		steps, err := run(t.Context(), s, 0)
		must(t, err)
		for _, step := range steps {
			step.name = name + ": " + step.name
			runStep(t, s, step)
		}
	}
	for i := range 1500 {
		must(t, s.PutManifest(t.Context(), "many", image(fmt.Sprint(i), []string{fmt.Sprint(i)})))
	}
	whole := metadata.Upload{ID: "whole", Repository: "many", Algorithm: digest.SHA256, Size: 3, Content: []byte{0, 255, 1}}
	must(t, s.CommitWhole(t.Context(), whole, blob(4711)))
	empty := metadata.Upload{ID: "empty", Repository: "many", Algorithm: digest.SHA256, Content: []byte{}}
	must(t, s.CommitWhole(t.Context(), empty, blob(4712)))
	_, err = metadata.Move(t.Context(), path, dsn, nil)
	if !errors.Is(err, filelock.ErrHeld) {
		t.Errorf("while it is open: %v", err)
	}
	must(t, s.Close())
	last := metadata.MoveProgress{}
	rows, err := metadata.Move(t.Context(), path, dsn, func(p metadata.MoveProgress) { last = p })
	must(t, err)
	if last.Total != rows || last.Rows < 3000 || last.Table == "" {
		t.Errorf("%d rows, the last progress was %+v", rows, last)
	}
	if _, err := metadata.Open(t.Context(), quick(path)); !errors.Is(err, metadata.ErrMoved) {
		t.Errorf("the old database is opened: %v", err)
	}
	for _, target := range []string{dsn, postgresServer(t).NewDatabase(t, "")} {
		if _, err := metadata.Move(t.Context(), path, target, nil); !errors.Is(err, metadata.ErrMoved) {
			t.Errorf("moved twice: %v", err)
		}
	}
	moved := open(t, metadata.Config{DSN: dsn})
	mustAudit(t, moved)
	for n, want := range map[int][]byte{4711: whole.Content, 4712: {}} {
		kept, err := moved.Blob(t.Context(), "many", blob(n))
		must(t, err)
		if content, ok, err := moved.SmallObject(t.Context(), kept.Key); err != nil || !ok || !bytes.Equal(content, want) {
			t.Errorf("a small blob: %v, %t, %v; want %v", content, ok, err, want)
		}
	}
	if _, err := moved.Blob(t.Context(), "quarantine-0", blob(-2)); !errors.Is(err, metadata.ErrQuarantined) {
		t.Errorf("a blob that is quarantined: %v", err)
	}
	for i := range 1500 {
		want := image(fmt.Sprint(i), nil)
		if got, body, err := moved.TaggedManifest(t.Context(), "many", fmt.Sprint(i), true); err != nil || got.Digest != want.Digest || string(body) != string(want.Body) {
			t.Fatalf("%d: %v, %v", i, got, err)
		}
	}
	must(t, moved.PutManifest(t.Context(), "many", image("new", []string{"new"}))) // under an id that is free
	must(t, moved.PutManifest(t.Context(), "other", image("new", nil)))
}

// TestMoveRefuses keeps the facts of another registry.
func TestMoveRefuses(t *testing.T) {
	path, dsn := filepath.Join(t.TempDir(), "metadata.sqlite"), postgresServer(t).NewDatabase(t, "")
	must(t, open(t, metadata.Config{DSN: dsn}).PutManifest(t.Context(), "a", image("one", []string{"x"})))
	s, err := metadata.Open(t.Context(), quick(path))
	must(t, err)
	must(t, s.Close())
	if _, err := metadata.Move(t.Context(), path, dsn, nil); err == nil || !strings.Contains(err.Error(), "name an empty one") {
		t.Errorf("onto another registry: %v", err)
	}
	s, err = metadata.Open(t.Context(), quick(path)) // it is not moved
	must(t, err)
	must(t, s.Close())
}

// TestTurnsAtQuota has a server add to a quota, and add it up, while others push into it without a pause: each of them may go before it once
// for each transaction of its own, not for ever.
func TestTurnsAtQuota(t *testing.T) {
	dsn := postgresServer(t).NewDatabase(t, "")
	server := func() *metadata.Store {
		s := open(t, metadata.Config{DSN: dsn})
		must(t, s.SetQuotas(t.Context(), []metadata.Quota{{Repositories: []string{"a"}, Match: func(name string) bool { return name == "a" }, Bytes: 1 << 40}}))
		return s
	}
	s := server()
	must(t, push(t.Context(), s, "a", "upload", blob(1)))
	var pushed atomic.Int64
	var busy sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	for i := range 3 {
		other := server()
		busy.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				if err := push(ctx, other, "a", fmt.Sprint("upload", i, n), blob(100+i)); err != nil && ctx.Err() == nil {
					t.Error(err)
				}
				pushed.Add(1)
			}
		})
	}
	for pushed.Load() < 10 && !t.Failed() {
		time.Sleep(time.Millisecond)
	}
	const rounds = 30
	before := pushed.Load()
	for i := range rounds {
		must(t, s.PutManifest(t.Context(), "a", image(fmt.Sprint("image", i), []string{fmt.Sprint("tag", i)})))
		must(t, s.FoldQuotas(t.Context()))
	}
	meanwhile := pushed.Load() - before
	stop()
	busy.Wait()
	t.Logf("%.1f pushes of three other servers for each push and fold of this one", float64(meanwhile)/rounds)
	if meanwhile > 30*rounds {
		t.Errorf("others pushed %d times while this server did %d times", meanwhile, rounds)
	}
	mustAudit(t, s)
}

// TestSilentTurnAtQuota has a server be silent in its turn at a quota, outside of a transaction: the others don't wait for it for ever, and
// leave nothing in the queue.
func TestSilentTurnAtQuota(t *testing.T) {
	dsn := postgresServer(t).NewDatabase(t, "")
	s := open(t, metadata.Config{DSN: dsn})
	must(t, s.SetQuotas(t.Context(), []metadata.Quota{{Repositories: []string{"a"}, Match: func(name string) bool { return name == "a" }, Bytes: 1 << 40}}))
	db, err := sql.Open("pgx", dsn)
	must(t, err)
	defer db.Close()
	silent, err := db.Conn(t.Context())
	must(t, err)
	defer silent.Close()
	var id int64
	must(t, db.QueryRow(`SELECT id FROM quotas`).Scan(&id))
	_, err = silent.ExecContext(t.Context(), metadata.EnterQueue, metadata.QuotaQueue, id, "500")
	must(t, err)
	must(t, s.PutManifest(t.Context(), "a", image("one", []string{"x"})))
	if err := silent.PingContext(t.Context()); err == nil {
		t.Error("the push did not wait for its turn")
	}
	var left int
	must(t, db.QueryRow(`SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'`).Scan(&left))
	if left != 0 {
		t.Errorf("%d locks are left", left)
	}
}

// TestCountBesideOthers has a quota counted while others have looked and not written yet: they see no quota, and have to look again.
func TestCountBesideOthers(t *testing.T) {
	dsn := postgresServer(t).NewDatabase(t, "")
	s := open(t, metadata.Config{DSN: dsn})
	must(t, s.PutManifest(t.Context(), "a", image("one", []string{"x"})))
	must(t, push(t.Context(), s, "a", "upload", blob(1)))
	must(t, s.PutManifest(t.Context(), "b", image("one", nil)))
	db, err := sql.Open("pgx", dsn)
	must(t, err)
	defer db.Close()
	for _, statement := range []string{
		`INSERT INTO tags (repository, name, manifest, updated_at, updated_by) SELECT repository, 'y', id, 0, '' FROM manifests`,
		`DELETE FROM tags WHERE name = 'x'`,
		`DELETE FROM repository_blobs`,
		`INSERT INTO repository_blobs (repository, digest, leased_until) SELECT r.id, b.digest, 0 FROM repositories r, blobs b WHERE r.name = 'b'`,
	} {
		other, err := db.BeginTx(t.Context(), &sql.TxOptions{Isolation: sql.LevelSerializable})
		must(t, err)
		var n int
		must(t, other.QueryRow(`SELECT count(*) FROM repositories`).Scan(&n))
		must(t, s.SetQuotas(t.Context(), []metadata.Quota{{Repositories: []string{statement}, Match: func(string) bool { return true }, Bytes: 1 << 40}}))
		_, err = other.Exec(statement)
		if err == nil {
			err = other.Commit()
		}
		if refused, ok := errors.AsType[*pgconn.PgError](err); !ok || refused.Code != "40001" {
			t.Errorf("%s: %v", statement, err)
		}
		_ = other.Rollback() // which it is already, when it was refused at its end
		mustAudit(t, s)
	}
}
