package conformance

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"berth/conformance/client"
	"berth/storage/s3/s3test"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// TestBackupBucket backs registries up to buckets, and brings them back from there: one whose bucket is named by the environment, and
// one that is in S3 itself.
func TestBackupBucket(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{s3test.Versity, s3test.MinIO} {
		server := s3test.Start(t, kind)
		t.Run("from files to "+kind, func(t *testing.T) {
			p := s3test.NewProxy(t, server)
			env := func(string) []string {
				return []string{"AWS_ACCESS_KEY_ID=" + s3test.AccessKey, "AWS_SECRET_ACCESS_KEY=" + s3test.SecretKey, "AWS_ENDPOINT_URL=" + p.URL}
			}
			testBackupBucket(t, server, p, env, "")
		})
		t.Run("within "+kind, func(t *testing.T) {
			p := s3test.NewProxy(t, server)
			env := func(root string) []string {
				return append(bucket(t, server, p, root), "REGISTRY_STORAGE_S3_ROOTDIRECTORY=/registry")
			}
			testBackupBucket(t, server, p, env, "registry/backup.tar")
		})
	}
}

func testBackupBucket(t *testing.T, server *s3test.Server, p *s3test.Proxy, env func(root string) []string, refused string) {
	root := t.TempDir()
	b := start(t, options{root: root, env: env(root)})
	book := b.images("app", 5)
	large := client.Content{Seed: 7, Size: 40 << 20} // parts have 16 MiB unless configured
	if err := b.client().PushBlob(t.Context(), "app", large.Digest(), large.Reader(0), large.Size); err != nil {
		t.Fatal(err)
	}
	book.blobStored("app", large.Digest(), large)
	backups := server.Bucket(t)
	target := "s3://" + backups + "/nightly/registry.tar"

	if out, err := b.try("backup", "--with-blobs", "--to", "s3://"+backups); err == nil || !strings.Contains(out, "s3://BUCKET/KEY") {
		t.Errorf("a target without a key: %v\n%s", err, out)
	}
	if out, err := b.try("backup", target); err == nil || !strings.Contains(out, "--to") {
		t.Errorf("a target as the argument: %v\n%s", err, out)
	}
	if refused != "" {
		own := "s3://" + bucketOf(b.Env) + "/"
		if out, err := b.try("backup", "--to", own+refused); err == nil || !strings.Contains(out, "the registry's own objects") {
			t.Errorf("a target among the registry's objects: %v\n%s", err, out)
		}
		b.do("backup", "--to", own+"elsewhere/backup.tar")
	}
	p.Fail("UploadPart", s3test.None, 1)
	p.Fail("UploadPart", s3test.Broken, 100)
	if out, err := b.try("backup", "--with-blobs", "--to", target); err == nil || strings.Contains(out, s3test.SecretKey) {
		t.Errorf("a backup whose parts fail: %v\n%s", err, out)
	}
	if n := server.Objects(t, backups); n != 0 {
		t.Errorf("%d objects are there after a backup that failed", n)
	}
	if left := server.Unfinished(t, backups, "nightly/registry.tar"); len(left) > 0 {
		t.Errorf("unfinished are %q", left)
	}
	fresh := s3test.NewProxy(t, server) // without the faults that are left
	for i, e := range b.Env {
		b.Env[i] = strings.ReplaceAll(e, p.URL, fresh.URL)
	}
	if out := b.do("backup", "--with-blobs", "--to", target); !strings.Contains(out, " blobs") {
		t.Error(out)
	}
	if calls := fresh.Calls(); calls["UploadPart"] < 3 {
		t.Errorf("calls %v", calls)
	}
	b.stop()
	restoreFrom(t, server, fresh, book, target, backups)
}

// bucketOf returns the bucket of an environment that bucket made.
func bucketOf(env []string) (name string) {
	for _, e := range env {
		if value, ok := strings.CutPrefix(e, "REGISTRY_STORAGE_S3_BUCKET="); ok {
			name = value
		}
	}
	return name
}

// restoreFrom brings a registry back on files, from a bucket that the environment names.
func restoreFrom(t *testing.T, server *s3test.Server, p *s3test.Proxy, book *ledger, target, backups string) {
	t.Helper()
	restored := elsewhere(t, options{root: t.TempDir(), env: []string{
		"AWS_ACCESS_KEY_ID=" + s3test.AccessKey, "AWS_SECRET_ACCESS_KEY=" + s3test.SecretKey, "AWS_ENDPOINT_URL_S3=" + p.URL,
	}})
	if out, err := restored.try("restore", "--from", target+".other"); err == nil {
		t.Errorf("a backup that is not there: %s", out)
	}
	cut(t, server, backups, "nightly/registry.tar", "cut.tar")
	if out, err := restored.try("restore", "--from", "s3://"+backups+"/cut.tar"); err == nil {
		t.Errorf("a backup that is cut off: %s", out)
	}
	if _, err := os.Stat(filepath.Join(restored.root, "metadata.sqlite")); err == nil {
		t.Error("what was refused left a database")
	}
	p.Fail("GetObject", s3test.Half, 1)
	if out := restored.do("restore", "--from", target); !strings.Contains(out, ": 0 findings") {
		t.Error(out)
	}
	restored.restart()
	t.Cleanup(restored.Kill)
	for _, err := range book.verify(t.Context(), restored.client()) {
		t.Error(err)
	}
	restored.fsck("--rehash")
}

// cut copies the first half of an object.
func cut(t *testing.T, server *s3test.Server, bucket, from, to string) {
	t.Helper()
	head, err := server.Client().HeadObject(t.Context(), &s3.HeadObjectInput{Bucket: &bucket, Key: &from})
	if err != nil {
		t.Fatal(err)
	}
	size := aws.ToInt64(head.ContentLength) / 2
	half, err := server.Client().GetObject(t.Context(), &s3.GetObjectInput{Bucket: &bucket, Key: &from})
	if err != nil {
		t.Fatal(err)
	}
	defer half.Body.Close()
	data := make([]byte, size)
	if _, err := io.ReadFull(half.Body, data); err != nil {
		t.Fatal(err)
	}
	in := &s3.PutObjectInput{Bucket: &bucket, Key: &to, Body: bytes.NewReader(data)}
	if _, err := server.Client().PutObject(t.Context(), in); err != nil {
		t.Fatal(err)
	}
}
