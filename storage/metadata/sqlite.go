package metadata

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"runtime"

	"berth/filelock"

	"golang.org/x/sys/unix"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// sqliteDB is an SQLite database that this process alone has open: many readers beside one writer.
type sqliteDB struct {
	lock    *filelock.Lock
	readers *sql.DB
	reads   *statements
	writer  *writer
	memory  memory
}

func openSQLite(ctx context.Context, c Config) (_ *sqliteDB, err error) {
	if err := refuseNetworkFilesystem(filepath.Dir(c.Path)); err != nil {
		return nil, err
	}
	lock, err := filelock.Take(ctx, c.Path+".lock", c.LockWait)
	if err != nil {
		return nil, err
	}
	db := &sqliteDB{lock: lock}
	defer func() {
		if err != nil {
			err = errors.Join(err, db.close())
		}
	}()
	if err := makePrivate(c.Path); err != nil {
		return nil, err
	}
	words := sqliteDialect().words
	writing, err := connectSQLite(c, "foreign_keys(1)", "synchronous(FULL)", "journal_mode(WAL)", "wal_autocheckpoint(0)",
		"journal_size_limit(1048576)", fmt.Sprintf("busy_timeout(%d)", busyTimeout))
	if err != nil {
		return nil, err
	}
	writing.SetMaxOpenConns(2) // the writer's and the checkpointer's
	if db.writer, err = startWriter(ctx, writing, words, c); err != nil {
		return nil, errors.Join(err, writing.Close())
	}
	if db.readers, err = connectSQLite(c, "query_only(1)", "busy_timeout(10000)"); err != nil {
		return nil, err
	}
	db.readers.SetMaxOpenConns(max(4, 2*runtime.GOMAXPROCS(0)))
	db.readers.SetMaxIdleConns(max(4, 2*runtime.GOMAXPROCS(0)))
	db.reads = &statements{prepare: db.readers.PrepareContext, words: words}
	return db, nil
}

func connectSQLite(c Config, pragmas ...string) (*sql.DB, error) {
	// Else a large transaction wants a temporary file, and a container need not have a place for one.
	query := url.Values{"_pragma": append(pragmas, "temp_store(MEMORY)")}
	name := url.URL{Scheme: "file", OmitHost: true, Path: filepath.ToSlash(c.Path), RawQuery: query.Encode()}
	connector, err := sqlite.NewConnector(name.String())
	if err != nil {
		return nil, err
	}
	if c.Wrap != nil {
		connector = c.Wrap(connector)
	}
	return sql.OpenDB(connector), nil
}

func (db *sqliteDB) view(ctx context.Context, fn func(context.Context, *tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	// A statement takes microseconds: watching ctx in it would cost more than it could save.
	return classify(fn(context.WithoutCancel(ctx), &tx{db.reads.get}))
}

func (db *sqliteDB) lookup(ctx context.Context, q lookup, fn func(context.Context, *tx) (answer, error)) (answer, error) {
	return db.memory.recall(q, func() (found answer, err error) {
		err = db.view(ctx, func(ctx context.Context, t *tx) error {
			found, err = fn(ctx, t)
			return err
		})
		return found, err
	})
}

func (db *sqliteDB) snapshot(ctx context.Context, fn func(context.Context, *tx) error) error {
	reading, err := db.readers.BeginTx(ctx, nil)
	if err != nil {
		return classify(err)
	}
	err = fn(ctx, &tx{(&statements{prepare: reading.PrepareContext, words: db.reads.words}).get})
	return classify(errors.Join(err, reading.Rollback())) // which closes the statements too
}

func (db *sqliteDB) update(ctx context.Context, d durability, fn func(context.Context, *tx) error) error {
	switch d { // there is one writer
	case apart:
		d = relaxed
	case fresh, alone:
		d = durable
	}
	return db.memory.change(func() error { return classify(db.writer.do(ctx, d, fn)) })
}

func (db *sqliteDB) updateInTurn(ctx context.Context, _ []int64, d durability, fn func(context.Context, *tx) error) error {
	return db.update(ctx, d, fn)
}

func (db *sqliteDB) updateOne(ctx context.Context, fn func(context.Context, *tx) error) error {
	return db.update(ctx, apart, fn)
}

func (db *sqliteDB) audits() []string {
	return []string{
		`SELECT integrity_check FROM pragma_integrity_check WHERE integrity_check <> 'ok'`,
		`SELECT 'a row of ' || "table" || ' references a missing row of ' || parent FROM pragma_foreign_key_check`,
	}
}

func (db *sqliteDB) compounds() bool { return false }

func (db *sqliteDB) shared() bool { return false }

func (db *sqliteDB) close() error {
	var errs []error
	if db.readers != nil {
		errs = append(errs, db.reads.close(), db.readers.Close())
	}
	if db.writer != nil {
		errs = append(errs, db.writer.close())
	}
	return errors.Join(append(errs, db.lock.Close())...)
}

// classify names the errors of SQLite that callers act on.
func classify(err error) error {
	if isNoSpace(err) {
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	return err
}

func isNoSpace(err error) bool {
	var failure *sqlite.Error
	return errors.As(err, &failure) && failure.Code()&0xff == sqlite3.SQLITE_FULL || errors.Is(err, unix.ENOSPC)
}

func isFailedSync(err error) bool {
	var failure *sqlite.Error
	return errors.As(err, &failure) && failure.Code() == sqlite3.SQLITE_IOERR_FSYNC
}

// makePrivate makes the database's file if it is missing, for its owner only: it holds hashes of passwords. SQLite gives
// the files beside it the same mode.
func makePrivate(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

// refuseNetworkFilesystem fails on file systems whose locks and shared memory SQLite can't rely on.
func refuseNetworkFilesystem(directory string) error {
	var stat unix.Statfs_t
	if err := unix.Statfs(directory, &stat); err != nil {
		return fmt.Errorf("examine %s: %w", directory, err)
	}
	const nfs, smb, smb2, cifs = 0x6969, 0x517b, 0xfe534d42, 0xff534d42
	switch uint32(stat.Type) {
	case nfs, smb, smb2, cifs:
		return fmt.Errorf("%s is on a network file system, where SQLite loses data: set metadata.sqlite.path to a file on a local disk", directory)
	}
	return nil
}
