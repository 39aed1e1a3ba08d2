package registry

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"berth/storage/metadata"

	"github.com/opencontainers/go-digest"
)

// Deletion says how to delete.
type Deletion struct {
	// User is who deletes, or empty.
	User string
	// Now leaves nothing in the trash.
	Now bool
}

// Returns says how long it takes until what is deleted now can't be restored, zero when it can't be at all, and at the most until its
// space is free, but for what others need too.
func (s *Service) Returns(how Deletion) (restorable, space time.Duration) {
	return s.facts.Returns(metadata.Deletion{Now: how.Now})
}

// DeleteManifest removes a manifest, the tags that point to it, and its entry in indexes that the registry assembled: it returns
// what became of their tags. It fails with ErrManifestUnknown, and with ErrConflict while an index of the repository needs it that
// a client pushed, unless Config.SparseDeletes is set.
func (s *Service) DeleteManifest(ctx context.Context, repository string, d digest.Digest, how Deletion) ([]Assembled, error) {
	moved := make(map[string]digest.Digest)
	err := s.facts.DeleteManifest(ctx, repository, d, metadata.Deletion{
		User: how.User, Now: how.Now, Sparse: s.sparseDeletes, Rebuild: s.withoutAbsent(moved, how.User),
	})
	var used *metadata.InUseError
	if errors.As(err, &used) {
		return nil, ErrConflict.Withf("manifest %s is part of the index %s: delete the index first", d, list(used.By)).Detailed(used.By)
	}
	if err != nil {
		return nil, explain(err, ErrManifestUnknown, "delete manifest %s", d)
	}
	var tags []Assembled
	for _, tag := range slices.Sorted(maps.Keys(moved)) {
		tags = append(tags, Assembled{Tag: tag, Digest: moved[tag]})
	}
	return tags, nil
}

// DeleteTag removes a tag and nothing else. It fails with ErrManifestUnknown.
func (s *Service) DeleteTag(ctx context.Context, repository, tag string, how Deletion) error {
	err := s.facts.DeleteTag(ctx, repository, tag, metadata.Deletion{User: how.User, Now: how.Now})
	return explain(err, ErrManifestUnknown, "delete tag %s", tag)
}

// DeleteBlob removes a blob from a repository. It fails with ErrBlobUnknown, and with ErrConflict while a manifest of
// the repository references it.
func (s *Service) DeleteBlob(ctx context.Context, repository string, d digest.Digest) error {
	err := s.facts.DeleteBlob(ctx, repository, d)
	var used *metadata.InUseError
	if errors.As(err, &used) {
		return ErrConflict.Withf("blob %s is referenced by %s: delete the manifest first", d, list(used.By)).Detailed(used.By)
	}
	return explain(err, ErrBlobUnknown, "delete blob %s", d)
}

// DeletedRepository counts what was deleted with a repository.
type DeletedRepository = metadata.DeletedRepository

// DeleteRepository removes all tags, manifests and blobs of a repository. It fails with ErrNameUnknown.
func (s *Service) DeleteRepository(ctx context.Context, repository string, how Deletion) (DeletedRepository, error) {
	done, err := s.facts.DeleteRepository(ctx, repository, metadata.Deletion{User: how.User, Now: how.Now})
	return done, explain(err, ErrNameUnknown.Withf("there is no repository %s, or nothing in it", repository), "delete repository %s", repository)
}

// TagState is what a tag points to, or pointed to for some time.
type TagState = metadata.TagState

// TagHistory returns up to limit states of a tag, the newest first: what it points to now, if it is there, and those of the time that
// the trash keeps. It fails with ErrManifestUnknown.
func (s *Service) TagHistory(ctx context.Context, repository, tag string, limit int) ([]TagState, error) {
	states, err := s.facts.TagHistory(ctx, repository, tag, limit)
	absent := ErrManifestUnknown.Withf("%s has no tag %s, and had none as far as its history is kept", repository, tag)
	return states, explain(err, absent, "read the history of tag %s", tag)
}

// Restoration says what a tag is to point to again.
type Restoration struct {
	// To is a manifest of the repository, deleted or not. When it is empty, it is what the tag pointed to at the time Before.
	To     digest.Digest
	Before time.Time
	// User is who restores, or empty.
	User string
}

// maxHistory is how many states of a tag are looked through.
const maxHistory = 100_000

// RestoreTag points a tag at what it pointed to before, or at another manifest, and returns that. What was deleted of it comes back, with
// what it needs, and with what describes it. It fails with ErrManifestUnknown when that is gone for good, and with ErrDenied when the
// tag is immutable and points to something else, a policy refuses it, or a quota has no room for it.
func (s *Service) RestoreTag(ctx context.Context, repository, tag string, r Restoration) (digest.Digest, error) {
	to := r.To
	if to == "" {
		states, err := s.TagHistory(ctx, repository, tag, maxHistory)
		if err != nil {
			return "", err
		}
		if to = at(states, r.Before); to == "" {
			return "", ErrManifestUnknown.Withf("%s:%s pointed to nothing at %s, as far as its history is kept", repository, tag, r.Before.UTC().Format(time.RFC3339))
		}
	}
	if err := s.checkRestored(ctx, repository, tag, to); err != nil {
		return "", err
	}
	err := s.facts.RestoreTag(ctx, repository, tag, to, r.User, s.immutable(repository, tag))
	if err := explainImmutable(repository, err); err != nil {
		return "", err
	}
	return to, explain(err, ErrManifestUnknown.Withf("manifest %s is neither in %s nor in its trash", to, repository), "restore tag %s", tag)
}

// at returns what a tag with these states, the newest first, pointed to at a time.
func at(states []TagState, t time.Time) digest.Digest {
	for _, state := range states {
		if !state.Set.After(t) {
			if state.Ended.IsZero() || state.Ended.After(t) {
				return state.Digest
			}
			return ""
		}
	}
	return ""
}

// explainImmutable tells a client that a tag may not move, and nothing of other errors.
func explainImmutable(repository string, err error) error {
	var immutable *metadata.ImmutableError
	if !errors.As(err, &immutable) {
		return nil
	}
	return ErrDenied.Withf("%s:%s is immutable and points to %s: push under another tag", repository, immutable.Tag, immutable.Digest)
}
