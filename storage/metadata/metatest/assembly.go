package metatest

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"berth/storage/metadata"

	"github.com/opencontainers/go-digest"
)

// assembled is m with an assembly of the tag all from the tags one and two, which lists what they point to; what it is shown
// goes to seen.
func assembled(m metadata.NewManifest, seen *metadata.AssemblyParts) metadata.NewManifest {
	m.Assemblies = []metadata.Assembly{{Tag: "all", From: []string{"two", "one", "three"}, MaxSize: 1 << 10, Build: func(parts metadata.AssemblyParts) *metadata.NewManifest {
		slices.SortFunc(parts.Tagged, func(a, b metadata.AssemblyPart) int { return strings.Compare(a.Tag, b.Tag) })
		*seen = parts
		return indexOf(parts.Tagged)
	}}}
	return m
}

// indexOf is the index of parts, or nothing when there are none.
func indexOf(parts []metadata.AssemblyPart) *metadata.NewManifest {
	if len(parts) == 0 {
		return nil
	}
	var all []digest.Digest
	name := "of"
	for _, p := range parts {
		all, name = append(all, p.Digest), name+" "+p.Digest.String()
	}
	made := index(name, all...)
	return &made
}

func rebuild(p metadata.AssemblyPart) *metadata.NewManifest { return indexOf(p.Children) }

// testAssembly looks at what a build is shown and at what becomes of what it makes.
func testAssembly(t *testing.T, f *fixture) {
	arm := metadata.Platform{OS: "linux", Architecture: "arm", Variant: "v7"}
	f.pushConfig(t, "a", blob(1), &metadata.ImageConfig{OS: arm.OS, Architecture: arm.Architecture, Variant: arm.Variant})
	one, two := tagged(image("one", blob(1)), "one"), tagged(image("two"), "two", "other")
	var seen metadata.AssemblyParts
	f.put(t, "a", assembled(one, &seen))
	if seen.Index != nil || len(seen.Tagged) != 1 {
		t.Fatalf("the first push is shown %+v", seen)
	}
	if got := seen.Tagged[0]; got.Tag != "one" || got.Digest != one.Digest || string(got.Body) != string(one.Body) ||
		got.Platform != arm || got.Pushed.UnixMilli() != f.number(t, `SELECT updated_at FROM tags WHERE name = 'one'`) {
		t.Errorf("the first push is shown as %+v", got)
	}
	f.put(t, "a", assembled(two, &seen))
	if seen.Index == nil || !seen.Assembled || len(seen.Tagged) != 2 {
		t.Fatalf("the second push is shown %+v", seen)
	}
	if children := seen.Index.Children; len(children) != 1 || children[0].Digest != one.Digest || children[0].Platform != arm ||
		children[0].Pushed.UnixMilli() != f.number(t, `SELECT pushed_at FROM manifests WHERE digest = $1`, encoded(one.Digest)) {
		t.Errorf("the index is shown with %+v", children)
	}
	f.wantManifest(t, "a", tagged(index("of "+one.Digest.String()+" "+two.Digest.String(), one.Digest, two.Digest), "all"))
	f.wantManifest(t, "a", index("of "+one.Digest.String(), one.Digest)) // the superseded one stays
	f.audit(t)
}

// testAssemblyEnds has a client set the tag.
func testAssemblyEnds(t *testing.T, f *fixture) {
	one := tagged(image("one"), "one")
	var seen metadata.AssemblyParts
	f.put(t, "a", assembled(one, &seen))
	made := indexOf(seen.Tagged)
	f.put(t, "a", tagged(*made, "all")) // as it is: now a client's
	f.put(t, "a", assembled(one, &seen))
	if seen.Index == nil || seen.Assembled {
		t.Errorf("a client's tag is shown as %+v", seen)
	}
	f.exec(t, 1, `DELETE FROM tags WHERE name = 'all'`)
	wantInUse(t, "delete what a client's index lists", f.DeleteManifest(t.Context(), "a", one.Digest, metadata.Deletion{Rebuild: rebuild}), made.Digest)
}

// testAssemblyDelete deletes what was assembled, one by one.
func testAssemblyDelete(t *testing.T, f *fixture) {
	one, two := tagged(image("one"), "one"), tagged(image("two"), "two")
	var seen metadata.AssemblyParts
	f.put(t, "a", assembled(one, &seen))
	f.put(t, "a", assembled(two, &seen))
	both, first, rest := indexOf(seen.Tagged), indexOf(seen.Tagged[:1]), indexOf(seen.Tagged[1:])
	must(t, f.DeleteManifest(t.Context(), "a", one.Digest, metadata.Deletion{Rebuild: rebuild}))
	f.wantManifest(t, "a", tagged(*rest, "all"))
	f.wantManifest(t, "a", *both)    // for who has its digest, with what is left of it
	f.wantNoManifest(t, "a", *first) // of which nothing is
	f.audit(t)
	f.put(t, "a", one)
	if n := f.number(t, `SELECT count(*) FROM manifest_children WHERE child IS NULL`); n != 0 {
		t.Errorf("%d references still wait for what was pushed again", n)
	}
	must(t, f.DeleteManifest(t.Context(), "a", one.Digest, metadata.Deletion{Rebuild: rebuild}))
	must(t, f.DeleteManifest(t.Context(), "a", two.Digest, metadata.Deletion{Rebuild: rebuild}))
	f.wantNoManifest(t, "a", tagged(*both, "all"))
	f.wantNoManifest(t, "a", *rest)
	f.audit(t)
}

// testAssemblyListed pushes an index that lists one that the registry made, before or after that is there: then a client needs
// what is in it.
func testAssemblyListed(t *testing.T, f *fixture) {
	for repository, early := range map[string]bool{"before": true, "after": false} {
		one := tagged(image("one"), "one")
		all := indexOf([]metadata.AssemblyPart{{Manifest: one.Manifest}})
		outer := indexOf([]metadata.AssemblyPart{{Manifest: all.Manifest}})
		outer.Children[0].Optional = early
		var seen metadata.AssemblyParts
		if early {
			f.put(t, repository, *outer)
		}
		f.put(t, repository, assembled(one, &seen))
		if !early {
			f.put(t, repository, *outer)
		}
		err := f.DeleteManifest(t.Context(), repository, one.Digest, metadata.Deletion{Rebuild: rebuild})
		if used, ok := errors.AsType[*metadata.InUseError](err); !ok || len(used.By) != 1 || used.By[0] != all.Digest {
			t.Errorf("%s: deleted under an index: %v", repository, err)
		}
		must(t, f.DeleteManifest(t.Context(), repository, outer.Digest, metadata.Deletion{Rebuild: rebuild}))
		must(t, f.DeleteManifest(t.Context(), repository, all.Digest, metadata.Deletion{Rebuild: rebuild}))
		must(t, f.DeleteManifest(t.Context(), repository, one.Digest, metadata.Deletion{Rebuild: rebuild}))
		f.audit(t)
	}
}
