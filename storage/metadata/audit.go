package metadata

import (
	"context"
	"database/sql"

	"github.com/opencontainers/go-digest"
)

// audit is a query whose every row is a sentence about something that must not be.
type audit struct {
	query string
	// repair is a statement that makes an end of it, and remedy says what that does, where it is right however it came to that.
	repair, remedy string
}

var audits = []audit{
	{query: `SELECT 'key ' || k.key || ' is in ' || count(*) || ' places' FROM (
	   SELECT key FROM blobs UNION ALL SELECT key FROM uploads WHERE key IS NOT NULL
	   UNION ALL SELECT spare FROM uploads WHERE spare IS NOT NULL UNION ALL SELECT key FROM dead_keys
	 ) AS k GROUP BY k.key HAVING count(*) > 1`},
	{query: `SELECT 'upload ' || id || ' has neither key nor blob' FROM uploads
	 WHERE key IS NULL AND pinned_digest IS NULL AND committed IS NULL`},
	{query: `SELECT 'manifest ' || m.id || ' of repository ' || m.repository || ' has no body' FROM manifests m
	 WHERE NOT EXISTS (SELECT 1 FROM manifest_bodies b WHERE b.manifest = m.id)`},
	{
		query: `SELECT 'an unreferenced blob of repository ' || l.repository || ' is not queued for review' FROM repository_blobs l
		 WHERE NOT EXISTS (SELECT 1 FROM manifest_blobs e WHERE e.repository = l.repository AND e.linked = l.digest)
		   AND NOT EXISTS (SELECT 1 FROM gc_queue q WHERE q.repository = l.repository AND q.digest = l.digest)`,
		repair: `INSERT INTO gc_queue (repository, digest, review_after, version)
		 SELECT l.repository, l.digest, {now}, 1 FROM repository_blobs l
		 WHERE NOT EXISTS (SELECT 1 FROM manifest_blobs e WHERE e.repository = l.repository AND e.linked = l.digest)
		   AND NOT EXISTS (SELECT 1 FROM gc_queue q WHERE q.repository = l.repository AND q.digest = l.digest)`,
		remedy: "it is queued",
	},
	{ // and before those that wait, since what it shows may be what they wait for
		query: `SELECT 'manifest ' || e.manifest || ' references a blob that its repository has in the trash' FROM repository_blobs l
		 JOIN manifest_blobs e ON e.repository = l.repository AND e.linked = l.digest
		 JOIN manifests m ON m.id = e.manifest AND m.deleted_at IS NULL
		 WHERE l.deleted_at IS NOT NULL`,
		repair: `UPDATE repository_blobs SET deleted_at = NULL
		 WHERE deleted_at IS NOT NULL AND EXISTS (SELECT 1 FROM manifest_blobs e JOIN manifests m ON m.id = e.manifest AND m.deleted_at IS NULL
		   WHERE e.repository = repository_blobs.repository AND e.linked = repository_blobs.digest)`,
		remedy: "the blob is out of the trash",
	},
	{
		query: `SELECT 'manifest ' || e.manifest || ' waits for a blob that its repository has' FROM manifest_blobs e
		 JOIN repository_blobs l ON l.repository = e.repository AND l.digest = e.digest AND l.deleted_at IS NULL
		 JOIN manifests m ON m.id = e.manifest AND m.deleted_at IS NULL
		 WHERE e.linked IS NULL`,
		repair: `UPDATE manifest_blobs SET linked = digest
		 WHERE linked IS NULL
		   AND EXISTS (SELECT 1 FROM repository_blobs l
		     WHERE l.repository = manifest_blobs.repository AND l.digest = manifest_blobs.digest AND l.deleted_at IS NULL)
		   AND EXISTS (SELECT 1 FROM manifests m WHERE m.id = manifest_blobs.manifest AND m.deleted_at IS NULL)`,
		remedy: "they are linked",
	},
	{query: `SELECT 'tag ' || t.name || ' of repository ' || t.repository || ' points to a manifest in the trash' FROM tags t
	 JOIN manifests m ON m.id = t.manifest WHERE m.deleted_at IS NOT NULL`},
	{query: `SELECT 'index ' || e.manifest || ' lists a manifest in the trash as if it were there' FROM manifest_children e
	 JOIN manifests c ON c.id = e.child AND c.deleted_at IS NOT NULL
	 JOIN manifests m ON m.id = e.manifest AND m.deleted_at IS NULL`},
	{
		query: `SELECT 'manifest ' || e.manifest || ' waits for a manifest that its repository has' FROM manifest_children e
		 JOIN manifests m ON m.repository = e.repository AND m.digest = e.digest AND m.deleted_at IS NULL WHERE e.child IS NULL`,
		repair: `UPDATE manifest_children SET child = (SELECT m.id FROM manifests m
		   WHERE m.repository = manifest_children.repository AND m.digest = manifest_children.digest AND m.deleted_at IS NULL)
		 WHERE child IS NULL AND EXISTS (SELECT 1 FROM manifests m
		   WHERE m.repository = manifest_children.repository AND m.digest = manifest_children.digest AND m.deleted_at IS NULL)`,
		remedy: "they are linked",
	},
	{query: `SELECT 'blob under key ' || b.key || ' is in no repository and pinned by no upload' FROM blobs b
	 WHERE NOT EXISTS (SELECT 1 FROM repository_blobs l WHERE l.digest = b.digest)
	   AND NOT EXISTS (SELECT 1 FROM uploads u WHERE u.pinned_digest = b.digest)`},
	{query: `SELECT 'quota ' || q.repositories || ' counts a blob in ' || coalesce(max(b.links), 0) || ' repositories that is in ' || count(l.digest)
	 FROM quotas q
	 JOIN quota_repositories r ON r.quota = q.id
	 JOIN repository_blobs l ON l.repository = r.repository
	 LEFT JOIN quota_blobs b ON b.quota = q.id AND b.digest = l.digest
	 GROUP BY q.id, q.repositories, l.digest HAVING coalesce(max(b.links), 0) <> count(l.digest)`},
	{query: `SELECT 'quota ' || q.repositories || ' counts a blob that none of its repositories has' FROM quota_blobs b JOIN quotas q ON q.id = b.quota
	 WHERE NOT EXISTS (SELECT 1 FROM repository_blobs l JOIN quota_repositories r ON r.repository = l.repository
	   WHERE l.digest = b.digest AND r.quota = b.quota)`},
	{query: `SELECT 'quota ' || q.repositories || ' counts a blob of ' || b.size || ' bytes as ' || c.size
	 FROM quota_blobs c JOIN quotas q ON q.id = c.quota JOIN blobs b ON b.digest = c.digest WHERE b.size <> c.size`},
	{query: `SELECT 'quota ' || u.repositories || ' says that ' || u.bytes || ' bytes are used of ' || u.held FROM (
	   SELECT q.repositories, q.used_bytes + coalesce((SELECT sum(c.bytes) FROM quota_changes c WHERE c.quota = q.id), 0) AS bytes,
	     coalesce((SELECT sum(b.size) FROM quota_blobs b WHERE b.quota = q.id), 0) AS held FROM quotas q) AS u WHERE u.bytes <> u.held`},
	{query: `SELECT 'quota ' || u.repositories || ' says that ' || u.tags || ' tags are used of ' || u.held FROM (
	   SELECT q.repositories, q.used_tags + coalesce((SELECT sum(c.tags) FROM quota_changes c WHERE c.quota = q.id), 0) AS tags,
	     (SELECT count(*) FROM quota_repositories r JOIN tags t ON t.repository = r.repository WHERE r.quota = q.id) AS held
	   FROM quotas q) AS u WHERE u.tags <> u.held`},
}

