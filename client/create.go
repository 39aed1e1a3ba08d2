package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"berth/registry/manifest"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
)

// part is an image that an index is made of.
type part struct {
	entry manifest.Entry // with the platform that the image's config says
	from  Reference
	in    *Repository
}

// Draft is an index that is to be made of images that are there.
type Draft struct {
	client *Client
	parts  []part
}

// Draft returns an index without images.
func (c *Client) Draft() *Draft { return &Draft{client: c} }

// Add takes an image into the index, or all images of an index, with the attestations about them. It fails with a *Problem for
// what is no image that runs somewhere, and where another image for the same platform is in already, unless that is to be
// replaced.
func (x *Draft) Add(ctx context.Context, ref Reference, replace bool) error {
	r, ref, err := x.client.Open(ref)
	if err != nil {
		return err
	}
	doc, err := r.resolve(ctx, ref)
	if err != nil {
		return err
	}
	if !manifest.IsIndex(doc.descriptor.MediaType) {
		return x.addImage(ctx, part{manifest.Entry{Image: doc.descriptor}, ref, r}, doc, replace)
	}
	entries, err := imagesOf(ref, doc)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		image, err := r.child(ctx, ref, entry.Image)
		if err != nil {
			return err
		}
		if err := x.addImage(ctx, part{entry, ref, r}, image, replace); err != nil {
			return err
		}
	}
	return nil
}

// imagesOf returns the images that an index lists. It fails where there is none, and where some are in an index of their own.
func imagesOf(ref Reference, doc document) ([]manifest.Entry, error) {
	for _, d := range doc.parsed.Children {
		if manifest.IsIndex(d.MediaType) {
			return nil, problem(nil, "%s has an index in it: name the images of that one by their digests", ref)
		}
	}
	entries := manifest.Entries(doc.parsed.Children)
	if len(entries) == 0 {
		return nil, problem(nil, "%s lists no image that runs somewhere", ref)
	}
	return entries, nil
}

func (r *Repository) child(ctx context.Context, ref Reference, d v1.Descriptor) (document, error) {
	doc, err := r.manifest(ctx, d)
	if isNotFound(err) {
		return doc, problem(err, "%s lists %s, which %s/%s does not have", ref, d.Digest, ref.Host, ref.Repository)
	}
	if err != nil {
		return doc, r.explain(err)
	}
	return doc, nil
}

// addImage adds a part whose image has this document.
func (x *Draft) addImage(ctx context.Context, p part, doc document, replace bool) (err error) {
	if p.entry.Image.Platform, err = p.in.platform(ctx, p.from, doc, p.entry.Image.Platform); err != nil {
		return err
	}
	return x.add(p, replace)
}

// platform returns what the config of an image says that it is for. listed is what an index says of it, or nil.
func (r *Repository) platform(ctx context.Context, ref Reference, doc document, listed *v1.Platform) (*v1.Platform, error) {
	m := doc.parsed
	if m.Subject != nil || !manifest.IsImageConfig(m.ArtifactType) {
		return nil, problem(nil, "%s (%s) is no image that runs somewhere, but of type %s", ref, doc.descriptor.Digest, m.ArtifactType)
	}
	c, body, ok, err := r.config(ctx, m)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, problem(nil, "the config of %s (%s) does not say for which platform it is", ref, doc.descriptor.Digest)
	}
	var whole v1.Platform
	if json.Unmarshal(body, &whole) != nil { // fields that Windows has
		whole = v1.Platform{}
	}
	p := manifest.NewPlatform(c.OS, c.Architecture, c.Variant)
	platform := &v1.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant, OSVersion: whole.OSVersion, OSFeatures: whole.OSFeatures}
	if listed != nil && platform.OSVersion == "" {
		platform.OSVersion, platform.OSFeatures = listed.OSVersion, listed.OSFeatures
	}
	return platform, nil
}

