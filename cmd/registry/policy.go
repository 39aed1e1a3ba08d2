package main

import (
	"errors"
	"fmt"
	"slices"

	"berth/config"
	"berth/glob"
	"berth/registry"
	"berth/registry/gc"
	"berth/registry/manifest"
	"berth/storage/metadata"
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
	var err error
	if policy.Require, err = platforms(c.Require); err != nil {
		return policy, err
	}
	policy.Applies, err = tagMatcher(c.Repositories, c.Tags)
	return policy, err
}

func platforms(require []string) (all []manifest.Platform, err error) {
	for _, s := range require {
		p, err := manifest.ParsePlatform(s)
		if err != nil {
			return nil, fmt.Errorf("require: %w", err)
		}
		all = append(all, p)
	}
	return all, nil
}

// indexRules reads the rules by which the registry makes indexes.
func indexRules(c []config.IndexRule) ([]registry.IndexRule, error) {
	var all []registry.IndexRule
	for i, r := range c {
		rule, err := indexRule(r)
		if err != nil {
			return nil, fmt.Errorf("indexes.%d: %w", i, err)
		}
		all = append(all, rule)
	}
	return all, nil
}

func indexRule(c config.IndexRule) (rule registry.IndexRule, err error) {
	if len(c.Repositories) == 0 {
		return rule, errors.New(`it needs repositories, such as ["**"]`)
	}
	if rule.Applies, err = repositoryMatcher(c.Repositories); err != nil {
		return rule, err
	}
	from := c.From
	if len(from) == 0 {
		from = config.IndexPatterns()
	}
	for _, s := range from {
		p, err := registry.ParseTagPattern(s)
		if err != nil {
			return rule, fmt.Errorf("from: %w", err)
		}
		rule.From = append(rule.From, p)
	}
	rule.Within = c.Within
	rule.Require, err = platforms(c.Require)
	return rule, err
}

// repositoryMatcher reports whether a repository matches one of some patterns.
func repositoryMatcher(patterns []string) (func(repository string) bool, error) {
	var names []glob.Pattern
	for _, s := range patterns {
		p, err := glob.ParseRepository(s)
		if err != nil {
			return nil, fmt.Errorf("repositories: %w", err)
		}
		names = append(names, p)
	}
	return func(repository string) bool {
		return slices.ContainsFunc(names, func(p glob.Pattern) bool { return p.Match(repository) })
	}, nil
}

// tagMatcher reports whether a tag of a repository matches patterns for both. No patterns for tags match all.
func tagMatcher(repositories, tags []string) (func(repository, tag string) bool, error) {
	named, err := repositoryMatcher(repositories)
	if err != nil {
		return nil, err
	}
	labelled, err := tagPatterns(tags)
	if err != nil {
		return nil, fmt.Errorf("tags: %w", err)
	}
	return func(repository, tag string) bool { return named(repository) && labelled(tag) }, nil
}

// tagPatterns reports whether a tag matches one of some patterns, or whether there are none.
func tagPatterns(patterns []string) (func(tag string) bool, error) {
	var labels []glob.Tag
	for _, s := range patterns {
		p, err := glob.ParseTag(s)
		if err != nil {
			return nil, err
		}
		labels = append(labels, p)
	}
	return func(tag string) bool {
		return len(labels) == 0 || slices.ContainsFunc(labels, func(p glob.Tag) bool { return p.Match(tag) })
	}, nil
}

// immutableTags reads which tags never move.
func immutableTags(c []config.ImmutabilityRule) (func(repository, tag string) bool, error) {
	var rules []func(repository, tag string) bool
	for i, r := range c {
		rule, err := immutableTag(r)
		if err != nil {
			return nil, fmt.Errorf("immutability.%d: %w", i, err)
		}
		rules = append(rules, rule)
	}
	return func(repository, tag string) bool {
		return slices.ContainsFunc(rules, func(applies func(repository, tag string) bool) bool { return applies(repository, tag) })
	}, nil
}

func immutableTag(c config.ImmutabilityRule) (func(repository, tag string) bool, error) {
	if len(c.Repositories) == 0 {
		return nil, errors.New(`it needs repositories, such as ["**"]`)
	}
	applies, err := tagMatcher(c.Repositories, c.Tags)
	if err != nil || len(c.Except) == 0 {
		return applies, err
	}
	excepted, err := tagMatcher(c.Repositories, c.Except)
	if err != nil {
		return nil, fmt.Errorf("except: %w", err)
	}
	return func(repository, tag string) bool { return applies(repository, tag) && !excepted(repository, tag) }, nil
}

// retentionRules reads how long tags and manifests stay.
func retentionRules(c []config.RetentionRule) ([]gc.RetentionRule, error) {
	var all []gc.RetentionRule
	for i, r := range c {
		rule, err := retentionRule(r)
		if err != nil {
			return nil, fmt.Errorf("retention.rules.%d: %w", i, err)
		}
		all = append(all, rule)
	}
	return all, nil
}

func retentionRule(c config.RetentionRule) (rule gc.RetentionRule, err error) {
	switch {
	case len(c.Repositories) == 0:
		return rule, errors.New(`it needs repositories, such as ["**"]`)
	case c.Keep.Newest < 0:
		return rule, fmt.Errorf("keep.newest is %d: it is how many tags stay", c.Keep.Newest)
	}
	rule = gc.RetentionRule{Newest: c.Keep.Newest, Pushed: c.Keep.Pushed, Pulled: c.Keep.Pulled, Untagged: c.Untagged, Cache: c.Cache}
	if rule.Repository, err = repositoryMatcher(c.Repositories); err != nil {
		return rule, err
	}
	if rule.Tag, err = tagPatterns(c.Tags); err != nil {
		return rule, fmt.Errorf("tags: %w", err)
	}
	if len(c.Keep.Tags) > 0 {
		if rule.Always, err = tagPatterns(c.Keep.Tags); err != nil {
			return rule, fmt.Errorf("keep.tags: %w", err)
		}
	}
	return rule, nil
}

// quotas reads what repositories may hold.
func quotas(c []config.QuotaRule) ([]metadata.Quota, error) {
	var all []metadata.Quota
	for i, r := range c {
		q := metadata.Quota{Repositories: slices.Sorted(slices.Values(r.Repositories)), Bytes: int64(r.Bytes), Tags: int64(r.Tags)}
		var err error
		switch {
		case len(r.Repositories) == 0:
			err = errors.New(`it needs repositories, such as ["**"]`)
		case r.Tags < 0 || r.Bytes < 0:
			err = errors.New("bytes and tags have to be more than zero, or left out")
		case r.Bytes == 0 && r.Tags == 0:
			err = errors.New("it limits nothing: set bytes, such as 100GiB, or tags")
		case slices.ContainsFunc(all, func(other metadata.Quota) bool { return slices.Equal(other.Repositories, q.Repositories) }):
			err = errors.New("a quota before it has the same repositories: make one of the two")
		default:
			q.Match, err = repositoryMatcher(r.Repositories)
		}
		if err != nil {
			return nil, fmt.Errorf("quota.%d: %w", i, err)
		}
		all = append(all, q)
	}
	return all, nil
}
