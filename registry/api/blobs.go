package api

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strconv"

	"berth/registry"
)

// copyBuffer is how many bytes a download passes through at a time where the kernel can't copy by itself. Over HTTP/2
// large buffers cost less CPU; over HTTP/1.1 their size makes no difference.
const copyBuffer = 256 << 10

func (h *handler) serveBlob(c *call) error {
	switch c.r.Method {
	case http.MethodDelete:
		return h.deleteBlob(c)
	case http.MethodHead:
		return h.headBlob(c)
	}
	return h.getBlob(c)
}

// headBlob answers from facts: the bytes are not touched (spec: "Checking if content exists in the registry").
func (h *handler) headBlob(c *call) error {
	d, err := h.Service.Blob(c.r.Context(), c.repository, c.reference.Digest)
	if err != nil {
		return err
	}
	setBlobHeaders(c, d)
	if notModified(c.r, etag(d.Digest.String())) {
		writeEmpty(c, http.StatusNotModified)
		return nil
	}
	c.w.Header().Set("Content-Length", strconv.FormatInt(d.Size, 10))
	c.w.WriteHeader(http.StatusOK)
	return nil
}

// getBlob sends a blob or a part of it, or says where it can be read (spec: "Pulling blobs").
func (h *handler) getBlob(c *call) error {
	if found, url, err := h.Service.LinkBlob(c.r.Context(), c.repository, c.reference.Digest); err != nil || url != "" {
		return h.redirectBlob(c, found, url, err)
	}
	blob, err := h.Service.OpenBlob(c.r.Context(), c.repository, c.reference.Digest)
	if err != nil {
		return err
	}
	defer blob.Close()
	if notModified(c.r, etag(blob.Digest.String())) {
		setBlobHeaders(c, blob.Descriptor)
		writeEmpty(c, http.StatusNotModified)
		return nil
	}
	part, partial, err := requestedPart(c.r, blob.Descriptor)
	if err != nil {
		c.w.Header().Set("Content-Range", fmt.Sprintf("bytes */%d", blob.Size))
		return err
	}
	return h.sendPart(c, blob, part, partial)
}

// redirectBlob sends the client to where the blob is, which is for a while only: nobody may keep this answer. The client
// repeats a Range there.
func (h *handler) redirectBlob(c *call, found registry.Descriptor, url string, err error) error {
	if err != nil {
		return err
	}
	setBlobHeaders(c, found)
	header := c.w.Header()
	if notModified(c.r, etag(found.Digest.String())) {
		writeEmpty(c, http.StatusNotModified)
		return nil
	}
	header.Set("Cache-Control", "no-store")
	header.Del("Content-Type")
	header.Set("Location", url)
	writeEmpty(c, http.StatusTemporaryRedirect)
	return nil
}

// requestedPart reads the Range header, unless If-Range is about other content.
func requestedPart(r *http.Request, d registry.Descriptor) (span, bool, error) {
	if condition := r.Header.Get("If-Range"); condition != "" && condition != etag(d.Digest.String()) {
		return span{0, d.Size}, false, nil
	}
	return parseRange(r.Header.Get("Range"), d.Size)
}

func (h *handler) sendPart(c *call, blob *registry.Blob, part span, partial bool) error {
	code := http.StatusOK
	if partial {
		code = http.StatusPartialContent
		if _, err := blob.Seek(part.start, io.SeekStart); err != nil {
			return fmt.Errorf("seek in blob %s: %w", blob.Digest, err)
		}
		c.w.Header().Set("Content-Range", fmt.Sprintf("bytes %s/%d", part, blob.Size))
	}
	setBlobHeaders(c, blob.Descriptor)
	c.w.Header().Set("Content-Length", strconv.FormatInt(part.length, 10))
	c.w.WriteHeader(code)
	if err := h.send(c, blob.ReadSeekCloser, part.length); err != nil {
		// The client sees fewer bytes than Content-Length promised, so that it can't take them for the whole.
		return fmt.Errorf("send blob %s: %w", blob.Digest, err)
	}
	return nil
}

// send copies n bytes. Over a plain connection the kernel moves them from a file by itself.
func (h *handler) send(c *call, src io.Reader, n int64) error {
	limited := &io.LimitedReader{R: src, N: n}
	var err error
	if _, isFile := src.(*os.File); isFile && c.r.TLS == nil && c.r.ProtoMajor == 1 {
		_, err = io.Copy(c.w, limited)
	} else {
		buffer := h.buffers.Get().(*[copyBuffer]byte)
		defer h.buffers.Put(buffer)
		_, err = io.CopyBuffer(struct{ io.Writer }{c.w}, limited, buffer[:])
	}
	if err == nil && limited.N > 0 {
		return errors.New("the store has fewer bytes than the registry's facts say")
	}
	return err
}

// setBlobHeaders says what is known of a blob. Its bytes never change, so that caches may keep them.
func setBlobHeaders(c *call, d registry.Descriptor) {
	header := c.w.Header()
	header.Set("Accept-Ranges", "bytes")
	header.Set("Cache-Control", "max-age=31536000, immutable")
	header.Set("Content-Type", "application/octet-stream")
	header.Set("Docker-Content-Digest", d.Digest.String())
	header.Set("Etag", etag(d.Digest.String()))
}

// deleteBlob takes a blob out of a repository (spec: "Deleting Blobs").
func (h *handler) deleteBlob(c *call) error {
	if err := h.Service.DeleteBlob(c.r.Context(), c.repository, c.reference.Digest); err != nil {
		return err
	}
	h.audit(c, "delete", slog.String("blob", c.reference.String()))
	writeEmpty(c, http.StatusAccepted)
	return nil
}

// writeBlobCreated answers that a blob is there.
func (h *handler) writeBlobCreated(c *call, digest string) {
	h.audit(c, "push", slog.String("blob", digest))
	header := c.w.Header()
	header.Set("Location", h.location(c.r, "/v2/"+c.repository+"/blobs/"+digest))
	header.Set("Docker-Content-Digest", digest)
	writeEmpty(c, http.StatusCreated)
}
