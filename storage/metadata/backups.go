package metadata

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
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

// WriteSnapshot writes the facts as they are at one moment into a new file. Others go on reading and writing meanwhile. It fails with
// ErrNoSnapshots.
func (s *Store) WriteSnapshot(ctx context.Context, path string) error {
	if s.db.shared() {
		return ErrNoSnapshots
	}
	if err := makePrivate(path); err != nil {
		return err
	}
	db, err := connectSQLite(Config{Path: s.config.Path}, "busy_timeout(10000)") // those that only read may not write a copy either
	if err != nil {
		return err
	}
	_, err = db.ExecContext(ctx, `VACUUM INTO ?`, path)
	return classify(errors.Join(err, db.Close()))
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
	text, _, _ := strings.Cut(strings.TrimPrefix(name, BackupPrefix), "-")
	at, err := time.Parse(backupTime, text)
	if err != nil {
		return fmt.Errorf("%s is not the name of a snapshot", name)
	}
	return s.db.update(ctx, durable, func(ctx context.Context, t *tx) error {
		_, err := t.exec(ctx, `
			INSERT INTO backups (name, started_at, finished_at, size) VALUES ($1, $2, $3, $4)
			ON CONFLICT (name) DO UPDATE SET finished_at = coalesce(backups.finished_at, excluded.finished_at), size = excluded.size`,
			name, at.Add(-time.Minute).UnixMilli(), at.Add(time.Hour).UnixMilli(), size) // it may have taken so long, and clocks differ
		return err
	})
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

// CheckSnapshot fails unless a file is a whole SQLite database with facts.
func CheckSnapshot(ctx context.Context, path string) error {
	if _, err := os.Stat(path); err != nil {
		return err
	}
	db, err := connectSQLite(Config{Path: path}, "query_only(1)")
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
	return nil
}
