package metadata

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
)

// Manifest is what is known of a manifest. Lookups by tag and digest fill in Digest, MediaType and Size only.
type Manifest struct {
	Digest       digest.Digest
	MediaType    string
	ArtifactType string
	Subject      digest.Digest
	Size         int64 // bytes of the body
	Annotations  map[string]string
}

// NewManifest is a manifest to store.
type NewManifest struct {
	Manifest
	Body    []byte
	Config  digest.Digest
	Created time.Time
	// Blobs and Children are what it references, in order.
	Blobs    []Edge
	Children []Edge
	// Tags are set to point to it.
	Tags []string
	User string
	// Assemblies are the indexes to make of the tags, in order.
	Assemblies []Assembly
	// Immutable reports whether a tag that points to another manifest is not to be moved. Nil says that of none.
	Immutable func(tag string) bool
}

// Edge is a reference of a manifest.
type Edge struct {
	Digest    digest.Digest
	Size      int64 // bytes
	MediaType string
	// Platform is what an index says of a child.
	Platform Platform
	// Optional references may be absent.
	Optional bool
}

// Platform is what an image runs on.
type Platform struct {
	OS, Architecture, Variant string
}

// MissingError says which references of a manifest the repository does not have.
type MissingError struct {
	Blobs     []digest.Digest
	Manifests []digest.Digest
}

// Error counts them.
func (e *MissingError) Error() string {
	return fmt.Sprintf("%d blobs and %d manifests are missing", len(e.Blobs), len(e.Manifests))
}

// PutManifest stores a manifest in a repository, made if missing, sets its tags and makes its assemblies. Storing what is
// there only does so and sets the time of the push; one that is in the trash comes out of it. It fails with a MissingError, an
// ImmutableError, and a QuotaError.
func (s *Store) PutManifest(ctx context.Context, repository string, m NewManifest) error {
	return s.grow(ctx, repository, durable, func(ctx context.Context, t *tx) error {
		repositoryID, err := s.makeRepository(ctx, t, repository)
		if err != nil {
			return err
		}
		id, err := touchManifest(ctx, t, repositoryID, m)
		if err == ErrNotFound {
			id, err = s.makeManifest(ctx, t, repositoryID, m)
		}
		if err != nil {
			return err
		}
		for _, tag := range m.Tags {
			by := mover{user: m.User, immutable: m.Immutable != nil && m.Immutable(tag)}
			if err := s.setTag(ctx, t, repositoryID, tag, id, m.Digest, by); err != nil {
				return err
			}
		}
		if err := touchChildren(ctx, t, id, m); err != nil {
			return err
		}
		return s.assemble(ctx, t, repositoryID, m)
	})
}

// touchChildren notes a new push of what an index lists, which clients don't send again when it is there: for assembly it is as new
// as the index is.
func touchChildren(ctx context.Context, t *tx, id int64, m NewManifest) error {
	if len(m.Assemblies) == 0 || len(m.Children) == 0 {
		return nil
	}
	_, err := t.exec(ctx, `
		UPDATE manifests SET pushed_at = {now}
		WHERE id IN (SELECT child FROM manifest_children WHERE manifest = $1 AND child IS NOT NULL)`, id)
	return err
}

// touchManifest notes a new push of a manifest that is there. It fails with ErrNotFound.
func touchManifest(ctx context.Context, t *tx, repository int64, m NewManifest) (id int64, err error) {
	err = found(t.row(ctx, `
		UPDATE manifests SET pushed_at = {now}, pushed_by = $3, assembled = 0
		WHERE repository = $1 AND digest = $2 AND deleted_at IS NULL
		RETURNING id`, repository, sqlDigest(m.Digest), m.User).Scan(&id))
	return id, err
}

func (s *Store) makeManifest(ctx context.Context, t *tx, repository int64, m NewManifest) (int64, error) {
	id, err := insertManifest(ctx, t, repository, m)
	if errors.Is(err, sql.ErrNoRows) { // it is in the trash
		if err = emptyTrashOf(ctx, t, repository, m.Digest); err == nil {
			id, err = insertManifest(ctx, t, repository, m)
		}
	}
	if err != nil {
		return 0, err
	}
	if _, err := t.exec(ctx, `INSERT INTO manifest_bodies (manifest, body) VALUES ($1, $2)`, id, m.Body); err != nil {
		return 0, err
	}
	missing := &MissingError{}
	if missing.Blobs, err = insertBlobEdges(ctx, t, repository, id, m.Blobs); err != nil {
		return 0, err
	}
	if missing.Manifests, err = insertChildEdges(ctx, t, repository, id, m.Children); err != nil {
		return 0, err
	}
	if len(missing.Blobs)+len(missing.Manifests) > 0 {
		return 0, missing
	}
	if err := keepChildren(ctx, t, id, m); err != nil {
		return 0, err
	}
	return id, fillChildEdges(ctx, t, repository, id, sqlDigest(m.Digest))
}

