// Package client speaks the OCI distribution API with nothing hidden: one method is one request, an answer that the
// method does not expect is a *StatusError, and no request is ever repeated. Tests that kill servers and measurements
// need exactly that.
//
// It guarantees that every answer's body was read to its end, so that connections are used again. It does not check what
// it is sent against a digest: callers do.
package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Client makes requests to one registry.
type Client struct {
	// URL is the registry's, without a path.
	URL  string
	HTTP *http.Client
	// User and Password are sent with every request unless User is empty.
	User, Password string
	// Token is a bearer token that is sent instead, unless it is empty.
	Token string
}

// StatusError is an answer that was not expected.
type StatusError struct {
	Method, Path string
	Status       int
	Body         string
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("%s %s: status %d: %s", e.Method, e.Path, e.Status, e.Body)
}

// Status returns the HTTP status that an error is about, or 0 when there was no answer.
func Status(err error) int {
	if e, ok := errors.AsType[*StatusError](err); ok {
		return e.Status
	}
	return 0
}

// Request is a request to a registry.
type Request struct {
	Method string
	// Target is a path with or without a query, or a Location of an earlier answer.
	Target string
	Header http.Header
	// The first Length bytes of Body are sent, or, when that is -1, all of it in chunks of HTTP.
	Body   io.Reader
	Length int64
}

// Do makes a request and returns its answer, whose body the caller closes. It fails with a *StatusError when the status is
// not one of those that are wanted.
func (c *Client) Do(ctx context.Context, r Request, want ...int) (*http.Response, error) {
	req, err := c.newRequest(ctx, r)
	if err != nil {
		return nil, err
	}
	resp, err := c.HTTP.Do(req)
	if err != nil {
		return nil, err
	}
	if slices.Contains(want, resp.StatusCode) {
		return resp, nil
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10)) // the status says enough
	return nil, &StatusError{Method: r.Method, Path: req.URL.Path, Status: resp.StatusCode, Body: string(body)}
}

func (c *Client) newRequest(ctx context.Context, r Request) (*http.Request, error) {
	base, err := url.Parse(c.URL)
	if err != nil {
		return nil, err
	}
	target, err := base.Parse(r.Target)
	if err != nil {
		return nil, err
	}
	switch {
	case r.Length == 0:
		r.Body = nil // http takes a body of no known length for one to send in chunks
	case r.Length > 0:
		r.Body = io.LimitReader(r.Body, r.Length)
	}
	req, err := http.NewRequestWithContext(ctx, r.Method, target.String(), r.Body)
	if err != nil {
		return nil, err
	}
	req.ContentLength = r.Length
	if r.Header != nil {
		req.Header = r.Header
	}
	if c.Token != "" {
		req.Header.Set("Authorization", "Bearer "+c.Token)
	} else if c.User != "" {
		req.SetBasicAuth(c.User, c.Password)
	}
	return req, nil
}

// exchange makes a request whose answer has no interesting body, and returns the answer's header.
func (c *Client) exchange(ctx context.Context, r Request, want ...int) (http.Header, error) {
	resp, err := c.Do(ctx, r, want...)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return nil, fmt.Errorf("%s %s: read answer: %w", r.Method, r.Target, err)
	}
	return resp.Header, nil
}

// StartUpload begins an upload session and returns its location.
func (c *Client) StartUpload(ctx context.Context, repository string) (string, error) {
	header, err := c.exchange(ctx, Request{Method: http.MethodPost, Target: uploads(repository)}, http.StatusAccepted)
	return header.Get("Location"), err
}

// WriteChunk appends length bytes at offset and returns the session's next location. An offset of -1 sends no
// Content-Range.
func (c *Client) WriteChunk(ctx context.Context, location string, offset int64, body io.Reader, length int64) (string, error) {
	r := Request{Method: http.MethodPatch, Target: location, Header: octets(), Body: body, Length: length}
	if offset >= 0 {
		r.Header.Set("Content-Range", fmt.Sprintf("%d-%d", offset, offset+length-1))
	}
	header, err := c.exchange(ctx, r, http.StatusAccepted)
	return header.Get("Location"), err
}

// UploadSize returns how many bytes of a session the registry has. The protocol can't tell one byte from none; this says
// none.
func (c *Client) UploadSize(ctx context.Context, location string) (int64, error) {
	header, err := c.exchange(ctx, Request{Method: http.MethodGet, Target: location}, http.StatusNoContent)
	if err != nil {
		return 0, err
	}
	last, err := strconv.ParseInt(strings.TrimPrefix(header.Get("Range"), "0-"), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("upload status: bad Range %q", header.Get("Range"))
	}
	if last == 0 {
		return 0, nil
	}
	return last + 1, nil
}

