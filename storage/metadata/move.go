package metadata

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
)

// tables are all that are moved, each after those that it references: snapshots of SQLite end with it. What quotas count is counted anew.
var tables = []string{
	"repositories", "blobs", "small_objects", "repository_blobs", "manifests", "manifest_bodies", "manifest_blobs", "manifest_children", "tags",
	"tag_history", "uploads", "dead_keys", "generations", "gc_queue", "settings", "robots",
}

// movedSetting is the name under which an SQLite database says that its facts were moved away.
const movedSetting = "moved"

// ErrMoved says that an SQLite database is not the registry's any more, since its facts were moved to PostgreSQL.
var ErrMoved = errors.New("its facts were moved to PostgreSQL")

// MoveProgress says how far Move is.
type MoveProgress struct {
	Table string // that is copied now
	Rows  int64  // that were copied of all tables
	Total int64  // rows of all tables
}

// Move copies the facts of the SQLite database at path to the PostgreSQL database of a DSN, checks that all are there and agree, and
// then marks the SQLite database as moved, so that no registry is started on it by mistake. Until then the PostgreSQL database
// is as it was: a move that failed can be repeated. It fails when a registry has the SQLite database open, and when
// the PostgreSQL database has facts of another.
func Move(ctx context.Context, path, dsn string, progress func(MoveProgress)) (rows int64, err error) {
	source, err := openSQLite(ctx, Config{Path: path}.withDefaults())
	if err != nil {
		return 0, fmt.Errorf("open metadata %s: %w", path, classify(err))
	}
	defer func() { err = errors.Join(err, source.close()) }()
	target, err := openPostgres(ctx, Config{DSN: dsn}.withDefaults())
	if err != nil {
		return 0, fmt.Errorf("open metadata in PostgreSQL: %w", classifyPostgres(err))
	}
	defer func() { err = errors.Join(err, target.close()) }()
	m := move{source: source.readers, progress: progress}
	if err := m.count(ctx); err != nil {
		return 0, err
	}
	err = target.raw(ctx, func(connection *pgx.Conn) error {
		return pgx.BeginFunc(ctx, connection, func(t pgx.Tx) error { return m.copy(ctx, t) })
	})
	if err != nil {
		return 0, fmt.Errorf("copy to PostgreSQL: %w", err)
	}
	err = source.update(ctx, durable, func(ctx context.Context, t *tx) error { return setSetting(ctx, t, movedSetting, []byte("1")) })
	return m.done.Total, err
}

// raw lends the driver's own connection.
func (db *postgresDB) raw(ctx context.Context, fn func(*pgx.Conn) error) error {
	connection, err := db.pool.Conn(ctx)
	if err != nil {
		return err
	}
	defer connection.Close()
	return connection.Raw(func(driver any) error { return fn(driver.(*stdlib.Conn).Conn()) })
}

// move copies tables.
type move struct {
	source   *sql.DB
	progress func(MoveProgress)
	counts   map[string]int64
	done     MoveProgress
}

// count looks how many rows there are, and that they were not moved before.
func (m *move) count(ctx context.Context) error {
	m.counts = make(map[string]int64)
	for _, table := range tables {
		var n int64
		if err := m.source.QueryRowContext(ctx, `SELECT count(*) FROM `+table).Scan(&n); err != nil {
			return err
		}
		m.counts[table], m.done.Total = n, m.done.Total+n
	}
	return refuseMoved(ctx, m.source)
}

func (m *move) copy(ctx context.Context, t pgx.Tx) error {
	// What is done here takes as long as it takes.
	if _, err := t.Exec(ctx, `SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0`); err != nil {
		return err
	}
	if err := empty(ctx, t); err != nil {
		return err
	}
	for _, table := range tables {
		m.done.Table = table
		if err := m.copyTable(ctx, t, table); err != nil {
			return fmt.Errorf("table %s: %w", table, err)
		}
	}
	for _, table := range []string{"repositories", "manifests", "tag_history"} { // whose ids go on where they were
		_, err := t.Exec(ctx, `SELECT setval(pg_get_serial_sequence('`+table+`', 'id'), (SELECT coalesce(max(id), 0) + 1 FROM `+table+`), false)`)
		if err != nil {
			return err
		}
	}
	return m.verify(ctx, t)
}