// Audit checks the facts against each other and returns a sentence for each contradiction, up to limit of a kind.
func (s *Store) Audit(ctx context.Context, limit int) (problems []string, err error) {
	err = s.db.view(ctx, func(ctx context.Context, t *tx) error {
		problems = nil
		queries := s.db.audits()
		for _, a := range audits {
			queries = append(queries, a.query)
		}
		for _, query := range queries {
			rows, err := collect(ctx, t, scanString, query+` LIMIT $1`, limit)
			if err != nil {
				return err
			}
			problems = append(problems, rows...)
		}
		return nil
	})
	return problems, err
}

// Mended is a contradiction that was, and what Mend did about it.
type Mended struct{ Problem, Remedy string }

// Mend makes an end of those contradictions between facts that Audit finds and for which one remedy is right however it came to them. It
// returns up to limit of a kind, those of the kinds before the one that an error was about, too.
func (s *Store) Mend(ctx context.Context, limit int) (all []Mended, err error) {
	for _, a := range audits {
		if a.repair == "" {
			continue
		}
		some, err := s.mend(ctx, a, limit)
		all = append(all, some...)
		if err != nil {
			return all, err
		}
	}
	return all, nil
}

// mend looks before it asks for a transaction: it takes time, and there is next to never anything to do.
func (s *Store) mend(ctx context.Context, a audit, limit int) (done []Mended, err error) {
	find := func(ctx context.Context, t *tx) error {
		problems, err := collect(ctx, t, scanString, a.query+` LIMIT $1`, limit)
		done = make([]Mended, len(problems))
		for i, p := range problems {
			done[i] = Mended{Problem: p, Remedy: a.remedy}
		}
		return err
	}
	if err := s.db.view(ctx, find); err != nil || len(done) == 0 {
		return nil, err
	}
	err = s.db.update(ctx, durable, func(ctx context.Context, t *tx) error {
		if err := find(ctx, t); err != nil {
			return err
		}
		_, err := t.exec(ctx, a.repair)
		return err
	})
	if err != nil {
		return nil, err
	}
	return done, nil
}

