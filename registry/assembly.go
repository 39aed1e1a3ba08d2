package registry

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"berth/registry/manifest"
	"berth/storage/metadata"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// IndexRule says of which tags for single platforms the registry makes an index: after app:1.2-amd64 and app:1.2-arm were
// pushed, app:1.2 is for both.
//
// The index tag moves with each such push, in its transaction. What was pushed last for a platform is its entry, until its
// manifest is deleted; deleting the tag for the platform leaves the entry. A client that sets the index tag ends this: then
// the tag is the client's, until it is deleted.
type IndexRule struct {
	// Applies reports whether the rule is about a repository.
	Applies func(repository string) bool
	// From are the patterns of the tags for single platforms.
	From []TagPattern
	// Require are platforms without which the tag does not move.
	Require []manifest.Platform
	// Within, when not zero, leaves out what was pushed longer ago than that before the newest.
	Within time.Duration
}

// maxPart is how large manifests may be that indexes are assembled of, in bytes. Those of images have some thousands. There may
// be a hundred tags for one index, and a push reads them all while others wait.
const maxPart = 256 << 10

// Assembled is what became of a tag that the registry moves.
type Assembled struct {
	Tag string
	// Digest is of the index that it points to now, or empty when nothing is left of that and the tag is gone.
	Digest digest.Digest
}

// assembly is what a rule makes of one tag of a push.
type assembly struct {
	service    *Service
	rule       *IndexRule
	repository string
	pushed     string // the tag that the client set
	tag        string // that of the index
	user       string

	// What the last build came to:
	made     digest.Digest
	warnings []string
}

// assemblies returns what the rules make of the tags of a push: the first rule that matches.
func (s *Service) assemblies(repository string, tags []string, user string) []*assembly {
	var all []*assembly
	for _, tag := range tags {
		for i := range s.indexes {
			rule := &s.indexes[i]
			if !rule.Applies(repository) {
				continue
			}
			if whole, _, ok := matchTag(rule.From, tag); ok {
				all = append(all, &assembly{
					service: s, rule: rule, repository: repository, pushed: tag, tag: whole, user: user,
				})
				break
			}
		}
	}
	return all
}

// facts is what the metadata store is asked for.
func (a *assembly) facts() metadata.Assembly {
	return metadata.Assembly{Tag: a.tag, From: tagsOf(a.rule.From, a.tag), MaxSize: maxPart, Build: a.build}
}

// build makes the index, or nothing.
func (a *assembly) build(parts metadata.AssemblyParts) *metadata.NewManifest {
	a.made, a.warnings = "", nil
	entries, newest, ok := a.tagged(parts.Tagged)
	if !ok {
		return nil
	}
	if parts.Index != nil {
		if !parts.Assembled {
			a.warn("%s:%s was pushed as it is and does not follow %s: to have the registry assemble it, delete that tag first", a.repository, a.tag, a.pushed)
			return nil
		}
		entries = append(present(*parts.Index), entries...)
	}
	latest := a.latest(entries, newest)
	if !a.admits(latest) {
		return nil
	}
	index := a.service.index(latest, a.user)
	if index == nil {
		a.warn("%s:%s stays as it was: with %s it would be larger than a manifest may be", a.repository, a.tag, a.pushed)
		return nil
	}
	if parts.Index != nil && parts.Index.Digest == index.Digest {
		return nil
	}
	if parts.Index != nil && a.service.immutable(a.repository, a.tag) {
		a.warn("%s:%s stays as it was: it is immutable, as the configuration says", a.repository, a.tag)
		return nil
	}
	a.made = index.Digest
	return index
}

func (a *assembly) warn(format string, args ...any) {
	a.warnings = append(a.warnings, fmt.Sprintf(format, args...))
}

// timed is an entry of the index to be.
type timed struct {
	manifest.Entry
	platform manifest.Platform
	pushed   time.Time
	row      metadata.AssemblyPart // of the image
}

// tagged returns what the tags for single platforms add to the index, that of the push last, and when that was. It reports false
// when the push itself adds nothing.
func (a *assembly) tagged(parts []metadata.AssemblyPart) (entries []timed, newest time.Time, ok bool) {
	slices.SortStableFunc(parts, func(x, y metadata.AssemblyPart) int {
		return cmp.Or(cmp.Compare(a.rank(x), a.rank(y)), x.Pushed.Compare(y.Pushed), strings.Compare(x.Tag, y.Tag))
	})
	for _, p := range parts {
		whole, named, _ := matchTag(a.rule.From, p.Tag)
		if whole != a.tag {
			continue // 1.2-linux-amd64 belongs to 1.2, not to 1.2-linux
		}
		e, err := a.contribution(p, named)
		if p.Tag != a.pushed {
			if err == nil {
				entries = append(entries, e)
			}
			continue
		}
		var problem *contradiction
		if errors.As(err, &problem) {
			a.warn("%s:%s %s: %s:%s stays as it was", a.repository, a.pushed, problem.says, a.repository, a.tag)
		}
		if err != nil {
			return nil, newest, false
		}
		entries, newest, ok = append(entries, e), p.Pushed, true
	}
	return entries, newest, ok
}

// rank puts the tag of the push last, which may be of the same millisecond as another.
func (a *assembly) rank(p metadata.AssemblyPart) int {
	if p.Tag == a.pushed {
		return 1
	}
	return 0
}

// errNoImage says that a manifest is nothing that an index for platforms has: a cache, an artifact, an index of several.
var errNoImage = errors.New("not one image")

// contradiction is an image that is not what its tag says.
type contradiction struct{ says string }

func (c *contradiction) Error() string { return c.says }

