package metadata

import (
	"context"

	"github.com/opencontainers/go-digest"
)

// CommitUpload turns a session that was claimed, or that is Unclaimed, into the blob d of u.Size bytes and links it in the session's
// repository. The bytes have to be durable under u.Key, or to be u.Content, which gets another key, unless d is u.Pinned. When the blob exists already, the key dies, and so does
// u.Left. A blob that is quarantined takes the key in place of its own, which dies. It fails with ErrSuperseded, with a QuotaError,
// and with ErrQuarantined when d is u.Pinned and was quarantined since: its bytes are wanted now.
func (s *Store) CommitUpload(ctx context.Context, u Upload, d digest.Digest) error {
	if u.Key != "" && u.Pinned == "" && u.Left == "" && !u.changesSmall() && s.db.compounds() {
		return s.commitAtOnce(ctx, u, d)
	}
	if err := s.openKeys(ctx); err != nil {
		return err
	}
	return s.grow(ctx, u.Repository, durable, func(ctx context.Context, t *tx) error {
		repository, err := finishUpload(ctx, t, u, d)
		if err != nil {
			return err
		}
		if err := s.settleKey(ctx, t, u, d); err != nil {
			return err
		}
		if u.Left != "" {
			if err := bury(ctx, t, u.Left, lateWriter); err != nil {
				return err
			}
		}
		if err := s.link(ctx, t, repository, d); err != nil || u.Pinned == "" {
			return err
		}
		return s.dropUnused(ctx, t, u.Pinned) // it may have been deleted meanwhile, and d need not be it
	})
}

// commitAtOnce is what CommitUpload does where nothing was pinned or left, in one statement: with a database behind a network, the way
// there and back takes longer than the work.
//
// It is not serializable, as other updates are: of pushes at the same time, a good part would meet others in the pages of an index and be
// repeated. What it decides upon is held by unique and foreign keys, or is the row of the upload. What neither holds are manifests that come
// to wait for the blob meanwhile: whoever makes such an edge locks the blob's place in the collector's queue, and so does this, before
// fill_edges looks for them (see insertBlobEdges).
//
// What the last line needs is done first: upload, queue, link, edges. That is the order in which the collector locks them, too. The blob is made
// after them, and foreign keys are checked at the end. A quarantine of the blob that commits after this began counts as one that came after it.
func (s *Store) commitAtOnce(ctx context.Context, u Upload, d digest.Digest) error {
	c := orNone(u.Config)
	return s.growAtOnce(ctx, u.Repository, func(ctx context.Context, t *tx) error {
		var finished int
		err := t.row(ctx, `
			WITH finished AS (
			  UPDATE uploads SET key = NULL, spare = NULL, state = NULL, hash_state = NULL, config = NULL,
			    size = $3, committed = $4, expires_at = {now} + $5
			  WHERE id = $1 AND epoch = $2 AND committed IS NULL AND (size = $3 AND key = $6 OR NOT $13)
			  RETURNING repository
			), damaged AS (
			  SELECT b.key, b.stored_at FROM blobs b
			  WHERE b.digest = $4 AND b.quarantined_at IS NOT NULL AND EXISTS (SELECT 1 FROM finished)
			  FOR UPDATE
			), replaced AS (
			  INSERT INTO dead_keys (key, delete_after, died_at, stored_at)
			  SELECT key, {now} + $12, {now}, stored_at FROM damaged
			), made AS (
			  INSERT INTO blobs (digest, key, size, os, architecture, variant, created, stored_at)
			  SELECT $4, $6, $3, $7, $8, $9, $10, {now} FROM finished
			  ON CONFLICT (digest) DO UPDATE SET key = excluded.key, size = excluded.size, os = excluded.os, architecture = excluded.architecture,
			    variant = excluded.variant, created = excluded.created, stored_at = excluded.stored_at, quarantined_at = NULL
			  WHERE blobs.key IN (SELECT key FROM damaged)
			  RETURNING digest
			), buried AS (
			  INSERT INTO dead_keys (key, delete_after, died_at)
			  SELECT $6, {now}, {now} FROM finished WHERE NOT EXISTS (SELECT 1 FROM made)
			), queued AS (
			  INSERT INTO gc_queue (repository, digest, review_after, version)
			  SELECT repository, $4, {now} + $11, 1 FROM finished
			  ON CONFLICT (repository, digest) DO UPDATE SET review_after = excluded.review_after, version = gc_queue.version + 1
			  RETURNING repository
			), linked AS (
			  INSERT INTO repository_blobs (repository, digest, leased_until)
			  SELECT repository, $4, {now} + $11 FROM queued
			  ON CONFLICT (repository, digest) DO UPDATE SET leased_until = excluded.leased_until, deleted_at = NULL
			  RETURNING repository
			)
			SELECT count(*) FROM (SELECT fill_edges(repository, $4) FROM linked OFFSET 0) AS filled`,
			u.ID, u.Epoch, u.Size, sqlDigest(d), finishedUploadStays.Milliseconds(), u.Key,
			nullable(c.OS), nullable(c.Architecture), nullable(c.Variant), millis(c.Created), s.config.Lease.Milliseconds(),
			s.config.Grace.Milliseconds(), u.Unclaimed).Scan(&finished)
		if err == nil && finished == 0 {
			err = ErrSuperseded
		}
		return err
	})
}

