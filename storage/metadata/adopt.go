package metadata

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/opencontainers/go-digest"
)

// AdoptedPrefix begins the keys of all that distribution's registry keeps.
const AdoptedPrefix = "docker/registry/v2/"

// Names under which it is kept that an adoption is under way, by its id, and what the last one that ended did.
const (
	adoptingSetting = "adopting"
	adoptedSetting  = "adopted"
)

// ErrAdopted says that an adoption is not under way any more: another process has ended it.
var ErrAdopted = errors.New("the adoption has ended")

// Adoption is a part of a repository of another registry whose bytes are in the blob store already.
type Adoption struct {
	Repository string
	// Blobs are linked in the repository. Lease is how long they stay without being referenced; without one, something has to reference them.
	Blobs []AdoptedBlob
	Lease time.Duration
	// Manifests, all of whose references may be absent.
	Manifests []AdoptedManifest
	// Tags of manifests that are adopted with them or were before.
	Tags []AdoptedTag
}

// AdoptedBlob is a blob whose bytes are in the blob store.
type AdoptedBlob struct {
	Blob
	// Config is what the bytes are as an image config; nil when they are none.
	Config *ImageConfig
	Stored time.Time
}

// AdoptedManifest is a manifest, and when it was pushed.
type AdoptedManifest struct {
	NewManifest
	Pushed time.Time
}

// AdoptedTag is a tag, the manifest that it points to, and since when it does.
type AdoptedTag struct {
	Name   string
	Digest digest.Digest
	Set    time.Time
}

// StartAdoption records that an adoption is under way, and returns its id: id, or that of one that did not end.
func (s *Store) StartAdoption(ctx context.Context, id string) (kept string, err error) {
	value, err := s.SetSettingOnce(ctx, adoptingSetting, []byte(id))
	return string(value), err
}

// Adopting returns the id of an adoption that did not end, or nothing.
func (s *Store) Adopting(ctx context.Context) (id string, err error) {
	value, err := s.Setting(ctx, adoptingSetting)
	return string(value), err
}

// Adopted returns what EndAdoption was told, or nil.
func (s *Store) Adopted(ctx context.Context) (summary []byte, err error) {
	return s.Setting(ctx, adoptedSetting)
}

// EndAdoption records that an adoption ended, and what it did. It fails with ErrAdopted.
func (s *Store) EndAdoption(ctx context.Context, id string, summary []byte) error {
	return s.db.update(ctx, durable, func(ctx context.Context, t *tx) error {
		if err := checkAdopting(ctx, t, id); err != nil {
			return err
		}
		if _, err := t.exec(ctx, `DELETE FROM settings WHERE name = $1`, adoptingSetting); err != nil {
			return err
		}
		return setSetting(ctx, t, adoptedSetting, summary)
	})
}

func checkAdopting(ctx context.Context, t *tx, id string) error {
	under, err := t.exists(ctx, `SELECT 1 FROM settings WHERE name = $1 AND value = $2`, adoptingSetting, []byte(id))
	if err == nil && !under {
		err = ErrAdopted
	}
	return err
}

// Adopt records a part of what the adoption with that id takes over. What is there already stays as it is, so that it may be
// repeated. It fails with ErrAdopted.
func (s *Store) Adopt(ctx context.Context, id string, a Adoption) error {
	return s.db.update(ctx, relaxed, func(ctx context.Context, t *tx) error {
		if err := checkAdopting(ctx, t, id); err != nil {
			return err
		}
		repository, err := s.makeRepository(ctx, t, a.Repository)
		if err != nil {
			return err
		}
		for _, b := range a.Blobs {
			if err := adoptBlob(ctx, t, repository, b, a.Lease); err != nil {
				return err
			}
		}
		for _, m := range a.Manifests {
			if err := s.adoptManifest(ctx, t, repository, m); err != nil {
				return err
			}
		}
		for _, tag := range a.Tags {
			_, err := t.exec(ctx, `
				INSERT INTO tags (repository, name, manifest, updated_at, updated_by)
				SELECT $1, $2, m.id, $4, '' FROM manifests m WHERE m.repository = $1 AND m.digest = $3 AND m.deleted_at IS NULL
				ON CONFLICT (repository, name) DO NOTHING`, repository, tag.Name, sqlDigest(tag.Digest), tag.Set.UnixMilli())
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func adoptBlob(ctx context.Context, t *tx, repository int64, b AdoptedBlob, lease time.Duration) error {
	c, d := orNone(b.Config), sqlDigest(b.Digest)
	_, err := t.exec(ctx, `
		INSERT INTO blobs (digest, key, size, os, architecture, variant, created, stored_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
		ON CONFLICT (digest) DO NOTHING`,
		d, b.Key, b.Size, nullable(c.OS), nullable(c.Architecture), nullable(c.Variant), millis(c.Created), b.Stored.UnixMilli())
	if err != nil {
		return err
	}
	if lease <= 0 {
		// A try before this one may not have known that it is referenced.
		_, err = t.exec(ctx, `INSERT INTO repository_blobs (repository, digest, leased_until) VALUES ($1, $2, 0)
			ON CONFLICT (repository, digest) DO UPDATE SET leased_until = 0`, repository, d)
		return err
	}
	n, err := t.exec(ctx, `INSERT INTO repository_blobs (repository, digest, leased_until) VALUES ($1, $2, {now} + $3)
		ON CONFLICT (repository, digest) DO NOTHING`, repository, d, lease.Milliseconds())
	if err != nil || n == 0 {
		return err
	}
	return queueReview(ctx, t, repository, b.Digest, lease)
}

func (s *Store) adoptManifest(ctx context.Context, t *tx, repository int64, m AdoptedManifest) error {
	known, err := t.exists(ctx, `SELECT 1 FROM manifests WHERE repository = $1 AND digest = $2`, repository, sqlDigest(m.Digest))
	if err != nil || known {
		return err
	}
	id, err := s.makeManifest(ctx, t, repository, m.NewManifest)
	if err != nil {
		return err
	}
	// Who runs it pulled it at some time: retention rules are not to take it away before that can happen again.
	_, err = t.exec(ctx, `UPDATE manifests SET pushed_at = $2, last_pulled_at = {now} WHERE id = $1`, id, m.Pushed.UnixMilli())
	return err
}

// Empty reports whether there are no facts yet: no repository, and no blob.
func (s *Store) Empty(ctx context.Context) (empty bool, err error) {
	err = s.db.view(ctx, func(ctx context.Context, t *tx) error {
		var one int
		err := t.row(ctx, `SELECT 1 WHERE EXISTS (SELECT 1 FROM repositories) OR EXISTS (SELECT 1 FROM blobs)`).Scan(&one)
		empty = errors.Is(err, sql.ErrNoRows)
		if empty {
			err = nil
		}
		return err
	})
	return empty, err
}
