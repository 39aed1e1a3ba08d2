package api

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"

	"github.com/opencontainers/go-digest"

	"berth/registry"
)

// startUpload answers POST: it mounts a blob, takes a whole one or begins a session (spec: "Pushing blobs"). Where short chunks are dear
// it says so (spec: "Pushing a blob in chunks"), and takes them all the same.
func (h *handler) startUpload(c *call) error {
	query := c.r.URL.Query()
	if query.Has("mount") {
		if mounted, err := h.mount(c, query); mounted || err != nil {
			return err
		}
	}
	if query.Has("digest") {
		return h.pushBlob(c, query.Get("digest"))
	}
	algorithm, err := announcedAlgorithm(query)
	if err != nil {
		return err
	}
	upload, err := h.Service.StartUpload(c.r.Context(), c.repository, algorithm)
	if err != nil {
		return err
	}
	if least := h.Service.MinChunk(); least > 0 {
		c.w.Header().Set("OCI-Chunk-Min-Length", strconv.FormatInt(least, 10))
	}
	h.writeUpload(c, http.StatusAccepted, upload)
	return nil
}

// announcedAlgorithm is what the session's bytes will be hashed with: what digest-algorithm says, else what the digest
// of a mount that failed has, since it is those bytes that will follow.
func announcedAlgorithm(query url.Values) (digest.Algorithm, error) {
	if query.Has("digest-algorithm") {
		return registry.ParseAlgorithm(query.Get("digest-algorithm"))
	}
	if d, err := registry.ParseDigest(query.Get("mount")); err == nil {
		return d.Algorithm(), nil
	}
	return "", nil
}

// mount tries to take a blob from another repository, and reports whether it answered. What can't be mounted, for
// whatever reason, is to be uploaded (spec: "Mounting a blob from another repository").
func (h *handler) mount(c *call, query url.Values) (bool, error) {
	d, err := registry.ParseDigest(query.Get("mount"))
	from := query.Get("from")
	if err != nil || from != "" && registry.CheckName(from) != nil {
		return false, nil
	}
	mounted, err := h.Service.MountBlob(c.r.Context(), c.repository, registry.Mount{
		Digest:   d,
		From:     from,
		Readable: func(repository string) bool { return c.client.May(repository, Pull) },
	})
	if mounted && err == nil {
		h.writeBlobCreated(c, d.String())
	}
	return mounted, err
}

// pushBlob takes a whole blob in one request (spec: "Single POST").
func (h *handler) pushBlob(c *call, digest string) error {
	d, err := registry.ParseDigest(digest)
	if err != nil {
		return err
	}
	pushed, err := h.Service.PushBlob(c.r.Context(), c.repository, d, c.body().chunk())
	if err != nil {
		return err
	}
	h.writeBlobCreated(c, pushed.Digest.String())
	return nil
}

// serveUpload answers what goes to a session.
func (h *handler) serveUpload(c *call) error {
	switch c.r.Method {
	case http.MethodPatch:
		return h.resumable(c, h.appendUpload(c))
	case http.MethodPut:
		return h.resumable(c, h.finishUpload(c))
	case http.MethodDelete:
		return h.cancelUpload(c)
	}
	upload, err := h.Service.UploadStatus(c.r.Context(), c.repository, c.upload)
	if err != nil {
		return err
	}
	h.writeUpload(c, http.StatusNoContent, upload)
	return nil
}

func (h *handler) appendUpload(c *call) error {
	chunk, err := c.body().chunkInRange(c.r)
	if err != nil {
		return err
	}
	// The server cancels a request once it has seen the client's end, which may be before what came is written. The end
	// of the body says it soon enough.
	ctx := context.WithoutCancel(c.r.Context())
	upload, err := h.Service.WriteUpload(ctx, c.repository, c.upload, chunk)
	if err != nil {
		return err
	}
	h.writeUpload(c, http.StatusAccepted, upload)
	return nil
}

func (h *handler) finishUpload(c *call) error {
	query := c.r.URL.Query()
	if !query.Has("digest") {
		return registry.ErrDigestInvalid.Withf("the parameter digest is missing: it says what the upload has to be")
	}
	d, err := registry.ParseDigest(query.Get("digest"))
	if err != nil {
		return err
	}
	chunk, err := c.body().chunkInRange(c.r)
	if err != nil {
		return err
	}
	finished, err := h.Service.FinishUpload(c.r.Context(), c.repository, c.upload, chunk, d)
	if err != nil {
		return err
	}
	h.writeBlobCreated(c, finished.Digest.String())
	return nil
}

// resumable adds to a 416 where the upload goes on.
func (h *handler) resumable(c *call, err error) error {
	if !errors.Is(err, registry.ErrUploadRange) {
		return err
	}
	upload, statusErr := h.Service.UploadStatus(c.r.Context(), c.repository, c.upload)
	if statusErr != nil {
		return statusErr
	}
	h.setUploadHeaders(c, upload)
	return err
}

func (h *handler) cancelUpload(c *call) error {
	if err := h.Service.CancelUpload(c.r.Context(), c.repository, c.upload); err != nil {
		return err
	}
	writeEmpty(c, http.StatusNoContent)
	return nil
}

func (h *handler) writeUpload(c *call, code int, upload registry.Upload) {
	c.upload = upload.ID // for the log
	h.setUploadHeaders(c, upload)
	writeEmpty(c, code)
}

// setUploadHeaders says where a session is and how far it is. An empty one has the same Range as one of a single byte:
// clients expect it so.
func (h *handler) setUploadHeaders(c *call, upload registry.Upload) {
	header := c.w.Header()
	header.Set("Location", h.location(c.r, "/v2/"+c.repository+"/blobs/uploads/"+upload.ID))
	header.Set("Docker-Upload-Uuid", upload.ID)
	header.Set("Range", span{0, max(upload.Size, 1)}.String())
}
