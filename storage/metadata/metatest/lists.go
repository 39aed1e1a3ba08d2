package metatest

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"berth/storage/metadata"

	"github.com/opencontainers/go-digest"
)

func listTests() suite {
	return suite{
		{"Tags", testTags},
		{"Repositories", testRepositories},
		{"Referrers", testReferrers},
		{"ReferrersPages", testReferrersPages},
		{"LargeReferrers", testLargeReferrers},
		{"Blobs", testBlobs},
		{"Manifests", testManifests},
	}
}

// bytewise are names in the order of their bytes, which is not that of any language.
func bytewise() []string {
	return []string{"A", "Z", "_", "a", "a-b", "a.b", "a/b", "a0", "a_b", "aa", "b", "é"}
}

// wantPages fails unless pages of every size, one after the other, are want.
func wantPages[T comparable](t *testing.T, want []T, page func(last T, limit int) ([]T, error)) {
	t.Helper()
	for limit := 1; limit <= len(want)+1; limit++ {
		var all []T
		for last := *new(T); ; last = all[len(all)-1] {
			got, err := page(last, limit)
			must(t, err)
			all = append(all, got...)
			if len(got) > limit {
				t.Fatalf("%d on a page of %d", len(got), limit)
			}
			if len(got) < limit {
				break
			}
		}
		if !slices.Equal(all, want) {
			t.Errorf("pages of %d:\n got %v\nwant %v", limit, all, want)
		}
	}
}

func testTags(t *testing.T, f *fixture) {
	page := func(repository string) func(string, int) ([]string, error) {
		return func(last string, limit int) ([]string, error) { return f.Tags(t.Context(), repository, last, limit) }
	}
	names := slices.Sorted(slices.Values(bytewise()))
	f.put(t, "a", tagged(image("one"), bytewise()...))
	f.put(t, "b", tagged(image("one"), "other"))
	f.put(t, "untagged", image("one"))
	f.start(t, "empty")
	wantPages(t, names, page("a"))
	wantPages(t, nil, page("untagged"))
	wantPages(t, nil, page("empty"))
	_, err := f.Tags(t.Context(), "nowhere", "", 10)
	wantError(t, "unknown repository", err, metadata.ErrNotFound)

	got, err := f.Tags(t.Context(), "a", "a-c", 2) // last need not be there
	must(t, err)
	wantEqual(t, "tags after a-c", got, []string{"a.b", "a/b"})
	got, err = f.Tags(t.Context(), "a", "zzz", 10)
	must(t, err)
	wantEqual(t, "tags after zzz", got, []string{"é"})
}

func testRepositories(t *testing.T, f *fixture) {
	names := slices.Sorted(slices.Values(bytewise()))
	for _, name := range bytewise() {
		f.put(t, name, image("one"))
	}
	f.start(t, "empty")
	f.push(t, "only-a-blob", blob(1))
	f.put(t, "emptied", image("one"))
	must(t, f.DeleteManifest(t.Context(), "emptied", image("one").Digest, metadata.Deletion{}))
	wantPages(t, names, func(last string, limit int) ([]string, error) { return f.Repositories(t.Context(), last, limit) })
}

// referrer is a manifest about another one.
func referrer(name string, subject digest.Digest, artifactType string) metadata.NewManifest {
	m := image(name)
	m.Subject, m.ArtifactType = subject, artifactType
	return m
}

func testReferrers(t *testing.T, f *fixture) {
	subject := image("subject")
	signature, sbom := referrer("signature", subject.Digest, "x/signature"), referrer("sbom", subject.Digest, "x/sbom")
	signature.Annotations = map[string]string{"a": "b", "ünïcode": "\"'<>&"}
	f.put(t, "a", signature) // the subject may come later or never
	f.put(t, "a", sbom)
	f.put(t, "a", referrer("of another", blob(9), "x/sbom"))
	f.put(t, "b", referrer("elsewhere", subject.Digest, "x/sbom"))
	want := func(artifactType string, repository string, manifests ...metadata.NewManifest) {
		t.Helper()
		got, more, err := f.Referrers(t.Context(), repository, subject.Digest, artifactType, "", 10)
		must(t, err)
		if more {
			t.Error("there are more than all")
		}
		var all []metadata.Manifest
		for _, m := range sortedByDigest(manifests) {
			m.Manifest.Subject = "" // the caller knows it
			all = append(all, m.Manifest)
		}
		wantEqual(t, "referrers in "+repository+" of type "+artifactType, got, all)
	}
	want("", "a", signature, sbom)
	want("x/sbom", "a", sbom)
	want("x/signature", "a", signature)
	want("x", "a")
	want("", "nowhere")
	f.put(t, "a", subject)
	want("", "a", signature, sbom)
	must(t, f.DeleteManifest(t.Context(), "a", sbom.Digest, metadata.Deletion{}))
	want("", "a", signature)
	must(t, f.DeleteManifest(t.Context(), "a", subject.Digest, metadata.Deletion{}))
	want("", "a", signature)
}

