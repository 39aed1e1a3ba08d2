package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"sync/atomic"

	"berth/registry/manifest"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

const (
	// maxManifests is how many are fetched for one report.
	maxManifests = 1000
	// maxDepth is how deep indexes may be in each other.
	maxDepth = 8
	// predicateType is the annotation in which in-toto's layers say what they state.
	predicateType = "in-toto.io/predicate-type"
)

// Index returns what an index lists, as the index itself says it. It fails with a *Problem for what is no index.
func (c *Client) Index(ctx context.Context, ref Reference) (*Manifest, error) {
	r, ref, err := c.Open(ref)
	if err != nil {
		return nil, err
	}
	doc, err := r.resolve(ctx, ref)
	if err != nil {
		return nil, err
	}
	if !manifest.IsIndex(doc.descriptor.MediaType) {
		return nil, problem(nil, "%s is no index, but of type %s: `registry inspect` shows it", ref, doc.descriptor.MediaType)
	}
	m := index(doc)
	m.Reference = ref.String()
	return &m, nil
}

func index(doc document) Manifest {
	m := listed(doc.descriptor)
	m.ArtifactType, m.Annotations = doc.parsed.ArtifactType, doc.parsed.Annotations
	var children []Manifest
	for _, d := range doc.parsed.Children {
		children = append(children, listed(d))
	}
	m.Manifests = fold(doc.parsed.Children, children)
	return m
}

// Inspect returns what a reference names, with all that it consists of and all that refers to it.
func (c *Client) Inspect(ctx context.Context, ref Reference) (*Manifest, error) {
	r, ref, err := c.Open(ref)
	if err != nil {
		return nil, err
	}
	doc, err := r.resolve(ctx, ref)
	if err != nil {
		return nil, err
	}
	i := &inspection{repository: r, turns: make(chan struct{}, requests)}
	m := listed(doc.descriptor)
	m.Reference = ref.String()
	if err := i.look(ctx, &m, doc, 0); err != nil {
		return nil, err
	}
	return &m, nil
}

// inspection is the making of one report.
type inspection struct {
	repository *Repository
	turns      chan struct{} // holds as many as ask the registry
	fetched    atomic.Int32
}

// turn calls fn when it is its turn to ask the registry.
func (i *inspection) turn(ctx context.Context, fn func() error) error {
	select {
	case i.turns <- struct{}{}:
		defer func() { <-i.turns }()
		return fn()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// look completes m from its document, and finds what refers to it.
func (i *inspection) look(ctx context.Context, m *Manifest, doc document, depth int) error {
	group, ctx := errgroup.WithContext(ctx)
	if m.Kind != KindAttestation {
		group.Go(func() (err error) {
			m.Referrers, err = i.referrers(ctx, doc.descriptor)
			return err
		})
	}
	group.Go(func() error { // which may find that m is of another kind
		if manifest.IsIndex(doc.descriptor.MediaType) {
			return i.lookAtIndex(ctx, m, doc, depth)
		}
		return i.lookAtImage(ctx, m, doc)
	})
	err := group.Wait()
	m.sum()
	return err
}

func (i *inspection) lookAtImage(ctx context.Context, m *Manifest, doc document) error {
	parsed := doc.parsed
	m.Annotations = merged(m.Annotations, parsed.Annotations)
	m.Layers = len(parsed.Blobs) - 1
	for _, blob := range parsed.Blobs {
		m.parts[blob.Digest] = blob.Size
	}
	if m.Predicates = predicates(parsed); m.Predicates != nil {
		m.Kind = KindAttestation
	}
	if m.Kind == KindAttestation {
		return nil
	}
	if !manifest.IsImageConfig(parsed.ArtifactType) {
		m.Kind, m.ArtifactType = KindArtifact, parsed.ArtifactType
	}
	return i.turn(ctx, func() error {
		config, _, ok, err := i.repository.config(ctx, parsed)
		if ok {
			m.Platform = manifest.NewPlatform(config.OS, config.Architecture, config.Variant).String()
			m.Created = config.Created
		}
		return err
	})
}

// merged returns the annotations of a manifest over those of its descriptor.
func merged(descriptor, own map[string]string) map[string]string {
	all := map[string]string{}
	maps.Copy(all, descriptor)
	maps.Copy(all, own)
	return all
}

func predicates(m manifest.Manifest) (types []string) {
	for _, layer := range m.Blobs[1:] {
		if t := layer.Annotations[predicateType]; t != "" {
			types = append(types, t)
		}
	}
	return types
}

func (i *inspection) lookAtIndex(ctx context.Context, m *Manifest, doc document, depth int) error {
	m.ArtifactType = cmp.Or(doc.parsed.ArtifactType, m.ArtifactType)
	m.Annotations = merged(m.Annotations, doc.parsed.Annotations)
	if depth == maxDepth {
		m.Problem = fmt.Sprintf("indexes are nested deeper than %d", maxDepth)
		return nil
	}
	children := make([]Manifest, len(doc.parsed.Children))
	group, ctx := errgroup.WithContext(ctx)
	for n, d := range doc.parsed.Children {
		children[n] = listed(d)
		group.Go(func() error { return i.lookAtChild(ctx, &children[n], d, depth+1) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for _, child := range children {
		m.addParts(child)
	}
	m.Manifests = fold(doc.parsed.Children, children)
	return nil
}

// lookAtChild fetches a child. That it is missing, or nothing that can be read, is part of the report.
func (i *inspection) lookAtChild(ctx context.Context, m *Manifest, d v1.Descriptor, depth int) error {
	if !manifest.IsManifest(d.MediaType) {
		m.sum()
		return nil
	}
	if i.fetched.Add(1) > maxManifests {
		return fmt.Errorf("there are more than %d manifests in it: `registry index show` does not look into them", maxManifests)
	}
	var doc document
	err := i.turn(ctx, func() (err error) {
		doc, err = i.repository.manifest(ctx, d)
		return err
	})
	if refused, ok := errors.AsType[*manifest.Invalid](err); ok {
		m.Problem = refused.Message
		return nil
	}
	if isNotFound(err) {
		m.Missing = true
		clear(m.parts)
		return nil
	}
	if err != nil {
		return i.repository.explain(err)
	}
	return i.look(ctx, m, doc, depth)
}
