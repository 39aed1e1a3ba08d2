package conformance

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"path"
	"testing"
	"time"

	"berth/conformance/client"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestRaceOfWriters has two servers write one upload at the same time, the one that came first with bytes that nobody asked for:
// those of the one that came last count, and of the other there is nothing but a refusal.
func TestRaceOfWriters(t *testing.T) {
	t.Parallel()
	c := newCluster(t, options{})
	both := c.clients()
	for round, size := range []int64{32 << 10, 1 << 20, 12 << 20, 5 << 20, 40_000, 17<<20 + 3} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			ctx, first, second := t.Context(), both[round%2], both[1-round%2]
			right, wrong := client.Content{Seed: uint64(round), Size: size}, client.Content{Seed: uint64(1000 + round), Size: size}
			location, err := first.StartUpload(ctx, "races/writers")
			if err != nil {
				t.Fatal(err)
			}
			body, late := newHalting(wrong, 0, size/2), make(chan error, 1)
			go func() {
				_, err := first.WriteChunk(ctx, location, 0, body, size)
				late <- err
			}()
			<-body.reached
			await(c.t, "has claimed the upload", func() bool {
				return c.count(`SELECT count(*) FROM uploads WHERE epoch > 1 AND id = '`+path.Base(location)+`'`) == 1
			})
			if _, err := second.WriteChunk(ctx, location, 0, right.Reader(0), size/2); err != nil {
				t.Fatal(err)
			}
			if round%2 == 0 { // else the other one is even later
				close(body.release)
				expectSuperseded(t, <-late)
			}
			if _, err := second.WriteChunk(ctx, location, size/2, right.Reader(size/2), size-size/2); err != nil {
				t.Fatal(err)
			}
			if err := second.FinishUpload(ctx, location, right.Digest(), nil, 0); err != nil {
				t.Fatal(err)
			}
			if round%2 == 1 {
				close(body.release)
				expectSuperseded(t, <-late)
			}
			for _, one := range both {
				if err := verifyBlob(ctx, one, name{"races/writers", right.Digest().String()}, right); err != nil {
					t.Error(err)
				}
			}
		})
	}
	c.settle()
}

// expectSuperseded fails the test unless a chunk was refused because of another one.
func expectSuperseded(t *testing.T, err error) {
	t.Helper()
	switch client.Status(err) {
	case http.StatusConflict, http.StatusNotFound, http.StatusBadRequest:
	default:
		t.Errorf("a chunk that came too late: %v", err)
	}
}

// TestRaceOfChunks has two servers get the same next chunk at the same time, as when a client that had no answer tries again.
func TestRaceOfChunks(t *testing.T) {
	t.Parallel()
	c := newCluster(t, options{})
	both := c.clients()
	for round := range 60 {
		ctx, content := t.Context(), client.Content{Seed: uint64(round), Size: 64<<10 + int64(round)}
		if round%10 == 9 {
			content.Size += 11 << 20
		}
		location, err := both[round%2].StartUpload(ctx, "races/chunks")
		if err != nil {
			t.Fatal(err)
		}
		var answers [2]error
		together(t, 2, func(i int) error {
			_, answers[i] = both[i].WriteChunk(ctx, location, 0, content.Reader(0), content.Size)
			return nil
		})
		if answers[0] != nil && answers[1] != nil {
			t.Fatalf("round %d: both were refused: %v; %v", round, answers[0], answers[1])
		}
		size, err := both[0].UploadSize(ctx, location)
		if err != nil || size != content.Size {
			t.Fatalf("round %d: %d bytes of %d, %v", round, size, content.Size, err)
		}
		// And now both try to finish it.
		together(t, 2, func(i int) error {
			answers[i] = both[i].FinishUpload(ctx, location, content.Digest(), nil, 0)
			return nil
		})
		for i, err := range answers {
			if err != nil && client.Status(err) != http.StatusConflict {
				t.Errorf("round %d: %v", round, err)
			}
			// Whoever asks again hears that it is done, from either server: the answer may have been lost.
			if err := both[i].FinishUpload(ctx, location, content.Digest(), nil, 0); err != nil {
				t.Errorf("round %d, asked again: %v", round, err)
			}
			if err := verifyBlob(ctx, both[i], name{"races/chunks", content.Digest().String()}, content); err != nil {
				t.Errorf("round %d: %v", round, err)
			}
		}
	}
	c.settle()
}

