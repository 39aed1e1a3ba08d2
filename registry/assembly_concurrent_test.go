package registry_test

import (
	"fmt"
	"sync"
	"testing"

	"berth/registry"
)

// TestAssemblyAtOnce pushes for all platforms at the same time, again and again: no entry is ever lost.
func TestAssemblyAtOnce(t *testing.T) {
	t.Parallel()
	a := newAssembler(t, registry.IndexRule{})
	architectures := []string{"amd64", "arm", "arm64", "riscv64"}
	for round := range 200 {
		names := make(pushes)
		var mu sync.Mutex
		var all sync.WaitGroup
		for _, architecture := range architectures {
			body := a.image(t, "a", config("linux", architecture), []byte(fmt.Sprint(architecture, round)))
			all.Go(func() {
				pushed, err := a.PutManifest(t.Context(), "a", registry.ManifestPush{
					Reference: registry.Reference{Tag: "1.2-" + architecture}, Body: body,
				})
				if err != nil {
					t.Errorf("round %d, %s: %v", round, architecture, err)
				}
				mu.Lock()
				defer mu.Unlock()
				names[architecture] = pushed
			})
		}
		all.Wait()
		a.want("1.2", names, "linux/amd64 amd64", "linux/armv7 arm", "linux/arm64 arm64", "linux/riscv64 riscv64")
		if t.Failed() {
			t.Fatalf("in round %d", round)
		}
	}
}
