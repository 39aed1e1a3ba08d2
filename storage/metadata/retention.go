package metadata

import (
	"context"
	"database/sql"
	"encoding/json"
	"time"

	"github.com/opencontainers/go-digest"
)

// Pull is a manifest that a client fetched.
type Pull struct {
	Repository string
	Digest     digest.Digest
}

// NotePulls records that manifests are pulled now. Those that are not there are passed over.
func (s *Store) NotePulls(ctx context.Context, pulls []Pull) error {
	return s.db.update(ctx, apart, func(ctx context.Context, t *tx) error {
		for _, p := range pulls {
			_, err := t.exec(ctx, `
				UPDATE manifests SET last_pulled_at = {now}
				WHERE repository = (SELECT id FROM repositories WHERE name = $1) AND digest = $2 AND deleted_at IS NULL`,
				p.Repository, sqlDigest(p.Digest))
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// Inventory is what a repository holds, but for its trash, and when it was looked at.
type Inventory struct {
	Now       time.Time
	Tags      []InventoryTag
	Manifests []InventoryManifest
}

// InventoryTag is a tag.
type InventoryTag struct {
	Name     string
	Manifest int64 // the ID of what it points to
	Updated  time.Time
}

// InventoryManifest is a manifest.
type InventoryManifest struct {
	ID           int64
	Digest       digest.Digest
	Subject      digest.Digest
	ArtifactType string
	Pushed       time.Time
	// Pulled is when it was fetched last, and Untagged when the last tag that pointed to it moved away or was deleted, as far as the trash
	// tells. Zero where that is not known.
	Pulled, Untagged time.Time
	// Children are the IDs of what it lists that is there.
	Children []int64
	// Cache is set for a cache of BuildKit.
	Cache bool
}

// cacheMediaType is of the config of BuildKit's caches, and of an entry of those that are indexes.
const cacheMediaType = "application/vnd.buildkit.cacheconfig.v0"

// Inventory returns what a repository holds. It fails with ErrNotFound.
func (s *Store) Inventory(ctx context.Context, repository string) (all Inventory, err error) {
	err = s.db.snapshot(ctx, func(ctx context.Context, t *tx) error {
		all = Inventory{}
		id, err := repositoryID(ctx, t, repository)
		if err != nil {
			return err
		}
		var now int64
		if err := t.row(ctx, `SELECT {now}`).Scan(&now); err != nil {
			return err
		}
		all.Now = time.UnixMilli(now)
		all.Tags, err = collect(ctx, t, scanInventoryTag, `SELECT name, manifest, updated_at FROM tags WHERE repository = $1 ORDER BY name`, id)
		if err != nil {
			return err
		}
		all.Manifests, err = collect(ctx, t, scanInventoryManifest, `
			SELECT m.id, m.digest, m.subject, m.artifact_type, m.pushed_at, m.last_pulled_at,
			  (SELECT max(h.ended_at) FROM tag_history h WHERE h.repository = m.repository AND h.digest = m.digest),
			  m.artifact_type = $2 OR EXISTS (SELECT 1 FROM manifest_children c WHERE c.manifest = m.id AND c.media_type = $2)
			FROM manifests m WHERE m.repository = $1 AND m.deleted_at IS NULL ORDER BY m.id`, id, cacheMediaType)
		if err != nil {
			return err
		}
		return addInventoryChildren(ctx, t, id, all.Manifests)
	})
	return all, err
}

func scanInventoryTag(row scanner) (t InventoryTag, err error) {
	var updated int64
	err = row.Scan(&t.Name, &t.Manifest, &updated)
	t.Updated = time.UnixMilli(updated)
	return t, err
}

func scanInventoryManifest(row scanner) (m InventoryManifest, err error) {
	var d, subject sqlDigest
	var pushed int64
	var pulled, untagged sql.NullInt64
	err = row.Scan(&m.ID, &d, &subject, &m.ArtifactType, &pushed, &pulled, &untagged, &m.Cache)
	m.Digest, m.Subject = digest.Digest(d), digest.Digest(subject)
	m.Pushed, m.Pulled, m.Untagged = time.UnixMilli(pushed), sqlTime(pulled), sqlTime(untagged)
	return m, err
}

func addInventoryChildren(ctx context.Context, t *tx, repository int64, all []InventoryManifest) error {
	byID := make(map[int64]int, len(all))
	for i, m := range all {
		byID[m.ID] = i
	}
	type edge struct{ parent, child int64 }
	edges, err := collect(ctx, t, func(row scanner) (e edge, err error) {
		err = row.Scan(&e.parent, &e.child)
		return e, err
	}, `
		SELECT e.manifest, e.child FROM manifests m JOIN manifest_children e ON e.manifest = m.id
		WHERE m.repository = $1 AND m.deleted_at IS NULL AND e.child IS NOT NULL`, repository)
	for _, e := range edges {
		i := byID[e.parent]
		all[i].Children = append(all[i].Children, e.child)
	}
	return err
}

// Retirement is what Retire deletes of a repository.
type Retirement struct {
	Tags []InventoryTag
	// Manifests are in an order in which each comes after those that list it.
	Manifests []int64
}

// Retired counts what Retire deleted.
type Retired struct{ Tags, Manifests int }

// Retire deletes tags that still are as the inventory says, and manifests that nothing needs any more, to which no tag points and that nobody
// pushed or pulled since. What changed since stays.
func (s *Store) Retire(ctx context.Context, repository string, since time.Time, r Retirement, how Deletion) (done Retired, err error) {
	err = s.db.update(ctx, durable, func(ctx context.Context, t *tx) error {
		done = Retired{}
		id, err := repositoryID(ctx, t, repository)
		if err != nil {
			return err
		}
		for _, tag := range r.Tags {
			n, err := s.retireTag(ctx, t, id, tag, how)
			if err != nil {
				return err
			}
			done.Tags += n
		}
		for _, manifest := range r.Manifests {
			idle, err := t.exists(ctx, `
				SELECT 1 FROM manifests m
				WHERE m.id = $1 AND m.repository = $2 AND m.deleted_at IS NULL AND m.pushed_at <= $3 AND coalesce(m.last_pulled_at, 0) <= $3
				  AND NOT EXISTS (SELECT 1 FROM tags t WHERE t.manifest = m.id)
				  AND NOT EXISTS (
				    SELECT 1 FROM manifest_children e JOIN manifests p ON p.id = e.manifest
				    WHERE e.child = m.id AND p.deleted_at IS NULL)`, manifest, id, since.UnixMilli())
			if err != nil {
				return err
			}
			if !idle {
				continue
			}
			if err := s.discard(ctx, t, id, manifest, how); err != nil {
				return err
			}
			done.Manifests++
		}
		return nil
	})
	return done, err
}

func (s *Store) retireTag(ctx context.Context, t *tx, repository int64, tag InventoryTag, how Deletion) (int, error) {
	same, err := t.exists(ctx, `SELECT 1 FROM tags WHERE repository = $1 AND name = $2 AND manifest = $3 AND updated_at = $4`,
		repository, tag.Name, tag.Manifest, tag.Updated.UnixMilli())
	if err != nil || !same {
		return 0, err
	}
	if s.keeps(how) {
		if err := s.endTags(ctx, t, how.User, true, `t.repository = $3 AND t.name = $4`, repository, tag.Name); err != nil {
			return 0, err
		}
	}
	_, err = t.exec(ctx, `DELETE FROM tags WHERE repository = $1 AND name = $2`, repository, tag.Name)
	return 1, err
}

// FreedBytes returns how many bytes the blobs have that only these manifests reference, in all repositories.
func (s *Store) FreedBytes(ctx context.Context, manifests []int64) (bytes int64, err error) {
	ids, err := json.Marshal(manifests)
	if err != nil {
		return 0, err
	}
	err = s.db.view(ctx, func(ctx context.Context, t *tx) error {
		return t.row(ctx, `
			SELECT coalesce(sum(b.size), 0) FROM blobs b
			WHERE b.digest IN (
			  SELECT e.linked FROM manifest_blobs e
			  WHERE e.linked IS NOT NULL AND e.manifest IN (SELECT CAST(value AS {int}) FROM {elements}($1)))
			AND NOT EXISTS (
			  SELECT 1 FROM repository_blobs l JOIN manifest_blobs e ON e.repository = l.repository AND e.linked = l.digest
			  WHERE l.digest = b.digest AND e.manifest NOT IN (SELECT CAST(value AS {int}) FROM {elements}($1)))`, string(ids)).Scan(&bytes)
	})
	return bytes, err
}
