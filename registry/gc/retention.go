package gc

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"berth/storage/metadata"

	"github.com/opencontainers/go-digest"
)

// RetentionRule says how long the tags and manifests of some repositories stay. Of several rules for a repository, the first that names a
// tag decides about it, and the first that names the repository about manifests without a tag.
type RetentionRule struct {
	// Repository and Tag report what the rule is about.
	Repository func(repository string) bool
	Tag        func(tag string) bool
	// A tag stays that is one of the Newest that were set last, that was set within Pushed, whose manifest was pulled within Pulled, or
	// that Always names. A rule without any of them lets all tags stay.
	Newest         int
	Pushed, Pulled time.Duration
	Always         func(tag string) bool
	// Untagged is how long a manifest stays that no tag points to any more, after it was pushed, pulled and untagged. Zero is for ever.
	Untagged time.Duration
	// Cache is how long a tag of a cache of BuildKit stays after it was set and pulled, and nothing else counts for it. Zero is for ever.
	Cache time.Duration
}

// removesTags reports whether tags may go.
func (r RetentionRule) removesTags() bool {
	return r.Newest > 0 || r.Pushed > 0 || r.Pulled > 0 || r.Always != nil
}

// Doomed is a tag or manifest that a retention rule lets go.
type Doomed struct {
	Repository string `json:"repository"`
	// Tag is empty for a manifest without one.
	Tag    string        `json:"tag,omitempty"`
	Digest digest.Digest `json:"digest"`
	Reason string        `json:"reason"`
}

// RetentionPlan is what the rules let go of a repository.
type RetentionPlan struct {
	Doomed []Doomed
	// Manifests is how many go, and Bytes is what only they need.
	Manifests int
	Bytes     int64

	retirement metadata.Retirement
	now        time.Time
}

// PlanRetention calls each with what rules, in place of those of the configuration, let go now of each repository where that is
// something, and changes nothing.
func (r *Reaper) PlanRetention(ctx context.Context, rules []RetentionRule, each func(repository string, p RetentionPlan) error) error {
	if len(rules) == 0 {
		return nil
	}
	for last := ""; ; {
		names, err := r.facts.Repositories(ctx, last, batch)
		if err != nil {
			return fmt.Errorf("list repositories: %w", err)
		}
		for _, name := range names {
			p, err := r.planRepository(ctx, rules, name)
			if err == nil && len(p.Doomed) > 0 {
				err = each(name, p)
			}
			if err != nil {
				return err
			}
		}
		if len(names) < batch {
			return nil
		}
		last = names[len(names)-1]
	}
}

func (r *Reaper) planRepository(ctx context.Context, rules []RetentionRule, name string) (p RetentionPlan, err error) {
	rules = slices.DeleteFunc(slices.Clone(rules), func(rule RetentionRule) bool { return !rule.Repository(name) })
	if len(rules) == 0 {
		return p, nil
	}
	all, err := r.facts.Inventory(ctx, name)
	if errors.Is(err, metadata.ErrNotFound) {
		return p, nil // it was deleted meanwhile
	}
	if err != nil {
		return p, fmt.Errorf("look at %s: %w", name, err)
	}
	p = plan(name, rules, all)
	if len(p.retirement.Manifests) > 0 {
		if p.Bytes, err = r.facts.FreedBytes(ctx, p.retirement.Manifests); err != nil {
			return p, fmt.Errorf("count the bytes of %s: %w", name, err)
		}
	}
	return p, nil
}

// retain does what the rules say, when it is time.
func (r *Reaper) retain(ctx context.Context) (done metadata.Retired, err error) {
	if len(r.rules) == 0 || time.Since(r.retained) < r.retainEvery {
		return done, nil
	}
	err = r.PlanRetention(ctx, r.rules, func(repository string, p RetentionPlan) error {
		for part := range p.parts() {
			some, err := r.facts.Retire(ctx, repository, p.now, part, metadata.Deletion{User: "retention"})
			if err != nil {
				return fmt.Errorf("retire what %s has: %w", repository, err)
			}
			done.Tags, done.Manifests = done.Tags+some.Tags, done.Manifests+some.Manifests
		}
		return nil
	})
	if err == nil {
		r.retained = time.Now()
	}
	if done != (metadata.Retired{}) {
		r.log.Info("retention", "tags", done.Tags, "manifests", done.Manifests)
	}
	return done, err
}

