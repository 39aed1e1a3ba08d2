package metadata

import (
	"context"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
)

// makeRepository returns the id of a repository, made if missing.
func (s *Store) makeRepository(ctx context.Context, t *tx, name string) (int64, error) {
	id, err := repositoryID(ctx, t, name)
	if err != ErrNotFound {
		return id, err
	}
	made, err := t.exec(ctx, `INSERT INTO repositories (name, created_at) VALUES ($1, {now}) ON CONFLICT (name) DO NOTHING`, name)
	if err != nil {
		return 0, err
	}
	if id, err = repositoryID(ctx, t, name); err != nil || made == 0 {
		return id, err
	}
	return id, s.countRepository(ctx, t, id, name)
}

// repositoryID fails with ErrNotFound.
func repositoryID(ctx context.Context, t *tx, name string) (id int64, err error) {
	err = found(t.row(ctx, `SELECT id FROM repositories WHERE name = $1`, name).Scan(&id))
	return id, err
}

// Repositories returns up to limit names of repositories that hold a manifest, sorted bytewise, beginning after last. The caller must not
// change them.
func (s *Store) Repositories(ctx context.Context, last string, limit int) ([]string, error) {
	return s.names(ctx, "", last, limit, func(ctx context.Context, t *tx) ([]string, error) {
		return page(ctx, t, joined+`(
			SELECT r.name FROM repositories r
			WHERE r.name > $1
			  AND EXISTS (SELECT 1 FROM manifests m WHERE m.repository = r.id AND m.deleted_at IS NULL)
			ORDER BY r.name LIMIT $2) AS page`, last, limit)
	})
}

// names returns what find does, which is a page of a list. Only the first one of each is worth remembering.
func (s *Store) names(
	ctx context.Context, repository, last string, limit int, find func(context.Context, *tx) ([]string, error),
) (names []string, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if last == "" {
		found, err := s.db.lookup(ctx, lookup{repository: repository, names: limit}, func(ctx context.Context, t *tx) (a answer, err error) {
			a.names, err = find(ctx, t)
			return a, err
		})
		return found.names, err
	}
	err = s.db.view(ctx, func(ctx context.Context, t *tx) error {
		names, err = find(ctx, t)
		return err
	})
	return names, err
}

// joined begins a query that makes one row of all names that another one finds: handing over each by itself takes longer than finding it.
const joined = `SELECT coalesce(string_agg(name, {newline}), '') FROM `

// page returns what a joined query finds, sorted bytewise.
func page(ctx context.Context, t *tx, query string, args ...any) ([]string, error) {
	var all string
	if err := t.row(ctx, query, args...).Scan(&all); err != nil || all == "" {
		return nil, err
	}
	names := strings.Split(all, "\n")
	slices.Sort(names) // which they are, but no database promises it
	return names, nil
}

// Tags returns up to limit tags of a repository, sorted bytewise, beginning after last. The caller must not change them. It fails with
// ErrNotFound when there is no such repository.
func (s *Store) Tags(ctx context.Context, repository, last string, limit int) ([]string, error) {
	return s.names(ctx, repository, last, limit, func(ctx context.Context, t *tx) ([]string, error) {
		id, err := repositoryID(ctx, t, repository)
		if err != nil {
			return nil, err
		}
		names, err := page(ctx, t, joined+`(
			SELECT name FROM tags WHERE repository = $1 AND name > $2 ORDER BY name LIMIT $3) AS page`, id, last, limit)
		if err != nil || len(names) > 0 || last != "" {
			return names, err
		}
		return nil, refuseDeleted(ctx, t, id)
	})
}

// ManifestTags returns up to limit tags that point to a manifest of a repository, in no order.
func (s *Store) ManifestTags(ctx context.Context, repository string, d digest.Digest, limit int) (names []string, err error) {
	err = s.db.view(ctx, func(ctx context.Context, t *tx) error {
		names, err = collect(ctx, t, scanString, `
			SELECT t.name
			FROM repositories r
			JOIN manifests m ON m.repository = r.id AND m.digest = $2 AND m.deleted_at IS NULL
			JOIN tags t ON t.manifest = m.id
			WHERE r.name = $1 LIMIT $3`, repository, sqlDigest(d), limit)
		return err
	})
	return names, err
}

// refuseDeleted fails with ErrNotFound when nothing of a repository is left but what is in the trash.
func refuseDeleted(ctx context.Context, t *tx, id int64) error {
	deleted, err := t.exists(ctx, `
		SELECT 1 FROM repositories r WHERE r.id = $1
		  AND (EXISTS (SELECT 1 FROM tag_history WHERE repository = r.id)
		    OR EXISTS (SELECT 1 FROM manifests WHERE repository = r.id AND deleted_at IS NOT NULL))
		  AND NOT EXISTS (SELECT 1 FROM manifests WHERE repository = r.id AND deleted_at IS NULL)
		  AND NOT EXISTS (SELECT 1 FROM repository_blobs WHERE repository = r.id AND deleted_at IS NULL)`, id)
	if err == nil && deleted {
		err = ErrNotFound
	}
	return err
}
