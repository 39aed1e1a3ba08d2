package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"sync"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/errcode"
)

const (
	// maxList is the most bytes of a list that are read: some registries send all tags at once.
	maxList = 64 << 20
	// attempts is how often the push of a blob is tried, and how often its reading is resumed.
	attempts = 3
)

// Repositories calls page with the names of all repositories of a registry, some at a time; an empty host is that of the local registry.
// It fails with a *Problem where the registry does not tell.
func (c *Client) Repositories(ctx context.Context, host string, page func(names []string) error) error {
	r, ref, err := c.Open(Reference{Host: host})
	if err != nil {
		return err
	}
	all := remote.Registry{RepositoryOptions: remote.RepositoryOptions{
		Client: r.host.client, Reference: registry.Reference{Registry: ref.Host}, PlainHTTP: r.remote.PlainHTTP, MaxMetadataBytes: maxList,
	}}
	var stopped error
	err = all.Repositories(ctx, "", func(names []string) error {
		stopped = page(names)
		return stopped
	})
	if _, refused := errors.AsType[*errcode.ErrorResponse](err); refused {
		return problem(err, "%s does not list its repositories, so they have to be named (%v)", ref.Host, r.explain(err))
	}
	if err == nil || stopped != nil {
		return stopped
	}
	return r.explain(err)
}

// lister returns the repository for questions with long answers, about referrers to the API alone.
func (r *Repository) lister() *remote.Repository {
	l := &remote.Repository{
		Client: r.host.client, Reference: r.remote.Reference, PlainHTTP: r.remote.PlainHTTP,
		MaxMetadataBytes: maxList, ReferrerListMaxPages: r.remote.ReferrerListMaxPages,
	}
	_ = l.SetReferrersCapability(true) // it is new
	return l
}

// Tags calls page with all tags of the repository, some at a time. It fails with a *Problem where there is no such repository.
func (r *Repository) Tags(ctx context.Context, page func(tags []string) error) error {
	var stopped error
	err := r.lister().Tags(ctx, "", func(tags []string) error {
		stopped = page(tags)
		return stopped
	})
	switch {
	case err == nil || stopped != nil:
		return stopped
	case isAnswer(err, http.StatusNotFound):
		return problem(err, "%s has no repository %s", r.host.name, r.name())
	}
	return r.explain(err)
}

// Resolve returns what a tag points to. It fails with errdef.ErrNotFound where there is no such tag.
func (r *Repository) Resolve(ctx context.Context, tag string) (v1.Descriptor, error) {
	d, err := r.remote.Manifests().Resolve(ctx, tag)
	if _, answered := errors.AsType[*errcode.ErrorResponse](err); err == nil || answered || isNotFound(err) || ctx.Err() != nil {
		return d, r.explain(err)
	}
	// Some registries do not answer HEAD with a digest.
	d, body, err := r.remote.Manifests().FetchReference(ctx, tag)
	if err != nil {
		return d, r.explain(err)
	}
	return d, body.Close()
}

// ReadManifest returns a manifest, compared with its digest. It fails with errdef.ErrNotFound where it is not there.
func (r *Repository) ReadManifest(ctx context.Context, d v1.Descriptor) ([]byte, error) {
	body, err := r.remote.Manifests().Fetch(ctx, d)
	if err != nil {
		return nil, r.explain(err)
	}
	return readAll(d, body)
}

// ReadBlob returns a blob, which nobody compared with its digest. Where the registry can send a part, reading goes on after the connection
// broke. It fails with errdef.ErrNotFound where the blob is not there.
func (r *Repository) ReadBlob(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	fetch := func() (io.ReadCloser, error) { return r.remote.Blobs().Fetch(ctx, d) }
	body, err := fetch()
	if err != nil {
		return nil, r.explain(err)
	}
	return &resuming{ReadCloser: body, fetch: fetch}, nil
}

// resuming reads a blob, and goes on with another request where one breaks off.
type resuming struct {
	io.ReadCloser
	fetch   func() (io.ReadCloser, error)
	at      int64 // bytes read
	resumed int
}

func (r *resuming) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	r.at += int64(n)
	if err == nil || err == io.EOF || r.resumed == attempts || r.resume() != nil {
		return n, err
	}
	return n, nil
}

func (r *resuming) resume() error {
	r.resumed++
	body, err := r.fetch()
	if err != nil {
		return err
	}
	seeker, ok := body.(io.Seeker)
	if ok {
		_, err = seeker.Seek(r.at, io.SeekStart)
	}
	if !ok || err != nil {
		return errors.Join(errors.ErrUnsupported, err, body.Close())
	}
	_ = r.Close() // it broke
	r.ReadCloser = body
	return nil
}

