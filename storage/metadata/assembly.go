package metadata

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"time"

	"github.com/opencontainers/go-digest"
)

// Assembly moves a tag to an index of what other tags point to, in the transaction of the push that set one of them: no
// other push comes between what it reads and what it writes.
type Assembly struct {
	// Tag is the tag of the index.
	Tag string
	// From are the tags that the index is of, as far as there are such.
	From []string
	// MaxSize is of the manifests that From point to, in bytes. All of them are read at once: what is larger is left out.
	MaxSize int64
	// Build makes the index, without Tags. Nil leaves the tag as it is. It may be called more than once, and the last call
	// counts.
	Build func(AssemblyParts) *NewManifest
}

// AssemblyParts is what there is to make an index of.
type AssemblyParts struct {
	// Index is what the tag points to now, or nil.
	Index *AssemblyPart
	// Assembled reports whether the registry set the tag, and no client since.
	Assembled bool
	// Tagged is what the tags of Assembly.From point to, but for what is larger than its MaxSize.
	Tagged []AssemblyPart
}

// AssemblyPart is a manifest that an index may be made of.
type AssemblyPart struct {
	Manifest
	// Tag is the tag that it was found by. Children have none.
	Tag string
	// Platform is what the config of an image says.
	Platform Platform
	// Pushed is when the tag was set that this part was found by; of children, when they were pushed.
	Pushed time.Time
	Body   []byte
	// Children are those manifests of an index that are there, without their bodies and children.
	Children []AssemblyPart

	id int64
}

// assemble does what the assemblies of a push ask for.
func (s *Store) assemble(ctx context.Context, t *tx, repository int64, m NewManifest) error {
	for _, a := range m.Assemblies {
		parts, err := assemblyParts(ctx, t, repository, a)
		if err != nil {
			return err
		}
		index := a.Build(parts)
		if index == nil {
			continue
		}
		if err := s.setAssembled(ctx, t, repository, a.Tag, *index); err != nil {
			return err
		}
	}
	return nil
}

// setAssembled stores an index that the registry made, unless it is there, and moves a tag to it.
func (s *Store) setAssembled(ctx context.Context, t *tx, repository int64, tag string, index NewManifest) error {
	var id int64
	err := found(t.row(ctx, `SELECT id FROM manifests WHERE repository = $1 AND digest = $2 AND deleted_at IS NULL`,
		repository, sqlDigest(index.Digest)).Scan(&id))
	if errors.Is(err, ErrNotFound) {
		if id, err = s.makeManifest(ctx, t, repository, index); err != nil {
			return err
		}
		_, err = t.exec(ctx, `
			UPDATE manifests SET assembled = 1
			WHERE id = $1 AND NOT EXISTS (SELECT 1 FROM manifest_children WHERE child = $1)`, id) // see keepChildren
	}
	if err != nil {
		return err
	}
	return s.setTag(ctx, t, repository, tag, id, index.Digest, mover{user: index.User, assembled: true})
}

const selectPart = `
	SELECT m.id, m.digest, m.media_type, m.artifact_type, m.size, m.os, m.architecture, m.variant, `

// assemblyParts reads what an index can be made of. Where there is more than one writer it has to take a lock of the
// repository and the tag first: of two pushes at once, the second has to see what the first made.
func assemblyParts(ctx context.Context, t *tx, repository int64, a Assembly) (parts AssemblyParts, err error) {
	parts.Index, parts.Assembled, err = taggedIndex(ctx, t, repository, a.Tag)
	if err != nil {
		return parts, err
	}
	names, err := json.Marshal(a.From)
	if err != nil {
		return parts, err
	}
	parts.Tagged, err = collect(ctx, t, scanPart, selectPart+`t.name, t.updated_at, b.body
		FROM tags t
		JOIN manifests m ON m.id = t.manifest AND m.deleted_at IS NULL
		JOIN manifest_bodies b ON b.manifest = m.id
		WHERE t.repository = $1 AND t.name IN (SELECT value FROM {elements}($2)) AND m.size <= $3`,
		repository, string(names), a.MaxSize)
	for i := range parts.Tagged {
		if err == nil {
			err = addChildren(ctx, t, &parts.Tagged[i])
		}
	}
	return parts, err
}

// taggedIndex returns what a tag points to, or nil, and whether the registry set it.
func taggedIndex(ctx context.Context, t *tx, repository int64, tag string) (index *AssemblyPart, assembled bool, err error) {
	p, err := scanPart(t.row(ctx, selectPart+`t.name, t.updated_at, b.body
		FROM tags t
		JOIN manifests m ON m.id = t.manifest AND m.deleted_at IS NULL
		JOIN manifest_bodies b ON b.manifest = m.id
		WHERE t.repository = $1 AND t.name = $2`, repository, tag))
	if errors.Is(err, sql.ErrNoRows) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	err = t.row(ctx, `SELECT assembled FROM tags WHERE repository = $1 AND name = $2`, repository, tag).Scan(&assembled)
	if err != nil {
		return nil, false, err
	}
	return &p, assembled, addChildren(ctx, t, &p)
}