// parts cuts a plan into transactions that pushes need not wait long for: tags first.
func (p RetentionPlan) parts() func(yield func(metadata.Retirement) bool) {
	return func(yield func(metadata.Retirement) bool) {
		for tags := range slices.Chunk(p.retirement.Tags, batch) {
			if !yield(metadata.Retirement{Tags: tags}) {
				return
			}
		}
		for manifests := range slices.Chunk(p.retirement.Manifests, batch) {
			if !yield(metadata.Retirement{Manifests: manifests}) {
				return
			}
		}
	}
}

// repository is an inventory that a plan is made for.
type repository struct {
	name  string
	rules []RetentionRule
	metadata.Inventory
	byID     map[int64]*metadata.InventoryManifest
	byDigest map[digest.Digest]*metadata.InventoryManifest
	tags     map[int64]int // that point to a manifest and stay
	parents  map[int64]int // that list a manifest and stay
	gone     map[int64]bool
	plan     RetentionPlan
}

// plan decides what the rules, all of which are about the repository, let go.
func plan(name string, rules []RetentionRule, all metadata.Inventory) RetentionPlan {
	r := &repository{
		name: name, rules: rules, Inventory: all,
		byID: make(map[int64]*metadata.InventoryManifest), byDigest: make(map[digest.Digest]*metadata.InventoryManifest),
		tags: make(map[int64]int), parents: make(map[int64]int), gone: make(map[int64]bool),
	}
	r.plan.now = all.Now
	for i := range all.Manifests {
		m := &all.Manifests[i]
		r.byID[m.ID], r.byDigest[m.Digest] = m, m
		for _, child := range m.Children {
			r.parents[child]++
		}
	}
	for _, t := range all.Tags {
		r.tags[t.Manifest]++
	}
	r.retireTags()
	r.retireUntagged()
	r.plan.Manifests = len(r.plan.retirement.Manifests)
	return r.plan
}

// subjectTag is how cosign and the spec's fallback name tags after what they describe.
var subjectTag = regexp.MustCompile(`^sha256-([0-9a-f]{64})(\.[a-z]+)?$`)

func subjectOf(tag string) digest.Digest {
	if m := subjectTag.FindStringSubmatch(tag); m != nil {
		return digest.NewDigestFromEncoded(digest.SHA256, m[1])
	}
	return ""
}

// retireTags lets tags go, each with the manifest that nothing else keeps.
func (r *repository) retireTags() {
	for i, tags := range r.tagsByRule() {
		rule := r.rules[i]
		slices.SortStableFunc(tags, func(a, b metadata.InventoryTag) int { return b.Updated.Compare(a.Updated) })
		counted := 0
		for _, t := range tags {
			m := r.byID[t.Manifest]
			if m.Cache {
				if rule.Cache > 0 && r.since(t.Updated, m.Pulled) > rule.Cache {
					r.retireTag(t, fmt.Sprintf("rule %d: a cache that was not used for %s", i+1, rule.Cache))
				}
				continue
			}
			counted++
			if rule.removesTags() && !r.stays(rule, t, m, counted) {
				r.retireTag(t, fmt.Sprintf("rule %d: %s", i+1, rule.nothing(counted)))
			}
		}
	}
}

// tagsByRule are those tags that a rule is about, but for those that live and die with what they describe.
func (r *repository) tagsByRule() [][]metadata.InventoryTag {
	all := make([][]metadata.InventoryTag, len(r.rules))
	for _, t := range r.Tags {
		if subject := subjectOf(t.Name); subject != "" && r.byDigest[subject] != nil {
			continue
		}
		i := slices.IndexFunc(r.rules, func(rule RetentionRule) bool { return rule.Tag(t.Name) })
		if i >= 0 {
			all[i] = append(all[i], t)
		}
	}
	return all
}

