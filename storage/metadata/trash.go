package metadata

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
)

// Deletion says how to delete.
type Deletion struct {
	// User is who deletes. It may be empty.
	User string
	// Now leaves nothing in the trash.
	Now bool
	// Sparse takes a manifest out of the indexes of clients, which go on to list it, in place of failing with an InUseError.
	Sparse bool
	// Rebuild makes an index that the registry assembled anew, without what is deleted. Nil deletes its tags.
	Rebuild func(AssemblyPart) *NewManifest
}

// keeps reports whether what is deleted goes to the trash.
func (s *Store) keeps(how Deletion) bool { return s.config.Trash > 0 && !how.Now }

// DeleteManifest removes a manifest and the tags that point to it, and queues what it referenced for the collector. For Config.Trash
// the trash keeps it. It fails with ErrNotFound, and with an InUseError while an index of the repository needs it that a client pushed.
// Tags of indexes that the registry made move to what is made of the children that are left.
func (s *Store) DeleteManifest(ctx context.Context, repository string, d digest.Digest, how Deletion) error {
	return s.db.update(ctx, durable, func(ctx context.Context, t *tx) error {
		repositoryID, err := repositoryID(ctx, t, repository)
		if err != nil {
			return err
		}
		var id int64
		err = t.row(ctx, `SELECT id FROM manifests WHERE repository = $1 AND digest = $2 AND deleted_at IS NULL`,
			repositoryID, sqlDigest(d)).Scan(&id)
		if err != nil {
			return found(err)
		}
		if !how.Sparse {
			if err := refuseParents(ctx, t, id); err != nil {
				return err
			}
		}
		if err := s.leaveIndexes(ctx, t, repositoryID, id, how); err != nil {
			return err
		}
		return s.discard(ctx, t, repositoryID, id, how)
	})
}

func refuseParents(ctx context.Context, t *tx, id int64) error {
	parents, err := collect(ctx, t, scanDigest, `
		SELECT DISTINCT m.digest FROM manifest_children e JOIN manifests m ON m.id = e.manifest
		WHERE e.child = $1 AND m.assembled = 0 AND m.deleted_at IS NULL ORDER BY m.digest LIMIT 10`, id)
	if err == nil && len(parents) > 0 {
		return &InUseError{By: digests(parents)}
	}
	return err
}

// discard moves a manifest, which no index lists any more that is not deleted itself, to the trash, or removes it.
func (s *Store) discard(ctx context.Context, t *tx, repository, id int64, how Deletion) error {
	if !s.keeps(how) {
		return removeManifest(ctx, t, repository, id)
	}
	if err := s.endTags(ctx, t, how.User, true, `t.manifest = $3`, id); err != nil {
		return err
	}
	if _, err := t.exec(ctx, `DELETE FROM tags WHERE manifest = $1`, id); err != nil {
		return err
	}
	if _, err := t.exec(ctx, `UPDATE manifests SET deleted_at = {now} WHERE id = $1`, id); err != nil {
		return err
	}
	return reviewBlobs(ctx, t, repository, id)
}

// removeManifest removes a manifest for good. Indexes in the trash let go of it; while another one lists it, its foreign key makes this fail.
func removeManifest(ctx context.Context, t *tx, repository, id int64) error {
	if err := reviewBlobs(ctx, t, repository, id); err != nil {
		return err
	}
	for _, statement := range []string{
		`DELETE FROM tags WHERE manifest = $1`,
		`UPDATE manifest_children SET child = NULL
		 WHERE child = $1 AND manifest IN (SELECT id FROM manifests WHERE deleted_at IS NOT NULL)`,
		`DELETE FROM manifests WHERE id = $1`,
	} {
		if _, err := t.exec(ctx, statement, id); err != nil {
			return err
		}
	}
	return nil
}

// reviewBlobs has the collector look at what a manifest references.
func reviewBlobs(ctx context.Context, t *tx, repository, manifest int64) error {
	linked, err := collect(ctx, t, scanDigest,
		`SELECT DISTINCT linked FROM manifest_blobs WHERE manifest = $1 AND linked IS NOT NULL`, manifest)
	for _, d := range linked {
		if err == nil {
			err = queueReview(ctx, t, repository, digest.Digest(d), 0)
		}
	}
	return err
}