// empty makes room in a database that has nothing but what the start of a server leaves.
func empty(ctx context.Context, t pgx.Tx) error {
	var used, running bool
	err := t.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM repositories) OR EXISTS (SELECT 1 FROM blobs) OR EXISTS (SELECT 1 FROM robots),
		EXISTS (SELECT 1 FROM generations WHERE closed_at IS NULL AND seen_at > EXTRACT(EPOCH FROM statement_timestamp()) * 1000 - $1)`,
		silent.Milliseconds()).Scan(&used, &running)
	switch {
	case err != nil:
		return err
	case used:
		return errors.New("the database has facts of a registry already: name an empty one")
	case running:
		return fmt.Errorf("a registry was started on the database: stop it, or, when it was killed, wait until it was silent for %s", silent)
	}
	_, err = t.Exec(ctx, `TRUNCATE `+strings.Join(tables, ", "))
	return err
}

func (m *move) copyTable(ctx context.Context, t pgx.Tx, table string) error {
	rows, err := m.source.QueryContext(ctx, `SELECT * FROM `+table)
	if err != nil {
		return err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return err
	}
	values, into := make([]any, len(columns)), make([]any, len(columns))
	for i := range values {
		into[i] = &values[i]
	}
	_, err = t.CopyFrom(ctx, pgx.Identifier{table}, columns, pgx.CopyFromFunc(func() ([]any, error) {
		if !rows.Next() {
			return nil, rows.Err()
		}
		if m.done.Rows++; m.progress != nil && m.done.Rows%1000 == 0 {
			m.progress(m.done)
		}
		err := rows.Scan(into...)
		for i, v := range values {
			if b, ok := v.([]byte); ok && b == nil { // the one driver's word for no bytes, and the other's for NULL
				values[i] = []byte{}
			}
		}
		return values, err
	}))
	return err
}

// verify checks that all rows are there and that they agree.
func (m *move) verify(ctx context.Context, t pgx.Tx) error {
	for _, table := range tables {
		var n int64
		if err := t.QueryRow(ctx, `SELECT count(*) FROM `+table).Scan(&n); err != nil {
			return err
		}
		if n != m.counts[table] {
			return fmt.Errorf("table %s has %d rows of %d", table, n, m.counts[table])
		}
	}
	for _, a := range audits {
		var problem string
		err := t.QueryRow(ctx, a.query+` LIMIT 1`).Scan(&problem)
		if err == nil {
			return fmt.Errorf("the facts contradict each other, which registry fsck tells more of: %s", problem)
		}
		if !errors.Is(err, pgx.ErrNoRows) {
			return err
		}
	}
	return nil
}

// Moved reports whether the facts of the SQLite database at path were moved away.
func Moved(ctx context.Context, path string) (bool, error) {
	db, err := connectSQLite(Config{Path: path}, "query_only(1)", "busy_timeout(10000)")
	if err != nil {
		return false, err
	}
	err = refuseMoved(ctx, db)
	moved := errors.Is(err, ErrMoved)
	if moved {
		err = nil
	}
	return moved, errors.Join(err, db.Close())
}

// refuseMoved fails with ErrMoved when the facts of an SQLite database are elsewhere now.
func refuseMoved(ctx context.Context, db *sql.DB) error {
	var value []byte
	err := db.QueryRowContext(ctx, `SELECT value FROM settings WHERE name = $1`, movedSetting).Scan(&value)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil
	case err != nil:
		return err
	}
	return ErrMoved
}
