package metadata

import "context"

// Usage is what a repository holds. Bytes are of blobs; manifests are in the database and small.
type Usage struct {
	Repository      string
	Tags, Manifests int64
	// Blobs and Bytes are of all blobs that are visible in the repository, referenced or not yet or no more. Unique is of those that no
	// other repository has, its trash included: what deleting the repository would give back.
	Blobs, Bytes, Unique int64
	// Trash is of blobs that are there for the trash alone.
	Trash int64
}

// Usage returns what up to limit repositories hold whose name begins with prefix, sorted, beginning after last. Those that hold nothing are
// left out.
func (s *Store) Usage(ctx context.Context, prefix, last string, limit int) (all []Usage, err error) {
	err = s.db.view(ctx, func(ctx context.Context, t *tx) error {
		all, err = collect(ctx, t, func(row scanner) (u Usage, err error) {
			err = row.Scan(&u.Repository, &u.Tags, &u.Manifests, &u.Blobs, &u.Bytes, &u.Unique, &u.Trash)
			return u, err
		}, `
			SELECT r.name, (SELECT count(*) FROM tags WHERE repository = r.id),
			  (SELECT count(*) FROM manifests WHERE repository = r.id AND deleted_at IS NULL),
			  sum(l.visible), sum(l.visible * l.size), sum(l.visible * l.alone * l.size), sum((1 - l.visible) * l.size)
			FROM (
			  SELECT id, name FROM repositories
			  WHERE name >= $1 AND name > $2 AND substr(name, 1, length($1)) = $1
			    AND EXISTS (SELECT 1 FROM repository_blobs WHERE repository = repositories.id)
			  ORDER BY name LIMIT $3) AS r
			JOIN (
			  SELECT l.repository, b.size, CASE WHEN l.deleted_at IS NULL THEN 1 ELSE 0 END AS visible,
			    CASE WHEN EXISTS (SELECT 1 FROM repository_blobs o WHERE o.digest = l.digest AND o.repository <> l.repository) THEN 0 ELSE 1 END AS alone
			  FROM repository_blobs l JOIN blobs b ON b.digest = l.digest) AS l ON l.repository = r.id
			GROUP BY r.id, r.name ORDER BY r.name`, prefix, last, limit)
		return err
	})
	return all, err
}

// StoredBytes returns how many bytes all blobs of the repositories have whose name begins with prefix, each counted once.
func (s *Store) StoredBytes(ctx context.Context, prefix string) (bytes int64, err error) {
	err = s.db.view(ctx, func(ctx context.Context, t *tx) error {
		return t.row(ctx, `
			SELECT coalesce(sum(b.size), 0) FROM blobs b WHERE EXISTS (
			  SELECT 1 FROM repository_blobs l JOIN repositories r ON r.id = l.repository
			  WHERE l.digest = b.digest AND substr(r.name, 1, length($1)) = $1)`, prefix).Scan(&bytes)
	})
	return bytes, err
}
