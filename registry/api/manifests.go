package api

import (
	"io"
	"log/slog"
	"mime"
	"net/http"
	"strconv"
	"strings"

	"berth/registry"
	"berth/registry/manifest"
)

// maxTags is how many tags one push may set. The spec asks for ten at least.
const maxTags = 100

func (h *handler) serveManifest(c *call) error {
	switch c.r.Method {
	case http.MethodPut:
		return h.putManifest(c)
	case http.MethodDelete:
		return h.deleteManifest(c)
	}
	return h.getManifest(c)
}

// getManifest answers GET and HEAD (spec: "Pulling manifests").
func (h *handler) getManifest(c *call) error {
	m, err := h.negotiate(c)
	if err != nil {
		return err
	}
	header, tag := c.w.Header(), etag(m.Digest.String())
	header.Add("Vary", "Accept")
	header.Set("Etag", tag)
	header.Set("Docker-Content-Digest", m.Digest.String())
	if notModified(c.r, tag) {
		writeEmpty(c, http.StatusNotModified)
		return nil
	}
	header.Set("Content-Type", m.MediaType)
	header.Set("Content-Length", strconv.FormatInt(m.Size, 10))
	c.w.WriteHeader(http.StatusOK)
	if c.r.Method != http.MethodHead {
		c.w.Write(m.Body)
	}
	return nil
}

// negotiate finds the manifest to serve: what the reference names, except that a client which understands no index gets
// what the index of a tag lists for linux/amd64. A digest always names the very bytes.
func (h *handler) negotiate(c *call) (registry.Manifest, error) {
	m, err := h.resolve(c)
	if err == nil && manifest.IsIndex(m.MediaType) && m.Body != nil {
		h.noteMissing(c, m)
	}
	if err != nil || c.reference.Tag == "" || !manifest.IsIndex(m.MediaType) || acceptsIndex(c.r.Header["Accept"]) {
		return m, err
	}
	return h.Service.PlatformManifest(c.r.Context(), c.repository, m.Digest)
}

// resolve looks the reference up, with the body where the answer will have one.
func (h *handler) resolve(c *call) (registry.Manifest, error) {
	if c.r.Method == http.MethodHead {
		d, err := h.Service.ResolveManifest(c.r.Context(), c.repository, c.reference)
		return registry.Manifest{Descriptor: d}, err
	}
	return h.Service.Manifest(c.r.Context(), c.repository, c.reference)
}

// putManifest stores a manifest (spec: "Pushing Manifests").
func (h *handler) putManifest(c *call) error {
	tags, err := requestedTags(c.r)
	if err != nil {
		return err
	}
	body, err := readManifest(c.r)
	if err != nil {
		return err
	}
	pushed, err := h.Service.PutManifest(c.r.Context(), c.repository, registry.ManifestPush{
		Reference: c.reference,
		Tags:      tags,
		MediaType: mediaType(c.r),
		Body:      body,
		User:      c.client.Name(),
	})
	if err != nil {
		return err
	}
	h.audit(c, "push", slog.String("reference", c.reference.String()), slog.String("manifest", pushed.Digest.String()), slog.Any("tags", tags))
	h.auditAssembled(c, pushed.Assembled)
	h.writeManifestCreated(c, pushed, tags)
	return nil
}

func (h *handler) writeManifestCreated(c *call, pushed registry.ManifestPushed, tags []string) {
	header, digest := c.w.Header(), pushed.Digest.String()
	header.Set("Location", h.location(c.r, "/v2/"+c.repository+"/manifests/"+digest))
	header.Set("Docker-Content-Digest", digest)
	if pushed.Subject != "" {
		header.Set("OCI-Subject", pushed.Subject.String())
	}
	for _, tag := range tags {
		header.Add("OCI-Tag", tag)
	}
	for _, text := range pushed.Warnings {
		header.Add("Warning", warning(text))
	}
	writeEmpty(c, http.StatusCreated)
}

// warning is the value of a Warning header (OCI distribution spec, "Warnings").
func warning(text string) string {
	return `299 - "` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(text) + `"`
}

// requestedTags reads the tag parameters, of the spec's main branch.
func requestedTags(r *http.Request) ([]string, error) {
	tags := r.URL.Query()["tag"]
	if len(tags) > maxTags {
		return nil, errTooManyTags.Withf("too many tags in one request: at most %d", maxTags)
	}
	return tags, nil
}

// readManifest reads the body, but no more than a manifest may have.
func readManifest(r *http.Request) ([]byte, error) {
	if r.ContentLength > registry.MaxManifestSize {
		return nil, tooLarge()
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, registry.MaxManifestSize+1))
	if err != nil {
		return nil, registry.ErrManifestInvalid.Withf("the request's body ended early")
	}
	if len(body) > registry.MaxManifestSize {
		return nil, tooLarge()
	}
	return body, nil
}

func tooLarge() error {
	return registry.ErrTooLarge.Withf("manifests have at most %d bytes", registry.MaxManifestSize)
}

// mediaType returns the Content-Type without its parameters.
func mediaType(r *http.Request) string {
	header := r.Header.Get("Content-Type")
	if t, _, err := mime.ParseMediaType(header); err == nil {
		return t
	}
	return header
}

// deleteManifest deletes a tag, or a manifest with its tags (spec: "Deleting tags", "Deleting Manifests").
func (h *handler) deleteManifest(c *call) error {
	how, err := requestedDeletion(c)
	if err != nil {
		return err
	}
	var moved []registry.Assembled
	if c.reference.Digest != "" {
		moved, err = h.Service.DeleteManifest(c.r.Context(), c.repository, c.reference.Digest, how)
	} else {
		err = h.Service.DeleteTag(c.r.Context(), c.repository, c.reference.Tag, how)
	}
	if err != nil {
		return err
	}
	h.tellReturns(c, how)
	h.audit(c, "delete", slog.String("reference", c.reference.String()))
	h.auditAssembled(c, moved)
	writeEmpty(c, http.StatusAccepted)
	return nil
}

// auditAssembled records what became of tags that the registry moves. A tag without a manifest is gone.
func (h *handler) auditAssembled(c *call, tags []registry.Assembled) {
	for _, a := range tags {
		h.audit(c, "assemble", slog.String("reference", a.Tag), slog.String("manifest", a.Digest.String()))
	}
}