// Referrers returns the manifests whose subject is d. It fails with errdef.ErrUnsupported where the registry has no API for that.
func (r *Repository) Referrers(ctx context.Context, d v1.Descriptor) (all []v1.Descriptor, err error) {
	err = r.lister().Referrers(ctx, d, "", func(page []v1.Descriptor) error {
		all = append(all, page...)
		return nil
	})
	if lacksReferrers(err) || isAnswer(err, http.StatusNotFound) || errors.Is(err, errdef.ErrUnsupported) {
		return nil, errdef.ErrUnsupported
	}
	return all, r.explain(err)
}

// HasManifest reports whether the repository has a manifest.
func (r *Repository) HasManifest(ctx context.Context, d v1.Descriptor) (bool, error) {
	has, err := r.remote.Manifests().Exists(ctx, d)
	return has, r.explain(err)
}

// HasBlob reports whether the repository has a blob.
func (r *Repository) HasBlob(ctx context.Context, d v1.Descriptor) (bool, error) {
	has, err := r.remote.Blobs().Exists(ctx, d)
	return has, r.explain(err)
}

// WriteManifest stores a manifest, under a tag unless that is empty.
func (r *Repository) WriteManifest(ctx context.Context, d v1.Descriptor, body []byte, tag string) error {
	if tag == "" {
		tag = d.Digest.String()
	}
	return r.explain(r.remote.Manifests().PushReference(ctx, d, bytes.NewReader(body), tag))
}

// WriteBlob stores a blob. A registry that has it in another repository, and says so, is not sent it. A push that was cut off is tried
// again, for which the blob is opened again.
func (r *Repository) WriteBlob(ctx context.Context, d v1.Descriptor, open func() (io.ReadCloser, error)) error {
	for attempt := 1; ; attempt++ {
		err := r.tryWriteBlob(ctx, d, open)
		if err == nil || attempt == attempts || !passing(err) {
			return err
		}
		select {
		case <-time.After(time.Duration(attempt) * 500 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (r *Repository) tryWriteBlob(ctx context.Context, d v1.Descriptor, open func() (io.ReadCloser, error)) error {
	var source sending
	err := r.remote.Blobs().(registry.Mounter).Mount(ctx, d, "", func() (io.ReadCloser, error) { return source.open(open) })
	if failed := source.failed(); err != nil && failed != nil { // what the network says of a body that ends too early is no help
		return failed
	}
	if isAnswer(err, http.StatusBadRequest) && isCode(err, errcode.ErrorCodeDigestInvalid) {
		return problem(err, "the source's bytes are not those of its digest: it is damaged there")
	}
	return r.explain(err)
}

// sending is the body of a request that reads from a source. It remembers why reading failed. When the registry answers before it has
// all, the request goes on to read and close it for a moment, beside those who got the answer.
type sending struct {
	mu   sync.Mutex
	body io.ReadCloser // nil when it is not open
	err  error
}

func (s *sending) open(source func() (io.ReadCloser, error)) (io.ReadCloser, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.body, s.err = source()
	return s, s.err
}

// Read reads from the source.
func (s *sending) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.body == nil {
		return 0, fs.ErrClosed
	}
	n, err := s.body.Read(p)
	if err != nil && err != io.EOF {
		s.err = fmt.Errorf("read it from the source: %w", err)
	}
	return n, err
}

// Close closes it once.
func (s *sending) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.body == nil {
		return nil
	}
	err := s.body.Close()
	s.body = nil
	return err
}

// failed returns why reading failed, if it did.
func (s *sending) failed() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// passing reports whether an error may not come again: a connection that broke, or a server that is busy.
func passing(err error) bool {
	if answer, ok := errors.AsType[*errcode.ErrorResponse](err); ok {
		return answer.StatusCode == http.StatusTooManyRequests || answer.StatusCode == http.StatusBadGateway ||
			answer.StatusCode == http.StatusServiceUnavailable || answer.StatusCode == http.StatusGatewayTimeout
	}
	if _, known := errors.AsType[*Problem](err); known || isNotFound(err) || errors.Is(err, context.Canceled) {
		return false
	}
	_, broken := errors.AsType[*url.Error](err)
	return broken || errors.Is(err, io.ErrUnexpectedEOF) || isNetwork(err)
}
