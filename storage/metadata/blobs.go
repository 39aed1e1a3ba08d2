package metadata

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
)

// Blob is what is known of a blob.
type Blob struct {
	Digest digest.Digest
	Key    string
	Size   int64 // bytes
	// Quarantined is since when it is, and zero when it is not.
	Quarantined time.Time
	// Inline is set by lists of blobs when the bytes are kept here, as a small object.
	Inline bool
}

// ImageConfig is what is kept of a blob that is an image config; the zero value says that a blob is none.
type ImageConfig struct {
	OS           string    `json:"os,omitempty"`
	Architecture string    `json:"architecture,omitempty"`
	Variant      string    `json:"variant,omitempty"`
	Created      time.Time `json:"created,omitzero"`
}

// orNone returns what is known of an image config: nothing of what is none, or of which that is not known.
func orNone(c *ImageConfig) ImageConfig {
	if c == nil {
		return ImageConfig{}
	}
	return *c
}

// Blob returns a blob of a repository. It fails with ErrNotFound, which may be an ErrQuarantined.
func (s *Store) Blob(ctx context.Context, repository string, d digest.Digest) (Blob, error) {
	if err := ctx.Err(); err != nil {
		return Blob{}, err
	}
	found, err := s.db.lookup(ctx, lookup{repository: repository, digest: sqlDigest(d), blob: true}, func(ctx context.Context, t *tx) (a answer, err error) {
		a.blob, _, err = queryBlob(ctx, t, repository, d)
		return a, err
	})
	return found.blob, err
}

// LeaseBlob returns a blob of a repository and makes sure that it stays there for at least half of Config.Lease. It
// fails with ErrNotFound, which may be an ErrQuarantined.
func (s *Store) LeaseBlob(ctx context.Context, repository string, d digest.Digest) (Blob, error) {
	b, left, err := s.blob(ctx, repository, d)
	if err != nil || left > s.config.Lease/2 {
		return b, err
	}
	err = s.db.update(ctx, relaxed, func(ctx context.Context, t *tx) error {
		id, err := repositoryID(ctx, t, repository)
		if err != nil {
			return err
		}
		linked, err := t.exists(ctx, `SELECT 1 FROM repository_blobs WHERE repository = $1 AND digest = $2 AND deleted_at IS NULL`, id, sqlDigest(d))
		if err != nil {
			return err
		}
		if !linked {
			return ErrNotFound
		}
		return s.link(ctx, t, id, d)
	})
	if errors.Is(err, ErrNoSpace) && left > 0 {
		err = nil // reads go on when the disk is full, and the lease is live
	}
	return b, err
}

// blob returns a blob that is not quarantined, and how much of its lease is left.
func (s *Store) blob(ctx context.Context, repository string, d digest.Digest) (b Blob, left time.Duration, err error) {
	err = s.db.view(ctx, func(ctx context.Context, t *tx) error {
		b, left, err = queryBlob(ctx, t, repository, d)
		return err
	})
	return b, left, err
}

func queryBlob(ctx context.Context, t *tx, repository string, d digest.Digest) (Blob, time.Duration, error) {
	b := Blob{Digest: d}
	var leased int64
	var quarantined bool
	err := found(t.row(ctx, `
		SELECT b.key, b.size, l.leased_until - {now}, b.quarantined_at IS NOT NULL
		FROM repositories r
		JOIN repository_blobs l ON l.repository = r.id AND l.digest = $2 AND l.deleted_at IS NULL
		JOIN blobs b ON b.digest = l.digest
		WHERE r.name = $1`, repository, sqlDigest(d)).Scan(&b.Key, &b.Size, &leased, &quarantined))
	if err == nil && quarantined {
		return Blob{}, 0, ErrQuarantined
	}
	return b, time.Duration(leased) * time.Millisecond, err
}

// BlobRepositories returns up to limit repositories that have a blob, quarantined or not, sorted, beginning after last.
func (s *Store) BlobRepositories(ctx context.Context, d digest.Digest, last string, limit int) (names []string, err error) {
	err = s.db.view(ctx, func(ctx context.Context, t *tx) error {
		names, err = collect(ctx, t, scanString, `
			SELECT r.name
			FROM repository_blobs l JOIN repositories r ON r.id = l.repository
			WHERE l.digest = $1 AND r.name > $2 AND l.deleted_at IS NULL
			ORDER BY r.name LIMIT $3`, sqlDigest(d), last, limit)
		return err
	})
	return names, err
}

// MountBlob makes a blob of one repository appear in another, which is made if missing. It fails with ErrNotFound when
// from does not have it, or it is quarantined, and with a QuotaError.
func (s *Store) MountBlob(ctx context.Context, repository, from string, d digest.Digest) error {
	return s.grow(ctx, repository, durable, func(ctx context.Context, t *tx) error {
		source, err := t.exists(ctx, `
			SELECT 1 FROM repositories r
			JOIN repository_blobs l ON l.repository = r.id
			JOIN blobs b ON b.digest = l.digest
			WHERE r.name = $1 AND l.digest = $2 AND l.deleted_at IS NULL AND b.quarantined_at IS NULL`, from, sqlDigest(d))
		if err != nil {
			return err
		}
		if !source {
			return ErrNotFound
		}
		id, err := s.makeRepository(ctx, t, repository)
		if err != nil {
			return err
		}
		return s.link(ctx, t, id, d)
	})
}

// InUseError says which manifests keep something from being deleted.
type InUseError struct {
	By []digest.Digest
}

// Error names the first of them.
func (e *InUseError) Error() string {
	return fmt.Sprintf("needed by %d manifests, %s among them", len(e.By), e.By[0])
}

