package metatest

import (
	"bytes"
	"database/sql"
	"errors"
	"slices"
	"testing"
	"time"

	"berth/storage/metadata"

	"github.com/opencontainers/go-digest"
)

func manifestTests() suite {
	return suite{
		{"Put", testPut},
		{"PutAgain", testPutAgain},
		{"Large", testLargeManifest},
		{"SHA512", testSHA512Manifest},
		{"Tags", testTagsOfManifest},
		{"DeleteTag", testDeleteTag},
		{"Missing", testMissing},
		{"FillBlob", testFillBlob},
		{"FillChild", testFillChild},
		{"Children", testChildren},
		{"Delete", testDeleteManifest},
		{"DeleteChild", testDeleteChild},
		{"Platform", testPlatform},
		{"Row", testManifestRow},
		{"Assembly", testAssembly},
		{"AssemblyEnds", testAssemblyEnds},
		{"AssemblyDelete", testAssemblyDelete},
		{"AssemblyListed", testAssemblyListed},
	}
}

// wantManifest fails unless a repository has a manifest under its digest and under its tags, with and without its body.
func (f *fixture) wantManifest(t *testing.T, repository string, want metadata.NewManifest) {
	t.Helper()
	f.wantLookup(t, want, func(withBody bool) (metadata.Manifest, []byte, error) {
		return f.Manifest(t.Context(), repository, want.Digest, withBody)
	})
	for _, tag := range want.Tags {
		f.wantLookup(t, want, func(withBody bool) (metadata.Manifest, []byte, error) {
			return f.TaggedManifest(t.Context(), repository, tag, withBody)
		})
	}
}

func (f *fixture) wantLookup(t *testing.T, want metadata.NewManifest, get func(bool) (metadata.Manifest, []byte, error)) {
	t.Helper()
	for _, withBody := range []bool{true, false} {
		got, body, err := get(withBody)
		if err != nil {
			t.Errorf("manifest %s: %v", want.Body[:min(len(want.Body), 20)], err)
			continue
		}
		wantEqual(t, "manifest", got, known(want))
		if withBody && !bytes.Equal(body, want.Body) || !withBody && body != nil {
			t.Errorf("body of %d bytes, asked for: %t", len(body), withBody)
		}
	}
}

// wantNoManifest fails when a repository has a manifest under its digest or under its tags.
func (f *fixture) wantNoManifest(t *testing.T, repository string, m metadata.NewManifest) {
	t.Helper()
	_, _, err := f.Manifest(t.Context(), repository, m.Digest, true)
	wantError(t, "manifest in "+repository, err, metadata.ErrNotFound)
	for _, tag := range m.Tags {
		_, _, err := f.TaggedManifest(t.Context(), repository, tag, true)
		wantError(t, "tag "+tag+" in "+repository, err, metadata.ErrNotFound)
	}
}

func testPut(t *testing.T, f *fixture) {
	f.push(t, "a", blob(1))
	one := tagged(image("one", blob(1)), "latest")
	f.wantNoManifest(t, "a", one)
	f.put(t, "a", one)
	f.wantManifest(t, "a", one)
	f.put(t, "new", image("without blobs")) // a repository that nothing made before
	f.wantManifest(t, "new", image("without blobs"))
	for _, repository := range []string{"new", "nowhere"} {
		f.wantNoManifest(t, repository, one)
	}
}

func testPutAgain(t *testing.T, f *fixture) {
	f.push(t, "a", blob(1))
	one := tagged(image("one", blob(1)), "first")
	f.put(t, "a", one)
	pushed := f.number(t, `SELECT pushed_at FROM manifests`)
	f.exec(t, 1, `UPDATE manifests SET pushed_at = pushed_at - 1000`)
	again := tagged(one, "second")
	again.User = "another"
	f.put(t, "a", again)
	if n := f.number(t, `SELECT count(*) FROM manifests WHERE pushed_by = 'another' AND pushed_at >= $1`, pushed); n != 1 {
		t.Error("the second push is not noted")
	}
	f.wantManifest(t, "a", tagged(one, "first", "second"))
	if n := f.number(t, `SELECT count(*) FROM manifest_blobs`); n != 1 {
		t.Errorf("%d references after two pushes", n)
	}
	must(t, f.DeleteManifest(t.Context(), "a", one.Digest, metadata.Deletion{}))
	f.put(t, "a", tagged(one, "third"))
	f.wantManifest(t, "a", tagged(one, "third"))
	f.wantNoManifest(t, "a", tagged(image("two"), "first", "second"))
}

