package metadata

import (
	"context"
	"database/sql"
	"errors"
	"strconv"
	"time"

	"github.com/opencontainers/go-digest"
)

// Collected says what Collect did.
type Collected struct {
	Reviewed int   // links that were looked at
	Links    int   // that were removed from their repositories
	Blobs    int   // that were in no other repository
	Bytes    int64 // of those blobs
}

// Add adds what another call did.
func (c *Collected) Add(more Collected) {
	c.Reviewed += more.Reviewed
	c.Links += more.Links
	c.Blobs += more.Blobs
	c.Bytes += more.Bytes
}

// Collect reviews up to limit links of which it is time: those that no manifest references and that nobody has leased are removed,
// and blobs that are in no repository then, whose bytes die after Config.Grace. Less than limit were reviewed when there are no more.
// An error means that it did nothing.
func (s *Store) Collect(ctx context.Context, limit int) (done Collected, err error) {
	err = s.db.update(ctx, relaxed, func(ctx context.Context, t *tx) error {
		done = Collected{}
		due, err := collect(ctx, t, scanCandidate,
			`SELECT repository, digest FROM gc_queue WHERE review_after <= {now} ORDER BY review_after LIMIT $1 {skip locked}`, limit)
		if err != nil {
			return err
		}
		for _, c := range due {
			if err := s.review(ctx, t, c, &done); err != nil {
				return err
			}
		}
		return nil
	})
	return done, err
}

// candidate is a link in the collector's queue.
type candidate struct {
	repository int64
	digest     sqlDigest
}

func scanCandidate(row scanner) (c candidate, err error) {
	err = row.Scan(&c.repository, &c.digest)
	return c, err
}

// review decides about a link. What it decides upon can't change before the transaction commits.
func (s *Store) review(ctx context.Context, t *tx, c candidate, done *Collected) error {
	done.Reviewed++
	var left int64
	var referenced, kept bool
	err := t.row(ctx, `
		SELECT l.leased_until - {now},
		  EXISTS (SELECT 1 FROM manifest_blobs e JOIN manifests m ON m.id = e.manifest
		    WHERE e.repository = l.repository AND e.linked = l.digest AND m.deleted_at IS NULL),
		  EXISTS (SELECT 1 FROM manifest_blobs e WHERE e.repository = l.repository AND e.linked = l.digest)
		FROM repository_blobs l WHERE l.repository = $1 AND l.digest = $2`, c.repository, c.digest).Scan(&left, &referenced, &kept)
	forget := func() error {
		_, err := t.exec(ctx, `DELETE FROM gc_queue WHERE repository = $1 AND digest = $2`, c.repository, c.digest)
		return err
	}
	switch {
	case errors.Is(err, sql.ErrNoRows), err == nil && referenced:
		return forget()
	case err != nil:
		return err
	case left > 0:
		_, err := t.exec(ctx, `UPDATE gc_queue SET review_after = {now} + $3 WHERE repository = $1 AND digest = $2`, c.repository, c.digest, left)
		return err
	}
	if kept { // for the trash, which sees to it later: nobody else does any more
		_, err := t.exec(ctx, `UPDATE repository_blobs SET deleted_at = {now} WHERE repository = $1 AND digest = $2 AND deleted_at IS NULL`,
			c.repository, c.digest)
		if err != nil {
			return err
		}
		return forget()
	}
	done.Links++
	size, dropped, err := s.unlink(ctx, t, c.repository, digest.Digest(c.digest))
	if dropped {
		done.Blobs++
		done.Bytes += size
	}
	return err
}

// Names under which it is kept for how long leases and graces were given last, in milliseconds.
const (
	leaseSetting = "gc-lease"
	graceSetting = "gc-grace"
)