// emptyTrashOf removes a manifest that is in the trash.
func emptyTrashOf(ctx context.Context, t *tx, repository int64, d digest.Digest) error {
	var id int64
	err := t.row(ctx, `SELECT id FROM manifests WHERE repository = $1 AND digest = $2 AND deleted_at IS NOT NULL`,
		repository, sqlDigest(d)).Scan(&id)
	if err != nil {
		return err
	}
	return removeManifest(ctx, t, repository, id)
}

// insertManifest fails with sql.ErrNoRows when there is a row.
func insertManifest(ctx context.Context, t *tx, repository int64, m NewManifest) (id int64, err error) {
	var annotations []byte
	if len(m.Annotations) > 0 {
		if annotations, err = json.Marshal(m.Annotations); err != nil {
			return 0, err
		}
	}
	total := m.Size
	for _, e := range m.Blobs {
		total += min(e.Size, math.MaxInt64-total) // sizes are the client's word
	}
	err = t.row(ctx, `
		INSERT INTO manifests (repository, digest, media_type, artifact_type, subject, config_digest, size, total_size,
		  annotations, created, pushed_at, pushed_by, os, architecture, variant)
		SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, coalesce($10, c.created), {now}, $11, c.os, c.architecture, c.variant
		FROM (SELECT 1 AS one) AS always LEFT JOIN blobs c ON c.digest = $6
		WHERE true
		ON CONFLICT (repository, digest) DO NOTHING
		RETURNING id`,
		repository, sqlDigest(m.Digest), m.MediaType, m.ArtifactType, sqlDigest(m.Subject), sqlDigest(m.Config), m.Size, total,
		nullable(string(annotations)), millis(m.Created), m.User).Scan(&id)
	return id, err
}

// insertBlobEdges records the references to blobs and returns those that the repository lacks and needs. It lacks those that are
// quarantined, and holds them all the same.
func insertBlobEdges(ctx context.Context, t *tx, repository, manifest int64, edges []Edge) (missing []digest.Digest, err error) {
	for position, e := range edges {
		var linked sqlDigest
		var quarantined sql.NullInt64
		err := t.row(ctx, `
			INSERT INTO manifest_blobs (manifest, position, repository, digest, linked, size, media_type)
			VALUES ($1, $2, $3, $4, (SELECT digest FROM repository_blobs WHERE repository = $3 AND digest = $4 AND deleted_at IS NULL), $5, $6)
			RETURNING linked, (SELECT quarantined_at FROM blobs WHERE digest = linked)`,
			manifest, position, repository, sqlDigest(e.Digest), e.Size, e.MediaType).Scan(&linked, &quarantined)
		if err != nil {
			return nil, err
		}
		switch {
		case linked != "" && (e.Optional || !quarantined.Valid):
		case e.Optional:
			// It waits. Who links the blob at the same moment, and does not see the edge, has the same row locked: see commitAtOnce.
			if err := queueReview(ctx, t, repository, e.Digest, 0); err != nil {
				return nil, err
			}
		case !slices.Contains(missing, e.Digest):
			missing = append(missing, e.Digest)
		}
	}
	return missing, nil
}

// insertChildEdges records the references to manifests and returns those that the repository lacks and needs.
func insertChildEdges(ctx context.Context, t *tx, repository, manifest int64, edges []Edge) (missing []digest.Digest, err error) {
	for position, e := range edges {
		var child sql.NullInt64
		err := t.row(ctx, `
			INSERT INTO manifest_children (manifest, position, repository, digest, child, size, media_type, os, architecture, variant)
			VALUES ($1, $2, $3, $4,
			  (SELECT id FROM manifests WHERE repository = $3 AND digest = $4 AND deleted_at IS NULL), $5, $6, $7, $8, $9)
			RETURNING child`,
			manifest, position, repository, sqlDigest(e.Digest), e.Size, e.MediaType,
			nullable(e.Platform.OS), nullable(e.Platform.Architecture), nullable(e.Platform.Variant)).Scan(&child)
		if err != nil {
			return nil, err
		}
		if !child.Valid && !e.Optional && !slices.Contains(missing, e.Digest) {
			missing = append(missing, e.Digest)
		}
	}
	return missing, nil
}

