package adopt

import (
	"cmp"
	"strings"

	"berth/registry"
	"berth/storage/metadata"

	"github.com/opencontainers/go-digest"
)

// Where distribution keeps things, as keys of the blob store.
const (
	root         = metadata.AdoptedPrefix
	blobs        = root + "blobs/"
	repositories = root + "repositories/"
	// marker says which registry took the data over.
	marker = root + "adopted-by-berth.json"
)

// kind says what a file of a repository is.
type kind int

const (
	layerLink kind = iota + 1
	revisionLink
	tagLink
	upload
)

// file is what the path of a file of a repository says.
type file struct {
	kind       kind
	repository string
	digest     digest.Digest // of what a layerLink or revisionLink links
	tag        string        // of a tagLink
	// refused is set when it is for a name, tag or digest that is none here.
	refused error
}

// parseFile reads the key of a file of a repository. Those that don't matter, like what a tag pointed to before, are none.
func parseFile(key string) (f file, ok bool) {
	// No component of a name begins with '_'.
	name, rest, ok := strings.Cut(strings.TrimPrefix(key, repositories), "/_")
	if !ok || !strings.HasPrefix(key, repositories) {
		return file{}, false
	}
	f.repository, f.refused = name, registry.CheckName(name)
	part := strings.Split(rest, "/")
	switch {
	case len(part) == 4 && part[0] == "layers" && part[3] == "link":
		f.kind = layerLink
		f.link(part[1], part[2])
		return f, true
	case len(part) == 5 && part[0] == "manifests" && part[1] == "revisions" && part[4] == "link":
		f.kind = revisionLink
		f.link(part[2], part[3])
		return f, true
	case len(part) == 5 && part[0] == "manifests" && part[1] == "tags" && part[3] == "current" && part[4] == "link":
		f.kind, f.tag = tagLink, part[2]
		f.refused = cmp.Or(f.refused, registry.CheckTag(f.tag))
		return f, true
	case len(part) == 3 && part[0] == "uploads" && part[2] == "data":
		f.kind = upload
		return f, true
	}
	return file{}, false
}

// link sets what is linked.
func (f *file) link(algorithm, hex string) {
	d, err := registry.ParseDigest(algorithm + ":" + hex)
	f.digest, f.refused = d, cmp.Or(f.refused, err)
}

// parseBlob reads the key of a blob's bytes.
func parseBlob(key string) (d digest.Digest, ok bool) {
	part := strings.Split(strings.TrimPrefix(key, blobs), "/")
	if !strings.HasPrefix(key, blobs) || len(part) != 4 || part[3] != "data" || !strings.HasPrefix(part[2], part[1]) {
		return "", false
	}
	d, err := registry.ParseDigest(part[0] + ":" + part[2])
	return d, err == nil && blobKey(d) == key
}

// blobKey is where distribution has the bytes of a blob.
func blobKey(d digest.Digest) string {
	hex := d.Encoded()
	return blobs + d.Algorithm().String() + "/" + hex[:2] + "/" + hex + "/data"
}
