package metadata

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"sync/atomic"
	"time"
)

// BlobPrefix begins the keys of all blobs and uploads.
const BlobPrefix = "blobs/"

// keysPerFolder bounds the entries of a folder that keys name, for file systems and the people who look at them.
const keysPerFolder = 10_000

// keyMaker makes keys that were never used. Each start has a prefix of its own, a generation, which is recorded durably
// before its first key: an unclean stop can take the rows of the newest keys but not the prefix where their bytes lie.
type keyMaker struct {
	prefix string
	made   atomic.Int64
	opened atomic.Bool // the prefix is recorded
}

func newKeyMaker() *keyMaker {
	return &keyMaker{prefix: BlobPrefix + randomHex(4)}
}

// open records the prefix, and that its start is running.
func (k *keyMaker) open(ctx context.Context, t *tx) error {
	_, err := t.exec(ctx, `
		INSERT INTO generations (prefix, opened_at, seen_at) VALUES ($1, {now}, {now})
		ON CONFLICT (prefix) DO UPDATE SET seen_at = excluded.seen_at, closed_at = NULL`, k.prefix)
	return err
}

// openKeys records the prefix of this start's keys, if that was not done yet.
func (s *Store) openKeys(ctx context.Context) error {
	if s.keys.opened.Load() {
		return nil
	}
	err := s.db.update(ctx, durable, s.keys.open)
	if err == nil {
		s.keys.opened.Store(true)
	}
	return err
}

func (k *keyMaker) close(ctx context.Context, t *tx) error {
	return closeGeneration(ctx, t, k.prefix)
}

func closeGeneration(ctx context.Context, t *tx, prefix string) error {
	_, err := t.exec(ctx, `UPDATE generations SET closed_at = {now} WHERE prefix = $1`, prefix)
	return err
}

func (k *keyMaker) next() string {
	folder := (k.made.Add(1) - 1) / keysPerFolder
	return fmt.Sprintf("%s/%04d/%s", k.prefix, folder, randomHex(16))
}

func randomHex(bytes int) string {
	raw := make([]byte, bytes)
	rand.Read(raw) // never fails
	return hex.EncodeToString(raw)
}

// KeepAlive has other processes know that this one runs. It has to be called every few minutes where there may be others.
func (s *Store) KeepAlive(ctx context.Context) error {
	if !s.keys.opened.Load() {
		return nil
	}
	return s.db.update(ctx, relaxed, s.keys.open)
}

// silent is how long a start of another process is taken to be running after it was last seen.
const silent = time.Hour

// UnclosedGenerations returns the key prefixes of earlier starts that did not close the store: there may be bytes under
// them that no row knows. When all of them were found, CloseGeneration says so.
func (s *Store) UnclosedGenerations(ctx context.Context) (prefixes []string, err error) {
	var running time.Duration
	if s.db.shared() {
		running = silent
	}
	err = s.db.view(ctx, func(ctx context.Context, t *tx) error {
		prefixes, err = collect(ctx, t, scanString,
			`SELECT prefix FROM generations WHERE closed_at IS NULL AND prefix <> $1 AND seen_at <= {now} - $2 ORDER BY opened_at`,
			s.keys.prefix, running.Milliseconds())
		return err
	})
	return prefixes, err
}

// CloseGeneration records that every key under a prefix is known.
func (s *Store) CloseGeneration(ctx context.Context, prefix string) error {
	return s.db.update(ctx, durable, func(ctx context.Context, t *tx) error {
		return closeGeneration(ctx, t, prefix)
	})
}