// DeleteBlob removes a blob from a repository, and the blob itself when it was in no other: its bytes die after
// Config.Grace. What only manifests in the trash reference goes there too. It fails with ErrNotFound, and with an InUseError while
// manifests of the repository reference it.
func (s *Store) DeleteBlob(ctx context.Context, repository string, d digest.Digest) error {
	return s.db.update(ctx, durable, func(ctx context.Context, t *tx) error {
		id, err := repositoryID(ctx, t, repository)
		if err != nil {
			return err
		}
		users, err := collect(ctx, t, scanDigest, `
			SELECT DISTINCT m.digest FROM manifest_blobs e JOIN manifests m ON m.id = e.manifest
			WHERE e.repository = $1 AND e.linked = $2 AND m.deleted_at IS NULL ORDER BY m.digest LIMIT 10`, id, sqlDigest(d))
		if err != nil {
			return err
		}
		if len(users) > 0 {
			return &InUseError{By: digests(users)}
		}
		hidden, err := hide(ctx, t, id, d)
		if err == nil && !hidden {
			_, _, err = s.unlink(ctx, t, id, d)
		}
		return err
	})
}

// link makes a blob visible in a repository, under a full lease, and queues the link for the collector's review. The
// blob has to exist. Edges of manifests that wait for it are filled.
func (s *Store) link(ctx context.Context, t *tx, repository int64, d digest.Digest) error {
	if err := queueReview(ctx, t, repository, d, s.config.Lease); err != nil { // first, as the collector does: both lock these rows
		return err
	}
	_, err := t.exec(ctx, `
		INSERT INTO repository_blobs (repository, digest, leased_until) VALUES ($1, $2, {now} + $3)
		ON CONFLICT (repository, digest) DO UPDATE SET leased_until = excluded.leased_until, deleted_at = NULL`,
		repository, sqlDigest(d), s.config.Lease.Milliseconds())
	if err != nil {
		return err
	}
	_, err = t.exec(ctx, `UPDATE manifest_blobs SET linked = digest WHERE repository = $1 AND digest = $2 AND linked IS NULL`,
		repository, sqlDigest(d))
	return err
}

// queueReview has the collector look at a link after wait.
func queueReview(ctx context.Context, t *tx, repository int64, d digest.Digest, wait time.Duration) error {
	_, err := t.exec(ctx, `
		INSERT INTO gc_queue (repository, digest, review_after, version) VALUES ($1, $2, {now} + $3, 1)
		ON CONFLICT (repository, digest) DO UPDATE SET review_after = excluded.review_after, version = gc_queue.version + 1`,
		repository, sqlDigest(d), wait.Milliseconds())
	return err
}

// hide makes a blob invisible in a repository that manifests in the trash reference and no others, and reports whether there are such.
// It fails with ErrNotFound when the blob is not visible.
func hide(ctx context.Context, t *tx, repository int64, d digest.Digest) (bool, error) {
	visible, err := t.exists(ctx, `SELECT 1 FROM repository_blobs WHERE repository = $1 AND digest = $2 AND deleted_at IS NULL`,
		repository, sqlDigest(d))
	if err == nil && !visible {
		err = ErrNotFound
	}
	if err != nil {
		return false, err
	}
	n, err := t.exec(ctx, `
		UPDATE repository_blobs SET deleted_at = {now}
		WHERE repository = $1 AND digest = $2
		  AND EXISTS (SELECT 1 FROM manifest_blobs WHERE repository = $1 AND linked = $2)`, repository, sqlDigest(d))
	return n > 0, err
}

// unlink removes a link, with the blob of so many bytes when this was its last one. It fails with ErrNotFound.
func (s *Store) unlink(ctx context.Context, t *tx, repository int64, d digest.Digest) (size int64, dropped bool, err error) {
	// The queue first, as link and commitAtOnce lock these rows: the other way round, a delete and a push of one blob end in a deadlock.
	if _, err := t.exec(ctx, `DELETE FROM gc_queue WHERE repository = $1 AND digest = $2`, repository, sqlDigest(d)); err != nil {
		return 0, false, err
	}
	n, err := t.exec(ctx, `DELETE FROM repository_blobs WHERE repository = $1 AND digest = $2`, repository, sqlDigest(d))
	if err != nil {
		return 0, false, err
	}
	if n == 0 {
		return 0, false, ErrNotFound
	}
	return s.drop(ctx, t, d)
}

// dropUnused removes a blob that no repository has and no upload pins. Its key dies after the grace.
func (s *Store) dropUnused(ctx context.Context, t *tx, d digest.Digest) error {
	_, _, err := s.drop(ctx, t, d)
	return err
}

// drop is dropUnused, and says whether it removed the blob, and how many bytes that has.
func (s *Store) drop(ctx context.Context, t *tx, d digest.Digest) (size int64, dropped bool, err error) {
	var key string
	var stored int64
	err = t.row(ctx, `
		DELETE FROM blobs WHERE digest = $1
		  AND NOT EXISTS (SELECT 1 FROM repository_blobs WHERE digest = $1)
		  AND NOT EXISTS (SELECT 1 FROM uploads WHERE pinned_digest = $1)
		RETURNING key, stored_at, size`, sqlDigest(d)).Scan(&key, &stored, &size)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	_, err = t.exec(ctx, `INSERT INTO dead_keys (key, delete_after, died_at, stored_at) VALUES ($1, {now} + $2, {now}, $3)`,
		key, s.config.Grace.Milliseconds(), stored)
	return size, true, err
}

func digests(stored []sqlDigest) []digest.Digest {
	all := make([]digest.Digest, len(stored))
	for i, d := range stored {
		all[i] = digest.Digest(d)
	}
	return all
}
