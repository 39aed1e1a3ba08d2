package conformance

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"berth/conformance/client"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestOddText pushes images with text in them that JSON can hold and that PostgreSQL's text can't, or that is long. Each is taken as it
// is, or refused with a reason: none is a fault of the server.
func TestOddText(t *testing.T) {
	t.Parallel()
	c := newCluster(t, options{})
	one := c.clients()[0]
	long := strings.Repeat("x", 3000)
	for i, odd := range []string{`\u0000`, `a\u0000b`, `\ud800`, "\xff", `\uffff`, `é`, long} {
		config := []byte(fmt.Sprintf(`{"os":"%[1]s","architecture":"%[1]s","variant":"%[1]s","created":"%[1]s"}`, odd))
		for _, config := range [][]byte{config, []byte(fmt.Sprintf(`{"os":"linux","architecture":"%s"}`, odd))} {
			d := digest.FromBytes(config)
			if err := one.PushBlob(t.Context(), "odd/text", d, strings.NewReader(string(config)), int64(len(config))); err != nil {
				t.Errorf("config %q: %v", odd, err)
				continue
			}
			for _, body := range []string{
				`{"schemaVersion":2,"mediaType":"%[1]s","artifactType":"%[2]s","config":{"mediaType":"%[3]s","digest":"%[4]s","size":%[5]d},"layers":[]}`,
				`{"schemaVersion":2,"mediaType":"%[1]s","config":{"mediaType":"%[2]s","digest":"%[4]s","size":%[5]d},"layers":[],"annotations":{"%[2]s":"%[2]s"}}`,
				`{"schemaVersion":2,"mediaType":"%[1]s","config":{"mediaType":"%[3]s","digest":"%[4]s","size":%[5]d,"urls":["%[2]s"]},"layers":[]}`,
				`{"schemaVersion":2,"mediaType":"%[1]s","config":{"mediaType":"%[3]s","digest":"%[4]s","size":%[5]d,"platform":{"os":"%[2]s","architecture":"%[2]s"}},"layers":[]}`,
			} {
				manifest := []byte(fmt.Sprintf(body, v1.MediaTypeImageManifest, odd, v1.MediaTypeImageConfig, d, len(config)))
				err := one.PushManifest(t.Context(), "odd/text", fmt.Sprintf("t%d", i), v1.MediaTypeImageManifest, manifest)
				if status := client.Status(err); err != nil && status != http.StatusBadRequest {
					t.Errorf("%.300s: %.300v", manifest, err)
				}
			}
			index := []byte(fmt.Sprintf(`{"schemaVersion":2,"mediaType":"%[1]s","artifactType":"%[2]s","manifests":[],"annotations":{"%[2]s":""}}`, v1.MediaTypeImageIndex, odd))
			if err := one.PushManifest(t.Context(), "odd/text", "index", v1.MediaTypeImageIndex, index); err != nil && client.Status(err) != http.StatusBadRequest {
				t.Errorf("%.300s: %.300v", index, err)
			}
		}
	}
}