// FinishUpload appends length bytes, perhaps none, and makes the session a blob.
func (c *Client) FinishUpload(ctx context.Context, location string, d digest.Digest, body io.Reader, length int64) error {
	r := Request{Method: http.MethodPut, Target: withQuery(location, "digest", d.String()), Header: octets(), Body: body, Length: length}
	_, err := c.exchange(ctx, r, http.StatusCreated)
	return err
}

// PushBlob pushes a blob in a single request.
func (c *Client) PushBlob(ctx context.Context, repository string, d digest.Digest, body io.Reader, length int64) error {
	target := withQuery(uploads(repository), "digest", d.String())
	_, err := c.exchange(ctx, Request{Method: http.MethodPost, Target: target, Header: octets(), Body: body, Length: length}, http.StatusCreated)
	return err
}

// MountBlob asks for a blob of another repository, and fails with a *StatusError of 202 when the registry offers an upload
// instead.
func (c *Client) MountBlob(ctx context.Context, repository string, d digest.Digest, from string) error {
	target := withQuery(withQuery(uploads(repository), "mount", d.String()), "from", from)
	_, err := c.exchange(ctx, Request{Method: http.MethodPost, Target: target}, http.StatusCreated)
	return err
}

// Blob opens a blob.
func (c *Client) Blob(ctx context.Context, repository string, d digest.Digest) (io.ReadCloser, error) {
	return c.open(ctx, Request{Method: http.MethodGet, Target: blob(repository, d)})
}

// DeleteBlob deletes a blob.
func (c *Client) DeleteBlob(ctx context.Context, repository string, d digest.Digest) error {
	_, err := c.exchange(ctx, Request{Method: http.MethodDelete, Target: blob(repository, d)}, http.StatusAccepted)
	return err
}

// PushManifest pushes a manifest under a tag or a digest.
func (c *Client) PushManifest(ctx context.Context, repository, reference, mediaType string, body []byte) error {
	r := Request{
		Method: http.MethodPut, Target: manifest(repository, reference), Header: http.Header{"Content-Type": {mediaType}},
		Body: strings.NewReader(string(body)), Length: int64(len(body)),
	}
	_, err := c.exchange(ctx, r, http.StatusCreated)
	return err
}

// Manifest returns the bytes of a manifest.
func (c *Client) Manifest(ctx context.Context, repository, reference string) ([]byte, error) {
	return c.readAll(ctx, Request{Method: http.MethodGet, Target: manifest(repository, reference), Header: acceptManifests()})
}

// HasManifest asks for a manifest without its bytes.
func (c *Client) HasManifest(ctx context.Context, repository, reference string) error {
	r := Request{Method: http.MethodHead, Target: manifest(repository, reference), Header: acceptManifests()}
	_, err := c.exchange(ctx, r, http.StatusOK)
	return err
}

// DeleteManifest deletes a manifest by its digest, or a tag.
func (c *Client) DeleteManifest(ctx context.Context, repository, reference string) error {
	_, err := c.exchange(ctx, Request{Method: http.MethodDelete, Target: manifest(repository, reference)}, http.StatusAccepted)
	return err
}

// Tags returns the first n tags of a repository, as the registry's JSON.
func (c *Client) Tags(ctx context.Context, repository string, n int) ([]byte, error) {
	return c.readAll(ctx, Request{Method: http.MethodGet, Target: fmt.Sprintf("/v2/%s/tags/list?n=%d", repository, n)})
}

// Catalog returns the first n repositories, as the registry's JSON.
func (c *Client) Catalog(ctx context.Context, n int) ([]byte, error) {
	return c.readAll(ctx, Request{Method: http.MethodGet, Target: fmt.Sprintf("/v2/_catalog?n=%d", n)})
}

func (c *Client) readAll(ctx context.Context, r Request) ([]byte, error) {
	body, err := c.open(ctx, r)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	return io.ReadAll(body)
}

func (c *Client) open(ctx context.Context, r Request) (io.ReadCloser, error) {
	resp, err := c.Do(ctx, r, http.StatusOK)
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

func uploads(repository string) string { return "/v2/" + repository + "/blobs/uploads/" }
func blob(repository string, d digest.Digest) string {
	return "/v2/" + repository + "/blobs/" + d.String()
}
func manifest(repository string, reference string) string {
	return "/v2/" + repository + "/manifests/" + reference
}
func acceptManifests() http.Header {
	return http.Header{"Accept": {"application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.index.v1+json"}}
}
func octets() http.Header { return http.Header{"Content-Type": {"application/octet-stream"}} }

func withQuery(target, key, value string) string {
	separator := "?"
	if strings.Contains(target, "?") {
		separator = "&"
	}
	return target + separator + key + "=" + url.QueryEscape(value)
}