// BuryOrphans puts those of keys that no row knows on the dead list, to be deleted after wait, and returns how many there were. They may
// be those of blobs that a kept snapshot names.
func (s *Store) BuryOrphans(ctx context.Context, keys []string, wait time.Duration) (buried int, err error) {
	err = s.db.update(ctx, durable, func(ctx context.Context, t *tx) error {
		buried = 0
		for _, key := range keys {
			n, err := t.exec(ctx, `
				INSERT INTO dead_keys (key, delete_after, died_at, stored_at)
				SELECT $1, {now} + $2, {now}, 0
				WHERE NOT EXISTS (SELECT 1 FROM blobs WHERE key = $1)
				  AND NOT EXISTS (SELECT 1 FROM uploads WHERE key = $1)
				  AND NOT EXISTS (SELECT 1 FROM uploads WHERE spare = $1)
				  AND NOT EXISTS (SELECT 1 FROM dead_keys WHERE key = $1)
				  AND NOT EXISTS (SELECT 1 FROM backups WHERE name = $1)`, key, wait.Milliseconds())
			if err != nil {
				return err
			}
			buried += int(n)
		}
		return nil
	})
	return buried, err
}

const (
	// claimed is how long a dead key is the caller's who got it from ClaimDeadKeys.
	claimed = 10 * time.Minute
	// kept is how long a dead key waits that a snapshot needs, until it is looked at again.
	kept = time.Hour
	// needed says that a kept snapshot is of a time when a dead key was a blob's.
	needed = `stored_at IS NOT NULL AND EXISTS (
		SELECT 1 FROM backups b WHERE b.started_at <= dead_keys.died_at AND (b.finished_at IS NULL OR b.finished_at >= dead_keys.stored_at))`
)

// ClaimDeadKeys returns up to limit keys whose bytes may be deleted now, and which are the caller's to delete for the next ten minutes:
// others who ask get other ones. No kept snapshot names them.
func (s *Store) ClaimDeadKeys(ctx context.Context, limit int) (keys []string, err error) {
	err = s.db.update(ctx, relaxed, func(ctx context.Context, t *tx) error {
		_, err := t.exec(ctx, `UPDATE dead_keys SET delete_after = {now} + $1 WHERE delete_after <= {now} AND `+needed, kept.Milliseconds())
		if err != nil {
			return err
		}
		keys, err = collect(ctx, t, scanString, `
			SELECT key FROM dead_keys WHERE delete_after <= {now} AND NOT (`+needed+`)
			ORDER BY delete_after LIMIT $1 {skip locked}`, limit)
		if err != nil {
			return err
		}
		return delayKeys(ctx, t, keys, claimed)
	})
	return keys, err
}

// DelayKeys has dead keys wait, because their bytes could not be deleted.
func (s *Store) DelayKeys(ctx context.Context, keys []string, wait time.Duration) error {
	return s.db.update(ctx, relaxed, func(ctx context.Context, t *tx) error { return delayKeys(ctx, t, keys, wait) })
}

func delayKeys(ctx context.Context, t *tx, keys []string, wait time.Duration) error {
	for _, key := range keys {
		if _, err := t.exec(ctx, `UPDATE dead_keys SET delete_after = {now} + $2 WHERE key = $1`, key, wait.Milliseconds()); err != nil {
			return err
		}
	}
	return nil
}

// sweepAgain is how long a dead key waits for its second delete.
const sweepAgain = 10 * time.Minute

// ForgetKeys removes keys from the dead list. Their bytes have to be gone. With Config.WholeObjects a key stays for a second
// delete: a request that was on its way during the first may have made an object after it.
func (s *Store) ForgetKeys(ctx context.Context, keys []string) error {
	return s.db.update(ctx, relaxed, func(ctx context.Context, t *tx) error {
		for _, key := range keys {
			if s.config.WholeObjects {
				n, err := t.exec(ctx, `UPDATE dead_keys SET swept = 1, delete_after = {now} + $2 WHERE key = $1 AND swept = 0`,
					key, sweepAgain.Milliseconds())
				if err != nil {
					return err
				}
				if n > 0 {
					continue
				}
			}
			if _, err := t.exec(ctx, `DELETE FROM dead_keys WHERE key = $1`, key); err != nil {
				return err
			}
		}
		return nil
	})
}

// bury puts a key on the dead list that was no blob's, to be deleted after wait.
func bury(ctx context.Context, t *tx, key string, wait time.Duration) error {
	_, err := t.exec(ctx, `INSERT INTO dead_keys (key, delete_after, died_at) VALUES ($1, {now} + $2, {now})`, key, wait.Milliseconds())
	return err
}