// DeleteTag removes a tag and nothing else. For Config.Trash it can be restored. It fails with ErrNotFound.
func (s *Store) DeleteTag(ctx context.Context, repository, name string, how Deletion) error {
	return s.db.update(ctx, durable, func(ctx context.Context, t *tx) error {
		id, err := repositoryID(ctx, t, repository)
		if err != nil {
			return err
		}
		if s.keeps(how) {
			if err := s.endTags(ctx, t, how.User, true, `t.repository = $3 AND t.name = $4`, id, name); err != nil {
				return err
			}
		}
		n, err := t.exec(ctx, `DELETE FROM tags WHERE repository = $1 AND name = $2`, id, name)
		if err == nil && n == 0 {
			return ErrNotFound
		}
		return err
	})
}

// DeletedRepository counts what DeleteRepository deleted.
type DeletedRepository struct {
	Tags, Manifests, Blobs int
}

// DeleteRepository deletes all manifests, tags and blobs of a repository. For Config.Trash the trash keeps them. Uploads that run go on.
// It fails with ErrNotFound when there is nothing in it.
func (s *Store) DeleteRepository(ctx context.Context, repository string, how Deletion) (done DeletedRepository, err error) {
	err = s.db.update(ctx, durable, func(ctx context.Context, t *tx) error {
		done = DeletedRepository{}
		id, err := repositoryID(ctx, t, repository)
		if err != nil {
			return err
		}
		err = t.row(ctx, `
			SELECT (SELECT count(*) FROM tags WHERE repository = $1),
			  (SELECT count(*) FROM manifests WHERE repository = $1 AND deleted_at IS NULL),
			  (SELECT count(*) FROM repository_blobs WHERE repository = $1 AND deleted_at IS NULL)`, id).
			Scan(&done.Tags, &done.Manifests, &done.Blobs)
		if err != nil {
			return err
		}
		if done == (DeletedRepository{}) {
			return ErrNotFound
		}
		if s.keeps(how) {
			return s.discardAll(ctx, t, id, how)
		}
		return s.removeAll(ctx, t, id)
	})
	return done, err
}

// discardAll moves all of a repository to the trash.
func (s *Store) discardAll(ctx context.Context, t *tx, repository int64, how Deletion) error {
	if err := s.endTags(ctx, t, how.User, true, `t.repository = $3`, repository); err != nil {
		return err
	}
	for _, statement := range []string{
		`DELETE FROM tags WHERE repository = $1`,
		`UPDATE manifests SET deleted_at = {now} WHERE repository = $1 AND deleted_at IS NULL`,
		`UPDATE repository_blobs SET deleted_at = {now} WHERE repository = $1 AND deleted_at IS NULL`,
	} {
		if _, err := t.exec(ctx, statement, repository); err != nil {
			return err
		}
	}
	return nil
}

// removeAll removes all of a repository, what of it is in the trash too.
func (s *Store) removeAll(ctx context.Context, t *tx, repository int64) error {
	for _, statement := range []string{
		`DELETE FROM tags WHERE repository = $1`,
		`DELETE FROM tag_history WHERE repository = $1`,
		`UPDATE manifest_children SET child = NULL WHERE child IN (SELECT id FROM manifests WHERE repository = $1)`,
		`DELETE FROM manifests WHERE repository = $1`,
	} {
		if _, err := t.exec(ctx, statement, repository); err != nil {
			return err
		}
	}
	linked, err := collect(ctx, t, scanDigest, `SELECT digest FROM repository_blobs WHERE repository = $1`, repository)
	for _, d := range linked {
		if err == nil {
			_, _, err = s.unlink(ctx, t, repository, digest.Digest(d))
		}
	}
	return err
}

// endTags notes what tags pointed to that are about to move or to go: those that a condition with parameters from $3 on names.
func (s *Store) endTags(ctx context.Context, t *tx, user string, deleted bool, which string, args ...any) error {
	if s.config.Trash <= 0 {
		return nil
	}
	mark := 0
	if deleted {
		mark = 1
	}
	_, err := t.exec(ctx, `
		INSERT INTO tag_history (repository, name, digest, set_at, set_by, ended_at, ended_by, deleted)
		SELECT t.repository, t.name, m.digest, t.updated_at, t.updated_by, {now}, $1, $2
		FROM tags t JOIN manifests m ON m.id = t.manifest WHERE `+which, append([]any{user, mark}, args...)...)
	return err
}

// TagState is what a tag points to, or pointed to for some time.
type TagState struct {
	Digest digest.Digest
	// Set is since when, and SetBy who set it: empty when that is not known.
	Set   time.Time
	SetBy string
	// Ended is until when, the zero time for what the tag points to now. EndedBy is who moved or, with Deleted, deleted it.
	Ended   time.Time
	EndedBy string
	Deleted bool
	// Kept reports whether the manifest is there, or in the trash, so that the tag can be restored to it.
	Kept bool
}