// contribution returns the entry for what a tag points to that is named after a platform. It fails with errNoImage and
// contradictions.
func (a *assembly) contribution(p metadata.AssemblyPart, named manifest.Platform) (timed, error) {
	m, err := manifest.Parse(p.MediaType, p.Body)
	if err != nil || m.Subject != nil {
		return timed{}, errNoImage
	}
	e := timed{pushed: p.Pushed, Entry: manifest.Entry{Image: v1.Descriptor{MediaType: p.MediaType, Digest: p.Digest, Size: p.Size}}}
	image := p
	if manifest.IsIndex(p.MediaType) {
		inside := present(p)
		if len(inside) != 1 || len(manifest.Entries(m.Children)) != 1 { // of several, one may be all that is there
			return timed{}, errNoImage
		}
		e.Entry, image = inside[0].Entry, inside[0].row
	}
	if !manifest.IsImageConfig(image.ArtifactType) {
		return timed{}, errNoImage
	}
	e.platform, err = platformOf(image, named)
	if err != nil {
		return timed{}, err
	}
	e.Image.Platform = withPlatform(e.Image.Platform, e.platform)
	return e, nil
}

// platformOf returns what an image is for, by its own config. It fails with a contradiction when its tag is named otherwise.
func platformOf(image metadata.AssemblyPart, named manifest.Platform) (manifest.Platform, error) {
	if image.Platform.OS == "" {
		return manifest.Platform{}, &contradiction{"is an image whose config names no platform"}
	}
	is := manifest.NewPlatform(image.Platform.OS, image.Platform.Architecture, image.Platform.Variant)
	if named.OS == "" {
		named.OS = is.OS
	}
	if !named.Includes(is) {
		return is, &contradiction{fmt.Sprintf("is named after %s, but its image is for %s", named, is)}
	}
	return is, nil
}

// present returns the images of an index that are there.
func present(index metadata.AssemblyPart) (entries []timed) {
	m, err := manifest.Parse(index.MediaType, index.Body)
	if err != nil {
		return nil // what is stored was read before
	}
	there := make(map[digest.Digest]metadata.AssemblyPart, len(index.Children))
	for _, c := range index.Children {
		there[c.Digest] = c
	}
	m.Children = slices.DeleteFunc(m.Children, func(d v1.Descriptor) bool { return there[d.Digest].Digest == "" })
	for _, e := range manifest.Entries(m.Children) {
		p, _ := manifest.PlatformOf(e.Image)
		image := there[e.Image.Digest]
		entries = append(entries, timed{Entry: e, platform: p, pushed: image.Pushed, row: image})
	}
	return entries
}

// withPlatform keeps what an index says of the version of an operating system, which its images' rows don't.
func withPlatform(was *v1.Platform, p manifest.Platform) *v1.Platform {
	now := v1.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant}
	if was != nil {
		now.OSVersion, now.OSFeatures = was.OSVersion, was.OSFeatures
	}
	return &now
}

// latest returns the entry of each platform that was pushed last; of those of one time, the last in the list. What is too old
// beside the newest is left out. The last in the list is what is pushed now: it counts whatever the clock says, which may have
// been set back since.
func (a *assembly) latest(entries []timed, newest time.Time) map[manifest.Platform]timed {
	latest := make(map[manifest.Platform]timed)
	for i, e := range entries {
		if a.rule.Within > 0 && e.pushed.Before(newest.Add(-a.rule.Within)) {
			continue
		}
		if known, ok := latest[e.platform]; !ok || !e.pushed.Before(known.pushed) || i == len(entries)-1 {
			latest[e.platform] = e
		}
	}
	return latest
}

// admits decides whether the tag may move to an index of entries.
func (a *assembly) admits(entries map[manifest.Platform]timed) bool {
	covered := slices.SortedFunc(maps.Keys(entries), func(x, y manifest.Platform) int { return strings.Compare(x.String(), y.String()) })
	if missing := lacks(covered, a.rule.Require); len(missing) > 0 {
		a.warn("%s:%s is not moved yet, it waits for %s", a.repository, a.tag, strings.Join(names(missing), " and "))
		return false
	}
	for _, policy := range a.service.coverage {
		missing := lacks(covered, policy.Require)
		if !policy.Applies(a.repository, a.tag) || len(missing) == 0 {
			continue
		}
		a.warn("%s", lacking(a.repository, a.tag, missing, covered, policy.Require))
		if policy.Reject {
			return false
		}
	}
	return true
}

// index is the manifest with entries, and the facts of it, or nil where no client could have pushed it.
func (s *Service) index(entries map[manifest.Platform]timed, user string) *metadata.NewManifest {
	var all []manifest.Entry
	for _, e := range entries {
		all = append(all, e.Entry)
	}
	mediaType, body := manifest.NewIndex(all)
	if len(body) > MaxManifestSize {
		return nil
	}
	m, err := manifest.Parse(mediaType, body)
	if err != nil || len(m.Children) > MaxReferences {
		return nil
	}
	facts := s.manifestFacts(m, digest.FromBytes(body), ManifestPush{Body: body, User: user})
	return &facts
}

// withoutAbsent makes an index of those children of another that are still there, or nothing when no image is. It notes in moved
// what becomes of the tag of the other.
func (s *Service) withoutAbsent(moved map[string]digest.Digest, user string) func(metadata.AssemblyPart) *metadata.NewManifest {
	return func(index metadata.AssemblyPart) *metadata.NewManifest {
		entries := make(map[manifest.Platform]timed)
		for _, e := range present(index) {
			entries[e.platform] = e
		}
		moved[index.Tag] = ""
		if len(entries) == 0 {
			return nil
		}
		rest := s.index(entries, user)
		if rest != nil {
			moved[index.Tag] = rest.Digest
		}
		return rest
	}
}