func (x *Draft) add(p part, replace bool) error {
	at := slices.IndexFunc(x.parts, func(other part) bool {
		return samePlatform(*other.entry.Image.Platform, *p.entry.Image.Platform)
	})
	switch {
	case at < 0:
		x.parts = append(x.parts, p)
	case replace:
		x.parts[at] = p
	case x.parts[at].entry.Image.Digest != p.entry.Image.Digest:
		return problem(nil, "%s and %s both have an image for %s: leave one out, or add --replace to take the one that is named last",
			x.parts[at].from, p.from, listed(p.entry.Image).Platform)
	}
	return nil
}

func samePlatform(a, b v1.Platform) bool {
	return a.OS == b.OS && a.Architecture == b.Architecture && a.Variant == b.Variant && a.OSVersion == b.OSVersion
}

// Report returns the index as it will be in a repository, and writes nothing.
func (x *Draft) Report(target Reference) (*Manifest, error) {
	_, target, err := x.client.Open(target)
	if err != nil {
		return nil, err
	}
	d, body := x.build()
	parsed, err := manifest.Parse(d.MediaType, body)
	if err != nil {
		return nil, err
	}
	m := index(document{d, parsed})
	m.Reference = target.String()
	for i := range m.Manifests {
		x.tellFrom(&m.Manifests[i])
	}
	return &m, nil
}

// tellFrom says where an image of a report is taken from, with its attestations.
func (x *Draft) tellFrom(m *Manifest) {
	at := slices.IndexFunc(x.parts, func(p part) bool { return p.entry.Image.Digest == m.Digest })
	if at < 0 {
		return
	}
	m.From = x.parts[at].from.String()
	for i := range m.Attestations {
		m.Attestations[i].From = m.From
	}
}

func (x *Draft) build() (v1.Descriptor, []byte) {
	var entries []manifest.Entry
	for _, p := range x.parts {
		entries = append(entries, p.entry)
	}
	mediaType, body := manifest.NewIndex(entries)
	return v1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(body), Size: int64(len(body))}, body
}

// Push copies what a repository lacks of the images, mounting what another repository of the same registry has, and puts the
// index under the target's tag. The tag moves last: when Push fails, the tag is as it was.
func (x *Draft) Push(ctx context.Context, target Reference) error {
	r, target, err := x.client.Open(target)
	if err != nil {
		return err
	}
	for _, p := range x.parts {
		for _, d := range append([]v1.Descriptor{p.entry.Image}, p.entry.Attestations...) {
			if err := r.copy(ctx, p.in, d); err != nil {
				return err
			}
		}
	}
	d, body := x.build()
	return r.explain(r.remote.Manifests().PushReference(ctx, d, bytes.NewReader(body), target.Tag))
}

// copy copies a manifest and what it needs.
func (r *Repository) copy(ctx context.Context, from *Repository, d v1.Descriptor) error {
	if from.host == r.host && from.name() == r.name() {
		return nil
	}
	options := oras.CopyGraphOptions{Concurrency: requests, FindSuccessors: distributed}
	if from.host == r.host {
		options.MountFrom = func(context.Context, v1.Descriptor) ([]string, error) { return []string{from.name()}, nil }
	}
	err := oras.CopyGraph(ctx, from.remote, r.remote, d, options)
	if failed, ok := errors.AsType[*oras.CopyError](err); ok && failed.Origin == oras.CopyErrorOriginSource {
		return from.explain(fmt.Errorf("read %s: %w", d.Digest, failed.Err))
	}
	return r.explain(err)
}

func (r *Repository) name() string { return r.remote.Reference.Repository }

// distributed returns what a manifest needs in a registry: without layers that are to be had elsewhere only, and without its
// subject.
func distributed(ctx context.Context, fetcher content.Fetcher, d v1.Descriptor) ([]v1.Descriptor, error) {
	if !manifest.IsManifest(d.MediaType) {
		return nil, nil
	}
	all, err := content.FetchAll(ctx, fetcher, d)
	if err != nil {
		return nil, err
	}
	m, err := manifest.Parse(d.MediaType, all)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.Digest, err)
	}
	return slices.DeleteFunc(m.Blobs, manifest.Nondistributable), nil
}
