package registry

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"berth/registry/manifest"
	"berth/storage/metadata"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// CoveragePolicy says which platforms a tag has to be for: a node that pulls it needs its own among them.
type CoveragePolicy struct {
	// Applies reports whether the policy is about a tag of a repository.
	Applies func(repository, tag string) bool
	// Require are the platforms. One without a variant is there when any of its variants is.
	Require []manifest.Platform
	// Reject refuses what lacks one. Otherwise it is accepted with a warning.
	Reject bool
}

// checkRestored judges what a tag would be that is pointed at a manifest which it never pointed to, as a push of that would be judged.
func (s *Service) checkRestored(ctx context.Context, repository, tag string, to digest.Digest) error {
	if !slices.ContainsFunc(s.coverage, func(p CoveragePolicy) bool { return p.Reject && p.Applies(repository, tag) }) {
		return nil
	}
	states, err := s.facts.TagHistory(ctx, repository, tag, maxHistory)
	if ignoreAbsent(err) != nil || slices.ContainsFunc(states, func(state TagState) bool { return state.Digest == to }) {
		return ignoreAbsent(err)
	}
	found, err := s.findManifest(ctx, repository, Reference{Digest: to}, true)
	if errors.Is(err, ErrManifestUnknown) {
		return ErrDenied.Withf("%s is not in %s, and %s:%s, which has to be for certain platforms, never pointed to it: restore it under another tag first",
			to, repository, repository, tag)
	}
	if err != nil {
		return err
	}
	m, err := manifest.Parse(found.MediaType, found.Body)
	if err != nil {
		return fmt.Errorf("read manifest %s: %w", to, err)
	}
	_, err = s.checkCoverage(ctx, repository, m, []string{tag})
	return err
}

// checkCoverage judges what a push would make of its tags. It returns warnings, or fails with ErrDenied. Artifacts, charts and
// caches are for no platform and pass.
func (s *Service) checkCoverage(ctx context.Context, repository string, m manifest.Manifest, tags []string) (warnings []string, err error) {
	var covered []manifest.Platform
	looked, image := false, false
	for _, tag := range tags {
		for _, policy := range s.coverage {
			if !policy.Applies(repository, tag) {
				continue
			}
			if !looked {
				if covered, image, err = s.platforms(ctx, repository, m); err != nil {
					return nil, err
				}
				looked = true
			}
			missing := lacks(covered, policy.Require)
			if !image || len(missing) == 0 {
				continue
			}
			message := lacking(repository, tag, missing, covered, policy.Require)
			if policy.Reject {
				return nil, ErrDenied.Withf("%s", message).Detailed(map[string][]string{"missing": names(missing)})
			}
			warnings = append(warnings, message)
		}
	}
	return warnings, nil
}

// lacks returns which of the platforms that are required are not among those that are covered.
func lacks(covered, required []manifest.Platform) (missing []manifest.Platform) {
	for _, wanted := range required {
		if !slices.ContainsFunc(covered, wanted.Includes) {
			missing = append(missing, wanted)
		}
	}
	return missing
}

func lacking(repository, tag string, missing, covered, required []manifest.Platform) string {
	has := "no platform that is known"
	if len(covered) > 0 {
		has = some(slices.Compact(slices.Sorted(slices.Values(names(covered)))), " and ")
	}
	return fmt.Sprintf("%s:%s lacks %s: it is for %s; build it with --platform %s, or push an index of all",
		repository, tag, strings.Join(names(missing), " and "), has, strings.Join(names(required), ","))
}

func names(platforms []manifest.Platform) []string {
	all := make([]string, len(platforms))
	for i, p := range platforms {
		all[i] = p.String()
	}
	return all
}

// platforms returns what a manifest is for, and reports whether it is an image, or an index of some, at all.
func (s *Service) platforms(ctx context.Context, repository string, m manifest.Manifest) (covered []manifest.Platform, image bool, err error) {
	if m.Subject != nil {
		return nil, false, nil
	}
	if m.Config != nil {
		if !manifest.IsImageConfig(m.Config.MediaType) {
			return nil, false, nil
		}
		found, err := s.facts.ConfigPlatform(ctx, repository, m.Config.Digest)
		return appendKnown(nil, found), true, ignoreAbsent(err)
	}
	for _, child := range m.Children {
		if !manifest.IsManifest(child.MediaType) {
			continue // a layer of a build cache
		}
		image = true
		if covered, err = s.appendPlatform(ctx, covered, repository, child); err != nil {
			return nil, false, err
		}
	}
	return covered, image, nil
}

// appendPlatform adds what an index says that a child is for, or where it says nothing, what the child itself says.
func (s *Service) appendPlatform(ctx context.Context, covered []manifest.Platform, repository string, child v1.Descriptor) ([]manifest.Platform, error) {
	if p, ok := manifest.PlatformOf(child); ok {
		return append(covered, p), nil
	}
	if child.Platform != nil {
		return covered, nil // unknown/unknown: an attestation
	}
	found, err := s.facts.ManifestPlatform(ctx, repository, child.Digest)
	return appendKnown(covered, found), ignoreAbsent(err)
}

func appendKnown(covered []manifest.Platform, p metadata.Platform) []manifest.Platform {
	if p.OS == "" {
		return covered
	}
	return append(covered, manifest.NewPlatform(p.OS, p.Architecture, p.Variant))
}

// ignoreAbsent leaves it to the push to say what it lacks.
func ignoreAbsent(err error) error {
	if errors.Is(err, metadata.ErrNotFound) {
		return nil
	}
	return err
}
