package conformance

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"time"

	"berth/conformance/client"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// assembled is a repository of which the registry assembles the tag 1.2 of 1.2-amd64 and 1.2-arm.
type assembled struct {
	*client.Client
	repository string
	others     map[string]*client.Client // of other servers, which push what is for a platform
}

// indexRule is the configuration for that.
const indexRule = `REGISTRY_INDEXES=[{repositories: [assembled/*]}]`

// platforms are the suffixes of tags with what their images are for.
func assembledPlatforms() map[string]v1.Platform {
	return map[string]v1.Platform{"amd64": {OS: "linux", Architecture: "amd64"}, "arm": {OS: "linux", Architecture: "arm", Variant: "v7"}}
}

// image makes the image for a platform that is pushed in a round, with its blobs in the registry.
func (a assembled) image(ctx context.Context, suffix string, round int) ([]byte, error) {
	p := assembledPlatforms()[suffix]
	config := fmt.Appendf(nil, `{"os":%q,"architecture":%q,"variant":%q,"author":"round %d","rootfs":{"type":"layers","diff_ids":[]}}`,
		p.OS, p.Architecture, p.Variant, round)
	d := v1.Descriptor{MediaType: v1.MediaTypeImageConfig, Digest: digest.FromBytes(config), Size: int64(len(config))}
	if err := a.PushBlob(ctx, a.repository, d.Digest, bytes.NewReader(config), d.Size); err != nil {
		return nil, err
	}
	return json.Marshal(v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest, Config: d, Layers: []v1.Descriptor{}})
}

// pushAll pushes the images of a round at once and returns their digests by suffix. What failed is left out.
func (a assembled) pushAll(ctx context.Context, round int) (map[string]digest.Digest, error) {
	bodies := make(map[string][]byte)
	for suffix := range assembledPlatforms() {
		body, err := a.image(ctx, suffix, round)
		if err != nil {
			return nil, err
		}
		bodies[suffix] = body
	}
	var mu sync.Mutex
	var all sync.WaitGroup
	var failed error
	pushed := make(map[string]digest.Digest)
	for suffix, body := range bodies {
		all.Go(func() {
			err := cmp.Or(a.others[suffix], a.Client).PushManifest(ctx, a.repository, "1.2-"+suffix, v1.MediaTypeImageManifest, body)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed = err
				return
			}
			pushed[suffix] = digest.FromBytes(body)
		})
	}
	all.Wait()
	return pushed, failed
}

// listed returns what the index lists, by suffix.
func (a assembled) listed(ctx context.Context) (map[string]digest.Digest, error) {
	body, err := a.Manifest(ctx, a.repository, "1.2")
	if client.Status(err) == http.StatusNotFound {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var index v1.Index
	if err := json.Unmarshal(body, &index); err != nil {
		return nil, err
	}
	all := make(map[string]digest.Digest)
	for _, m := range index.Manifests {
		for suffix, p := range assembledPlatforms() {
			if m.Platform != nil && m.Platform.Architecture == p.Architecture && m.Platform.Variant == p.Variant {
				all[suffix] = m.Digest
			}
		}
	}
	return all, nil
}

// TestAssembly pushes for both platforms at once, 200 times: each time the index lists what was pushed last for both.
func TestAssembly(t *testing.T) {
	t.Parallel()
	b := start(t, options{env: []string{indexRule}})
	a := assembled{Client: b.client(), repository: "assembled/app"}
	for round := range 200 {
		pushed, err := a.pushAll(t.Context(), round)
		if err != nil {
			t.Fatal(err)
		}
		listed, err := a.listed(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !maps.Equal(listed, pushed) {
			t.Fatalf("round %d: the index lists %v, pushed were %v", round, listed, pushed)
		}
	}
	b.stop()
	b.fsck()
}

// TestAssemblyCrash kills the registry while both are pushed: the index is always of what the tags for the platforms point
// to, since both move in one transaction.
func TestAssemblyCrash(t *testing.T) {
	t.Parallel()
	const kills = 40
	seed := crashSeed(t)
	random := rand.New(rand.NewPCG(seed, 0))
	b := start(t, options{env: []string{indexRule}})
	round := 0
	for kill := range kills {
		repository := fmt.Sprintf("assembled/app%d", kill%4)
		a := assembled{Client: b.client(), repository: repository}
		first, done := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(done)
			for begun := round; ; round++ {
				if _, err := a.pushAll(t.Context(), round); err != nil {
					if client.Status(err) != 0 {
						t.Error(err) // the kill leaves no answer
					}
					return
				}
				if round == begun {
					close(first)
				}
			}
		}()
		select {
		case <-first:
		case <-done:
			t.Fatal("not one round was pushed")
		}
		time.Sleep(time.Duration(random.IntN(60)) * time.Millisecond)
		b.Kill()
		<-done
		b.restart()
		a = assembled{Client: b.client(), repository: repository}
		wantTags(t, a)
	}
	t.Logf("%d kills in %d rounds", kills, round)
	b.stop()
	b.fsck("--rehash")
}

// wantTags fails unless the index lists what the tags for single platforms point to.
func wantTags(t *testing.T, a assembled) {
	t.Helper()
	want := make(map[string]digest.Digest)
	for suffix := range assembledPlatforms() {
		body, err := a.Manifest(t.Context(), a.repository, "1.2-"+suffix)
		if err == nil {
			want[suffix] = digest.FromBytes(body)
		} else if client.Status(err) != http.StatusNotFound {
			t.Fatal(err)
		}
	}
	listed, err := a.listed(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(listed, want) {
		t.Errorf("%s: the index lists %v, the tags point to %v", a.repository, listed, want)
	}
}