func testReferrersPages(t *testing.T, f *fixture) {
	var all []digest.Digest
	for i := range 5 {
		m := referrer(fmt.Sprint(i), blob(1), fmt.Sprint("x/", i%2))
		if i == 3 {
			m.Digest = digest.SHA512.FromBytes(m.Body)
		}
		f.put(t, "a", m)
		all = append(all, m.Digest)
	}
	wantPages(t, sorted(all), func(last digest.Digest, limit int) (page []digest.Digest, err error) {
		manifests, more, err := f.Referrers(t.Context(), "a", blob(1), "", last, limit)
		if err == nil && more != (len(all) > 0 && len(manifests) == limit && manifests[len(manifests)-1].Digest != sorted(all)[len(all)-1]) {
			t.Errorf("after %q: %d, more %t", last, len(manifests), more)
		}
		for _, m := range manifests {
			page = append(page, m.Digest)
		}
		return page, err
	})
	even, more, err := f.Referrers(t.Context(), "a", blob(1), "x/0", "", 2)
	if err != nil || !more || len(even) != 2 || even[0].ArtifactType != "x/0" || even[1].ArtifactType != "x/0" {
		t.Errorf("a filtered page: %v, %v", even, err)
	}
}

// testLargeReferrers has a page end before it takes much memory.
func testLargeReferrers(t *testing.T, f *fixture) {
	want := make(map[digest.Digest]bool)
	for i := range 5 {
		m := referrer(fmt.Sprint(i), blob(1), "x/y")
		m.Annotations = map[string]string{"large": strings.Repeat("x", 3<<20)}
		f.put(t, "a", m)
		want[m.Digest] = true
	}
	last, pages := digest.Digest(""), 0
	for more := true; more; pages++ {
		var page []metadata.Manifest
		var err error
		page, more, err = f.Referrers(t.Context(), "a", blob(1), "", last, 100)
		must(t, err)
		if len(page) != 1 {
			t.Fatalf("a page of %d", len(page))
		}
		last = page[0].Digest
		delete(want, last)
	}
	if pages != 5 || len(want) > 0 {
		t.Errorf("%d pages, without %v", pages, want)
	}
}

func testBlobs(t *testing.T, f *fixture) {
	f.start(t, "a")
	var want []metadata.Blob
	for _, d := range sorted([]digest.Digest{blob(1), blob(2), blob(3), digest.SHA512.FromString("x")}) {
		want = append(want, metadata.Blob{Digest: d, Key: f.push(t, "a", d), Size: blobSize})
		must(t, f.MountBlob(t.Context(), "b", "a", d))
	}
	wantPages(t, want, func(last metadata.Blob, limit int) ([]metadata.Blob, error) {
		return f.Blobs(t.Context(), last.Digest, limit)
	})
}

func testManifests(t *testing.T, f *fixture) {
	f.push(t, "a", blob(1))
	one, two := image("one", blob(1), blob(1)), index("two", image("one", blob(1)).Digest, blob(5))
	two.Children[1].Optional = true
	f.put(t, "a", one)
	f.put(t, "a", two)
	f.put(t, "b", image("one"))
	var ids []int64
	for last := int64(0); ; {
		page, err := f.Manifests(t.Context(), last, 2)
		must(t, err)
		for _, m := range page {
			last = m.ID
			ids = append(ids, m.ID)
			f.wantStored(t, m, len(ids), one, two)
		}
		if len(page) < 2 {
			break
		}
	}
	if !slices.IsSorted(ids) || len(ids) != 3 {
		t.Errorf("ids %v", ids)
	}
}

func (f *fixture) wantStored(t *testing.T, got metadata.StoredManifest, n int, one, two metadata.NewManifest) {
	t.Helper()
	want := []metadata.StoredManifest{
		{Repository: "a", Manifest: known(one), Body: one.Body, Blobs: []digest.Digest{blob(1), blob(1)}, Children: []digest.Digest{}},
		{Repository: "a", Manifest: known(two), Body: two.Body, Blobs: []digest.Digest{}, Children: []digest.Digest{one.Digest, blob(5)}},
		{Repository: "b", Manifest: known(one), Body: one.Body, Blobs: []digest.Digest{}, Children: []digest.Digest{}},
	}[n-1]
	want.ID = got.ID
	wantEqual(t, "stored manifest", got, want)
}

// sorted returns digests in the order of SQL: by algorithm, then by hash.
func sorted(digests []digest.Digest) []digest.Digest {
	digests = slices.Clone(digests)
	slices.SortFunc(digests, compareDigests)
	return digests
}

func sortedByDigest(manifests []metadata.NewManifest) []metadata.NewManifest {
	manifests = slices.Clone(manifests)
	slices.SortFunc(manifests, func(a, b metadata.NewManifest) int { return compareDigests(a.Digest, b.Digest) })
	return manifests
}

func compareDigests(a, b digest.Digest) int { return bytes.Compare([]byte(a), []byte(b)) }
