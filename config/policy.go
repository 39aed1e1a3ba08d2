package config

import (
	"regexp"
	"time"
)

// GC is about online garbage collection.
type GC struct {
	// Interval is the time between two rounds of the collector.
	Interval time.Duration `yaml:"interval"`
	// Rate is how many blobs in repositories are reviewed in a second.
	Rate int `yaml:"rate"`
	// Lease is how long content that nothing references stays after it was pushed or asked for.
	Lease time.Duration `yaml:"lease"`
	// Grace is how long bytes stay after the last row that named them is gone.
	Grace time.Duration `yaml:"grace"`
}

// Trash is about what was deleted.
type Trash struct {
	// Retain is how long deleted manifests and moved tags can be restored. Zero keeps nothing.
	Retain time.Duration `yaml:"retain"`
}

// Retention is about how long tags and manifests stay.
type Retention struct {
	// Interval is the time between two looks at what may go.
	Interval time.Duration `yaml:"interval"`
	// Rules say what goes. Of several for a tag, the first decides.
	Rules []RetentionRule `yaml:"rules,omitempty"`
}

// RetentionRule says how long the tags of some repositories stay, and what has no tag.
type RetentionRule struct {
	// Repositories are patterns.
	Repositories []string `yaml:"repositories"`
	// Tags are patterns, too. None means all tags.
	Tags []string `yaml:"tags,omitempty"`
	// Keep is what lets a tag stay. Without anything in it, all stay.
	Keep RetentionKeep `yaml:"keep,omitempty"`
	// Untagged is how long a manifest without a tag stays after it was pushed, pulled and untagged. Zero is for ever.
	Untagged time.Duration `yaml:"untagged,omitempty"`
	// Cache is how long a tag of a BuildKit cache stays after it was pushed and pulled. Zero is for ever.
	Cache time.Duration `yaml:"cache,omitempty"`
}

// RetentionKeep is what lets a tag stay: any one of it is enough.
type RetentionKeep struct {
	// Newest is how many that were pushed last stay.
	Newest int `yaml:"newest,omitempty"`
	// Pushed is how long ago its push may be.
	Pushed time.Duration `yaml:"pushed,omitempty"`
	// Pulled is how long ago its last pull may be.
	Pulled time.Duration `yaml:"pulled,omitempty"`
	// Tags are patterns of tags that always stay.
	Tags []string `yaml:"tags,omitempty"`
}

// ImmutabilityRule names tags that never move.
type ImmutabilityRule struct {
	// Repositories are patterns.
	Repositories []string `yaml:"repositories"`
	// Tags are patterns, too. None means all tags.
	Tags []string `yaml:"tags,omitempty"`
	// Except are tags that move all the same.
	Except []string `yaml:"except,omitempty"`
}

// QuotaRule limits what the repositories that match its patterns hold together.
type QuotaRule struct {
	// Repositories are patterns.
	Repositories []string `yaml:"repositories"`
	// Bytes is how much the blobs of the repositories may take together, each counted once. Zero does not limit them.
	Bytes Size `yaml:"bytes,omitempty"`
	// Tags is how many tags they may have together. Zero does not limit them.
	Tags int `yaml:"tags,omitempty"`
}

// Validation says which manifests are accepted.
type Validation struct {
	// Disabled turns the rest of the section off.
	Disabled  bool                `yaml:"disabled,omitempty"`
	Manifests ManifestsValidation `yaml:"manifests"`
}

// ManifestsValidation is about what manifests refer to.
type ManifestsValidation struct {
	// URLs are those of layers that are kept elsewhere. Without this section any may be used; with it and neither list, none, as in
	// distribution. Images with such layers, as Windows had them until 2023, can't be pushed without URLs; the registry never follows them.
	URLs    *URLs   `yaml:"urls,omitempty"`
	Indexes Indexes `yaml:"indexes"`
}

// URLs restricts the URLs of layers that are kept elsewhere. Without Allow and Deny there may be none.
type URLs struct {
	// Allow are regular expressions of those that may be used; without any, all may that Deny leaves, if it has any.
	Allow []*regexp.Regexp `yaml:"allow,omitempty"`
	// Deny are regular expressions of those that may not, whatever Allow says.
	Deny []*regexp.Regexp `yaml:"deny,omitempty"`
}

// Indexes says which images of an index must be in the repository before it.
type Indexes struct {
	// Platforms is all, none, or list for those of PlatformList.
	Platforms string `yaml:"platforms" oneof:"all none list"`
	// PlatformList are the platforms whose images must be there.
	PlatformList []Platform `yaml:"platformlist,omitempty"`
}

// Platform is what an image runs on.
type Platform struct {
	// OS is as Go calls it, such as linux.
	OS string `yaml:"os"`
	// Architecture is as Go calls it, such as arm64.
	Architecture string `yaml:"architecture"`
}

// Policy says what tags have to be like.
type Policy struct {
	// Platforms are rules about the platforms that tags are for.
	Platforms []PlatformPolicy `yaml:"platforms,omitempty"`
}

// PlatformPolicy says which platforms tags have to be for.
type PlatformPolicy struct {
	// Repositories are patterns.
	Repositories []string `yaml:"repositories"`
	// Tags are patterns, too. None means all tags.
	Tags []string `yaml:"tags,omitempty"`
	// Require are platforms such as linux/arm/v7.
	Require []string `yaml:"require"`
	// On says what becomes of a push that lacks one: warn, which is what empty means, or reject.
	On string `yaml:"on,omitempty" oneof:"warn reject"`
}

// IndexRule says of which tags for single platforms the registry makes an index.
type IndexRule struct {
	// Repositories are patterns.
	Repositories []string `yaml:"repositories"`
	// From are patterns of tags, such as {tag}-{arch}. None stands for {arch},
	// {os}-{arch}{variant}, {tag}-{arch} and {tag}-{os}-{arch}{variant}.
	From []string `yaml:"from,omitempty"`
	// Require are platforms, such as linux/arm/v7, without which the tag of the index does not move.
	Require []string `yaml:"require,omitempty"`
	// Within leaves out what was pushed longer ago than that before the newest. Zero leaves out nothing.
	Within time.Duration `yaml:"within,omitempty"`
}

// IndexPatterns are the patterns of an index rule that has none.
func IndexPatterns() []string {
	return []string{"{arch}", "{os}-{arch}{variant}", "{tag}-{arch}", "{tag}-{os}-{arch}{variant}"}
}
