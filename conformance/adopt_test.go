package conformance

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"berth/conformance/client"
	"berth/conformance/server"
	"berth/storage/s3/s3test"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestAdopted has distribution's registry store what clients push, and starts Berth where that lies: in a directory, and in a bucket.
// It serves the same, byte for byte.
func TestAdopted(t *testing.T) {
	t.Parallel()
	t.Run("directory", func(t *testing.T) {
		t.Parallel()
		root := t.TempDir()
		images := fillPeer(t, root)
		testAdopted(t, images, func() *berth { return start(t, options{root: root}) })
		if entries, err := os.ReadDir(filepath.Join(root, "blobs")); len(entries) > 0 {
			t.Errorf("something was copied: %v, %v", entries, err)
		}
		// And back: what is exported, distribution's registry serves.
		back := t.TempDir()
		b := start(t, options{root: root})
		if out := newShell(t, b).transfer("export", "--layout", "distribution", back); countStatus(out, "copied") != len(images.tags["app"])+1 {
			t.Errorf("exported %v", out)
		}
		b.stop()
		old := &berth{Server: peerIn(t, back, ""), t: t}
		images.compare(t, old.client())
		old.Kill()

		// What the reaper deletes goes from where it lies.
		if stored := bytesUnder(t, filepath.Join(root, "docker")); stored < 3<<20 {
			t.Fatalf("%d bytes are stored", stored)
		}
		b = start(t, options{root: root, env: []string{"REGISTRY_GC_INTERVAL=100ms", "REGISTRY_GC_GRACE=1s", "REGISTRY_TRASH_RETAIN=0s"}})
		c := b.client()
		for range 2 { // an index goes before what it lists
			for name, manifests := range images.manifests {
				for d := range manifests {
					err := c.DeleteManifest(t.Context(), name, d)
					if status := client.Status(err); err != nil && status != http.StatusNotFound && status != http.StatusConflict {
						t.Errorf("delete %s: %v", d, err)
					}
				}
			}
		}
		await(t, "gives the space back", func() bool { return bytesUnder(t, filepath.Join(root, "docker")) < 1<<20 })
		b.stop()
	})
	t.Run("bucket", func(t *testing.T) {
		t.Parallel()
		c := &cluster{t: t, postgres: startPostgres(t), s3: s3test.Start(t, s3test.Versity)}
		c.proxy, c.dsn, c.bucket = s3test.NewProxy(t, c.s3), c.postgres.NewDatabase(t, ""), c.s3.Bucket(t)
		images := fillPeer(t, "",
			"REGISTRY_STORAGE=s3", "REGISTRY_STORAGE_S3_BUCKET="+c.bucket, "REGISTRY_STORAGE_S3_REGION=us-east-1",
			"REGISTRY_STORAGE_S3_REGIONENDPOINT="+c.proxy.URL, "REGISTRY_STORAGE_S3_FORCEPATHSTYLE=true", "REGISTRY_STORAGE_S3_ROOTDIRECTORY=/some/where",
			"REGISTRY_STORAGE_S3_ACCESSKEY="+s3test.AccessKey, "REGISTRY_STORAGE_S3_SECRETKEY="+s3test.SecretKey,
		)
		testAdopted(t, images, func() *berth {
			return c.run(options{env: []string{"REGISTRY_STORAGE_S3_ROOTDIRECTORY=/some/where"}}, func(*server.Config) {})
		})
	})
}

// images is what a registry serves: by repository the digests that tags point to, and the bytes of manifests and blobs by digest.
type images struct {
	tags             map[string]map[string]string
	manifests, blobs map[string]map[string][]byte
	gone             []string // manifests of the repository app that were deleted
}

// fillPeer pushes images to distribution's registry on a directory, or a storage that its environment names, reads all that it serves, and
// ends it.
func fillPeer(t *testing.T, root string, env ...string) images {
	t.Helper()
	p := peerIn(t, root, "", env...)
	b := &berth{Server: p, t: t}
	s, c, host := newShell(t, b), b.client(), b.host()
	list, _ := newLayout(t, "v1")
	s.do("crane", "push", list.dir, host+"/app:v1")
	s.do("crane", "copy", host+"/app:v1", host+"/team/other:v1") // which mounts the blobs
	plain := s.do("crane", "digest", "--platform", "linux/arm64", host+"/app:v1")
	s.do("crane", "tag", host+"/app@"+plain, "plain")
	for _, tag := range []string{"moved", "gone"} {
		s.do("crane", "tag", host+"/app@"+plain, tag)
	}
	s.do("crane", "tag", host+"/app:v1", "moved")

	// Docker's own form, and an image that is deleted again.
	layer := client.Content{Seed: 9, Size: 1 << 20}
	docker := pushDocker(t, c, "app", "docker", layer)
	deleted := pushDocker(t, c, "app", "deleted", client.Content{Seed: 10, Size: 1000})
	if err := c.DeleteManifest(t.Context(), "app", deleted); err != nil {
		t.Fatal(err)
	}
	if err := c.DeleteManifest(t.Context(), "app", "gone"); err != nil { // the tag alone
		t.Fatal(err)
	}

	all := images{map[string]map[string]string{}, map[string]map[string][]byte{}, map[string]map[string][]byte{}, []string{deleted, "gone", "deleted"}}
	for _, name := range []string{"app", "team/other"} {
		all.tags[name], all.manifests[name], all.blobs[name] = map[string]string{}, map[string][]byte{}, map[string][]byte{}
		for _, tag := range tagsOf(t, c, name) {
			body := all.read(t, c, name, tag)
			all.tags[name][tag] = digest.FromBytes(body).String()
		}
	}
	if len(all.tags["app"]) != 4 || all.tags["app"]["docker"] != docker || all.tags["app"]["moved"] != all.tags["app"]["v1"] {
		t.Fatalf("distribution serves %v", all.tags)
	}
	p.Kill() // it does not end in order unless it is configured to
	return all
}

