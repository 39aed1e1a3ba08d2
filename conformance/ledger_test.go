package conformance

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"

	"berth/conformance/client"

	"github.com/opencontainers/go-digest"
)

// name is a manifest, a tag or a blob of a repository.
type name struct{ repository, reference string }

// ledger remembers what a registry said it has stored.
type ledger struct {
	mu        sync.Mutex
	blobs     map[name]client.Content
	manifests map[name][]byte
	tags      map[name]*tagHistory
}

// tagHistory is what a tag may point to: what it was last acknowledged to point to, or what somebody has tried to set
// since then without hearing back.
type tagHistory struct {
	acknowledged digest.Digest
	attempted    []digest.Digest
}

func newLedger() *ledger {
	return &ledger{blobs: map[name]client.Content{}, manifests: map[name][]byte{}, tags: map[name]*tagHistory{}}
}

func (l *ledger) blobStored(repository string, d digest.Digest, c client.Content) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.blobs[name{repository, d.String()}] = c
}

func (l *ledger) manifestAttempted(repository, tag string, d digest.Digest) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := name{repository, tag}
	if l.tags[n] == nil {
		l.tags[n] = &tagHistory{}
	}
	l.tags[n].attempted = append(l.tags[n].attempted, d)
}

func (l *ledger) manifestStored(repository, tag string, d digest.Digest, body []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.manifests[name{repository, d.String()}] = body
	*l.tags[name{repository, tag}] = tagHistory{acknowledged: d}
}

// size returns how many blobs, manifests and tags are in the ledger.
func (l *ledger) size() (blobs, manifests, tags int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.blobs), len(l.manifests), len(l.tags)
}

// verify reads everything back and returns what differs. Nobody may be writing.
func (l *ledger) verify(ctx context.Context, c *client.Client) []error {
	var errs []error
	note := func(n name, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s %s: %w", n.repository, n.reference, err))
		}
	}
	for n, content := range l.blobs {
		note(n, verifyBlob(ctx, c, n, content))
	}
	for n, body := range l.manifests {
		got, err := c.Manifest(ctx, n.repository, n.reference)
		if err == nil && !bytes.Equal(got, body) {
			err = fmt.Errorf("%d bytes came back for %d", len(got), len(body))
		}
		note(n, err)
	}
	for n, tag := range l.tags {
		note(n, tag.verify(ctx, c, n))
	}
	return errs
}

func verifyBlob(ctx context.Context, c *client.Client, n name, content client.Content) error {
	body, err := c.Blob(ctx, n.repository, digest.Digest(n.reference))
	if err != nil {
		return err
	}
	defer body.Close()
	return content.Check(body)
}

func (h *tagHistory) verify(ctx context.Context, c *client.Client, n name) error {
	body, err := c.Manifest(ctx, n.repository, n.reference)
	if h.acknowledged == "" && client.Status(err) == 404 {
		return nil
	}
	if err != nil {
		return err
	}
	if d := digest.FromBytes(body); d != h.acknowledged && !slices.Contains(h.attempted, d) {
		return fmt.Errorf("points to %s, but was set to %s and since then at most to %s", d, h.acknowledged, h.attempted)
	}
	return nil
}
