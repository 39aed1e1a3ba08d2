package registry_test

import (
	"context"
	"testing"
	"time"

	"berth/registry"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestPulls keeps when manifests were fetched, and not when they were only looked for.
func TestPulls(t *testing.T) {
	f := newFixture(t)
	push := func(tag string) digest.Digest {
		return f.put(t, "a", tag, v1.MediaTypeImageManifest, f.image(t, "a", []byte("{}"), []byte(tag))).Digest
	}
	pulled, looked := push("pulled"), push("looked")
	if _, err := f.Manifest(t.Context(), "a", registry.Reference{Tag: "pulled"}); err != nil {
		t.Fatal(err)
	}
	if _, err := f.ResolveManifest(t.Context(), "a", registry.Reference{Digest: looked}); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Manifest(t.Context(), "a", registry.Reference{Tag: "none"}); err == nil {
		t.Error("a tag that is not there was found")
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	f.FollowPulls(ctx, func(err error) { t.Error(err) }) // writes down what is left when it ends
	all, err := f.facts.Inventory(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range all.Manifests {
		if was := !m.Pulled.IsZero(); was != (m.Digest == pulled) || was && time.Since(m.Pulled).Abs() > time.Minute {
			t.Errorf("%s was pulled at %s", m.Digest, m.Pulled)
		}
	}
}
