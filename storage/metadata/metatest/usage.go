package metatest

import (
	"testing"

	"berth/storage/metadata"
)

func usageTests() suite {
	return suite{{"Usage", testUsage}}
}

func testUsage(t *testing.T, f *fixture) {
	for _, repository := range []string{"team/a", "team/b", "team", "tea"} {
		f.push(t, repository, blob(1))
	}
	for i := 2; i < 5; i++ {
		f.push(t, "team/a", blob(i))
	}
	one := tagged(image("one", blob(1), blob(2)), "x", "y")
	deleted := image("deleted", blob(4))
	f.put(t, "team/a", one)
	f.put(t, "team/a", deleted)
	f.put(t, "nothing", index("empty"))
	f.remove(t, "team/a", deleted.Digest)
	f.endLease(t, "team/a", blob(4))
	f.wantCollected(t, 0, 0)
	want := []metadata.Usage{
		{Repository: "tea", Blobs: 1, Bytes: blobSize},
		{Repository: "team", Blobs: 1, Bytes: blobSize},
		{Repository: "team/a", Tags: 2, Manifests: 1, Blobs: 3, Bytes: 3 * blobSize, Unique: 2 * blobSize, Trash: blobSize},
		{Repository: "team/b", Blobs: 1, Bytes: blobSize},
	}
	for _, test := range []struct {
		prefix, last string
		limit        int
		want         []metadata.Usage
		bytes        int64
	}{
		{"", "", 10, want, 4 * blobSize},
		{"team", "", 10, want[1:], 4 * blobSize},
		{"team/", "", 1, want[2:3], 4 * blobSize},
		{"team/", "team/a", 10, want[3:], 4 * blobSize},
		{"team/b", "", 10, want[3:], blobSize},
		{"x", "", 10, nil, 0},
	} {
		got, err := f.Usage(t.Context(), test.prefix, test.last, test.limit)
		must(t, err)
		wantEqual(t, "usage of "+test.prefix+" after "+test.last, got, test.want)
		bytes, err := f.StoredBytes(t.Context(), test.prefix)
		must(t, err)
		wantEqual(t, "bytes of "+test.prefix, bytes, test.bytes)
	}
}
