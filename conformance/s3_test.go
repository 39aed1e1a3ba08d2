package conformance

import (
	"bytes"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"berth/conformance/client"
	"berth/storage/s3/s3test"

	"github.com/opencontainers/go-digest"
)

// bucket returns the environment of a registry whose blobs are in a new bucket behind a proxy.
func bucket(t *testing.T, server *s3test.Server, p *s3test.Proxy, root string) []string {
	t.Helper()
	return []string{
		"REGISTRY_STORAGE=s3", "REGISTRY_STORAGE_DIRECTORY=" + root, "REGISTRY_STORAGE_S3_BUCKET=" + server.Bucket(t), "REGISTRY_STORAGE_S3_REGION=us-east-1",
		"REGISTRY_STORAGE_S3_REGIONENDPOINT=" + p.URL, "REGISTRY_STORAGE_S3_FORCEPATHSTYLE=true", "REGISTRY_STORAGE_S3_CHUNKSIZE=5MiB",
		"REGISTRY_STORAGE_S3_ACCESSKEY=" + s3test.AccessKey, "REGISTRY_STORAGE_S3_SECRETKEY=" + s3test.SecretKey,
		"REGISTRY_METADATA_SQLITE_BACKUP_INTERVAL=0s", // whose calls nobody expects
	}
}

// TestOfficialSuiteOnS3 runs the official suite against a registry with S3 and SQLite: with blobs from the registry, and with blobs
// from the bucket, whose answers don't have the registry's headers.
func TestOfficialSuiteOnS3(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t, s3test.Versity)
	for _, redirect := range []bool{false, true} {
		name := map[bool]string{false: "blobs from the registry", true: "blobs from the bucket"}[redirect]
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			env := bucket(t, server, s3test.NewProxy(t, server), root)
			suite := []string{"OCI_VERSION=1.1"}
			if redirect {
				suite = append(suite, "OCI_API_BLOBS_DIGEST_HEADER=false")
			} else {
				env = append(env, "REGISTRY_STORAGE_REDIRECT_DISABLE=true")
			}
			runSuite(t, suiteRun{name: name, options: options{root: root, env: env}, env: suite})
		})
	}
}

// TestS3Calls counts what a registry asks of S3.
func TestS3Calls(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t, s3test.Versity)
	p, root := s3test.NewProxy(t, server), t.TempDir()
	b := start(t, options{root: root, env: bucket(t, server, p, root)})
	c := b.client()
	small, large := client.Content{Seed: 1, Size: 4 << 10}, client.Content{Seed: 2, Size: 16 << 20}
	wantCalls(t, p, "push of 4 KiB", 1, push(t, c, small))
	wantCalls(t, p, "push of 16 MiB in parts of 5", 4+2, push(t, c, large))
	wantCalls(t, p, "push of what is there", 0, func() error { return c.MountBlob(t.Context(), "b", large.Digest(), "a") })
	image := manifestOf(small.Digest(), small.Size)
	wantCalls(t, p, "manifest push", 0, func() error {
		return c.PushManifest(t.Context(), "a", "latest", "application/vnd.oci.image.manifest.v1+json", image)
	})
	wantCalls(t, p, "manifest pull", 0, func() error { _, err := c.Manifest(t.Context(), "a", "latest"); return err })
	wantCalls(t, p, "blob pull, from the bucket", 1, func() error { return verifyBlob(t.Context(), c, name{"a", large.Digest().String()}, large) })
	var location string
	wantCalls(t, p, "blob pull, up to the redirect", 0, func() (err error) { location, err = redirect(t, b.client(), large.Digest()); return err })
	wantCalls(t, p, "blob pull, from there on", 1, func() error {
		resp, err := (&client.Client{URL: location, HTTP: http.DefaultClient}).Do(t.Context(), client.Request{Method: http.MethodGet, Target: location}, http.StatusOK)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		return large.Check(resp.Body)
	})
	b.stop()
	b.fsck("--rehash")
}

// TestS3CallsOfLargeBlob counts what a registry asks of S3 for a blob of many parts, of the size that they have unless the
// configuration says otherwise.
func TestS3CallsOfLargeBlob(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t, s3test.Versity)
	p, root := s3test.NewProxy(t, server), t.TempDir()
	b := start(t, options{root: root, env: wholeParts(bucket(t, server, p, root))})
	const parts = 16
	wantCalls(t, p, "push of 256 MiB in parts of 16", parts+2, push(t, b.client(), client.Content{Seed: 3, Size: parts * 16 << 20}))
	b.stop()
	b.fsck()
}

// wholeParts leaves the size of parts to the registry.
func wholeParts(env []string) []string {
	return slices.DeleteFunc(env, func(v string) bool { return strings.HasPrefix(v, "REGISTRY_STORAGE_S3_CHUNKSIZE=") })
}

// wantCalls does something and counts the calls that pass the proxy meanwhile.
func wantCalls(t *testing.T, p *s3test.Proxy, what string, want int, do func() error) {
	t.Helper()
	p.Calls()
	if err := do(); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	got, total := p.Calls(), 0
	for _, n := range got {
		total += n
	}
	if total != want {
		t.Errorf("%s took %d calls, want %d: %v", what, total, want, got)
	}
}

// push returns a push in three requests.
func push(t *testing.T, c *client.Client, content client.Content) func() error {
	return func() error {
		location, err := c.StartUpload(t.Context(), "a")
		if err == nil {
			location, err = c.WriteChunk(t.Context(), location, 0, content.Reader(0), content.Size)
		}
		if err == nil {
			err = c.FinishUpload(t.Context(), location, content.Digest(), bytes.NewReader(nil), 0)
		}
		return err
	}
}

// redirect asks for a blob and returns where the registry says that it is.
func redirect(t *testing.T, c *client.Client, d digest.Digest) (string, error) {
	c.HTTP.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := c.Do(t.Context(), client.Request{Method: http.MethodGet, Target: "/v2/a/blobs/" + d.String()}, http.StatusTemporaryRedirect)
	if err != nil {
		return "", err
	}
	return resp.Header.Get("Location"), resp.Body.Close()
}

// manifestOf is an image of one blob, which is its config.
func manifestOf(d digest.Digest, size int64) []byte {
	return []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.example","digest":"` +
		d.String() + `","size":` + strconv.FormatInt(size, 10) + `},"layers":[]}`)
}
