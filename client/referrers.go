package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"berth/registry/manifest"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote/errcode"
)

// referrers returns what refers to a manifest: by the referrers API or, in a registry without it, by the tag that the OCI
// distribution spec has in its place, and by the tags that cosign makes.
func (i *inspection) referrers(ctx context.Context, subject v1.Descriptor) ([]Referrer, error) {
	var all []Referrer
	err := i.turn(ctx, func() (err error) {
		all, err = i.repository.referrers(ctx, subject)
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, suffix := range []string{".sig", ".att", ".sbom"} {
		err := i.turn(ctx, func() error {
			tag := strings.Replace(subject.Digest.String(), ":", "-", 1) + suffix
			if len(tag) > 128 {
				return nil // a digest of SHA-512 makes no tag
			}
			found, err := i.repository.cosigned(ctx, tag)
			if err == nil && found != nil && !slices.ContainsFunc(all, func(r Referrer) bool { return r.Digest == found.Digest }) {
				all = append(all, *found)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	slices.SortStableFunc(all, func(a, b Referrer) int { return cmp.Compare(a.ArtifactType, b.ArtifactType) })
	return all, nil
}

func (r *Repository) referrers(ctx context.Context, subject v1.Descriptor) ([]Referrer, error) {
	var all []Referrer
	collect := func(page []v1.Descriptor) error {
		if len(all)+len(page) > maxManifests {
			return fmt.Errorf("more than %d manifests refer to %s", maxManifests, subject.Digest)
		}
		for _, d := range page {
			all = append(all, Referrer{d.MediaType, d.ArtifactType, d.Digest, d.Size, d.Annotations, ""})
		}
		return nil
	}
	err := r.remote.Referrers(ctx, subject, "", collect)
	if lacksReferrers(err) {
		all = nil
		_ = r.remote.SetReferrersCapability(false) // it fails where that is settled
		err = r.remote.Referrers(ctx, subject, "", collect)
	}
	if err != nil {
		return nil, r.explain(err)
	}
	return all, nil
}

// lacksReferrers reports whether a registry answered as one does that knows no referrers, other than with 404, which the
// library takes for that itself.
func lacksReferrers(err error) bool {
	answer, ok := errors.AsType[*errcode.ErrorResponse](err)
	return ok && slices.Contains([]int{http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusNotImplemented}, answer.StatusCode)
}

// cosigned returns what has one of cosign's tags, or nil. Its artifact type is that of what is in it: cosign calls all of them
// images.
func (r *Repository) cosigned(ctx context.Context, tag string) (*Referrer, error) {
	d, body, err := r.remote.Manifests().FetchReference(ctx, tag)
	if isNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, r.explain(err)
	}
	doc, err := read(d, body)
	if _, ok := errors.AsType[*manifest.Invalid](err); err != nil && !ok {
		return nil, err
	}
	found := &Referrer{d.MediaType, doc.parsed.ArtifactType, d.Digest, d.Size, doc.parsed.Annotations, tag}
	if blobs := doc.parsed.Blobs; manifest.IsImageConfig(found.ArtifactType) && len(blobs) > 1 {
		found.ArtifactType = blobs[1].MediaType
	}
	return found, nil
}
