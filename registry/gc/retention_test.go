package gc

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"berth/storage/metadata"

	"github.com/opencontainers/go-digest"
)

const day = 24 * time.Hour

// shelf makes inventories. All of it was pushed long ago unless a test says otherwise.
type shelf struct {
	metadata.Inventory
	rules []RetentionRule
}

func newShelf(rules ...RetentionRule) *shelf {
	for i := range rules {
		if rules[i].Tag == nil {
			rules[i].Tag = func(string) bool { return true }
		}
	}
	return &shelf{Inventory: metadata.Inventory{Now: time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)}, rules: rules}
}

func (s *shelf) ago(days int) time.Time { return s.Now.Add(-time.Duration(days) * day) }

// manifest adds one that was pushed so many days ago, and returns its ID.
func (s *shelf) manifest(days int, children ...int64) int64 {
	id := int64(len(s.Manifests) + 1)
	s.Manifests = append(s.Manifests, metadata.InventoryManifest{
		ID: id, Digest: digest.FromString(strconv.FormatInt(id, 10)), Pushed: s.ago(days), Children: children})
	return id
}

func (s *shelf) of(id int64) *metadata.InventoryManifest { return &s.Manifests[id-1] }

func (s *shelf) tag(name string, days int, id int64) {
	s.Tags = append(s.Tags, metadata.InventoryTag{Name: name, Manifest: id, Updated: s.ago(days)})
}

// image adds one with a tag.
func (s *shelf) image(tag string, days int) int64 {
	id := s.manifest(days)
	s.tag(tag, days, id)
	return id
}

// want fails unless exactly these tags and manifests go.
func (s *shelf) want(t *testing.T, tags string, manifests ...int64) RetentionPlan {
	t.Helper()
	p := plan("app", s.rules, s.Inventory)
	var got []string
	for _, tag := range p.retirement.Tags {
		got = append(got, tag.Name)
	}
	slices.Sort(got)
	gone := slices.Sorted(slices.Values(p.retirement.Manifests))
	if strings.Join(got, " ") != tags || !slices.Equal(gone, manifests) && len(gone)+len(manifests) > 0 {
		t.Errorf("tags %q and manifests %d go, want %q and %d", got, gone, tags, manifests)
	}
	return p
}

func only(names ...string) func(string) bool {
	return func(tag string) bool { return slices.Contains(names, tag) }
}

func TestRetentionNewest(t *testing.T) {
	s := newShelf(RetentionRule{Newest: 2, Always: only("stable")})
	s.image("stable", 900)
	s.image("new", 1)
	s.image("newer", 0)
	old := s.image("old", 2)
	oldest := s.image("oldest", 3)
	p := s.want(t, "old oldest", old, oldest)
	if p.Doomed[0].Reason != "rule 1: number 3 of the newest, 2 stay" || p.Doomed[0].Tag != "old" {
		t.Errorf("%+v", p.Doomed)
	}
}

// TestRetentionCriteria has any one of the criteria keep a tag.
func TestRetentionCriteria(t *testing.T) {
	s := newShelf(RetentionRule{Newest: 1, Pushed: 10 * day, Pulled: 20 * day, Always: only("always")})
	s.image("newest", 0)
	s.image("pushed", 10)
	s.of(s.image("pulled", 500)).Pulled = s.ago(20)
	s.image("nobody knows who pulled it", 20) // its push counts
	s.image("always", 500)
	gone := s.image("gone", 21)
	s.of(gone).Pulled = s.ago(21)
	p := s.want(t, "gone", gone)
	if want := "rule 1: number 4 of the newest, 1 stay, not pushed for 240h0m0s, not pulled for 480h0m0s"; p.Doomed[0].Reason != want {
		t.Errorf("%q, want %q", p.Doomed[0].Reason, want)
	}
}

// TestRetentionFirstRule decides by the first rule that names a tag, and counts by rule.
func TestRetentionFirstRule(t *testing.T) {
	s := newShelf(RetentionRule{Tag: only("a", "b"), Newest: 1}, RetentionRule{Newest: 1})
	s.image("a", 1)
	b := s.image("b", 2)
	s.image("c", 3)
	d := s.image("d", 4)
	s.want(t, "b d", b, d)
	s.rules[0] = RetentionRule{Tag: only("a", "b")} // lets all of its tags stay
	s.want(t, "d", d)
}