// TestRaceOfParentAndChild pushes an image at one server while an index that lists it is pushed at the other. Where images may come
// later, the index is whole all the same: fsck finds no reference that waits for what is there. Where they may not, an index that was
// taken has its image.
func TestRaceOfParentAndChild(t *testing.T) {
	t.Parallel()
	for _, sparse := range []bool{true, false} {
		t.Run(fmt.Sprintf("sparse %t", sparse), func(t *testing.T) {
			t.Parallel()
			var o options
			if sparse {
				o.env = []string{"REGISTRY_VALIDATION_MANIFESTS_INDEXES_PLATFORMS=none"}
			}
			c := newCluster(t, o)
			both, taken := c.clients(), 0
			config := client.Content{Seed: 1, Size: 100}
			if err := both[0].PushBlob(t.Context(), "races/family", config.Digest(), config.Reader(0), config.Size); err != nil {
				t.Fatal(err)
			}
			for round := range 100 {
				child := annotated(manifestOf(config.Digest(), config.Size), round)
				parent := indexOf(t, child)
				var answer error
				together(t, 2, func(i int) error {
					if i == 0 {
						return both[round%2].PushManifest(t.Context(), "races/family", digest.FromBytes(child).String(), v1.MediaTypeImageManifest, child)
					}
					answer = both[1-round%2].PushManifest(t.Context(), "races/family", fmt.Sprint(round), v1.MediaTypeImageIndex, parent)
					return nil
				})
				switch {
				case answer == nil:
					taken++
					for _, one := range both {
						if got, err := one.Manifest(t.Context(), "races/family", digest.FromBytes(child).String()); err != nil || !bytes.Equal(got, child) {
							t.Fatalf("round %d: the index has no image: %v", round, err)
						}
					}
				case sparse || client.Status(answer) != http.StatusBadRequest && client.Status(answer) != http.StatusNotFound:
					t.Fatalf("round %d: %v", round, answer)
				}
			}
			t.Logf("%d of 100 indexes were taken", taken)
			if !sparse && taken == 100 {
				t.Error("the index never came first: this test means nothing")
			}
			c.settle()
		})
	}
}

// annotated returns a manifest that differs for each number.
func annotated(manifest []byte, n int) []byte {
	return append(manifest[:len(manifest)-1:len(manifest)-1], fmt.Sprintf(`,"annotations":{"n":"%d"}}`, n)...)
}

func indexOf(t *testing.T, child []byte) []byte {
	t.Helper()
	body, err := json.Marshal(v1.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex,
		Manifests: []v1.Descriptor{{
			MediaType: v1.MediaTypeImageManifest, Digest: digest.FromBytes(child), Size: int64(len(child)),
			Platform: &v1.Platform{OS: "linux", Architecture: "amd64"},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// TestRaceOfAssembly pushes for both platforms at once, each at a server of its own: the index lists what was pushed last for both.
func TestRaceOfAssembly(t *testing.T) {
	t.Parallel()
	c := newCluster(t, options{env: []string{indexRule}})
	both := c.clients()
	a := assembled{Client: both[0], repository: "assembled/app", others: map[string]*client.Client{"arm": both[1]}}
	for round := range 60 {
		pushed, err := a.pushAll(t.Context(), round)
		if err != nil {
			t.Fatal(err)
		}
		for _, one := range both {
			a.Client = one
			listed, err := a.listed(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if !maps.Equal(listed, pushed) {
				t.Fatalf("round %d: the index lists %v, pushed were %v", round, listed, pushed)
			}
		}
	}
	c.settle()
}

// TestRaceOfDeleteAndPush deletes a blob at one server, the last of its content, while the same content is pushed or mounted at the
// other. What was pushed is there, also after the bytes of what was deleted are gone.
func TestRaceOfDeleteAndPush(t *testing.T) {
	t.Parallel()
	c := newCluster(t, options{})
	both, ctx := c.clients(), t.Context()
	stored, dead := map[name]client.Content{}, 0
	for round := range 100 {
		content := client.Content{Seed: uint64(round), Size: 1000 + int64(round)}
		d := content.Digest()
		if err := both[0].PushBlob(ctx, "races/from", d, content.Reader(0), content.Size); err != nil {
			t.Fatal(err)
		}
		var pushed error
		together(t, 2, func(i int) error {
			if i == 0 {
				return both[round%2].DeleteBlob(ctx, "races/from", d)
			}
			if round%3 == 0 {
				pushed = both[1-round%2].MountBlob(ctx, "races/to", d, "races/from")
			} else {
				pushed = both[1-round%2].PushBlob(ctx, "races/to", d, content.Reader(0), content.Size)
			}
			return nil
		})
		switch {
		case pushed == nil:
			stored[name{"races/to", d.String()}] = content
		case client.Status(pushed) != http.StatusAccepted: // of a mount that came too late
			t.Fatalf("round %d: %v", round, pushed)
		}
	}
	dead = c.count(`SELECT count(*) FROM dead_keys`)
	t.Logf("%d of 100 are stored, %d keys died", len(stored), dead)
	if len(stored) < 60 || dead == 0 {
		t.Error("that is too little for this test to mean anything")
	}
	for range 3 {
		c.later(48 * time.Hour)
		await(c.t, "deletes what is dead", func() bool {
			return c.count(`SELECT count(*) FROM dead_keys WHERE delete_after <= extract(epoch FROM clock_timestamp()) * 1000`) == 0
		})
	}
	for n, content := range stored {
		for _, one := range both {
			if err := verifyBlob(ctx, one, n, content); err != nil {
				t.Errorf("%s: %v", n.reference, err)
			}
		}
	}
	c.settle()
}
