package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"berth/registry"
)

const (
	// maxReferrerPage is the most referrers in one answer.
	maxReferrerPage = 1000
	// maxReferrerBytes is about how large an answer may get. Clients read an index of as much as a manifest may have.
	maxReferrerBytes = registry.MaxManifestSize - 4<<10
)

// referrers is an OCI index whose entries are encoded already.
type referrers struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	Manifests     []json.RawMessage `json:"manifests"`
}

// listReferrers answers with the manifests that have a subject (spec: "Listing Referrers"). A subject that nobody ever
// pushed has none.
func (h *handler) listReferrers(c *call) error {
	query := c.r.URL.Query()
	artifactType, last := query.Get("artifactType"), query.Get("last")
	if last != "" {
		if _, err := registry.ParseDigest(last); err != nil {
			return err
		}
	}
	page := registry.Page{Last: last, N: maxReferrerPage}
	found, more, err := h.Service.Referrers(c.r.Context(), c.repository, c.reference.Digest, artifactType, page)
	if err != nil {
		return err
	}
	entries, err := encodeReferrers(found)
	if err != nil {
		return fmt.Errorf("encode referrers of %s: %w", c.reference.Digest, err)
	}
	if n := len(entries); n > 0 && (more || n < len(found)) {
		setNext(c, nextReferrers(found[n-1], artifactType))
	}
	if artifactType != "" {
		c.w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	writeJSON(c, http.StatusOK, v1.MediaTypeImageIndex, referrers{2, v1.MediaTypeImageIndex, entries})
	return nil
}

// encodeReferrers encodes as many as fit, and one at least.
func encodeReferrers(found []registry.Descriptor) ([]json.RawMessage, error) {
	entries, size := []json.RawMessage{}, 0
	for _, d := range found {
		entry, err := json.Marshal(d)
		if err != nil {
			return nil, err
		}
		size += len(entry) + 1
		if size > maxReferrerBytes && len(entries) > 0 {
			break
		}
		entries = append(entries, entry)
	}
	return entries, nil
}

func nextReferrers(last registry.Descriptor, artifactType string) url.Values {
	query := url.Values{"last": {last.Digest.String()}}
	if artifactType != "" {
		query.Set("artifactType", artifactType)
	}
	return query
}
