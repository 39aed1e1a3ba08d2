package registry

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"berth/registry/manifest"
	"berth/storage/metadata"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// ResolveManifest returns the descriptor of a manifest. It fails with ErrManifestUnknown.
func (s *Service) ResolveManifest(ctx context.Context, repository string, ref Reference) (Descriptor, error) {
	m, err := s.findManifest(ctx, repository, ref, false)
	return m.Descriptor, err
}

// Manifest returns a manifest, which counts as pulled. It fails with ErrManifestUnknown.
func (s *Service) Manifest(ctx context.Context, repository string, ref Reference) (Manifest, error) {
	m, err := s.findManifest(ctx, repository, ref, true)
	if err == nil {
		s.pulls.note(repository, m.Digest)
	}
	return m, err
}

func (s *Service) findManifest(ctx context.Context, repository string, ref Reference, withBody bool) (Manifest, error) {
	var m metadata.Manifest
	var body []byte
	var err error
	if ref.Digest != "" {
		m, body, err = s.facts.Manifest(ctx, repository, ref.Digest, withBody)
	} else {
		m, body, err = s.facts.TaggedManifest(ctx, repository, ref.Tag, withBody)
	}
	if err != nil {
		return Manifest{}, explain(err, ErrManifestUnknown, "find manifest %s", ref)
	}
	return Manifest{Descriptor: Descriptor{MediaType: m.MediaType, Digest: m.Digest, Size: m.Size}, Body: body}, nil
}

// PlatformManifest returns the manifest that an index of the repository lists for linux/amd64, for clients that
// understand no index. It fails with ErrManifestUnknown.
func (s *Service) PlatformManifest(ctx context.Context, repository string, index digest.Digest) (Manifest, error) {
	children, err := s.facts.Children(ctx, repository, index)
	if err != nil {
		return Manifest{}, explain(err, nil, "read index %s", index)
	}
	for _, child := range children {
		if child.Platform.OS == "linux" && child.Platform.Architecture == "amd64" {
			return s.Manifest(ctx, repository, Reference{Digest: child.Digest})
		}
	}
	return Manifest{}, ErrManifestUnknown.Withf("%s is an index without an image for linux/amd64: ask for it with an Accept header that lists an index type", index)
}

// PutManifest stores a manifest and sets its tags. It fails with ErrManifestInvalid, ErrManifestBlobUnknown (the detail
// lists what is missing), ErrDigestInvalid, ErrTagInvalid, ErrTooLarge, ErrNoSpace, and ErrDenied when a policy refuses it, a
// quota has no room for its tags, or an immutable tag points to something else.
func (s *Service) PutManifest(ctx context.Context, repository string, p ManifestPush) (ManifestPushed, error) {
	m, facts, err := s.readManifest(p)
	if err != nil {
		return ManifestPushed{}, err
	}
	warnings, err := s.checkCoverage(ctx, repository, m, facts.Tags)
	if err != nil {
		return ManifestPushed{}, err
	}
	if err := s.room(); err != nil {
		return ManifestPushed{}, err
	}
	assemblies := s.assemblies(repository, facts.Tags, p.User)
	for _, a := range assemblies {
		facts.Assemblies = append(facts.Assemblies, a.facts())
	}
	facts.Immutable = func(tag string) bool { return s.immutable(repository, tag) }
	err = s.facts.PutManifest(ctx, repository, facts)
	var missing *metadata.MissingError
	if errors.As(err, &missing) {
		return ManifestPushed{}, explainMissing(missing)
	}
	if err := explainImmutable(repository, err); err != nil {
		return ManifestPushed{}, err
	}
	if err != nil {
		return ManifestPushed{}, explain(err, nil, "put manifest %s", facts.Digest)
	}
	pushed := ManifestPushed{
		Descriptor: Descriptor{MediaType: facts.MediaType, Digest: facts.Digest, Size: facts.Size},
		Subject:    facts.Subject, Warnings: warnings,
	}
	for _, a := range assemblies {
		pushed.Warnings = append(pushed.Warnings, a.warnings...)
		if a.made != "" {
			pushed.Assembled = append(pushed.Assembled, Assembled{Tag: a.tag, Digest: a.made})
		}
	}
	return pushed, nil
}

// readManifest checks what can be checked of a pushed manifest by itself, and returns it with the facts of it.
func (s *Service) readManifest(p ManifestPush) (m manifest.Manifest, facts metadata.NewManifest, err error) {
	if len(p.Body) > MaxManifestSize {
		return m, facts, ErrTooLarge.Withf("the manifest has more than %d bytes", MaxManifestSize)
	}
	d, tags, err := p.names()
	if err != nil {
		return m, facts, err
	}
	m, err = manifest.Parse(p.MediaType, p.Body)
	if err != nil {
		return m, facts, ErrManifestInvalid.Withf("%v", err)
	}
	if n := len(m.Blobs) + len(m.Children); n > MaxReferences {
		return m, facts, ErrManifestInvalid.Withf("the manifest references %d blobs and manifests: at most %d are allowed", n, MaxReferences)
	}
	if err := s.checkURLs(m.Blobs); err != nil {
		return m, facts, err
	}
	facts = s.manifestFacts(m, d, p)
	facts.Tags = tags
	return m, facts, nil
}