// keepChildren makes indexes that the registry assembled the client's once an index lists them: their images can't be deleted
// under it.
func keepChildren(ctx context.Context, t *tx, id int64, m NewManifest) error {
	if len(m.Children) == 0 {
		return nil
	}
	_, err := t.exec(ctx, `
		UPDATE manifests SET assembled = 0
		WHERE assembled = 1 AND id IN (SELECT child FROM manifest_children WHERE manifest = $1)`, id)
	return err
}

// mover says who moves a tag and how.
type mover struct {
	user string
	// assembled is set when the registry does it.
	assembled bool
	// immutable refuses to move the tag when it points to another manifest.
	immutable bool
}

// setTag points a tag to a manifest, and notes what it pointed to before.
func (s *Store) setTag(ctx context.Context, t *tx, repository int64, name string, manifest int64, d digest.Digest, by mover) error {
	if by.immutable {
		if err := refuseMove(ctx, t, repository, name, d); err != nil {
			return err
		}
	}
	err := s.endTags(ctx, t, by.user, false, `t.repository = $3 AND t.name = $4 AND t.manifest <> $5`, repository, name, manifest)
	if err != nil {
		return err
	}
	mark := 0
	if by.assembled {
		mark = 1
	}
	_, err = t.exec(ctx, `
		INSERT INTO tags (repository, name, manifest, updated_at, updated_by, assembled) VALUES ($1, $2, $3, {now}, $4, $5)
		ON CONFLICT (repository, name) DO UPDATE
		SET manifest = excluded.manifest, updated_at = excluded.updated_at, updated_by = excluded.updated_by,
		  assembled = excluded.assembled`,
		repository, name, manifest, by.user, mark)
	return err
}

// refuseMove fails with an ImmutableError when a tag points to something else than d.
func refuseMove(ctx context.Context, t *tx, repository int64, name string, d digest.Digest) error {
	var current sqlDigest
	err := t.row(ctx, `SELECT m.digest FROM tags t JOIN manifests m ON m.id = t.manifest WHERE t.repository = $1 AND t.name = $2`,
		repository, name).Scan(&current)
	switch {
	case errors.Is(err, sql.ErrNoRows), err == nil && digest.Digest(current) == d:
		return nil
	case err != nil:
		return err
	}
	return &ImmutableError{Tag: name, Digest: digest.Digest(current)}
}

const manifestByTag = `
	FROM repositories r
	JOIN tags t ON t.repository = r.id AND t.name = $2
	JOIN manifests m ON m.id = t.manifest AND m.deleted_at IS NULL
	JOIN manifest_bodies b ON b.manifest = m.id
	WHERE r.name = $1`

const manifestByDigest = `
	FROM repositories r
	JOIN manifests m ON m.repository = r.id AND m.digest = $2 AND m.deleted_at IS NULL
	JOIN manifest_bodies b ON b.manifest = m.id
	WHERE r.name = $1`

// TaggedManifest returns the manifest that a tag points to, and with withBody its bytes, which belong to others too. It fails with
// ErrNotFound.
func (s *Store) TaggedManifest(ctx context.Context, repository, tag string, withBody bool) (Manifest, []byte, error) {
	return s.manifest(ctx, lookup{repository: repository, tag: tag, body: withBody}, manifestByTag, tag)
}

// Manifest returns a manifest of a repository, and with withBody its bytes, which belong to others too. It fails with ErrNotFound.
func (s *Store) Manifest(ctx context.Context, repository string, d digest.Digest, withBody bool) (Manifest, []byte, error) {
	return s.manifest(ctx, lookup{repository: repository, digest: sqlDigest(d), body: withBody}, manifestByDigest, sqlDigest(d))
}

func (s *Store) manifest(ctx context.Context, q lookup, from string, reference any) (Manifest, []byte, error) {
	found, err := s.db.lookup(ctx, q, func(ctx context.Context, t *tx) (a answer, err error) {
		var d sqlDigest
		columns, dest := `SELECT m.digest, m.media_type, m.size`, []any{&d, &a.manifest.MediaType, &a.manifest.Size}
		if q.body {
			columns, dest = columns+`, b.body`, append(dest, &a.body)
		}
		err = found(t.row(ctx, columns+from, q.repository, reference).Scan(dest...))
		a.manifest.Digest = digest.Digest(d)
		return a, err
	})
	return found.manifest, found.body, err
}