// CommitWhole is KeepUpload and CommitUpload in one, for a session of which only the caller knew and whose bytes are u.Content. It
// fails with ErrSuperseded when the session was recorded already, but for one that was committed as d: then it succeeds again. It fails
// with a QuotaError.
func (s *Store) CommitWhole(ctx context.Context, u Upload, d digest.Digest) error {
	if err := s.openKeys(ctx); err != nil {
		return err
	}
	return s.grow(ctx, u.Repository, durable, func(ctx context.Context, t *tx) error {
		repository, err := s.makeRepository(ctx, t, u.Repository)
		if err != nil {
			return err
		}
		n, err := t.exec(ctx, `
			INSERT INTO uploads (id, repository, epoch, size, algorithm, committed, started_at, expires_at)
			VALUES ($1, $2, 1, $3, $4, $5, {now}, {now} + $6)
			ON CONFLICT (id) DO UPDATE SET expires_at = excluded.expires_at
			WHERE uploads.committed = excluded.committed AND uploads.repository = excluded.repository`,
			u.ID, repository, u.Size, string(u.Algorithm), sqlDigest(d), finishedUploadStays.Milliseconds())
		if err != nil {
			return err
		}
		if n == 0 {
			return ErrSuperseded
		}
		u.Key = s.keys.next()
		if _, err := s.makeBlob(ctx, t, u, d); err != nil { // a key that it does not need nobody ever saw
			return err
		}
		return s.link(ctx, t, repository, d)
	})
}

// settleKey gives a finished upload's key to the blob d, or buries it when that blob has its bytes elsewhere.
func (s *Store) settleKey(ctx context.Context, t *tx, u Upload, d digest.Digest) error {
	if u.Pinned != "" && u.Pinned == d {
		if err := refuseQuarantined(ctx, t, d); err != nil || u.Key == "" {
			return err
		}
		return bury(ctx, t, u.Key, 0)
	}
	if u.Key == "" {
		return nil
	}
	key := u.Key
	if u.Content != nil { // there may be a file under its key, of an attempt that failed
		u.Key = s.keys.next()
	}
	made, err := s.makeBlob(ctx, t, u, d)
	if err == nil && (!made || key != u.Key) {
		err = bury(ctx, t, key, 0)
	}
	return err
}

// finishUpload marks a session as finished, which frees its key, and returns the id of its repository.
func finishUpload(ctx context.Context, t *tx, u Upload, d digest.Digest) (repository int64, err error) {
	err = t.row(ctx, `
		UPDATE uploads SET key = NULL, spare = NULL, state = NULL, hash_state = NULL, config = NULL, pinned_digest = NULL,
		  size = $3, committed = $4, expires_at = {now} + $5
		WHERE id = $1 AND epoch = $2 AND committed IS NULL AND (size = $3 AND key = $6 OR NOT $7)
		RETURNING repository`,
		u.ID, u.Epoch, u.Size, sqlDigest(d), finishedUploadStays.Milliseconds(), u.Key, u.Unclaimed).Scan(&repository)
	if found(err) == ErrNotFound {
		return 0, ErrSuperseded
	}
	return repository, err
}

// makeBlob records the bytes of an upload as the blob d, unless that blob is there and not quarantined, and reports whether it did.
func (s *Store) makeBlob(ctx context.Context, t *tx, u Upload, d digest.Digest) (made bool, err error) {
	c := orNone(u.Config)
	if err := s.replaceDamaged(ctx, t, d); err != nil {
		return false, err
	}
	n, err := t.exec(ctx, `
		INSERT INTO blobs (digest, key, size, os, architecture, variant, created, stored_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, {now})
		ON CONFLICT (digest) DO UPDATE SET key = excluded.key, size = excluded.size, os = excluded.os, architecture = excluded.architecture,
		  variant = excluded.variant, created = excluded.created, stored_at = excluded.stored_at, quarantined_at = NULL
		WHERE blobs.quarantined_at IS NOT NULL`,
		sqlDigest(d), u.Key, u.Size, nullable(c.OS), nullable(c.Architecture), nullable(c.Variant), millis(c.Created))
	if err != nil || n == 0 {
		return false, err
	}
	return true, keepSmall(ctx, t, u)
}
