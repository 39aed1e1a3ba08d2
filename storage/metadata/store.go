// Package metadata keeps the facts of a registry in SQL: which repository has which manifest, which tag points where,
// which key holds which digest.
//
// Every exported method of Store is one transaction, its commit point, and either happens wholly or not at all. A
// method that returned nil has happened: those whose result a client is told of as stored (CommitUpload, CommitWhole, MountBlob,
// PutManifest, RestoreTag and the deletes) survive a power loss; the bookkeeping of uploads survives kill -9, and a power loss may
// forget its newest part but nothing before something that was kept. A method that returned an error other than those
// it names may have happened all the same (the answer of a commit can be lost): each can be repeated.
//
// The package keeps every key that it hands out in exactly one place: an open upload, a blob, or the dead list. It does
// no I/O on the blob store: callers make bytes durable before they record them, and delete bytes that it lists as dead.
package metadata

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"
)

var (
	// ErrNotFound says that what a call names does not exist.
	ErrNotFound = errors.New("not found")
	// ErrSuperseded says that a newer claim owns the upload.
	ErrSuperseded = errors.New("upload was claimed again")
	// ErrNoSpace says that the disk under the database is full. The transaction did not happen.
	ErrNoSpace = errors.New("no space left for metadata")
	// ErrUnavailable says that the database can't be reached, or not in time. Whether the transaction happened is not known.
	ErrUnavailable = errors.New("the metadata database does not answer")
)

// Config says where facts are kept and for how long some of them hold. Zero durations take the defaults.
type Config struct {
	// Path is the SQLite file. Its directory has to exist.
	Path string
	// DSN is the PostgreSQL database to use instead, as a URL or as words with equals signs. It may have a password in it.
	DSN string
	// Connections is the most connections to PostgreSQL. 16.
	Connections int
	// Lease is how long a blob stays in a repository without being referenced. 24 h.
	Lease time.Duration
	// Grace is how long the bytes of a deleted blob stay. It has to outlast running downloads. 24 h.
	Grace time.Duration
	// Trash is how long deleted manifests, and what tags pointed to before, are kept to be restored. Zero keeps nothing.
	Trash time.Duration
	// UploadExpiry is how long an upload session lives after its last chunk. 168 h.
	UploadExpiry time.Duration
	// WholeObjects is set when the blob store can't append to objects, and a late writer could replace one: then each claim
	// of an upload gets keys of its own.
	WholeObjects bool
	// LockWait is how long Open waits for another process to let go of the database. None by default.
	LockWait time.Duration
	// Wrap, when set, wraps the database's driver: tests inject faults with it.
	Wrap func(driver.Connector) driver.Connector
	// Log receives what nobody waits for. It may be nil.
	Log *slog.Logger
}

