package manifest

import (
	"encoding/json"
	"slices"
	"strings"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// The annotations with which BuildKit marks the attestations in an index: what they are, and which image they are about.
const (
	annotationReferenceType   = "vnd.docker.reference.type"
	annotationReferenceDigest = "vnd.docker.reference.digest"
)

// Entry is an image that an index lists, with the attestations about it in the same index.
type Entry struct {
	// Image is a manifest that is no index.
	Image        v1.Descriptor
	Attestations []v1.Descriptor
}

// IsAttestation reports whether a descriptor of an index is what BuildKit attests about an image beside it, such as its
// provenance. Nothing runs it.
func IsAttestation(d v1.Descriptor) bool { return d.Annotations[annotationReferenceType] != "" }

// Attests reports whether an attestation is about an image.
func Attests(attestation, image v1.Descriptor) bool {
	return IsAttestation(attestation) && attestation.Annotations[annotationReferenceDigest] == image.Digest.String()
}

// Entries returns the images among the children of an index that can be run, each with its attestations, in order. Indexes
// in the index, artifacts, layers of build caches, and what is for the platform unknown/unknown are left out.
func Entries(children []v1.Descriptor) []Entry {
	attestations := make(map[string][]v1.Descriptor) // by the digest that they are about
	for _, c := range children {
		if IsAttestation(c) {
			about := c.Annotations[annotationReferenceDigest]
			attestations[about] = append(attestations[about], c)
		}
	}
	var entries []Entry
	for _, c := range children {
		if runs(c) {
			entries = append(entries, Entry{Image: c, Attestations: attestations[c.Digest.String()]})
		}
	}
	return entries
}

func runs(d v1.Descriptor) bool {
	if !IsManifest(d.MediaType) || IsIndex(d.MediaType) || IsAttestation(d) || d.ArtifactType != "" {
		return false
	}
	_, known := PlatformOf(d)
	return known || d.Platform == nil
}

// NewIndex writes the index of images whose descriptors have platforms. It is sorted by operating system, architecture and
// variant, with the attestations of an image after it. The same entries give the same bytes. When all children have
// Docker's media type it is a Docker manifest list, for clients that know nothing else, and otherwise an OCI index.
func NewIndex(entries []Entry) (mediaType string, body []byte) {
	entries = slices.SortedStableFunc(slices.Values(entries), func(a, b Entry) int { return comparePlatforms(a.Image.Platform, b.Image.Platform) })
	index := v1.Index{MediaType: MediaTypeDockerManifestList, Manifests: []v1.Descriptor{}}
	index.SchemaVersion = 2
	for _, e := range entries {
		index.Manifests = append(append(index.Manifests, e.Image), e.Attestations...)
	}
	for _, d := range index.Manifests {
		if d.MediaType != MediaTypeDockerManifest {
			index.MediaType = v1.MediaTypeImageIndex
		}
	}
	body, err := json.Marshal(index)
	if err != nil {
		panic(err) // there is nothing in an index that JSON has no form for
	}
	return index.MediaType, body
}

// comparePlatforms orders what has no platform first.
func comparePlatforms(a, b *v1.Platform) int {
	return strings.Compare(sortKey(a), sortKey(b))
}

// sortKey joins the parts of a platform with a byte that is smaller than any of theirs.
func sortKey(p *v1.Platform) string {
	if p == nil {
		return ""
	}
	return strings.Join([]string{p.OS, p.Architecture, p.Variant, p.OSVersion}, "\x00")
}