// since is how long ago the latest of some times was.
func (r *repository) since(times ...time.Time) time.Duration {
	return r.Now.Sub(slices.MaxFunc(times, time.Time.Compare))
}

// stays reports whether anything lets the nth newest tag stay.
func (r *repository) stays(rule RetentionRule, t metadata.InventoryTag, m *metadata.InventoryManifest, n int) bool {
	return rule.Always != nil && rule.Always(t.Name) || n <= rule.Newest || r.since(t.Updated) <= rule.Pushed && rule.Pushed > 0 ||
		rule.Pulled > 0 && r.since(t.Updated, m.Pulled) <= rule.Pulled
}

// nothing says what did not let the nth newest tag stay.
func (r RetentionRule) nothing(n int) string {
	var reasons []string
	if r.Newest > 0 {
		reasons = append(reasons, fmt.Sprintf("number %d of the newest, %d stay", n, r.Newest))
	}
	if r.Pushed > 0 {
		reasons = append(reasons, fmt.Sprintf("not pushed for %s", r.Pushed))
	}
	if r.Pulled > 0 {
		reasons = append(reasons, fmt.Sprintf("not pulled for %s", r.Pulled))
	}
	if len(reasons) == 0 {
		return "no pattern keeps it"
	}
	return strings.Join(reasons, ", ")
}

func (r *repository) retireTag(t metadata.InventoryTag, reason string) {
	m := r.byID[t.Manifest]
	r.plan.Doomed = append(r.plan.Doomed, Doomed{Repository: r.name, Tag: t.Name, Digest: m.Digest, Reason: reason})
	r.plan.retirement.Tags = append(r.plan.retirement.Tags, t)
	r.tags[t.Manifest]--
	r.retire(m)
}

// pinned is how long a manifest stays that was pulled: nodes that know it by its digest alone pull it again.
func (r *repository) pinned() (longest time.Duration) {
	for _, rule := range r.rules {
		longest = max(longest, rule.Pulled, rule.Untagged)
	}
	return longest
}

// retire lets a manifest go unless something needs it, with what only it lists, and what describes it.
func (r *repository) retire(m *metadata.InventoryManifest) {
	if r.gone[m.ID] || r.tags[m.ID] > 0 || r.parents[m.ID] > 0 || !m.Pulled.IsZero() && r.since(m.Pulled) <= r.pinned() {
		return
	}
	r.gone[m.ID] = true
	r.plan.retirement.Manifests = append(r.plan.retirement.Manifests, m.ID)
	for _, id := range m.Children {
		r.parents[id]--
	}
	for _, id := range m.Children {
		r.retire(r.byID[id])
	}
	r.retireReferrers(m.Digest)
}

// retireReferrers lets go what describes a manifest that goes, by its subject or by the name of its tag.
func (r *repository) retireReferrers(subject digest.Digest) {
	for _, t := range r.Tags {
		if subjectOf(t.Name) == subject {
			r.retireTag(t, "it describes "+subject.String()+", which goes")
		}
	}
	for i := range r.Manifests {
		if m := &r.Manifests[i]; m.Subject == subject {
			r.retire(m)
		}
	}
}

// retireUntagged lets manifests go to which no tag has pointed for the time of the first rule.
func (r *repository) retireUntagged() {
	age := r.rules[0].Untagged
	if age <= 0 {
		return
	}
	for i := range r.Manifests {
		m := &r.Manifests[i]
		held := m.Subject != "" && r.byDigest[m.Subject] != nil && !r.gone[r.byDigest[m.Subject].ID]
		if r.gone[m.ID] || r.tags[m.ID] > 0 || r.parents[m.ID] > 0 || held || r.since(m.Pushed, m.Pulled, m.Untagged) <= age {
			continue
		}
		before := len(r.plan.retirement.Manifests)
		r.retire(m)
		if len(r.plan.retirement.Manifests) > before {
			r.plan.Doomed = append(r.plan.Doomed, Doomed{Repository: r.name, Digest: m.Digest, Reason: fmt.Sprintf("no tag for %s", age)})
		}
	}
}
