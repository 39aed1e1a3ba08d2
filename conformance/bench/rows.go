package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"

	"berth/conformance/client"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// row is a line of the table: something that a client does with a registry.
type row struct {
	name     string
	bytes    int64  // that an operation moves, when it is about those
	http2    bool   // offer HTTP/2
	password bool   // log in
	to       string // the row of the same group that it is compared with
	do       func(ctx context.Context, c *client.Client) error
	direct   func(ctx context.Context, c *client.Client) error // what comes nearest to it, behind the registries
}

// group is rows that are compared with each other, and what has to be there before them.
type group struct {
	rows []row
	fill func(ctx context.Context, t *target, s settings) error
}

const (
	small      = 4 << 10
	imageRepo  = "bench/image"
	tagsRepo   = "bench/tags"
	pushRepo   = "bench/push"
	pulledTag  = "v1"
	pulledSeed = 1
	// fewTags is the tag number that pushes to small repositories have on average.
	fewTags = 1000
	// fewRepositories is how many such repositories there are before they are used again.
	fewRepositories = 64
)

const byTag = "manifest GET by tag"

// groups returns the rows in the order in which they are measured.
func groups(s settings) []group {
	smallBlob, largeBlob, size := newUnique(small), newUnique(s.large), fmt.Sprintf("%d MiB", s.large>>20)
	pulledSmall, pulledLarge := client.Content{Seed: pulledSeed, Size: small}, client.Content{Seed: pulledSeed, Size: s.large}
	largeDigest := sync.OnceValue(pulledLarge.Digest)
	atOnce, overHTTP1, pushLarge := "blob push 4 KiB (POST with digest)", "blob GET "+size+", HTTP/1.1", "blob push "+size
	few := fmt.Sprintf("manifest push at tag %d", fewTags)
	return []group{
		{fill: prepare, rows: []row{
			{name: byTag, do: getManifest},
			{name: "manifest HEAD by tag", do: headManifest},
			{name: byTag + ", htpasswd (bcrypt 10)", password: true, to: byTag, do: getManifest},
		}},
		{fill: prepare, rows: []row{{name: "blob GET 4 KiB", do: getBlob(pulledSmall.Digest)}}},
		{fill: prepareLarge, rows: []row{
			{name: overHTTP1, bytes: s.large, do: getBlob(largeDigest)},
			{name: "blob GET " + size + ", HTTP/2 offered", bytes: s.large, http2: true, to: overHTTP1, do: getBlob(largeDigest)},
		}},
		{fill: prepare, rows: []row{
			{name: "blob push 4 KiB (POST, PATCH, PUT)", do: pushBlob(smallBlob)},
			{name: atOnce, do: pushAtOnce(smallBlob)},
			{name: "the same, of what is held", to: atOnce, do: pushHeldAtOnce(pulledSmall)},
		}},
		{fill: prepareLarge, rows: []row{
			{name: pushLarge, bytes: s.large, do: pushBlob(largeBlob)},
			{name: pushLarge + " of what is held", bytes: s.large, to: pushLarge, do: pushHeld(pulledLarge, largeDigest)},
		}},
		{fill: prepare, rows: []row{{name: "image push (4 layers, config, manifest)", do: pushImage(smallBlob)}}},
		{fill: fillTags, rows: []row{
			{name: fmt.Sprintf("tags/list?n=100 of %d", s.tags), do: listTags},
			{name: few, do: pushFew()},
			{name: fmt.Sprintf("manifest push at tag %d", s.tags), to: few, do: pushTag(smallBlob)},
		}},
		{fill: fillCatalog, rows: []row{{name: fmt.Sprintf("_catalog?n=100 of %d", s.repositories), do: listRepositories}}},
	}
}

// selected returns the rows whose names match, in their groups.
func (s settings) selected(all []group) []group {
	var some []group
	for _, g := range all {
		var rows []row
		for _, r := range g.rows {
			if s.only.MatchString(r.name) {
				rows = append(rows, r)
			}
		}
		if g.rows = rows; len(rows) > 0 {
			some = append(some, g)
		}
	}
	return some
}

func getManifest(ctx context.Context, c *client.Client) error {
	_, err := c.Manifest(ctx, imageRepo, pulledTag)
	return err
}