// addChildren reads what is there of what an index lists.
func addChildren(ctx context.Context, t *tx, p *AssemblyPart) (err error) {
	p.Children, err = collect(ctx, t, scanPart, selectPart+`'', m.pushed_at, NULL
		FROM manifest_children e
		JOIN manifests m ON m.id = e.child AND m.deleted_at IS NULL
		WHERE e.manifest = $1 ORDER BY e.position`, p.id)
	return err
}

func scanPart(row scanner) (p AssemblyPart, err error) {
	var d sqlDigest
	var os, architecture, variant sql.NullString
	var pushed int64
	err = row.Scan(&p.id, &d, &p.MediaType, &p.ArtifactType, &p.Size, &os, &architecture, &variant, &p.Tag, &pushed, &p.Body)
	p.Digest = digest.Digest(d)
	p.Platform = Platform{OS: os.String, Architecture: architecture.String, Variant: variant.String}
	p.Pushed = time.UnixMilli(pushed)
	return p, err
}

// leaveIndexes takes a manifest that is about to be deleted out of the indexes that the registry made: tags get an index of
// what is left, or go with the last of it; an index that no tag points to any more keeps its other children, since nodes of
// a swarm go on to pull it by its digest.
func (s *Store) leaveIndexes(ctx context.Context, t *tx, repository, manifest int64, how Deletion) error {
	leaving, err := collect(ctx, t, scanID, `
		SELECT c.id
		FROM manifest_children e
		JOIN manifests i ON i.id = e.manifest AND i.assembled = 0
		JOIN manifests c ON c.id = e.child
		WHERE e.manifest = $1
		  AND NOT EXISTS (SELECT 1 FROM tags WHERE manifest = c.id)
		  AND NOT EXISTS (SELECT 1 FROM manifest_children o JOIN manifests p ON p.id = o.manifest
		    WHERE o.child = c.id AND o.manifest <> $1 AND p.assembled = 0 AND p.deleted_at IS NULL)`, manifest)
	if err != nil {
		return err
	}
	gone := map[int64]bool{manifest: true} // and with an index what came in with it and nothing else
	for _, id := range leaving {
		gone[id] = true
	}
	for id := range gone {
		if err := s.rebuildIndexes(ctx, t, repository, id, gone, how); err != nil {
			return err
		}
	}
	parents, err := collect(ctx, t, scanID, `
		SELECT DISTINCT e.manifest FROM manifest_children e JOIN manifests p ON p.id = e.manifest
		WHERE e.child = $1 AND p.deleted_at IS NULL`, manifest)
	if err != nil {
		return err
	}
	for _, parent := range parents {
		if _, err := t.exec(ctx, `UPDATE manifest_children SET child = NULL WHERE child = $1 AND manifest = $2`, manifest, parent); err != nil {
			return err
		}
		empty, err := t.exists(ctx, `
			SELECT 1 FROM manifests
			WHERE id = $1 AND assembled = 1
			  AND NOT EXISTS (SELECT 1 FROM manifest_children WHERE manifest = $1 AND child IS NOT NULL)`, parent)
		if err == nil && empty {
			err = s.discard(ctx, t, repository, parent, how)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// rebuildIndexes moves the tags that the registry set to an index which lists a manifest.
func (s *Store) rebuildIndexes(ctx context.Context, t *tx, repository, manifest int64, gone map[int64]bool, how Deletion) error {
	tags, err := collect(ctx, t, scanString, `
		SELECT DISTINCT t.name
		FROM manifest_children e
		JOIN tags t ON t.manifest = e.manifest AND t.assembled = 1
		WHERE e.child = $1`, manifest)
	if err != nil {
		return err
	}
	for _, tag := range tags {
		part, _, err := taggedIndex(ctx, t, repository, tag)
		if err != nil {
			return err
		}
		var rest []AssemblyPart
		for _, c := range part.Children {
			if !gone[c.id] {
				rest = append(rest, c)
			}
		}
		part.Children = rest
		if err := s.replaceIndex(ctx, t, repository, tag, *part, how); err != nil {
			return err
		}
	}
	return nil
}

// replaceIndex moves a tag to an index of what is left, or deletes it.
func (s *Store) replaceIndex(ctx context.Context, t *tx, repository int64, tag string, left AssemblyPart, how Deletion) error {
	var index *NewManifest
	if how.Rebuild != nil {
		index = how.Rebuild(left)
	}
	if index != nil {
		return s.setAssembled(ctx, t, repository, tag, *index)
	}
	if s.keeps(how) {
		if err := s.endTags(ctx, t, how.User, true, `t.repository = $3 AND t.name = $4`, repository, tag); err != nil {
			return err
		}
	}
	_, err := t.exec(ctx, `DELETE FROM tags WHERE repository = $1 AND name = $2`, repository, tag)
	return err
}

func scanID(row scanner) (id int64, err error) {
	err = row.Scan(&id)
	return id, err
}