func testLargeManifest(t *testing.T, f *fixture) {
	large := image("large")
	large.Body = bytes.Repeat([]byte{'x', 0, 255, '\n'}, 1<<20)
	large.Digest, large.Size, large.Tags = digest.FromBytes(large.Body), int64(len(large.Body)), []string{"large"}
	f.put(t, "a", large)
	f.wantManifest(t, "a", large)
}

func testSHA512Manifest(t *testing.T, f *fixture) {
	one, child := tagged(image("one"), "a"), tagged(image("one"), "b")
	child.Digest = digest.SHA512.FromBytes(child.Body)
	f.put(t, "a", one)
	f.put(t, "a", child) // the same bytes are another manifest under another digest
	f.wantManifest(t, "a", one)
	f.wantManifest(t, "a", child)
	parent := index("parent", child.Digest)
	parent.Subject = child.Digest
	f.put(t, "a", parent)
	wantInUse(t, "delete", f.DeleteManifest(t.Context(), "a", child.Digest, metadata.Deletion{}), parent.Digest)
	must(t, f.DeleteManifest(t.Context(), "a", one.Digest, metadata.Deletion{}))
	f.wantManifest(t, "a", child)
}

func testTagsOfManifest(t *testing.T, f *fixture) {
	one, two := image("one"), image("two")
	f.put(t, "a", tagged(one, "x", "y"))
	f.put(t, "b", tagged(one, "x"))
	f.wantManifest(t, "a", tagged(one, "x", "y"))
	for repository, want := range map[string][]string{"a": {"x", "y"}, "b": {"x"}, "nowhere": nil} {
		got, err := f.ManifestTags(t.Context(), repository, one.Digest, 10)
		slices.Sort(got)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("tags of the manifest in %s: %v, %v", repository, got, err)
		}
	}
	if got, err := f.ManifestTags(t.Context(), "a", one.Digest, 1); len(got) != 1 || err != nil {
		t.Errorf("one tag of the manifest: %v, %v", got, err)
	}
	f.put(t, "a", tagged(two, "y", "z", "z"))
	f.wantManifest(t, "a", tagged(one, "x"))
	f.wantManifest(t, "a", tagged(two, "y", "z"))
	f.put(t, "a", tagged(two, "x"))
	f.wantManifest(t, "a", one) // untagged manifests stay
	f.wantManifest(t, "a", tagged(two, "x", "y", "z"))
	f.wantManifest(t, "b", tagged(one, "x"))
	f.wantNoManifest(t, "b", tagged(two, "y", "X", ""))
}

func testDeleteTag(t *testing.T, f *fixture) {
	one := image("one")
	f.put(t, "a", tagged(one, "x", "y"))
	f.put(t, "b", tagged(one, "x"))
	for _, where := range []struct{ repository, tag string }{{"a", "z"}, {"b", "y"}, {"nowhere", "x"}} {
		wantError(t, "delete", f.DeleteTag(t.Context(), where.repository, where.tag, metadata.Deletion{}), metadata.ErrNotFound)
	}
	must(t, f.DeleteTag(t.Context(), "a", "x", metadata.Deletion{}))
	wantError(t, "delete again", f.DeleteTag(t.Context(), "a", "x", metadata.Deletion{}), metadata.ErrNotFound)
	f.wantManifest(t, "a", tagged(one, "y"))
	f.wantManifest(t, "b", tagged(one, "x"))
	must(t, f.DeleteTag(t.Context(), "a", "y", metadata.Deletion{}))
	f.wantManifest(t, "a", one)
}

func testMissing(t *testing.T, f *fixture) {
	f.push(t, "a", blob(1))
	f.push(t, "b", blob(2)) // known, but not here
	f.put(t, "a", image("one"))
	f.put(t, "b", image("two"))
	m := tagged(image("m", blob(1), blob(2), blob(3)), "x")
	m.Children = index("", image("one").Digest, image("two").Digest, blob(4)).Children
	m.Blobs = append(m.Blobs, metadata.Edge{Digest: blob(5), Optional: true})
	m.Children = append(m.Children, metadata.Edge{Digest: blob(6), Optional: true})
	for _, repository := range []string{"a", "new"} {
		err := f.PutManifest(t.Context(), repository, m)
		var missing *metadata.MissingError
		if !errors.As(err, &missing) {
			t.Fatalf("put: %v", err)
		}
		want := &metadata.MissingError{
			Blobs:     []digest.Digest{blob(2), blob(3)},
			Manifests: []digest.Digest{image("two").Digest, blob(4)},
		}
		if repository == "new" {
			want.Blobs = append([]digest.Digest{blob(1)}, want.Blobs...)
			want.Manifests = append([]digest.Digest{image("one").Digest}, want.Manifests...)
		}
		wantEqual(t, "missing in "+repository, missing, want)
		f.wantNoManifest(t, repository, m)
	}
	_, err := f.Tags(t.Context(), "new", "", 10)
	wantError(t, "the repository of a refused manifest", err, metadata.ErrNotFound)
}