// TagHistory returns up to limit states of a tag, the newest first. It fails with ErrNotFound when none is known.
func (s *Store) TagHistory(ctx context.Context, repository, tag string, limit int) (states []TagState, err error) {
	err = s.db.snapshot(ctx, func(ctx context.Context, t *tx) error {
		id, err := repositoryID(ctx, t, repository)
		if err != nil {
			return err
		}
		states, err = collect(ctx, t, scanTagState, `
			SELECT m.digest, t.updated_at, t.updated_by, NULL, '', 0, 1
			FROM tags t JOIN manifests m ON m.id = t.manifest WHERE t.repository = $1 AND t.name = $2`, id, tag)
		if err != nil {
			return err
		}
		past, err := collect(ctx, t, scanTagState, `
			SELECT h.digest, h.set_at, h.set_by, h.ended_at, h.ended_by, h.deleted,
			  (SELECT count(*) FROM manifests m WHERE m.repository = h.repository AND m.digest = h.digest)
			FROM tag_history h
			WHERE h.repository = $1 AND h.name = $2 AND h.ended_at > {now} - $3
			ORDER BY h.id DESC LIMIT $4`, id, tag, s.config.Trash.Milliseconds(), limit-len(states))
		states = append(states, past...)
		return err
	})
	if err == nil && len(states) == 0 {
		err = ErrNotFound
	}
	return states, err
}

func scanTagState(row scanner) (s TagState, err error) {
	var d sqlDigest
	var set int64
	var ended sql.NullInt64
	err = row.Scan(&d, &set, &s.SetBy, &ended, &s.EndedBy, &s.Deleted, &s.Kept)
	s.Digest, s.Set, s.Ended = digest.Digest(d), time.UnixMilli(set), sqlTime(ended)
	return s, err
}

// RestoreTag points a tag at a manifest of its repository again, which comes back from the trash with what it needs and what describes
// it. It fails with ErrNotFound when the manifest is neither there nor in the trash, with an ImmutableError when the
// tag points to another one and immutable is set, and with a QuotaError.
func (s *Store) RestoreTag(ctx context.Context, repository, tag string, to digest.Digest, user string, immutable bool) error {
	return s.grow(ctx, repository, durable, func(ctx context.Context, t *tx) error {
		repositoryID, err := repositoryID(ctx, t, repository)
		if err != nil {
			return err
		}
		var id int64
		err = t.row(ctx, `SELECT id FROM manifests WHERE repository = $1 AND digest = $2`, repositoryID, sqlDigest(to)).Scan(&id)
		if err != nil {
			return found(err)
		}
		if err := revive(ctx, t, repositoryID, id); err != nil {
			return err
		}
		return s.setTag(ctx, t, repositoryID, tag, id, to, mover{user: user, immutable: immutable})
	})
}

// revive brings a manifest back from the trash, if it is there, with its blobs, its children, and what describes it and was deleted with
// or after it.
func revive(ctx context.Context, t *tx, repository, id int64) error {
	var d sqlDigest
	var deleted int64
	err := t.row(ctx, `SELECT digest, deleted_at FROM manifests WHERE id = $1 AND deleted_at IS NOT NULL`, id).Scan(&d, &deleted)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	if _, err := t.exec(ctx, `UPDATE manifests SET deleted_at = NULL WHERE id = $1`, id); err != nil {
		return err
	}
	for _, statement := range []string{
		`UPDATE repository_blobs SET deleted_at = NULL
		 WHERE repository = $1 AND deleted_at IS NOT NULL
		   AND digest IN (SELECT linked FROM manifest_blobs WHERE manifest = $2 AND linked IS NOT NULL)`,
		// Others may have come meanwhile that wait for the same.
		`UPDATE manifest_blobs SET linked = digest
		 WHERE repository = $1 AND linked IS NULL
		   AND digest IN (SELECT linked FROM manifest_blobs WHERE manifest = $2 AND linked IS NOT NULL)`,
	} {
		if _, err := t.exec(ctx, statement, repository, id); err != nil {
			return err
		}
	}
	if err := fillChildEdges(ctx, t, repository, id, d); err != nil {
		return err
	}
	with, err := collect(ctx, t, scanID, `
		SELECT m.id FROM manifest_children e JOIN manifests m ON m.id = e.child WHERE e.manifest = $1 AND m.deleted_at IS NOT NULL
		UNION
		SELECT m.id FROM manifests m WHERE m.repository = $2 AND m.subject = $3 AND m.deleted_at >= $4`, id, repository, d, deleted)
	for _, other := range with {
		if err == nil {
			err = revive(ctx, t, repository, other)
		}
	}
	return err
}

