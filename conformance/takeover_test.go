package conformance

import (
	"context"
	"math/rand/v2"
	"net/http"
	"slices"
	"testing"
	"time"

	"berth/conformance/client"
)

// TestTakeOver lets a second request write to an upload whose first one hangs. The second wins, the first is cut off, and
// the blob is what the second made of it.
func TestTakeOver(t *testing.T) {
	t.Parallel()
	const repository, first = "takeover/hanging", 1 << 20
	ctx, b := t.Context(), start(t, options{})
	c, content := b.client(), client.Content{Seed: 1, Size: 5 << 20}
	location, err := c.StartUpload(ctx, repository)
	if err != nil {
		t.Fatal(err)
	}
	body := newHalting(client.Content{Seed: 2, Size: content.Size}, 0, first) // other bytes than those that will count
	answer := make(chan error, 1)
	go func(location string) {
		_, err := c.WriteChunk(ctx, location, 0, body, content.Size)
		answer <- err
	}(location)
	<-body.reached
	// What was sent may still be on its way, and the second request overtake it.
	await(t, "has begun with the first request", func() bool { return b.objects() > 0 })
	if location, err = c.WriteChunk(ctx, location, 0, content.Reader(0), content.Size); err != nil {
		t.Fatalf("the second request: %v", err)
	}
	close(body.release)
	if err := <-answer; err == nil {
		t.Error("the first request succeeded")
	}
	if err := c.FinishUpload(ctx, location, content.Digest(), nil, 0); err != nil {
		t.Fatal(err)
	}
	if err := verifyBlob(ctx, c, name{repository, content.Digest().String()}, content); err != nil {
		t.Error(err)
	}
	b.stop()
	b.fsck("--rehash")
}

// TestAbandonedRequests uploads a blob with a client that loses patience: it cuts its requests off at random moments, asks
// at once how much the registry has, and goes on from there, while the registry may still be busy with the request before:
// that one may get further after the client asked (416 for the next), or even come to its turn after the next (409).
func TestAbandonedRequests(t *testing.T) {
	t.Parallel()
	const repository, chunk = "takeover/abandoned", 512 << 10
	ctx, b := t.Context(), start(t, options{})
	c, random := b.client(), rand.New(rand.NewPCG(1, 2))
	for seed := range uint64(20) {
		content := client.Content{Seed: seed, Size: 4<<20 + 1}
		location, err := c.StartUpload(ctx, repository)
		if err != nil {
			t.Fatal(err)
		}
		for size := int64(0); size < content.Size; {
			patience, cancel := context.WithTimeout(ctx, time.Duration(random.IntN(4000))*time.Microsecond)
			_, err := c.WriteChunk(patience, location, size, content.Reader(size), min(chunk, content.Size-size))
			cancel()
			if !slices.Contains([]int{0, http.StatusConflict, http.StatusRequestedRangeNotSatisfiable}, client.Status(err)) {
				t.Fatalf("blob %d at %d: %v", seed, size, err)
			}
			if size, err = c.UploadSize(ctx, location); err != nil {
				t.Fatalf("blob %d: %v", seed, err)
			}
		}
		if err := c.FinishUpload(ctx, location, content.Digest(), nil, 0); err != nil {
			t.Fatalf("blob %d: %v", seed, err)
		}
		if err := verifyBlob(ctx, c, name{repository, content.Digest().String()}, content); err != nil {
			t.Error(err)
		}
	}
	b.stop()
	b.fsck("--rehash")
}
