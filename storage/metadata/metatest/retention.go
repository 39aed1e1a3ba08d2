package metatest

import (
	"slices"
	"testing"
	"time"

	"berth/storage/metadata"

	"github.com/opencontainers/go-digest"
)

func retentionTests() suite {
	return suite{
		{"Pulls", testPulls},
		{"Inventory", testInventory},
		{"Retire", testRetire},
		{"RetireChanged", testRetireChanged},
		{"FreedBytes", testFreedBytes},
	}
}

func (f *fixture) inventory(t *testing.T, repository string) metadata.Inventory {
	t.Helper()
	all, err := f.Inventory(t.Context(), repository)
	must(t, err)
	return all
}

func testPulls(t *testing.T, f *fixture) {
	one, two := image("one"), image("two")
	f.put(t, "a", one)
	f.put(t, "a", two)
	f.put(t, "b", one)
	must(t, f.NotePulls(t.Context(), []metadata.Pull{{Repository: "a", Digest: one.Digest}, {Repository: "a", Digest: blob(1)}, {Repository: "c", Digest: one.Digest}}))
	for repository, pulled := range map[string][]digest.Digest{"a": {one.Digest}, "b": nil} {
		var got []digest.Digest
		for _, m := range f.inventory(t, repository).Manifests {
			if !m.Pulled.IsZero() {
				got = append(got, m.Digest)
				if time.Since(m.Pulled).Abs() > time.Minute {
					t.Errorf("pulled at %s", m.Pulled)
				}
			}
		}
		wantEqual(t, "pulled in "+repository, got, pulled)
	}
}

func testInventory(t *testing.T, f *fixture) {
	child, moved := image("child"), tagged(image("moved"), "x")
	list := tagged(index("list", child.Digest), "x", "y")
	signature := image("signature")
	signature.Subject, signature.ArtifactType = list.Digest, "application/x.signature"
	cache, oldCache, deleted := image("cache"), index("old cache", blob(1)), image("deleted")
	cache.ArtifactType = "application/vnd.buildkit.cacheconfig.v0"
	oldCache.Children[0].MediaType, oldCache.Children[0].Optional = cache.ArtifactType, true
	for _, m := range []metadata.NewManifest{child, moved, list, signature, cache, oldCache, deleted} {
		f.put(t, "a", m)
	}
	f.put(t, "b", child)
	f.remove(t, "a", deleted.Digest)
	all := f.inventory(t, "a")
	if time.Since(all.Now).Abs() > time.Minute {
		t.Errorf("now is %s", all.Now)
	}
	ids := make(map[int64]digest.Digest)
	for _, m := range all.Manifests {
		ids[m.ID] = m.Digest
	}
	tags := make(map[string]digest.Digest)
	for _, tag := range all.Tags {
		tags[tag.Name] = ids[tag.Manifest]
	}
	wantEqual(t, "tags", tags, map[string]digest.Digest{"x": list.Digest, "y": list.Digest})
	type row struct {
		children        []digest.Digest
		subject         digest.Digest
		cache, untagged bool
	}
	got := make(map[digest.Digest]row)
	for _, m := range all.Manifests {
		r := row{subject: m.Subject, cache: m.Cache, untagged: !m.Untagged.IsZero()}
		for _, c := range m.Children {
			r.children = append(r.children, ids[c])
		}
		got[m.Digest] = r
	}
	wantEqual(t, "manifests", got, map[digest.Digest]row{
		child.Digest: {}, moved.Digest: {untagged: true}, list.Digest: {children: []digest.Digest{child.Digest}},
		signature.Digest: {subject: list.Digest}, cache.Digest: {cache: true}, oldCache.Digest: {cache: true},
	})
	_, err := f.Inventory(t.Context(), "c")
	wantError(t, "inventory of no repository", err, metadata.ErrNotFound)
}

// retirement is all of an inventory but what is named.
func retirement(all metadata.Inventory, but ...digest.Digest) (r metadata.Retirement) {
	for _, m := range slices.Backward(all.Manifests) { // what lists others was pushed after them
		if !slices.Contains(but, m.Digest) {
			r.Manifests = append(r.Manifests, m.ID)
		}
	}
	r.Tags = all.Tags
	return r
}

func testRetire(t *testing.T, f *fixture) {
	f.push(t, "a", blob(1))
	child := image("child", blob(1))
	list := tagged(index("list", child.Digest), "x")
	f.put(t, "a", child)
	f.put(t, "a", list)
	all := f.inventory(t, "a")
	done, err := f.Retire(t.Context(), "a", all.Now, metadata.Retirement{Manifests: retirement(all).Manifests}, metadata.Deletion{})
	must(t, err)
	wantEqual(t, "retired under a tag", done, metadata.Retired{})
	done, err = f.Retire(t.Context(), "a", all.Now, retirement(all), metadata.Deletion{User: "rule"})
	must(t, err)
	wantEqual(t, "retired", done, metadata.Retired{Tags: 1, Manifests: 2})
	f.wantNoManifest(t, "a", list)
	f.wantNoManifest(t, "a", child)
	f.restore(t, "a", "x", list.Digest)
	f.wantManifest(t, "a", child)
}

// testRetireChanged leaves alone what changed since the inventory.
func testRetireChanged(t *testing.T, f *fixture) {
	pushed, pulled, listed, kept := image("pushed"), image("pulled"), image("listed"), tagged(image("kept"), "x")
	for _, m := range []metadata.NewManifest{pushed, pulled, listed, kept} {
		f.put(t, "a", m)
	}
	f.exec(t, 4, `UPDATE manifests SET pushed_at = pushed_at - 10`)
	f.exec(t, 1, `UPDATE tags SET updated_at = updated_at - 10`)
	all := f.inventory(t, "a")
	all.Now = all.Now.Add(-5 * time.Millisecond)
	f.put(t, "a", pushed)
	must(t, f.NotePulls(t.Context(), []metadata.Pull{{Repository: "a", Digest: pulled.Digest}}))
	f.put(t, "a", index("list", listed.Digest))
	f.put(t, "a", tagged(image("kept"), "x"))
	done, err := f.Retire(t.Context(), "a", all.Now, retirement(all), metadata.Deletion{})
	must(t, err)
	wantEqual(t, "retired", done, metadata.Retired{})
	for _, m := range []metadata.NewManifest{pushed, pulled, listed, kept} {
		f.wantManifest(t, "a", m)
	}
}

func testFreedBytes(t *testing.T, f *fixture) {
	for i := range 3 {
		f.push(t, "a", blob(i))
	}
	f.push(t, "b", blob(2))
	one, two, other := image("one", blob(0), blob(1)), image("two", blob(1), blob(2)), image("other", blob(2))
	f.put(t, "a", one)
	f.put(t, "a", two)
	f.put(t, "b", other)
	all := f.inventory(t, "a")
	for _, test := range []struct {
		but  []digest.Digest
		want int64
	}{{nil, 2 * blobSize}, {[]digest.Digest{one.Digest}, 0}, {[]digest.Digest{two.Digest}, blobSize}} {
		got, err := f.FreedBytes(t.Context(), retirement(all, test.but...).Manifests)
		must(t, err)
		wantEqual(t, "freed bytes", got, test.want)
	}
}
