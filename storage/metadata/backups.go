package metadata

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// BackupPrefix begins the names of all snapshots, which are keys of the blob store: a restore finds them without any facts.
const BackupPrefix = "backups/"

// backupTime is the form of the time in a name, in UTC.
const backupTime = "20060102T150405.000Z"

// Backup is a snapshot of the facts in the blob store. The bytes of blobs that it names stay while it is kept.
type Backup struct {
	Name    string
	Started time.Time
	// Finished is zero while it is not whole.
	Finished time.Time
	Size     int64 // bytes of the object
}

// ErrNoSnapshots says that the database is not one of a single file. PostgreSQL has backups of its own.
var ErrNoSnapshots = errors.New("only SQLite databases have snapshots")

// StartBackup records that a snapshot is being made, and returns its name.
func (s *Store) StartBackup(ctx context.Context) (name string, err error) {
	name = BackupPrefix + time.Now().UTC().Format(backupTime) + "-" + randomHex(4)
	err = s.db.update(ctx, durable, func(ctx context.Context, t *tx) error {
		_, err := t.exec(ctx, `INSERT INTO backups (name, started_at, size) VALUES ($1, {now}, 0)`, name)
		return err
	})
	return name, err
}

// WriteSnapshot writes the facts as they are at one moment into a new file, except for the settings of the names in without, of which
// no trace is in the file. Others go on reading and writing meanwhile. It fails with ErrNoSnapshots.
func (s *Store) WriteSnapshot(ctx context.Context, path string, without ...string) error {
	if s.db.shared() {
		return ErrNoSnapshots
	}
	if err := copyDatabase(ctx, s.config.Path, path); err != nil {
		return err
	}
	there, err := countSettings(ctx, path, without)
	if err != nil || there == 0 {
		return err
	}
	return omitSettings(ctx, path, without)
}

// copyDatabase writes a database as it is at one moment into a new file.
func copyDatabase(ctx context.Context, from, to string) error {
	if err := makePrivate(to); err != nil {
		return err
	}
	db, err := connectSQLite(Config{Path: from}, "busy_timeout(10000)") // those that only read may not write a copy either
	if err != nil {
		return err
	}
	_, err = db.ExecContext(ctx, `VACUUM INTO ?`, to)
	return classify(errors.Join(err, db.Close()))
}

func countSettings(ctx context.Context, path string, names []string) (n int, err error) {
	db, err := connectSQLite(Config{Path: path}, "query_only(1)")
	if err != nil {
		return 0, err
	}
	for _, name := range names {
		var one int
		err = errors.Join(err, db.QueryRowContext(ctx, `SELECT count(*) FROM settings WHERE name = ?`, name).Scan(&one))
		n += one
	}
	return n, classify(errors.Join(err, db.Close()))
}

// omitSettings makes the database at path anew without some settings: pages of a file keep bytes of what was deleted from it.
func omitSettings(ctx context.Context, path string, names []string) (err error) {
	directory, err := os.MkdirTemp(filepath.Dir(path), ".whole-*") // for its owner only
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(directory)) }()
	whole := filepath.Join(directory, "metadata.sqlite")
	if err := os.Rename(path, whole); err != nil {
		return err
	}
	db, err := connectSQLite(Config{Path: whole})
	if err != nil {
		return err
	}
	for _, name := range names {
		_, failed := db.ExecContext(ctx, `DELETE FROM settings WHERE name = ?`, name)
		err = errors.Join(err, failed)
	}
	if err := classify(errors.Join(err, db.Close())); err != nil {
		return err
	}
	return copyDatabase(ctx, whole, path)
}

// SnapshotBlobs calls fn for each blob that a snapshot names and that was not quarantined, in the order of Blobs, and stops at its first error.
func SnapshotBlobs(ctx context.Context, path string, fn func(Blob) error) (err error) {
	db, err := connectSQLite(Config{Path: path}, "query_only(1)")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	quarantined, kept := `quarantined_at`, inline
	err = db.QueryRowContext(ctx, `SELECT name FROM pragma_table_info('blobs') WHERE name = ?`, quarantined).Scan(&quarantined)
	if errors.Is(err, sql.ErrNoRows) { // an older schema
		quarantined, err = `NULL`, nil
	}
	if err != nil {
		return classify(err)
	}
	if has, err := hasSmallObjects(ctx, db); err != nil {
		return err
	} else if !has {
		kept = `FALSE`
	}
	rows, err := db.QueryContext(ctx, `SELECT digest, key, size, `+quarantined+` AS since, `+kept+` FROM blobs WHERE since IS NULL ORDER BY digest`)
	if err != nil {
		return classify(err)
	}
	defer rows.Close()
	for rows.Next() {
		b, err := scanBlob(rows)
		if err == nil {
			err = fn(b)
		}
		if err != nil {
			return err
		}
	}
	return classify(rows.Err())
}

