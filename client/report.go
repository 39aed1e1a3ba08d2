package client

import (
	"slices"
	"time"

	"berth/registry/manifest"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// The kinds of manifests.
const (
	KindIndex       = "index"
	KindImage       = "image"
	KindArtifact    = "artifact"
	KindAttestation = "attestation"
)

// Manifest is what is known of a manifest, or of another child of an index. Its JSON is stable: fields are added, never
// changed. Sizes are in bytes. What was not looked at, or is not there, is left out.
type Manifest struct {
	// Reference is by what it was asked for; children have none.
	Reference string `json:"reference,omitempty"`
	// Kind is one of the kinds, or empty for a child that is no manifest, such as a layer in the index of a build cache.
	Kind         string        `json:"kind,omitempty"`
	MediaType    string        `json:"mediaType"`
	ArtifactType string        `json:"artifactType,omitempty"`
	Digest       digest.Digest `json:"digest"`
	// Size is that of the manifest alone.
	Size int64 `json:"size"`
	// Platform is in its normal form, such as linux/arm/v7: that of the image's config, else that which the index says.
	Platform  string `json:"platform,omitempty"`
	OSVersion string `json:"osVersion,omitempty"`
	// TotalSize is with configs and layers, and with what an index lists; what is in it twice counts once.
	TotalSize   int64             `json:"totalSize,omitempty"`
	Created     time.Time         `json:"created,omitzero"`
	Layers      int               `json:"layers,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
	// Predicates are the types of what an attestation states.
	Predicates []string `json:"predicates,omitempty"`
	// From is what `index create` took it from.
	From string `json:"from,omitempty"`
	// Missing says that an index lists it and the repository does not have it.
	Missing bool `json:"missing,omitempty"`
	// Problem says why it can't be read.
	Problem      string     `json:"problem,omitempty"`
	Attestations []Manifest `json:"attestations,omitempty"`
	Referrers    []Referrer `json:"referrers,omitempty"`
	Manifests    []Manifest `json:"manifests,omitempty"`

	parts map[digest.Digest]int64 // what counts for TotalSize
}

// Referrer is a manifest about another one, such as a signature or an SBOM.
type Referrer struct {
	MediaType    string        `json:"mediaType"`
	ArtifactType string        `json:"artifactType,omitempty"`
	Digest       digest.Digest `json:"digest"`
	// Size is that of the manifest alone, in bytes.
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
	// Tag is that by which cosign finds it, where it is no referrer to the registry.
	Tag string `json:"tag,omitempty"`
}

// listed returns what an index says of its child.
func listed(d v1.Descriptor) Manifest {
	m := Manifest{
		MediaType: d.MediaType, ArtifactType: d.ArtifactType, Digest: d.Digest, Size: d.Size, Annotations: d.Annotations,
		parts: map[digest.Digest]int64{d.Digest: d.Size},
	}
	if p, ok := manifest.PlatformOf(d); ok {
		m.Platform, m.OSVersion = p.String(), d.Platform.OSVersion
	}
	switch {
	case manifest.IsIndex(d.MediaType):
		m.Kind = KindIndex
	case manifest.IsAttestation(d):
		m.Kind = KindAttestation
	case d.ArtifactType != "":
		m.Kind = KindArtifact
	case manifest.IsManifest(d.MediaType):
		m.Kind = KindImage
	}
	return m
}

// fold puts attestations under the image that they are about. Those about none that is listed stay where they are.
func fold(children []v1.Descriptor, all []Manifest) []Manifest {
	about := make([]int, len(children))
	for i, d := range children {
		about[i] = attested(children, d)
		if to := about[i]; to >= 0 {
			all[to].Attestations = append(all[to].Attestations, all[i])
		}
	}
	folded := []Manifest{}
	for i, m := range all {
		if about[i] < 0 {
			folded = append(folded, m)
		}
	}
	return folded
}

// attested returns the index of the first child that d is an attestation about, or -1. There are no attestations about
// attestations.
func attested(children []v1.Descriptor, d v1.Descriptor) int {
	if !manifest.IsAttestation(d) {
		return -1
	}
	return slices.IndexFunc(children, func(image v1.Descriptor) bool {
		return !manifest.IsAttestation(image) && manifest.Attests(d, image)
	})
}

// sum counts the bytes of everything once.
func (m *Manifest) sum() {
	m.TotalSize = 0
	for _, size := range m.parts {
		m.TotalSize += size
	}
}

func (m *Manifest) addParts(of Manifest) {
	for d, size := range of.parts {
		m.parts[d] = size
	}
}
