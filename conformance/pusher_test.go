package conformance

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync/atomic"
	"time"

	"berth/conformance/client"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// pusher pushes images to a repository of its own while the registry is killed and started again, and goes on with what
// it was doing as a careful client would. What the registry says to have stored goes into the ledger.
//
// A request that gets no answer is normal. An answer that is not the expected one is an error: a registry that comes back
// has to know every session and every blob that it ever acknowledged.
type pusher struct {
	client     *client.Client
	repository string
	rand       *rand.Rand
	ledger     *ledger
	// several says that there are several servers, and databases that may be away: then a client has to expect more answers.
	several bool

	images      int
	source      *pusher                // whose blobs this one mounts, or nil
	latest      atomic.Pointer[blobOf] // the newest blob, for the one who mounts
	interrupted atomic.Int64           // requests that got no answer
}

// blobOf is a blob that a repository holds.
type blobOf struct {
	content    client.Content
	descriptor v1.Descriptor
	repository string
}

// run pushes until ctx ends. Only an unexpected answer is an error.
func (p *pusher) run(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := p.pushImage(ctx); err != nil && ctx.Err() == nil {
			return fmt.Errorf("%s, image %d: %w", p.repository, p.images, err)
		}
		p.images++
	}
	return nil
}

func (p *pusher) pushImage(ctx context.Context) error {
	image := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest}
	for range 1 + p.rand.IntN(3) {
		layer, err := p.pushLayer(ctx)
		if err != nil {
			return err
		}
		image.Layers = append(image.Layers, layer)
	}
	config := client.Content{Seed: p.rand.Uint64(), Size: 200}
	descriptor, err := p.pushBlob(ctx, config)
	if err != nil {
		return err
	}
	image.Config = descriptor
	image.Config.MediaType = "application/vnd.example.config" // its bytes are random
	for _, tag := range []string{fmt.Sprintf("v%d", p.images), "latest"} {
		if err := p.pushManifest(ctx, tag, image); err != nil {
			return err
		}
	}
	return nil
}

// pushLayer pushes a new layer, or mounts the newest one of another repository.
func (p *pusher) pushLayer(ctx context.Context) (v1.Descriptor, error) {
	if p.source != nil && p.rand.IntN(4) == 0 {
		if found := p.source.latest.Load(); found != nil {
			return p.mount(ctx, *found)
		}
	}
	size := 100 + p.rand.Int64N(64<<10)
	if p.rand.IntN(8) == 0 {
		size += 1<<20 + p.rand.Int64N(4<<20)
		if p.several {
			size += p.rand.Int64N(12 << 20) // in parts
		}
	}
	return p.pushBlob(ctx, client.Content{Seed: p.rand.Uint64(), Size: size})
}

func (p *pusher) mount(ctx context.Context, b blobOf) (v1.Descriptor, error) {
	err := p.again(ctx, func() error {
		return p.client.MountBlob(ctx, p.repository, b.descriptor.Digest, b.repository)
	})
	if err == nil {
		p.ledger.blobStored(p.repository, b.descriptor.Digest, b.content)
	}
	return b.descriptor, err
}

// pushBlob pushes a blob in one of the ways that the protocol has.
func (p *pusher) pushBlob(ctx context.Context, c client.Content) (v1.Descriptor, error) {
	b := blobOf{content: c, repository: p.repository}
	b.descriptor = v1.Descriptor{MediaType: v1.MediaTypeImageLayer, Digest: c.Digest(), Size: c.Size}
	var err error
	switch p.rand.IntN(4) {
	case 0:
		err = p.again(ctx, func() error {
			return p.client.PushBlob(ctx, p.repository, b.descriptor.Digest, c.Reader(0), c.Size)
		})
	case 1:
		err = p.upload(ctx, b, 0)
	case 2:
		err = p.upload(ctx, b, c.Size)
	default:
		err = p.upload(ctx, b, 1+c.Size/3)
	}
	if err == nil {
		p.ledger.blobStored(p.repository, b.descriptor.Digest, c)
		p.latest.Store(&b)
	}
	return b.descriptor, err
}

// upload pushes a blob through a session: in PATCH requests of chunk bytes, or, when that is 0, in the final PUT.
func (p *pusher) upload(ctx context.Context, b blobOf, chunk int64) error {
	var location string
	err := p.again(ctx, func() (err error) {
		location, err = p.client.StartUpload(ctx, p.repository)
		return err
	})
	if err != nil {
		return err
	}
	if chunk > 0 {
		if location, err = p.writeChunks(ctx, b, location, chunk); err != nil {
			return err
		}
	}
	return p.finish(ctx, b, location)
}

func (p *pusher) writeChunks(ctx context.Context, b blobOf, location string, chunk int64) (string, error) {
	for done := int64(0); done < b.content.Size; {
		length := min(chunk, b.content.Size-done)
		next, err := p.client.WriteChunk(ctx, location, done, b.content.Reader(done), length)
		if err == nil {
			location, done = next, done+length
			continue
		}
		if !p.passes(err) && !(p.several && client.Status(err) == http.StatusRequestedRangeNotSatisfiable) {
			return "", err // but what was sent to another server before may have come after all
		}
		size, err := p.size(ctx, location)
		if err != nil {
			return "", err
		}
		if size < done || size > done+length {
			return "", fmt.Errorf("upload %s: %d bytes are left of %d acknowledged and %d sent", location, size, done, length)
		}
		done = size
	}
	return location, nil
}

// finish ends a session. When it gets no answer it asks what became of the session: one that is no more has been
// finished, and says so again.
func (p *pusher) finish(ctx context.Context, b blobOf, location string) error {
	size, err := p.size(ctx, location)
	for err == nil {
		err = p.client.FinishUpload(ctx, location, b.descriptor.Digest, b.content.Reader(size), b.content.Size-size)
		if err == nil || !p.passes(err) {
			return err
		}
		if size, err = p.size(ctx, location); client.Status(err) == http.StatusNotFound {
			size, err = b.content.Size, nil
		}
	}
	return err
}

// size returns how many bytes a session has.
func (p *pusher) size(ctx context.Context, location string) (size int64, _ error) {
	err := p.again(ctx, func() (err error) {
		size, err = p.client.UploadSize(ctx, location)
		return err
	})
	return size, err
}

func (p *pusher) pushManifest(ctx context.Context, tag string, image v1.Manifest) error {
	body, err := json.Marshal(image)
	if err != nil {
		return err
	}
	d := digest.FromBytes(body)
	p.ledger.manifestAttempted(p.repository, tag, d)
	err = p.again(ctx, func() error {
		return p.client.PushManifest(ctx, p.repository, tag, image.MediaType, body)
	})
	if err == nil {
		p.ledger.manifestStored(p.repository, tag, d, body)
	}
	return err
}

// passes reports whether an error may pass: there was no answer, or, of one of several servers, that it can't tell now.
func (p *pusher) passes(err error) bool {
	switch status := client.Status(err); status {
	case 0:
		return true
	case http.StatusServiceUnavailable, http.StatusConflict:
		return p.several
	}
	return false
}

// again repeats a request until it is answered.
func (p *pusher) again(ctx context.Context, request func() error) error {
	knock := time.NewTicker(5 * time.Millisecond)
	defer knock.Stop()
	for {
		err := request()
		if err == nil || !p.passes(err) {
			return err
		}
		p.interrupted.Add(1)
		select {
		case <-knock.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
