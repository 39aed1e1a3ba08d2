package adopt

import (
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
}

// parseFile reads the key of a file of a repository. Those that don't matter, like what a tag pointed to before, are none.
func parseFile(key string) (f file, ok bool) {
	// No component of a name begins with '_'.
	name, rest, ok := strings.Cut(strings.TrimPrefix(key, repositories), "/_")
	if !ok || !strings.HasPrefix(key, repositories) || registry.CheckName(name) != nil {
		return file{}, false
	}
	f.repository = name
	part := strings.Split(rest, "/")
	switch {
	case len(part) == 4 && part[0] == "layers" && part[3] == "link":
		f.kind, f.digest = layerLink, parseDigest(part[1], part[2])
		return f, f.digest != ""
	case len(part) == 5 && part[0] == "manifests" && part[1] == "revisions" && part[4] == "link":
		f.kind, f.digest = revisionLink, parseDigest(part[2], part[3])
		return f, f.digest != ""
	case len(part) == 5 && part[0] == "manifests" && part[1] == "tags" && part[3] == "current" && part[4] == "link":
		f.kind, f.tag = tagLink, part[2]
		return f, registry.CheckTag(f.tag) == nil
	case len(part) == 3 && part[0] == "uploads" && part[2] == "data":
		f.kind = upload
		return f, true
	}
	return file{}, false
}

// parseBlob reads the key of a blob's bytes.
func parseBlob(key string) (d digest.Digest, ok bool) {
	part := strings.Split(strings.TrimPrefix(key, blobs), "/")
	if !strings.HasPrefix(key, blobs) || len(part) != 4 || part[3] != "data" || !strings.HasPrefix(part[2], part[1]) {
		return "", false
	}
	d = parseDigest(part[0], part[2])
	return d, d != "" && blobKey(d) == key
}

// blobKey is where distribution has the bytes of a blob.
func blobKey(d digest.Digest) string {
	hex := d.Encoded()
	return blobs + d.Algorithm().String() + "/" + hex[:2] + "/" + hex + "/data"
}

func parseDigest(algorithm, hex string) digest.Digest {
	d, err := registry.ParseDigest(algorithm + ":" + hex)
	if err != nil {
		return ""
	}
	return d
}
