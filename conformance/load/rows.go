package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"sync/atomic"

	"berth/conformance/client"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// row is a line of the table: something that a client does with a registry.
type row struct {
	name  string
	bytes int64 // that an operation moves, when it is about those
	http2 bool
	do    func(ctx context.Context, c *client.Client) error
}

const (
	small      = 4 << 10
	imageRepo  = "load/image"
	tagsRepo   = "load/tags"
	pushRepo   = "load/push"
	pulledTag  = "v1"
	pulledSeed = 1
)

// rows returns the rows in the order in which they are measured: the list of tags before there are more of them.
func rows(s settings) []row {
	smallBlob, largeBlob := newUnique(small), newUnique(s.large)
	pulledSmall := client.Content{Seed: pulledSeed, Size: small}.Digest()
	pulledLarge := client.Content{Seed: pulledSeed, Size: s.large}.Digest()
	size := fmt.Sprintf("%d MiB", s.large>>20)
	return []row{
		{name: "manifest GET by tag", do: getManifest},
		{name: "blob GET 4 KiB", do: getBlob(pulledSmall)},
		{name: "blob GET " + size + ", HTTP/1.1", bytes: s.large, do: getBlob(pulledLarge)},
		{name: "blob GET " + size + ", HTTP/2", bytes: s.large, http2: true, do: getBlob(pulledLarge)},
		{name: "blob push 4 KiB (POST, PATCH, PUT)", do: pushBlob(smallBlob)},
		{name: "blob push " + size, bytes: s.large, do: pushBlob(largeBlob)},
		{name: "image push (4 layers, config, manifest)", do: pushImage(smallBlob)},
		{name: fmt.Sprintf("tags/list?n=100 of %d", s.tags), do: listTags},
		{name: fmt.Sprintf("manifest push at tag %d", s.tags), do: pushTag(smallBlob)},
	}
}

func getManifest(ctx context.Context, c *client.Client) error {
	_, err := c.Manifest(ctx, imageRepo, pulledTag)
	return err
}

func listTags(ctx context.Context, c *client.Client) error {
	_, err := c.Tags(ctx, tagsRepo, 100)
	return err
}

func getBlob(d digest.Digest) func(context.Context, *client.Client) error {
	return func(ctx context.Context, c *client.Client) error {
		body, err := c.Blob(ctx, imageRepo, d)
		if err != nil {
			return err
		}
		defer body.Close()
		_, err = io.Copy(io.Discard, body)
		return err
	}
}

func pushBlob(u *unique) func(context.Context, *client.Client) error {
	return func(ctx context.Context, c *client.Client) error {
		_, err := u.push(ctx, c, pushRepo)
		return err
	}
}

func pushImage(u *unique) func(context.Context, *client.Client) error {
	return func(ctx context.Context, c *client.Client) error {
		var blobs [5]v1.Descriptor
		for i := range blobs {
			var err error
			if blobs[i], err = u.push(ctx, c, pushRepo); err != nil {
				return err
			}
		}
		return pushManifest(ctx, c, pushRepo, "i-"+blobs[0].Digest.Encoded(), blobs[0], blobs[1:])
	}
}

// pushTag pushes a manifest of which only an annotation is new, under a new tag.
func pushTag(u *unique) func(context.Context, *client.Client) error {
	blob := v1.Descriptor{Digest: client.Content{Seed: pulledSeed, Size: small}.Digest(), Size: small}
	return func(ctx context.Context, c *client.Client) error {
		return pushManifest(ctx, c, tagsRepo, "t-"+u.take().digest.Encoded(), blob, []v1.Descriptor{blob})
	}
}

// pushManifest pushes an image that is unlike any other under its tag.
func pushManifest(ctx context.Context, c *client.Client, repository, tag string, config v1.Descriptor, layers []v1.Descriptor) error {
	image := v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest,
		Config: config, Layers: layers, Annotations: map[string]string{"tag": tag},
	}
	image.Config.MediaType = "application/vnd.example.config"
	for i := range image.Layers {
		image.Layers[i].MediaType = v1.MediaTypeImageLayerGzip
	}
	body, err := json.Marshal(image)
	if err != nil {
		return err
	}
	return c.PushManifest(ctx, repository, tag, image.MediaType, body)
}

// prepare pushes what the rows pull.
func prepare(ctx context.Context, t *target, s settings) error {
	c, err := t.client(false)
	if err != nil {
		return err
	}
	defer c.HTTP.CloseIdleConnections()
	for repository, sizes := range map[string][]int64{imageRepo: {small, s.large}, tagsRepo: {small}} {
		for _, size := range sizes {
			content := client.Content{Seed: pulledSeed, Size: size}
			if err := push(ctx, c, repository, content.Digest(), content.Reader(0), size); err != nil {
				return err
			}
		}
	}
	blob := v1.Descriptor{Digest: client.Content{Seed: pulledSeed, Size: small}.Digest(), Size: small}
	if err := pushManifest(ctx, c, imageRepo, pulledTag, blob, []v1.Descriptor{blob}); err != nil {
		return err
	}
	for i := range s.tags {
		if err := pushManifest(ctx, c, tagsRepo, fmt.Sprintf("v%d", i), blob, []v1.Descriptor{blob}); err != nil {
			return err
		}
	}
	return nil
}

// push pushes a blob as docker does.
func push(ctx context.Context, c *client.Client, repository string, d digest.Digest, body io.Reader, size int64) error {
	location, err := c.StartUpload(ctx, repository)
	if err != nil {
		return err
	}
	if location, err = c.WriteChunk(ctx, location, -1, body, size); err != nil {
		return err
	}
	return c.FinishUpload(ctx, location, d, nil, 0)
}

// unique makes blobs of a size, each unlike any other, whose digest costs next to nothing: only their last bytes differ,
// and all before them is hashed once.
type unique struct {
	head   client.Content
	hashed hash.Cloner
	next   atomic.Uint64
}

// item is one of the blobs.
type item struct {
	digest digest.Digest
	tail   []byte
}

const tailSize = 8

func newUnique(size int64) *unique {
	u := &unique{head: client.Content{Seed: rand.Uint64(), Size: size - tailSize}}
	h := sha256.New()
	_, _ = io.Copy(h, u.head.Reader(0)) // neither side fails
	u.hashed = h.(hash.Cloner)
	return u
}

func (u *unique) take() item {
	tail := binary.LittleEndian.AppendUint64(nil, u.next.Add(1))
	h, _ := u.hashed.Clone() // SHA-256 can be cloned
	h.Write(tail)
	return item{digest: digest.NewDigest(digest.SHA256, h), tail: tail}
}

func (u *unique) push(ctx context.Context, c *client.Client, repository string) (v1.Descriptor, error) {
	next, size := u.take(), u.head.Size+tailSize
	body := io.MultiReader(u.head.Reader(0), bytes.NewReader(next.tail))
	return v1.Descriptor{Digest: next.digest, Size: size}, push(ctx, c, repository, next.digest, body, size)
}