// testFillBlob has a blob arrive after a manifest that may do without it: then the manifest holds it.
func testFillBlob(t *testing.T, f *fixture) {
	f.push(t, "other", blob(1))
	for i, arrive := range map[string]func(d digest.Digest){
		"push":  func(d digest.Digest) { f.push(t, "a", d) },
		"mount": func(d digest.Digest) { must(t, f.MountBlob(t.Context(), "a", "other", d)) },
		"pinned": func(d digest.Digest) {
			must(t, f.CommitUpload(t.Context(), f.claim(t, f.start(t, "a"), d), d))
		},
	} {
		m := image(i, blob(1), blob(1))
		m.Blobs[0].Optional, m.Blobs[1].Optional = true, true
		f.put(t, "a", m)
		f.put(t, "b", m)
		wantError(t, "delete of an absent blob", f.DeleteBlob(t.Context(), "a", blob(1)), metadata.ErrNotFound)
		f.audit(t)
		arrive(blob(1))
		wantInUse(t, i, f.DeleteBlob(t.Context(), "a", blob(1)), m.Digest)
		must(t, f.DeleteManifest(t.Context(), "a", m.Digest, metadata.Deletion{}))
		must(t, f.DeleteBlob(t.Context(), "a", blob(1)))
	}
}

// testFillChild has a child arrive after an index that may do without it: then the index holds it.
func testFillChild(t *testing.T, f *fixture) {
	child := image("child")
	parent := index("parent", child.Digest)
	parent.Children[0].Optional = true
	f.put(t, "a", parent)
	f.put(t, "b", parent)
	f.wantChildren(t, "a", parent)
	f.put(t, "a", child)
	wantInUse(t, "delete", f.DeleteManifest(t.Context(), "a", child.Digest, metadata.Deletion{}), parent.Digest)
	f.wantChildren(t, "b", parent)
	parent.Children[0].Optional = false
	f.wantChildren(t, "a", parent)
	must(t, f.DeleteManifest(t.Context(), "a", parent.Digest, metadata.Deletion{}))
	must(t, f.DeleteManifest(t.Context(), "a", child.Digest, metadata.Deletion{}))
}

// wantChildren fails unless an index lists its children as its edges say: Optional is for those that are absent.
func (f *fixture) wantChildren(t *testing.T, repository string, parent metadata.NewManifest) {
	t.Helper()
	got, err := f.Children(t.Context(), repository, parent.Digest)
	must(t, err)
	wantEqual(t, "children in "+repository, got, parent.Children)
}

func testChildren(t *testing.T, f *fixture) {
	one, two := image("one"), image("two")
	parent := index("parent", two.Digest, one.Digest, blob(1), two.Digest)
	parent.Children[0].Platform = metadata.Platform{OS: "linux", Architecture: "arm", Variant: "v7"}
	parent.Children[1].Platform = metadata.Platform{OS: "linux", Architecture: "amd64"}
	parent.Children[2].Optional = true
	parent.Children[2].Size = 1 << 40
	f.put(t, "a", one)
	f.put(t, "a", two)
	f.put(t, "a", parent)
	f.wantChildren(t, "a", parent)
	f.wantChildren(t, "a", one)
	f.wantChildren(t, "nowhere", one)
	wantInUse(t, "delete", f.DeleteManifest(t.Context(), "a", two.Digest, metadata.Deletion{}), parent.Digest)
}

