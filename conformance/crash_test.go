package conformance

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"berth/conformance/client"
)

const (
	kills   = 60
	pushers = 4
)

// TestCrash kills a registry again and again while images are pushed to it. In the end everything that it ever
// acknowledged is there, byte for byte, and fsck finds nothing. CRASH_SEED repeats the decisions of an earlier run, though
// not its timing.
func TestCrash(t *testing.T) {
	t.Parallel()
	seed := crashSeed(t)
	b := start(t, options{})
	book := newLedger()
	crew := hire(b, book, seed, false)

	ctx, cancel := context.WithCancel(t.Context())
	failed := work(ctx, cancel, crew)
	t.Cleanup(func() { cancel(); failed() })
	killRepeatedly(ctx, b, rand.New(rand.NewPCG(seed, 0)))
	cancel()
	for _, err := range failed() {
		t.Error(err)
	}

	var interrupted int64
	for _, p := range crew {
		interrupted += p.interrupted.Load()
	}
	blobs, manifests, tags := book.size()
	t.Logf("%d kills left %d requests without an answer; %d blobs, %d manifests and %d tags were acknowledged", kills, interrupted, blobs, manifests, tags)
	if interrupted < kills || blobs < kills || manifests < pushers {
		t.Error("the kills hit too little for this test to mean anything")
	}
	for _, err := range book.verify(t.Context(), b.client()) {
		t.Error(err)
	}
	b.stop()
	b.fsck("--rehash")
}

func crashSeed(t *testing.T) uint64 {
	t.Helper()
	seed, err := strconv.ParseUint(cmp.Or(os.Getenv("CRASH_SEED"), strconv.FormatUint(rand.Uint64(), 10)), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("CRASH_SEED=%d", seed)
	return seed
}

// hire makes the pushers; each but the first mounts blobs of the one before.
func hire(b *berth, book *ledger, seed uint64, several bool) []*pusher {
	var crew []*pusher
	for i := range pushers {
		p := &pusher{
			client: b.client(), repository: fmt.Sprintf("crash/r%d", i), ledger: book, several: several,
			rand: rand.New(rand.NewPCG(seed, uint64(i+1))),
		}
		if i > 0 {
			p.source = crew[i-1]
		}
		crew = append(crew, p)
	}
	return crew
}

// work lets the pushers run, until ctx ends or one of them fails, which cancels it. The function that it returns waits for
// them.
func work(ctx context.Context, cancel context.CancelFunc, crew []*pusher) func() []error {
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		errs []error
	)
	for _, p := range crew {
		wg.Go(func() {
			if err := p.run(ctx); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
				cancel()
			}
		})
	}
	return func() []error { wg.Wait(); return errs }
}

// killRepeatedly kills the registry at random moments and starts it again, until it has done so often enough or ctx ends.
// Now and then it checks the store in between: with the registry down, and with it up and at work.
func killRepeatedly(ctx context.Context, b *berth, random *rand.Rand) {
	for i := range kills {
		select {
		case <-time.After(time.Duration(10+random.IntN(240)) * time.Millisecond):
		case <-ctx.Done():
			return
		}
		b.Kill()
		if i%12 == 5 {
			b.fsck()
		}
		b.restart()
		if i%12 == 11 {
			b.fsck()
		}
	}
}

// TestResumeAfterKill cuts an upload short by killing the registry, after a part of it was acknowledged and while more was
// on its way. The upload goes on from where the registry then says that it is.
func TestResumeAfterKill(t *testing.T) {
	t.Parallel()
	const repository, acknowledged, sent = "crash/resume", 4<<20 + 7, 3 << 20
	ctx, b := t.Context(), start(t, options{})
	c := b.client()
	content := client.Content{Seed: 1, Size: 12 << 20}
	location, err := c.StartUpload(ctx, repository)
	if err != nil {
		t.Fatal(err)
	}
	if location, err = c.WriteChunk(ctx, location, 0, content.Reader(0), acknowledged); err != nil {
		t.Fatal(err)
	}
	body := newHalting(content, acknowledged, acknowledged+sent)
	answer := make(chan error, 1)
	go func() {
		_, err := c.WriteChunk(ctx, location, acknowledged, body, content.Size-acknowledged)
		answer <- err
	}()
	<-body.reached
	b.Kill()
	close(body.release)
	if err := <-answer; err == nil || client.Status(err) != 0 {
		t.Fatalf("a registry that was killed answered: %v", err)
	}

	b.restart()
	size, err := c.UploadSize(ctx, location)
	if err != nil {
		t.Fatal(err)
	}
	if size < acknowledged || size > acknowledged+sent {
		t.Fatalf("the registry has %d bytes of %d acknowledged and %d more sent", size, int64(acknowledged), int64(sent))
	}
	if _, err := c.WriteChunk(ctx, location, size+1, content.Reader(size+1), 10); client.Status(err) != http.StatusRequestedRangeNotSatisfiable {
		t.Errorf("a chunk that leaves a gap: %v, want status 416", err)
	}
	if err := c.FinishUpload(ctx, location, content.Digest(), content.Reader(size), content.Size-size); err != nil {
		t.Fatal(err)
	}
	if err := verifyBlob(ctx, c, name{repository, content.Digest().String()}, content); err != nil {
		t.Error(err)
	}
	b.stop()
	b.fsck("--rehash")
}