// ConfigPlatform returns the platform that a blob of a repository names as an image's config; the zero Platform when it is
// none. It fails with ErrNotFound when the repository lacks the blob, or it is quarantined.
func (s *Store) ConfigPlatform(ctx context.Context, repository string, d digest.Digest) (Platform, error) {
	return s.platform(ctx, `
		SELECT b.os, b.architecture, b.variant
		FROM repositories r
		JOIN repository_blobs l ON l.repository = r.id AND l.digest = $2 AND l.deleted_at IS NULL
		JOIN blobs b ON b.digest = l.digest AND b.quarantined_at IS NULL
		WHERE r.name = $1`, repository, d)
}

// ManifestPlatform returns the platform of an image of a repository; the zero Platform when it names none. It fails with
// ErrNotFound.
func (s *Store) ManifestPlatform(ctx context.Context, repository string, d digest.Digest) (Platform, error) {
	return s.platform(ctx, `
		SELECT m.os, m.architecture, m.variant
		FROM repositories r
		JOIN manifests m ON m.repository = r.id AND m.digest = $2 AND m.deleted_at IS NULL
		WHERE r.name = $1`, repository, d)
}

func (s *Store) platform(ctx context.Context, query, repository string, d digest.Digest) (p Platform, err error) {
	var os, architecture, variant sql.NullString
	err = s.db.view(ctx, func(ctx context.Context, t *tx) error {
		return found(t.row(ctx, query, repository, sqlDigest(d)).Scan(&os, &architecture, &variant))
	})
	return Platform{OS: os.String, Architecture: architecture.String, Variant: variant.String}, err
}

// Children returns what an index of a repository lists, in order, present or not. Of a manifest that is no index or not
// there it returns nothing.
func (s *Store) Children(ctx context.Context, repository string, index digest.Digest) (children []Edge, err error) {
	scan := func(row scanner) (e Edge, err error) {
		var d sqlDigest
		var os, architecture, variant sql.NullString
		err = row.Scan(&d, &e.Size, &e.MediaType, &os, &architecture, &variant, &e.Optional)
		e.Digest = digest.Digest(d)
		e.Platform = Platform{OS: os.String, Architecture: architecture.String, Variant: variant.String}
		return e, err
	}
	err = s.db.view(ctx, func(ctx context.Context, t *tx) error {
		children, err = collect(ctx, t, scan, `
			SELECT e.digest, e.size, e.media_type, e.os, e.architecture, e.variant, e.child IS NULL
			FROM repositories r
			JOIN manifests m ON m.repository = r.id AND m.digest = $2 AND m.deleted_at IS NULL
			JOIN manifest_children e ON e.manifest = m.id
			WHERE r.name = $1 ORDER BY e.position`, repository, sqlDigest(index))
		return err
	})
	return children, err
}

// referrerBytes is how much of annotations one page of referrers holds at the most, beyond its first entry.
const referrerBytes = 4 << 20

// Referrers returns up to limit manifests of a repository whose subject is d, sorted by digest, beginning after last,
// and reports whether there are more. Entries with large annotations make the page shorter. An empty artifactType
// returns those of any.
func (s *Store) Referrers(ctx context.Context, repository string, d digest.Digest, artifactType string, last digest.Digest, limit int) (all []Manifest, more bool, err error) {
	after := []byte{}
	if last != "" {
		if after, err = encodeDigest(last); err != nil {
			return nil, false, err
		}
	}
	err = s.db.view(ctx, func(ctx context.Context, t *tx) error {
		page := referrerPage{limit: limit}
		all, err = collect(ctx, t, page.scan, `
			SELECT m.digest, m.media_type, m.artifact_type, m.size, m.annotations
			FROM repositories r
			JOIN manifests m ON m.repository = r.id AND m.subject = $2 AND m.deleted_at IS NULL
			WHERE r.name = $1 AND m.digest > $3 AND ($4 = '' OR m.artifact_type = $4)
			ORDER BY m.digest LIMIT $5`, repository, sqlDigest(d), after, artifactType, limit+1)
		more = page.full
		return err
	})
	return all, more, err
}

// referrerPage counts what a page of referrers holds.
type referrerPage struct {
	limit, rows, bytes int
	full               bool
}

func (p *referrerPage) scan(row scanner) (m Manifest, err error) {
	var d sqlDigest
	var annotations sql.NullString
	if err := row.Scan(&d, &m.MediaType, &m.ArtifactType, &m.Size, &annotations); err != nil {
		return m, err
	}
	p.rows++
	p.bytes += len(annotations.String)
	if p.rows > p.limit || p.rows > 1 && p.bytes > referrerBytes {
		p.full = true
		return m, errEnough
	}
	m.Digest = digest.Digest(d)
	if annotations.Valid {
		err = json.Unmarshal([]byte(annotations.String), &m.Annotations)
	}
	return m, err
}
