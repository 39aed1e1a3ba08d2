package main

import (
	"errors"
	"fmt"
	"slices"

	"berth/config"
	"berth/glob"
	"berth/registry"
	"berth/registry/manifest"
)

// coverage reads the policies about platforms.
func coverage(c config.Policy) ([]registry.CoveragePolicy, error) {
	var all []registry.CoveragePolicy
	for i, p := range c.Platforms {
		policy, err := coveragePolicy(p)
		if err != nil {
			return nil, fmt.Errorf("policy.platforms.%d: %w", i, err)
		}
		all = append(all, policy)
	}
	return all, nil
}

func coveragePolicy(c config.PlatformPolicy) (registry.CoveragePolicy, error) {
	policy := registry.CoveragePolicy{Reject: c.On == "reject"}
	if len(c.Repositories) == 0 || len(c.Require) == 0 {
		return policy, errors.New(`it needs repositories, such as ["**"], and require, such as [linux/amd64, linux/arm/v7]`)
	}
	for _, s := range c.Require {
		p, err := manifest.ParsePlatform(s)
		if err != nil {
			return policy, fmt.Errorf("require: %w", err)
		}
		policy.Require = append(policy.Require, p)
	}
	var err error
	policy.Applies, err = tagMatcher(c.Repositories, c.Tags)
	return policy, err
}

// tagMatcher reports whether a tag of a repository matches patterns for both. No patterns for tags match all.
func tagMatcher(repositories, tags []string) (func(repository, tag string) bool, error) {
	var names []glob.Pattern
	for _, s := range repositories {
		p, err := glob.ParseRepository(s)
		if err != nil {
			return nil, fmt.Errorf("repositories: %w", err)
		}
		names = append(names, p)
	}
	var labels []glob.Tag
	for _, s := range tags {
		p, err := glob.ParseTag(s)
		if err != nil {
			return nil, fmt.Errorf("tags: %w", err)
		}
		labels = append(labels, p)
	}
	return func(repository, tag string) bool {
		return slices.ContainsFunc(names, func(p glob.Pattern) bool { return p.Match(repository) }) &&
			(len(labels) == 0 || slices.ContainsFunc(labels, func(p glob.Tag) bool { return p.Match(tag) }))
	}, nil
}