func headManifest(ctx context.Context, c *client.Client) error {
	return c.HasManifest(ctx, imageRepo, pulledTag)
}

func listTags(ctx context.Context, c *client.Client) error {
	_, err := c.Tags(ctx, tagsRepo, 100)
	return err
}

func listRepositories(ctx context.Context, c *client.Client) error {
	_, err := c.Catalog(ctx, 100)
	return err
}

func getBlob(d func() digest.Digest) func(context.Context, *client.Client) error {
	return func(ctx context.Context, c *client.Client) error {
		body, err := c.Blob(ctx, imageRepo, d())
		if err != nil {
			return err
		}
		return drain(body)
	}
}

var drains = sync.Pool{New: func() any { return new([64 << 10]byte) }}

// drain reads a body to its end with fewer calls than io.Discard would: the client shares the processors.
func drain(body io.ReadCloser) error {
	defer body.Close()
	buffer := drains.Get().(*[64 << 10]byte)
	defer drains.Put(buffer)
	for {
		if _, err := body.Read(buffer[:]); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
	}
}

func pushBlob(u *unique) func(context.Context, *client.Client) error {
	return func(ctx context.Context, c *client.Client) error {
		_, err := u.push(ctx, c, pushRepo)
		return err
	}
}

func pushAtOnce(u *unique) func(context.Context, *client.Client) error {
	return func(ctx context.Context, c *client.Client) error {
		next := u.take()
		return postBlob(ctx, c, pushRepo, next.digest, func() io.Reader { return u.body(next) }, u.size())
	}
}

func pushHeldAtOnce(content client.Content) func(context.Context, *client.Client) error {
	d := content.Digest()
	return func(ctx context.Context, c *client.Client) error {
		return postBlob(ctx, c, imageRepo, d, func() io.Reader { return content.Reader(0) }, content.Size)
	}
}

// postBlob sends a blob with its digest in one request. A registry that does not take it so gets it in a second one.
func postBlob(ctx context.Context, c *client.Client, repository string, d digest.Digest, body func() io.Reader, size int64) error {
	response, err := c.Do(ctx, client.Request{
		Method: http.MethodPost, Target: "/v2/" + repository + "/blobs/uploads/?digest=" + d.String(),
		Header: http.Header{"Content-Type": {"application/octet-stream"}}, Body: body(), Length: size,
	}, http.StatusCreated, http.StatusAccepted)
	if err != nil {
		return err
	}
	if err := drain(response.Body); err != nil || response.StatusCode == http.StatusCreated {
		return err
	}
	return c.FinishUpload(ctx, response.Header.Get("Location"), d, body(), size)
}

// pushHeld pushes what the registry has: the digest comes with the request that brings the bytes.
func pushHeld(content client.Content, d func() digest.Digest) func(context.Context, *client.Client) error {
	return func(ctx context.Context, c *client.Client) error {
		location, err := c.StartUpload(ctx, imageRepo)
		if err != nil {
			return err
		}
		return c.FinishUpload(ctx, location, d(), content.Reader(0), content.Size)
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
	return func(ctx context.Context, c *client.Client) error {
		return pushSmallManifest(ctx, c, tagsRepo, "t-"+u.take().digest.Encoded())
	}
}

// pushFew does the same with repositories that have few tags, from the first to the one that makes fewTags their average. It counts
// for each registry by itself.
func pushFew() func(context.Context, *client.Client) error {
	var pushed sync.Map // of *atomic.Int64 by URL
	return func(ctx context.Context, c *client.Client) error {
		count, _ := pushed.LoadOrStore(c.URL, new(atomic.Int64))
		n := count.(*atomic.Int64).Add(1) - 1
		return pushSmallManifest(ctx, c, fewRepository(n/(2*fewTags)%fewRepositories), fmt.Sprintf("t-%d", n))
	}
}

func fewRepository(n int64) string { return fmt.Sprintf("bench/few/%d", n) }

// pushSmallManifest pushes a manifest of the small blob that was prepared.
func pushSmallManifest(ctx context.Context, c *client.Client, repository, tag string) error {
	blob := v1.Descriptor{Digest: client.Content{Seed: pulledSeed, Size: small}.Digest(), Size: small}
	return pushManifest(ctx, c, repository, tag, blob, []v1.Descriptor{blob})
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
