package registry

import (
	"context"
	"slices"

	"github.com/opencontainers/go-digest"
)

// Tags lists the tags of a repository, sorted bytewise, and reports whether there are more. It fails with
// ErrNameUnknown.
func (s *Service) Tags(ctx context.Context, repository string, p Page) ([]string, bool, error) {
	tags, err := s.facts.Tags(ctx, repository, p.Last, p.N+1)
	if err != nil {
		return nil, false, explain(err, ErrNameUnknown, "list tags of %s", repository)
	}
	tags, more := cut(tags, p.N)
	return tags, more, nil
}

// Repositories lists the repositories that hold a manifest, sorted bytewise, and reports whether there are more.
func (s *Service) Repositories(ctx context.Context, p Page) ([]string, bool, error) {
	names, err := s.facts.Repositories(ctx, p.Last, p.N+1)
	if err != nil {
		return nil, false, explain(err, nil, "list repositories")
	}
	names, more := cut(names, p.N)
	return names, more, nil
}

// Referrers lists the manifests of a repository whose subject is d, sorted by digest, with their artifact types and
// annotations, and reports whether there are more. An empty artifactType lists all. Page.Last is a digest.
func (s *Service) Referrers(ctx context.Context, repository string, d digest.Digest, artifactType string, p Page) ([]Descriptor, bool, error) {
	found, more, err := s.facts.Referrers(ctx, repository, d, artifactType, digest.Digest(p.Last), p.N)
	if err != nil {
		return nil, false, explain(err, nil, "list referrers of %s", d)
	}
	all := make([]Descriptor, len(found))
	for i, m := range found {
		all[i] = Descriptor{MediaType: m.MediaType, ArtifactType: m.ArtifactType, Digest: m.Digest, Size: m.Size, Annotations: m.Annotations}
	}
	return all, more, nil
}

// cut keeps the n entries of a page of which one more than n was asked for, and reports whether that one was there.
func cut[T any](all []T, n int) ([]T, bool) {
	if len(all) > n {
		return all[:n], true
	}
	return all, false
}

// TagsOf returns some of the tags that point to a manifest, sorted. There may be none.
func (s *Service) TagsOf(ctx context.Context, repository string, d digest.Digest) ([]string, error) {
	const some = 10
	tags, err := s.facts.ManifestTags(ctx, repository, d, some)
	slices.Sort(tags)
	return tags, explain(err, nil, "list the tags of %s", d)
}