// shorten has a Config.Lease and a Config.Grace that are shorter than before count for what is leased and dead already. It costs nothing
// while they are as they were.
func (s *Store) shorten(ctx context.Context) error {
	for _, limit := range []struct {
		name       string
		most       time.Duration
		statements []string
	}{
		{leaseSetting, s.config.Lease, []string{
			`UPDATE repository_blobs SET leased_until = {now} + $1 WHERE leased_until > {now} + $1`,
			`UPDATE gc_queue SET review_after = {now} + $1 WHERE review_after > {now} + $1`,
		}},
		{graceSetting, s.config.Grace, []string{ // keys of uploads wait for late writers
			`UPDATE dead_keys SET delete_after = {now} + $1 WHERE delete_after > {now} + $1 AND stored_at > 0`,
		}},
	} {
		value, err := s.Setting(ctx, limit.name)
		if err != nil {
			return err
		}
		before, _ := strconv.ParseInt(string(value), 10, 64) // nothing was noted yet where it is no number
		now := limit.most.Milliseconds()
		if before == now {
			continue
		}
		err = s.db.update(ctx, relaxed, func(ctx context.Context, t *tx) error {
			if before > now {
				for _, statement := range limit.statements {
					if _, err := t.exec(ctx, statement, now); err != nil {
						return err
					}
				}
			}
			return setSetting(ctx, t, limit.name, strconv.AppendInt(nil, now, 10))
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// pausedSetting is the name under which it is kept that collecting is paused.
const pausedSetting = "gc-paused"

// Pause has all servers of the database collect and delete nothing, until it is called with false.
func (s *Store) Pause(ctx context.Context, paused bool) error {
	return s.SetSetting(ctx, pausedSetting, strconv.AppendBool(nil, paused))
}

// Paused says whether that is so.
func (s *Store) Paused(ctx context.Context) (bool, error) {
	value, err := s.Setting(ctx, pausedSetting)
	return string(value) == "true", err
}

// Queue is what waits for the collector and the reaper.
type Queue struct {
	// Links are those in the queue, Due those of which it is time, and Oldest is since when.
	Links, Due int64
	Oldest     time.Time
	// DeadKeys are those whose bytes are not deleted yet, and Next is when the next of them may be.
	DeadKeys int64
	Next     time.Time
	// Unused and UnusedBytes are the blobs that no manifest references in any repository and nobody has leased, with their bytes.
	Unused, UnusedBytes int64
}

// Queue counts what waits.
func (s *Store) Queue(ctx context.Context) (q Queue, err error) {
	err = s.db.snapshot(ctx, func(ctx context.Context, t *tx) error {
		var oldest, next sql.NullInt64
		err := t.row(ctx, `
			SELECT (SELECT count(*) FROM gc_queue), (SELECT count(*) FROM gc_queue WHERE review_after <= {now}),
			  (SELECT min(review_after) FROM gc_queue WHERE review_after <= {now}),
			  (SELECT count(*) FROM dead_keys), (SELECT min(delete_after) FROM dead_keys)`).
			Scan(&q.Links, &q.Due, &oldest, &q.DeadKeys, &next)
		if err != nil {
			return err
		}
		q.Oldest, q.Next = sqlTime(oldest), sqlTime(next)
		return t.row(ctx, `
			SELECT count(*), coalesce(sum(size), 0) FROM (
			  SELECT b.digest, min(b.size) AS size
			  FROM gc_queue q
			  JOIN repository_blobs l ON l.repository = q.repository AND l.digest = q.digest
			  JOIN blobs b ON b.digest = l.digest
			  WHERE q.review_after <= {now} AND l.leased_until <= {now}
			    AND NOT EXISTS (SELECT 1 FROM manifest_blobs e WHERE e.repository = l.repository AND e.linked = l.digest)
			    AND NOT EXISTS (
			      SELECT 1 FROM repository_blobs o WHERE o.digest = l.digest AND (o.leased_until > {now}
			        OR EXISTS (SELECT 1 FROM manifest_blobs e WHERE e.repository = o.repository AND e.linked = o.digest)))
			  GROUP BY b.digest) AS unused`).Scan(&q.Unused, &q.UnusedBytes)
	})
	return q, err
}

func sqlTime(ms sql.NullInt64) time.Time {
	if !ms.Valid {
		return time.Time{}
	}
	return time.UnixMilli(ms.Int64)
}

// UntaggedManifest is one that no tag points to, that no index lists, and that describes nothing which is there.
type UntaggedManifest struct {
	Repository string
	Digest     digest.Digest
	id         int64
	repository int64
}

// DeleteUntagged removes up to limit manifests that no tag points to, that no index lists, and that describe nothing which is there,
// unless they were pushed in the last Config.Lease: what is being pushed has no tag yet. What the trash keeps counts as if it were
// there, and for Config.Trash a tag that was moved or deleted counts, too. It returns what it removed; dry removes nothing, and returns those
// after the one that is given.
func (s *Store) DeleteUntagged(ctx context.Context, dry bool, how Deletion, after UntaggedManifest, limit int) (removed []UntaggedManifest, err error) {
	scan := func(row scanner) (m UntaggedManifest, err error) {
		var d sqlDigest
		err = row.Scan(&m.id, &m.repository, &m.Repository, &d)
		m.Digest = digest.Digest(d)
		return m, err
	}
	run := func(ctx context.Context, t *tx) error {
		removed, err = collect(ctx, t, scan, `
			SELECT m.id, m.repository, r.name, m.digest FROM manifests m JOIN repositories r ON r.id = m.repository
			WHERE m.id > $3 AND m.pushed_at <= {now} - $1 AND m.deleted_at IS NULL
			  AND NOT EXISTS (SELECT 1 FROM tags t WHERE t.manifest = m.id)
			  AND NOT EXISTS (SELECT 1 FROM tag_history h
			    WHERE h.repository = m.repository AND h.digest = m.digest AND h.ended_at > {now} - $4)
			  AND NOT EXISTS (SELECT 1 FROM manifest_children c WHERE c.child = m.id)
			  AND (m.subject IS NULL OR NOT EXISTS (
			    SELECT 1 FROM manifests s WHERE s.repository = m.repository AND s.digest = m.subject))
			ORDER BY m.id LIMIT $2`, s.config.Lease.Milliseconds(), limit, after.id, s.config.Trash.Milliseconds())
		if err != nil || dry {
			return err
		}
		for _, m := range removed {
			if err := s.discard(ctx, t, m.repository, m.id, how); err != nil {
				return err
			}
		}
		return nil
	}
	if dry {
		err = s.db.view(ctx, run)
	} else {
		err = s.db.update(ctx, durable, run)
	}
	return removed, err
}