func testDeleteManifest(t *testing.T, f *fixture) {
	f.push(t, "a", blob(1))
	f.push(t, "a", blob(2))
	one, two := tagged(image("one", blob(1), blob(2)), "x", "y"), tagged(image("two", blob(2)), "z")
	f.put(t, "a", one)
	f.put(t, "a", two)
	f.put(t, "b", image("three"))
	for _, repository := range []string{"b", "nowhere"} {
		wantError(t, "delete in "+repository, f.DeleteManifest(t.Context(), repository, one.Digest, metadata.Deletion{}), metadata.ErrNotFound)
	}
	must(t, f.DeleteManifest(t.Context(), "a", one.Digest, metadata.Deletion{}))
	wantError(t, "delete again", f.DeleteManifest(t.Context(), "a", one.Digest, metadata.Deletion{}), metadata.ErrNotFound)
	f.wantNoManifest(t, "a", one)
	f.wantManifest(t, "a", two)
	for i, version := range map[int]int64{1: 2, 2: 2} {
		if _, got := f.lease(t, blob(i)); got != version {
			t.Errorf("blob %d is queued at version %d after its manifest's delete", i, got)
		}
	}
	wantInUse(t, "delete", f.DeleteBlob(t.Context(), "a", blob(2)), two.Digest)
	must(t, f.DeleteBlob(t.Context(), "a", blob(1)))
}

func testDeleteChild(t *testing.T, f *fixture) {
	child := tagged(image("child"), "x")
	one, two := index("one", child.Digest, child.Digest), index("two", child.Digest)
	for _, m := range []metadata.NewManifest{child, one, two, index("over", one.Digest)} {
		f.put(t, "a", m)
	}
	f.put(t, "b", child)
	wantInUse(t, "delete", f.DeleteManifest(t.Context(), "a", child.Digest, metadata.Deletion{}), one.Digest, two.Digest)
	f.wantManifest(t, "a", child)
	wantInUse(t, "delete", f.DeleteManifest(t.Context(), "a", one.Digest, metadata.Deletion{}), index("over").Digest)
	must(t, f.DeleteManifest(t.Context(), "b", child.Digest, metadata.Deletion{}))
	for _, name := range []string{"over", "one", "two"} {
		must(t, f.DeleteManifest(t.Context(), "a", index(name).Digest, metadata.Deletion{}))
	}
	must(t, f.DeleteManifest(t.Context(), "a", child.Digest, metadata.Deletion{}))
}

// testPlatform looks at what is recorded of an image's config, which no method tells yet.
func testPlatform(t *testing.T, f *fixture) {
	created := time.UnixMilli(1600000000123)
	config := metadata.ImageConfig{OS: "linux", Architecture: "arm64", Variant: "v8", Created: created}
	f.pushConfig(t, "a", blob(1), &config)
	f.pushConfig(t, "a", blob(2), &metadata.ImageConfig{})
	annotated := image("annotated", blob(1))
	annotated.Created = created.Add(time.Hour)
	for _, test := range []struct {
		m       metadata.NewManifest
		want    metadata.Platform
		created time.Time
	}{
		{image("image", blob(1)), metadata.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}, created},
		{annotated, metadata.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}, created.Add(time.Hour)},
		{image("artifact", blob(2)), metadata.Platform{}, time.Time{}},
		{image("without config"), metadata.Platform{}, time.Time{}},
	} {
		f.put(t, "a", test.m)
		var os, architecture, variant sql.NullString
		var ms sql.NullInt64
		must(t, f.sql.QueryRowContext(t.Context(), `SELECT os, architecture, variant, created FROM manifests WHERE digest = $1`,
			encoded(test.m.Digest)).Scan(&os, &architecture, &variant, &ms))
		got := metadata.Platform{OS: os.String, Architecture: architecture.String, Variant: variant.String}
		if got != test.want || ms.Valid == test.created.IsZero() || ms.Valid && ms.Int64 != test.created.UnixMilli() {
			t.Errorf("%s: %+v created %v, want %+v created %s", test.m.Body, got, ms, test.want, test.created)
		}
	}
}

// testManifestRow looks at what else is recorded for later use.
func testManifestRow(t *testing.T, f *fixture) {
	f.push(t, "a", blob(1))
	m := image("m", blob(1), blob(1))
	m.ArtifactType, m.Subject = "x/y", blob(7)
	f.put(t, "a", m)
	if n := f.number(t, `SELECT count(*) FROM manifests WHERE artifact_type = 'x/y' AND pushed_by = 'tester' AND subject = $1
		AND config_digest = $2 AND total_size = $3`, encoded(blob(7)), encoded(blob(1)), m.Size+2*blobSize); n != 1 {
		t.Error("the row does not say what was put")
	}
	if n := f.number(t, `SELECT count(*) FROM manifest_blobs WHERE position IN (0, 1) AND digest = $1 AND linked = $1 AND size = $2`,
		encoded(blob(1)), blobSize); n != 2 {
		t.Errorf("%d references to the same blob are recorded, not 2", n)
	}
}