// TestMultiArchChildrenSurviveUntagged keeps what an index lists, however old and untagged, until the index goes.
func TestMultiArchChildrenSurviveUntagged(t *testing.T) {
	s := newShelf(RetentionRule{Newest: 1, Untagged: day})
	shared, arm, amd := s.manifest(100), s.manifest(100), s.manifest(100)
	list := s.manifest(100, shared, arm)
	other := s.manifest(100, shared, amd)
	s.tag("old", 100, list)
	s.tag("new", 1, other)
	s.want(t, "old", arm, list)
	s.tag("also", 0, list)
	s.tag("more", 0, other)
	s.rules[0].Newest = 10
	s.want(t, "")
}

// TestSiblingTagSurvives keeps the manifest of a tag that goes while another one points to it.
func TestSiblingTagSurvives(t *testing.T) {
	s := newShelf(RetentionRule{Newest: 1})
	id := s.image("old", 9)
	s.tag("new", 1, id)
	s.want(t, "old")
}

// TestRetentionReferrers lets signatures go with what they sign, and not before, whether they are found by subject or by tag.
func TestRetentionReferrers(t *testing.T) {
	s := newShelf(RetentionRule{Newest: 1, Untagged: day})
	old, kept := s.image("old", 50), s.image("new", 40)
	signature := func(subject int64) int64 {
		id := s.manifest(100)
		s.of(id).Subject = s.of(subject).Digest
		return id
	}
	cosign := func(subject int64) int64 { return s.image("sha256-"+s.of(subject).Digest.Encoded()+".sig", 100) }
	bySubject, byTag := signature(old), cosign(old)
	ofSignature := signature(bySubject)
	signature(kept)
	cosign(kept)
	orphan := s.manifest(100)
	s.of(orphan).Subject = digest.FromString("never there")
	s.want(t, "old sha256-"+s.of(old).Digest.Encoded()+".sig", old, bySubject, byTag, ofSignature, orphan)
}

// TestRetentionUntagged counts from the last of push, pull and the end of a tag.
func TestRetentionUntagged(t *testing.T) {
	s := newShelf(RetentionRule{Untagged: 10 * day})
	gone, pushed, pulled, untagged := s.manifest(11), s.manifest(9), s.manifest(11), s.manifest(11)
	s.of(pulled).Pulled, s.of(untagged).Untagged = s.ago(9), s.ago(9)
	_ = pushed
	p := s.want(t, "", gone)
	if len(p.Doomed) != 1 || p.Doomed[0].Tag != "" || p.Doomed[0].Reason != "no tag for 240h0m0s" {
		t.Errorf("%+v", p.Doomed)
	}
}

// TestRetentionKeepsPinned keeps an image by its digest that nodes still pull, when its tag goes.
func TestRetentionKeepsPinned(t *testing.T) {
	s := newShelf(RetentionRule{Newest: 1, Pulled: 30 * day})
	s.image("new", 0)
	list := s.manifest(100, s.manifest(100))
	s.tag("old", 100, list)
	s.of(list).Pulled = s.ago(5)
	s.want(t, "") // pulled by anybody, it stays with its tag
	s.rules[0] = RetentionRule{Tag: s.rules[0].Tag, Newest: 1, Untagged: 30 * day}
	s.want(t, "old")
}

func TestRetentionCaches(t *testing.T) {
	s := newShelf(RetentionRule{Newest: 1, Cache: 10 * day})
	cache := func(tag string, pushed, pulled int) int64 {
		id := s.image(tag, pushed)
		s.of(id).Cache, s.of(id).Pulled = true, s.ago(pulled)
		return id
	}
	cache("buildcache", 0, 0)
	cache("used", 100, 9)
	unused := cache("unused", 100, 11)
	s.image("image", 50) // caches are not among the newest
	p := s.want(t, "unused", unused)
	if !strings.Contains(p.Doomed[0].Reason, "a cache that was not used for 240h0m0s") {
		t.Errorf("%+v", p.Doomed)
	}
	s.rules[0].Cache = 0
	s.want(t, "")
}