// names returns the digest of a pushed manifest, which is checked when it was named by one, and its tags.
func (p ManifestPush) names() (digest.Digest, []string, error) {
	tags := p.Tags
	if p.Reference.Tag != "" {
		tags = append([]string{p.Reference.Tag}, p.Tags...)
	}
	for _, tag := range tags {
		if err := CheckTag(tag); err != nil {
			return "", nil, err
		}
	}
	named := p.Reference.Digest
	if named == "" {
		return digest.FromBytes(p.Body), tags, nil
	}
	if got := named.Algorithm().FromBytes(p.Body); got != named {
		return "", nil, ErrDigestInvalid.Withf("the manifest has digest %s, not %s", got, named)
	}
	return named, tags, nil
}

func (s *Service) checkURLs(blobs []v1.Descriptor) error {
	for _, b := range blobs {
		for _, url := range b.URLs {
			if !s.urlAllowed(url) {
				return ErrManifestInvalid.Withf("the layer %s is kept at %q, which validation.manifests.urls does not allow", b.Digest, clip(url))
			}
		}
	}
	return nil
}

func (s *Service) manifestFacts(m manifest.Manifest, d digest.Digest, p ManifestPush) metadata.NewManifest {
	facts := ManifestFacts(m, d, p.Body)
	facts.User = p.User
	for i, b := range m.Blobs {
		isConfig := m.Config != nil && i == 0
		facts.Blobs[i].Optional = manifest.Nondistributable(b) || s.sparseImages && !isConfig
	}
	for i, c := range m.Children {
		facts.Children[i].Optional = !s.childRequired(c.Platform)
	}
	return facts
}

// ManifestFacts returns what is kept of a manifest with digest d: it needs all that it references.
func ManifestFacts(m manifest.Manifest, d digest.Digest, body []byte) metadata.NewManifest {
	facts := metadata.NewManifest{
		Manifest: metadata.Manifest{
			Digest: d, MediaType: m.MediaType, ArtifactType: m.ArtifactType, Size: int64(len(body)), Annotations: m.Annotations,
		},
		Body:    body,
		Created: createdAt(m.Annotations),
	}
	if m.Subject != nil {
		facts.Subject = m.Subject.Digest
	}
	if m.Config != nil {
		facts.Config = m.Config.Digest
	}
	for _, b := range m.Blobs {
		facts.Blobs = append(facts.Blobs, edge(b))
	}
	for _, c := range m.Children {
		facts.Children = append(facts.Children, edge(c))
	}
	return facts
}

func edge(d v1.Descriptor) metadata.Edge {
	e := metadata.Edge{Digest: d.Digest, Size: d.Size, MediaType: d.MediaType}
	if d.Platform != nil {
		e.Platform = metadata.Platform{OS: d.Platform.OS, Architecture: d.Platform.Architecture, Variant: d.Platform.Variant}
	}
	return e
}

// createdAt reads the creation time that an artifact or index names; that of an image is in its config.
func createdAt(annotations map[string]string) time.Time {
	t, err := time.Parse(time.RFC3339, annotations[v1.AnnotationCreated])
	if err != nil {
		return time.Time{} // absent, or nothing that a push should fail on
	}
	return t
}

func explainMissing(m *metadata.MissingError) error {
	var parts []string
	if len(m.Blobs) > 0 {
		parts = append(parts, fmt.Sprintf("blobs %s", list(m.Blobs)))
	}
	if len(m.Manifests) > 0 {
		parts = append(parts, fmt.Sprintf("manifests %s", list(m.Manifests)))
	}
	detail := map[string][]digest.Digest{}
	if len(m.Blobs) > 0 {
		detail["blobs"] = m.Blobs
	}
	if len(m.Manifests) > 0 {
		detail["manifests"] = m.Manifests
	}
	return ErrManifestBlobUnknown.Withf("the repository lacks what the manifest references, push it first: %s", strings.Join(parts, " and ")).
		Detailed(detail)
}

// list joins the first few digests for a message.
func list(digests []digest.Digest) string {
	texts := make([]string, len(digests))
	for i, d := range digests {
		texts[i] = d.String()
	}
	return some(texts, ", ")
}

// some joins the first few texts for a message.
func some(texts []string, separator string) string {
	const most = 10
	if n := len(texts); n > most {
		return strings.Join(texts[:most], separator) + fmt.Sprintf(" and %d more", n-most)
	}
	return strings.Join(texts, separator)
}