// fillChildEdges links a manifest that came to the indexes that wait for it.
func fillChildEdges(ctx context.Context, t *tx, repository, id int64, d sqlDigest) error {
	_, err := t.exec(ctx, `UPDATE manifest_children SET child = $1 WHERE repository = $2 AND digest = $3 AND child IS NULL`,
		id, repository, d)
	return err
}

// Purged says what PurgeTrash removed.
type Purged struct {
	Manifests int
	States    int // of tags
}

// PurgeTrash removes up to limit manifests, and as many former states of tags, which the trash has kept for Config.Trash. What the
// manifests referenced is the collector's. It removed fewer when there are no more.
func (s *Store) PurgeTrash(ctx context.Context, limit int) (done Purged, err error) {
	keep := s.config.Trash.Milliseconds()
	// Nothing that it reads has to stay as it was: what lists or revives a manifest of the trash writes rows that it deletes.
	err = s.db.update(ctx, apart, func(ctx context.Context, t *tx) error {
		states, err := t.exec(ctx, `
			DELETE FROM tag_history
			WHERE id IN (SELECT id FROM tag_history WHERE ended_at <= {now} - $1 ORDER BY ended_at LIMIT $2)`, keep, limit)
		if err != nil {
			return err
		}
		// What an index lists that is in the trash itself stays as long as that does.
		expired, err := collect(ctx, t, scanRow, `
			SELECT m.id, m.repository FROM manifests m
			WHERE m.deleted_at IS NOT NULL AND m.deleted_at <= {now} - $1
			  AND NOT EXISTS (SELECT 1 FROM manifest_children e WHERE e.child = m.id)
			ORDER BY m.deleted_at LIMIT $2`, keep, limit)
		if err != nil {
			return err
		}
		for _, m := range expired {
			if err := removeManifest(ctx, t, m.repository, m.id); err != nil {
				return err
			}
		}
		done = Purged{Manifests: len(expired), States: int(states)}
		return nil
	})
	return done, err
}

// manifestRow is a manifest, by its row.
type manifestRow struct{ id, repository int64 }

func scanRow(row scanner) (m manifestRow, err error) {
	err = row.Scan(&m.id, &m.repository)
	return m, err
}

// Trash is what the trash keeps.
type Trash struct {
	// Manifests are deleted ones, and States what tags pointed to before.
	Manifests, States int64
	// Next is when the first of the manifests leaves it.
	Next time.Time
	// Bytes are those of blobs that are kept for it alone, of all repositories.
	Bytes int64
}

// Trash counts what the trash keeps.
func (s *Store) Trash(ctx context.Context) (k Trash, err error) {
	err = s.db.snapshot(ctx, func(ctx context.Context, t *tx) error {
		var first sql.NullInt64
		err := t.row(ctx, `
			SELECT (SELECT count(*) FROM manifests WHERE deleted_at IS NOT NULL), (SELECT count(*) FROM tag_history),
			  (SELECT min(deleted_at) FROM manifests WHERE deleted_at IS NOT NULL)`).Scan(&k.Manifests, &k.States, &first)
		if err != nil {
			return err
		}
		if first.Valid {
			k.Next = time.UnixMilli(first.Int64).Add(s.config.Trash)
		}
		return t.row(ctx, `
			SELECT coalesce(sum(size), 0) FROM blobs b WHERE b.digest IN (
			  SELECT e.linked FROM manifests m JOIN manifest_blobs e ON e.manifest = m.id
			  WHERE m.deleted_at IS NOT NULL AND e.linked IS NOT NULL)
			AND NOT EXISTS (
			  SELECT 1 FROM repository_blobs l
			  JOIN manifest_blobs e ON e.repository = l.repository AND e.linked = l.digest
			  JOIN manifests m ON m.id = e.manifest
			  WHERE l.digest = b.digest AND m.deleted_at IS NULL)`).Scan(&k.Bytes)
	})
	return k, err
}

// Returns says how long it takes at the most until what is deleted now can't be restored, and until its space is free, apart from
// rounds of the collector.
func (s *Store) Returns(how Deletion) (restorable, space time.Duration) {
	if s.keeps(how) {
		restorable = s.config.Trash
	}
	return restorable, max(restorable, s.config.Lease) + s.config.Grace
}

// ImmutableError says that a tag points to another manifest, and is not to be moved.
type ImmutableError struct {
	Tag    string
	Digest digest.Digest
}

// Error says so.
func (e *ImmutableError) Error() string {
	return fmt.Sprintf("the tag %s is immutable and points to %s", e.Tag, e.Digest)
}