// hasSmallObjects reports whether a snapshot has the table of small objects: older ones don't. SQLite does not mind in which letters.
func hasSmallObjects(ctx context.Context, db *sql.DB) (has bool, err error) {
	err = db.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE lower(name) = 'small_objects')`).Scan(&has)
	return has, classify(err)
}

// FinishBackup records that a snapshot is whole and durable, with so many bytes.
func (s *Store) FinishBackup(ctx context.Context, name string, size int64) error {
	return s.db.update(ctx, durable, func(ctx context.Context, t *tx) error {
		n, err := t.exec(ctx, `UPDATE backups SET finished_at = {now}, size = $2 WHERE name = $1`, name, size)
		if err == nil && n == 0 {
			err = ErrNotFound
		}
		return err
	})
}

// AdoptBackup records a snapshot that was found in the blob store. Its name says when it was made.
func (s *Store) AdoptBackup(ctx context.Context, name string, size int64) error {
	at, err := backupStarted(name)
	if err != nil {
		return err
	}
	return s.db.update(ctx, durable, func(ctx context.Context, t *tx) error {
		_, err := t.exec(ctx, `
			INSERT INTO backups (name, started_at, finished_at, size) VALUES ($1, $2, $3, $4)
			ON CONFLICT (name) DO UPDATE SET finished_at = coalesce(backups.finished_at, excluded.finished_at), size = excluded.size`,
			name, at.Add(-time.Minute).UnixMilli(), at.Add(time.Hour).UnixMilli(), size) // it may have taken so long, and clocks differ
		return err
	})
}

// IsBackupName reports whether snapshots have such names, with BackupPrefix or without.
func IsBackupName(name string) bool {
	_, err := backupStarted(name)
	return err == nil && !strings.Contains(strings.TrimPrefix(name, BackupPrefix), "/")
}

func backupStarted(name string) (time.Time, error) {
	text, _, ok := strings.Cut(strings.TrimPrefix(name, BackupPrefix), "-")
	at, err := time.Parse(backupTime, text)
	if err != nil || !ok {
		return at, fmt.Errorf("%s is not the name of a snapshot", name)
	}
	return at, nil
}

// ForgetBackup removes a snapshot's row. Its object has to be gone.
func (s *Store) ForgetBackup(ctx context.Context, name string) error {
	return s.db.update(ctx, durable, func(ctx context.Context, t *tx) error {
		_, err := t.exec(ctx, `DELETE FROM backups WHERE name = $1`, name)
		return err
	})
}

// Backups returns all snapshots, the oldest first.
func (s *Store) Backups(ctx context.Context) (all []Backup, err error) {
	scan := func(row scanner) (b Backup, err error) {
		var started int64
		var finished sql.NullInt64
		err = row.Scan(&b.Name, &started, &finished, &b.Size)
		b.Started = time.UnixMilli(started)
		if finished.Valid {
			b.Finished = time.UnixMilli(finished.Int64)
		}
		return b, err
	}
	err = s.db.view(ctx, func(ctx context.Context, t *tx) error {
		all, err = collect(ctx, t, scan, `SELECT name, started_at, finished_at, size FROM backups ORDER BY started_at, name`)
		return err
	})
	return all, err
}

// EndUploads ends all uploads that are not finished: of a snapshot that was restored, since S3 may know them no more.
func (s *Store) EndUploads(ctx context.Context) (ended int64, err error) {
	err = s.db.update(ctx, durable, func(ctx context.Context, t *tx) error {
		ended, err = t.exec(ctx, `UPDATE uploads SET expires_at = 0 WHERE committed IS NULL`)
		return err
	})
	return ended, err
}

// MoveBlob gives a blob another key, that nothing was ever written under, and returns it. The old one is no row's afterwards. It fails
// with ErrNotFound.
func (s *Store) MoveBlob(ctx context.Context, d digest.Digest) (key string, err error) {
	if err := s.openKeys(ctx); err != nil {
		return "", err
	}
	err = s.db.update(ctx, durable, func(ctx context.Context, t *tx) error {
		key = s.keys.next()
		n, err := t.exec(ctx, `UPDATE blobs SET key = $2 WHERE digest = $1`, sqlDigest(d), key)
		if err == nil && n == 0 {
			err = ErrNotFound
		}
		return err
	})
	return key, err
}

// foreign are queries that count what no snapshot has: whoever opens one that does would run it, or read and delete files of other kinds.
var foreign = map[string]string{
	// SQLite takes a 'VIEW' or a 'Trigger' for what it is, too.
	"it has views, or entries of a kind that is unknown": `SELECT count(*) FROM sqlite_schema WHERE coalesce(type, '') NOT IN ('table', 'index', 'trigger')`,
	"it has keys that are no blob's": `SELECT count(*) FROM (
		SELECT key FROM blobs UNION ALL SELECT key FROM dead_keys UNION ALL SELECT prefix FROM generations
		UNION ALL SELECT key FROM uploads WHERE key IS NOT NULL UNION ALL SELECT spare FROM uploads WHERE spare IS NOT NULL) 
		WHERE key NOT GLOB '` + BlobPrefix + `?*' AND key NOT GLOB '` + AdoptedPrefix + `blobs/?*/data'`,
}

// CheckSnapshot fails unless a file is a whole SQLite database with facts.
func CheckSnapshot(ctx context.Context, path string) error {
	if _, err := os.Stat(path); err != nil {
		return err
	}
	db, err := connectSQLite(Config{Path: path}, "query_only(1)", "trusted_schema(0)")
	if err != nil {
		return err
	}
	defer db.Close()
	var problem string
	if err := db.QueryRowContext(ctx, `SELECT integrity_check FROM pragma_integrity_check LIMIT 1`).Scan(&problem); err != nil {
		return fmt.Errorf("it is damaged: %w", err)
	}
	if problem != "ok" {
		return fmt.Errorf("it is damaged: %s", problem)
	}
	var repositories int64
	if err := db.QueryRowContext(ctx, `SELECT count(*) FROM repositories`).Scan(&repositories); err != nil {
		return fmt.Errorf("it has no facts of a registry: %w", err)
	}
	if err := checkTriggers(ctx, db); err != nil {
		return err
	}
	queries := maps.Clone(foreign)
	if kept, err := hasSmallObjects(ctx, db); err != nil {
		return fmt.Errorf("it has no facts of a registry: %w", err)
	} else if kept {
		queries["it keeps bytes under keys that are no blob's"] = `SELECT count(*) FROM small_objects WHERE key NOT GLOB '` + BlobPrefix + `?*'`
	}
	for what, query := range queries {
		var n int64
		if err := db.QueryRowContext(ctx, query).Scan(&n); err != nil {
			return fmt.Errorf("it has no facts of a registry: %w", err)
		}
		if n > 0 {
			return fmt.Errorf("it is no registry's: %s", what)
		}
	}
	return nil
}

// checkTriggers fails when a database has triggers other than those that the schema has, of this version or one before.
func checkTriggers(ctx context.Context, db *sql.DB) error {
	known := make(map[string]bool)
	texts, err := readMigrations(sqliteDialect())
	if err != nil {
		return err
	}
	for _, text := range texts {
		for _, statement := range splitStatements(text.statements) {
			if i := strings.Index(statement, "CREATE TRIGGER"); i >= 0 {
				known[strings.TrimSuffix(statement[i:], ";\n")] = true
			}
		}
	}
	rows, err := db.QueryContext(ctx, `SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'`)
	if err != nil {
		return fmt.Errorf("it has no facts of a registry: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var name, statement string
		if err := rows.Scan(&name, &statement); err != nil {
			return err
		}
		if !known[statement] {
			return fmt.Errorf("it is no registry's: it has a trigger %q of its own", name)
		}
	}
	return rows.Err()
}