func pushDocker(t *testing.T, c *client.Client, repository, tag string, layer client.Content) (d string) {
	t.Helper()
	const config = `{"os":"linux","architecture":"arm","variant":"v7","rootfs":{"type":"layers","diff_ids":[]}}`
	ctx := t.Context()
	pushInTwo(t, c, repository, digest.FromString(config), strings.NewReader(config), int64(len(config)))
	pushInTwo(t, c, repository, layer.Digest(), layer.Reader(0), layer.Size)
	const prefix = "application/vnd.docker."
	body, err := json.Marshal(v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: prefix + "distribution.manifest.v2+json",
		Config:    v1.Descriptor{MediaType: prefix + "container.image.v1+json", Digest: digest.FromString(config), Size: int64(len(config))},
		Layers:    []v1.Descriptor{{MediaType: prefix + "image.rootfs.diff.tar.gzip", Digest: layer.Digest(), Size: layer.Size}},
	})
	if err == nil {
		err = c.PushManifest(ctx, repository, tag, prefix+"distribution.manifest.v2+json", body)
	}
	if err != nil {
		t.Fatal(err)
	}
	return digest.FromBytes(body).String()
}

// pushInTwo pushes a blob with POST and PUT.
func pushInTwo(t *testing.T, c *client.Client, repository string, d digest.Digest, body io.Reader, size int64) {
	t.Helper()
	location, err := c.StartUpload(t.Context(), repository)
	if err == nil {
		err = c.FinishUpload(t.Context(), location, d, body, size)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func tagsOf(t *testing.T, c *client.Client, repository string) []string {
	t.Helper()
	body, err := c.Tags(t.Context(), repository, 100)
	if err != nil {
		t.Fatal(err)
	}
	var list struct{ Tags []string }
	if err := json.Unmarshal(body, &list); err != nil {
		t.Fatal(err)
	}
	return list.Tags
}

// read fetches a manifest with all that it references, and returns its body.
func (i images) read(t *testing.T, c *client.Client, repository, reference string) []byte {
	t.Helper()
	body, err := c.Manifest(t.Context(), repository, reference)
	if err != nil {
		t.Fatal(err)
	}
	i.manifests[repository][digest.FromBytes(body).String()] = body
	var m struct {
		Config            *v1.Descriptor
		Layers, Manifests []v1.Descriptor
	}
	if err := json.Unmarshal(body, &m); err != nil {
		t.Fatal(err)
	}
	for _, child := range m.Manifests {
		i.read(t, c, repository, child.Digest.String())
	}
	if m.Config != nil {
		m.Layers = append(m.Layers, *m.Config)
	}
	for _, b := range m.Layers {
		i.blobs[repository][b.Digest.String()] = blobBytes(t, c, repository, b.Digest)
	}
	return body
}

func blobBytes(t *testing.T, c *client.Client, repository string, d digest.Digest) []byte {
	t.Helper()
	r, err := c.Blob(t.Context(), repository, d)
	if err != nil {
		t.Errorf("blob %s of %s: %v", d, repository, err)
		return nil
	}
	content, err := io.ReadAll(r)
	if err = errors.Join(err, r.Close()); err != nil {
		t.Error(err)
	}
	return content
}

// testAdopted starts Berth twice and compares what it serves.
func testAdopted(t *testing.T, want images, start func() *berth) {
	t.Helper()
	b := start()
	if log := b.Printed(); !strings.Contains(log, "took over the data of distribution's registry") || !strings.Contains(log, "problems=0") {
		t.Errorf("it does not say what it took over:\n%s", log)
	}
	want.compare(t, b.client())
	b.fsck("--rehash")
	b.stop()
	b.restart()
	if log := b.Printed(); strings.Contains(log, "took over") {
		t.Errorf("it does it twice:\n%s", log)
	}
	want.compare(t, b.client())
	b.stop()
}

func (i images) compare(t *testing.T, c *client.Client) {
	t.Helper()
	for name, tags := range i.tags {
		if got := tagsOf(t, c, name); len(got) != len(tags) {
			t.Errorf("%s has the tags %v, want %v", name, got, tags)
		}
		for tag, d := range tags {
			if body, err := c.Manifest(t.Context(), name, tag); err != nil || digest.FromBytes(body).String() != d {
				t.Errorf("%s:%s is not %s: %v", name, tag, d, err)
			}
		}
		for d, body := range i.manifests[name] {
			if got, err := c.Manifest(t.Context(), name, d); err != nil || !bytes.Equal(got, body) {
				t.Errorf("%s@%s is not what it was: %v", name, d, err)
			}
		}
		for d, content := range i.blobs[name] {
			if got := blobBytes(t, c, name, digest.Digest(d)); !bytes.Equal(got, content) {
				t.Errorf("blob %s of %s is not what it was", d, name)
			}
		}
	}
	for _, reference := range i.gone {
		if _, err := c.Manifest(t.Context(), "app", reference); client.Status(err) != http.StatusNotFound {
			t.Errorf("deleted %s: %v", reference, err)
		}
	}
}

// bytesUnder returns how many bytes the files under a directory have.
func bytesUnder(t *testing.T, root string) (n int64) {
	t.Helper()
	err := filepath.WalkDir(root, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return ignoreMissing(err)
		}
		info, err := entry.Info()
		if err == nil {
			n += info.Size()
		}
		return ignoreMissing(err)
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
