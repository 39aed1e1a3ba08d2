package conformance

import (
	"net/http"
	"strings"
	"testing"

	"berth/conformance/client"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// objectOfSize returns the key of an object of a cluster's bucket.
func (c *cluster) objectOfSize(size int64) *string {
	c.t.Helper()
	all, err := c.s3.Client().ListObjectsV2(c.t.Context(), &s3.ListObjectsV2Input{Bucket: &c.bucket})
	if err != nil {
		c.t.Fatal(err)
	}
	for _, o := range all.Contents {
		if aws.ToInt64(o.Size) == size {
			return o.Key
		}
	}
	c.t.Fatalf("there is no object of %d bytes", size)
	return nil
}

// TestRepairOnReplicas loses objects of a bucket. One server repairs, the other one says so to clients at once, and a push to it heals.
func TestRepairOnReplicas(t *testing.T) {
	t.Parallel()
	c := newCluster(t, options{})
	kept, lost, cut := client.Content{Seed: 1, Size: 1000}, client.Content{Seed: 2, Size: 2000}, client.Content{Seed: 3, Size: 3000}
	clients := c.clients()
	for _, content := range []client.Content{kept, lost, cut} {
		if err := pushStream(t, clients[0], "a", content, content.Digest()); err != nil {
			t.Fatal(err)
		}
	}
	image := manifestOf(lost.Digest(), lost.Size)
	if err := clients[0].PushManifest(t.Context(), "a", "latest", "application/vnd.oci.image.manifest.v1+json", image); err != nil {
		t.Fatal(err)
	}
	if _, err := c.s3.Client().DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: &c.bucket, Key: c.objectOfSize(lost.Size)}); err != nil {
		t.Fatal(err)
	}
	_, err := c.s3.Client().PutObject(t.Context(), &s3.PutObjectInput{Bucket: &c.bucket, Key: c.objectOfSize(cut.Size), Body: strings.NewReader("cut")})
	if err != nil {
		t.Fatal(err)
	}
	quarantined := func() int { return c.count(`SELECT count(*) FROM blobs WHERE quarantined_at IS NOT NULL`) }
	out, err := c.replicas[0].tryFsck("--repair")
	if err == nil || quarantined() != 2 || strings.Count(string(out), "push it again; it is in a\n") != 2 {
		t.Errorf("%d are quarantined: %v\n%s", quarantined(), err, out)
	}
	for _, content := range []client.Content{lost, cut} {
		for _, method := range []string{http.MethodHead, http.MethodGet} {
			for _, one := range clients {
				resp, err := one.Do(t.Context(), client.Request{Method: method, Target: "/v2/a/blobs/" + content.Digest().String()}, http.StatusNotFound)
				if err != nil {
					t.Errorf("%s of what is quarantined: %v", method, err)
					continue
				}
				resp.Body.Close()
			}
		}
		if err := pushStream(t, clients[1], "b", content, content.Digest()); err != nil {
			t.Fatal(err)
		}
	}
	for _, one := range clients {
		for _, content := range []client.Content{kept, lost, cut} {
			if err := verifyBlob(t.Context(), one, name{"a", content.Digest().String()}, content); err != nil {
				t.Error(err)
			}
		}
	}
	c.replicas[1].fsck("--rehash", "--repair")
	c.settle()
}
