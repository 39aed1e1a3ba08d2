package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"

	"berth/conformance/client"
)

// fillers is how many connections fill a registry: enough for those that sync for several at the same time.
const fillers = 64

// prepare pushes what the rows about manifests and small blobs pull.
func prepare(ctx context.Context, t *target, s settings) error {
	return prepareBlobs(ctx, t, small)
}

// prepareLarge pushes a large blob too.
func prepareLarge(ctx context.Context, t *target, s settings) error {
	return prepareBlobs(ctx, t, small, s.large)
}

func prepareBlobs(ctx context.Context, t *target, sizes ...int64) error {
	c, err := t.client(false)
	if err != nil {
		return err
	}
	defer c.HTTP.CloseIdleConnections()
	for _, size := range sizes {
		if err := pushContent(ctx, c, imageRepo, client.Content{Seed: pulledSeed, Size: size}); err != nil {
			return err
		}
	}
	return pushSmallManifest(ctx, c, imageRepo, pulledTag)
}

func pushContent(ctx context.Context, c *client.Client, repository string, content client.Content) error {
	return push(ctx, c, repository, content.Digest(), content.Reader(0), content.Size)
}

// fillTags makes a repository with many tags, and those in which there are to be few.
func fillTags(ctx context.Context, t *target, s settings) error {
	repositories := []string{tagsRepo}
	for i := range int64(fewRepositories) {
		repositories = append(repositories, fewRepository(i))
	}
	err := each(ctx, t, len(repositories), func(c *client.Client, i int) error {
		return pushContent(ctx, c, repositories[i], client.Content{Seed: pulledSeed, Size: small})
	})
	if err != nil {
		return err
	}
	return each(ctx, t, s.tags, func(c *client.Client, i int) error {
		return pushSmallManifest(ctx, c, tagsRepo, fmt.Sprintf("v%d", i))
	})
}

// fillCatalog makes many repositories with an image in each.
func fillCatalog(ctx context.Context, t *target, s settings) error {
	if err := prepare(ctx, t, s); err != nil {
		return err
	}
	content := client.Content{Seed: pulledSeed, Size: small}
	return each(ctx, t, s.repositories, func(c *client.Client, i int) error {
		repository := fmt.Sprintf("many/%d/%d", i/1000, i)
		err := c.MountBlob(ctx, repository, content.Digest(), imageRepo)
		if client.Status(err) == http.StatusAccepted { // it does not mount
			err = pushContent(ctx, c, repository, content)
		}
		if err != nil {
			return err
		}
		return pushSmallManifest(ctx, c, repository, pulledTag)
	})
}

// each does something n times, on many connections.
func each(ctx context.Context, t *target, n int, do func(c *client.Client, i int) error) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var next atomic.Int64
	var wg sync.WaitGroup
	failures := make([]error, min(fillers, n))
	for f := range failures {
		c, err := t.client(false)
		if err != nil {
			return err
		}
		wg.Go(func() {
			defer c.HTTP.CloseIdleConnections()
			for i := int(next.Add(1)) - 1; i < n && failures[f] == nil && ctx.Err() == nil; i = int(next.Add(1)) - 1 {
				if failures[f] = do(c, i); failures[f] != nil {
					stop()
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(failures...)
}