// Blobs returns up to limit blobs, quarantined ones too, in the order of their digests, beginning after last.
func (s *Store) Blobs(ctx context.Context, last digest.Digest, limit int) (blobs []Blob, err error) {
	err = s.db.view(ctx, func(ctx context.Context, t *tx) error {
		after := []byte{}
		if last != "" {
			if after, err = encodeDigest(last); err != nil {
				return err
			}
		}
		blobs, err = collect(ctx, t, scanBlob, `
			SELECT digest, key, size, quarantined_at, `+inline+` FROM blobs WHERE digest > $1 ORDER BY digest LIMIT $2`, after, limit)
		return err
	})
	return blobs, err
}

func scanBlob(row scanner) (b Blob, err error) {
	var d sqlDigest
	var quarantined sql.NullInt64
	err = row.Scan(&d, &b.Key, &b.Size, &quarantined, &b.Inline)
	b.Digest, b.Quarantined = digest.Digest(d), sqlTime(quarantined)
	return b, err
}

// KeyUse says what a key is used for.
type KeyUse struct {
	Key string
	// Use is "blob", "upload", "backup" or "dead".
	Use string
	// Size is how many bytes the key has to hold: exactly, for a blob and a backup, and at least, for an upload.
	Size int64
}

// KeyUses returns what the facts say of keys: nothing of those that no row knows.
func (s *Store) KeyUses(ctx context.Context, keys []string) (uses []KeyUse, err error) {
	err = s.db.view(ctx, func(ctx context.Context, t *tx) error {
		uses = nil
		for _, key := range keys {
			rows, err := collect(ctx, t, scanKeyUse, `
				SELECT key, 'blob', size FROM blobs WHERE key = $1
				UNION ALL SELECT key, 'upload', size FROM uploads WHERE key = $1
				UNION ALL SELECT spare, 'upload', 0 FROM uploads WHERE spare = $1
				UNION ALL SELECT name, 'backup', size FROM backups WHERE name = $1
				UNION ALL SELECT key, 'dead', 0 FROM dead_keys WHERE key = $1`, key)
			if err != nil {
				return err
			}
			uses = append(uses, rows...)
		}
		return nil
	})
	return uses, err
}

// WrittenUploads returns the keys of open uploads that have bytes, and how many.
func (s *Store) WrittenUploads(ctx context.Context) (uses []KeyUse, err error) {
	err = s.db.view(ctx, func(ctx context.Context, t *tx) error {
		uses, err = collect(ctx, t, scanKeyUse,
			`SELECT key, 'upload', size FROM uploads WHERE key IS NOT NULL AND size > 0 ORDER BY key`)
		return err
	})
	return uses, err
}

func scanKeyUse(row scanner) (u KeyUse, err error) {
	err = row.Scan(&u.Key, &u.Use, &u.Size)
	return u, err
}

// StoredManifest is a manifest with what the facts say that it references.
type StoredManifest struct {
	ID         int64
	Repository string
	Manifest
	Body     []byte
	Blobs    []digest.Digest
	Children []digest.Digest
}

// Manifests returns up to limit manifests of all repositories in the order of their ids, beginning after last.
func (s *Store) Manifests(ctx context.Context, last int64, limit int) (all []StoredManifest, err error) {
	err = s.db.snapshot(ctx, func(ctx context.Context, t *tx) error {
		all, err = collect(ctx, t, scanStoredManifest, `
			SELECT m.id, r.name, m.digest, m.media_type, m.size, b.body
			FROM manifests m
			JOIN repositories r ON r.id = m.repository
			JOIN manifest_bodies b ON b.manifest = m.id
			WHERE m.id > $1 ORDER BY m.id LIMIT $2`, last, limit)
		if err != nil {
			return err
		}
		for i := range all {
			if err := readEdges(ctx, t, &all[i]); err != nil {
				return err
			}
		}
		return nil
	})
	return all, err
}

func scanStoredManifest(row scanner) (m StoredManifest, err error) {
	var d sqlDigest
	err = row.Scan(&m.ID, &m.Repository, &d, &m.MediaType, &m.Size, &m.Body)
	m.Digest = digest.Digest(d)
	return m, err
}

func readEdges(ctx context.Context, t *tx, m *StoredManifest) error {
	blobs, err := collect(ctx, t, scanDigest, `SELECT digest FROM manifest_blobs WHERE manifest = $1 ORDER BY position`, m.ID)
	if err != nil {
		return err
	}
	children, err := collect(ctx, t, scanDigest, `SELECT digest FROM manifest_children WHERE manifest = $1 ORDER BY position`, m.ID)
	m.Blobs, m.Children = digests(blobs), digests(children)
	return err
}