func (c Config) withDefaults() Config {
	c.Lease = orDefault(c.Lease, 24*time.Hour)
	c.Grace = orDefault(c.Grace, 24*time.Hour)
	c.UploadExpiry = orDefault(c.UploadExpiry, 7*24*time.Hour)
	if c.Connections <= 0 {
		c.Connections = 16
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

func orDefault(d, fallback time.Duration) time.Duration {
	if d <= 0 {
		return fallback
	}
	return d
}

// Store holds the facts. Its methods may be called at the same time. Open it with Open, and close it.
type Store struct {
	config Config
	db     database
	keys   *keyMaker
	quotas atomic.Pointer[quotasInForce]
}

// database runs statements in one SQL dialect.
type database interface {
	// view runs fn, which only reads, outside of any transaction.
	view(ctx context.Context, fn func(ctx context.Context, t *tx) error) error
	// lookup returns what fn, a view, finds when it is called now, or would find.
	lookup(ctx context.Context, q lookup, fn func(ctx context.Context, t *tx) (answer, error)) (answer, error)
	// snapshot runs fn, which only reads, in a transaction: all that it reads is of one moment.
	snapshot(ctx context.Context, fn func(ctx context.Context, t *tx) error) error
	// update runs fn in a transaction and commits it, durably or as durably as d asks. fn may run more than once.
	update(ctx context.Context, d durability, fn func(ctx context.Context, t *tx) error) error
	// updateInTurn is update, at which those that name the same quota take turns, about in the order in which they called it. Quotas are named in
	// the order of their ids.
	updateInTurn(ctx context.Context, quotas []int64, d durability, fn func(ctx context.Context, t *tx) error) error
	// updateOne is update, apart, for an fn that runs a single statement.
	updateOne(ctx context.Context, fn func(ctx context.Context, t *tx) error) error
	// audits are the queries with which the database checks itself, of the form that audits in audit.go has.
	audits() []string
	// compounds reports whether a statement may write to several tables.
	compounds() bool
	// shared reports whether other processes may have the database open too.
	shared() bool
	close() error
}

// durability is what a commit survives.
type durability int

const (
	// durable commits survive a power loss.
	durable durability = iota
	// relaxed commits survive the end of the process. A power loss may take them, newest first.
	relaxed
	// apart is relaxed, for transactions that need no others to be kept from what they read: they write the rows of one upload, and
	// what these reference is held by foreign keys.
	apart
	// fresh is durable, for transactions each of whose statements has to see what was committed before it, and that need nothing else to
	// be kept from what they read.
	fresh
	// alone is durable, for transactions that take their time, and beside which nobody links blobs, sets tags or makes repositories.
	alone
)

// Open opens the database that c names, made if missing when it is SQLite's, and brings its schema up to date. An SQLite database
// belongs to one process: it fails with filelock.ErrHeld while another one has it open, and on network file systems, whose locks
// don't hold, and with ErrMoved once its facts are elsewhere.
func Open(ctx context.Context, c Config) (*Store, error) {
	c = c.withDefaults()
	db, name, err := openDatabase(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("open metadata %s: %w", name, err)
	}
	s := &Store{config: c, db: db, keys: newKeyMaker()}
	// A full disk is no reason not to start: reads and deletes need no new keys.
	if err := s.openKeys(ctx); err != nil && !errors.Is(err, ErrNoSpace) {
		return nil, errors.Join(fmt.Errorf("open metadata %s: %w", name, err), db.close())
	}
	if err := s.shorten(ctx); err != nil && !errors.Is(err, ErrNoSpace) {
		return nil, errors.Join(fmt.Errorf("open metadata %s: %w", name, err), db.close())
	}
	return s, nil
}

// openDatabase opens the one of the two databases that is meant, and returns what to call it.
func openDatabase(ctx context.Context, c Config) (db database, name string, err error) {
	if c.DSN != "" {
		db, err := openPostgres(ctx, c)
		return db, "in PostgreSQL", classifyPostgres(err)
	}
	sqlite, err := openSQLite(ctx, c)
	if isNoSpace(err) {
		// Without any space not even a reader can open the database.
		if r := openReserve(c.Path); r.release() {
			sqlite, err = openSQLite(ctx, c)
		}
	}
	if err == nil {
		if err = refuseMoved(ctx, sqlite.readers); err != nil {
			err = errors.Join(err, sqlite.close())
		}
	}
	return sqlite, c.Path, classify(err)
}

// Close waits for running transactions and closes the database. Closing records that every key is known to some row.
func (s *Store) Close() error {
	err := s.db.update(context.Background(), durable, s.keys.close)
	return errors.Join(err, s.db.close())
}

// Grace is how long the bytes of a deleted blob stay: Config.Grace.
func (s *Store) Grace() time.Duration { return s.config.Grace }

// Ping reports whether the database answers.
func (s *Store) Ping(ctx context.Context) error {
	return s.db.view(ctx, func(ctx context.Context, t *tx) error {
		var one int
		return t.row(ctx, `SELECT 1`).Scan(&one)
	})
}

// millis is a time as SQL holds it; 0 is the zero time.
func millis(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UnixMilli()
}

func nullable(s string) sql.NullString { return sql.NullString{String: s, Valid: s != ""} }

// Alone reports whether no other process can claim uploads, and a late writer does no harm to what another one wrote.
func (s *Store) Alone() bool { return !s.db.shared() && !s.config.WholeObjects }
