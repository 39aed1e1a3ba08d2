package conformance

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"berth/conformance/client"
	"berth/storage/s3/s3test"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// do runs a command of the registry's and returns what it printed.
func (b *berth) do(args ...string) string {
	b.t.Helper()
	out, err := b.try(args...)
	if err != nil {
		b.t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

func (b *berth) try(args ...string) (string, error) {
	cmd := exec.CommandContext(b.t.Context(), b.Program, args...)
	cmd.Dir, cmd.Env = b.Dir, append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + b.Dir}, b.Env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestRestore loses the database of a registry whose blobs are in S3, and brings it back from its snapshots: everything that was there
// when one was taken is there again, also what was deleted afterwards and collected since.
func TestRestore(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t, s3test.Versity)
	p, root := s3test.NewProxy(t, server), t.TempDir()
	env := bucket(t, server, p, root)
	name := strings.TrimPrefix(env[2], "REGISTRY_STORAGE_S3_BUCKET=")
	env = append(env, "REGISTRY_GC_INTERVAL=200ms", "REGISTRY_GC_GRACE=1s", "REGISTRY_METADATA_SQLITE_BACKUP_KEEP=3")
	b := start(t, options{root: root, env: env})
	c, book := b.client(), newLedger()
	push := func(seed uint64) client.Content {
		t.Helper()
		content := client.Content{Seed: seed, Size: 100_000 + int64(seed)}
		if err := c.PushBlob(t.Context(), "app", content.Digest(), content.Reader(0), content.Size); err != nil {
			t.Fatal(err)
		}
		return content
	}
	for seed := range uint64(5) {
		content := push(seed)
		book.blobStored("app", content.Digest(), content)
	}
	image := manifestOf(client.Content{Seed: 1, Size: 100_001}.Digest(), 100_001)
	if err := c.PushManifest(t.Context(), "app", "v1", "application/vnd.oci.image.manifest.v1+json", image); err != nil {
		t.Fatal(err)
	}
	open, err := c.StartUpload(t.Context(), "app")
	if err == nil {
		_, err = c.WriteChunk(t.Context(), open, 0, client.Content{Seed: 99, Size: 100}.Reader(0), 100)
	}
	if err != nil {
		t.Fatal(err)
	}
	if out := b.do("backup"); !strings.HasPrefix(out, "20") {
		t.Errorf("backup printed %s", out)
	}
	// After the snapshot: something is deleted and its bytes would be gone, and something new is pushed.
	if err := c.DeleteBlob(t.Context(), "app", client.Content{Seed: 4, Size: 100_004}.Digest()); err != nil {
		t.Fatal(err)
	}
	late := push(50)
	time.Sleep(3 * time.Second) // the grace is over, and the reaper came several times
	b.fsck()
	if out, err := b.try("restore"); err == nil || !strings.Contains(out, "another registry is using") {
		t.Errorf("restore beside a server: %v %s", err, out)
	}
	b.Kill()
	if out, err := b.try("restore"); err == nil || !strings.Contains(out, "--replace moves it out of the way") {
		t.Errorf("restore over a database: %v %s", err, out)
	}
	if err := os.RemoveAll(root); err != nil { // the machine is gone
		t.Fatal(err)
	}
	if out, err := b.try("serve"); err == nil || !strings.Contains(out, "registry restore brings back") {
		t.Errorf("an empty start on a bucket with blobs: %v %s", err, out)
	}
	var list []struct{ Name string }
	if err := json.Unmarshal([]byte(b.do("restore", "--list", "--json")), &list); err != nil || len(list) < 1 {
		t.Fatalf("%d snapshots, %v", len(list), err)
	}
	out := b.do("restore", "--from", list[len(list)-1].Name)
	t.Log(out)
	if !strings.Contains(out, "1 objects are not in the backup") || !strings.Contains(out, ": 0 findings") {
		t.Error("that is not what was to be restored")
	}
	b.restart()
	c = b.client()
	for _, err := range book.verify(t.Context(), c) {
		t.Error(err)
	}
	if got, err := c.Manifest(t.Context(), "app", "v1"); err != nil || string(got) != string(image) {
		t.Errorf("the image: %v", err)
	}
	if _, err := c.Blob(t.Context(), "app", late.Digest()); client.Status(err) != 404 {
		t.Errorf("a blob that came after the snapshot: %v", err)
	}
	b.fsck("--rehash")
	// A snapshot that is damaged is not restored, and changes nothing.
	key := "backups/" + list[len(list)-1].Name
	_, err = server.Client().PutObject(t.Context(), &s3.PutObjectInput{Bucket: aws.String(name), Key: aws.String(key), Body: strings.NewReader("damaged")})
	if err != nil {
		t.Fatal(err)
	}
	b.stop()
	if out, err := b.try("restore", "--replace", "--from", list[len(list)-1].Name); err == nil || !strings.Contains(out, "damaged") {
		t.Errorf("restore of a damaged snapshot: %v %s", err, out)
	}
	b.restart()
	for _, err := range book.verify(t.Context(), b.client()) {
		t.Error(err)
	}
}

// TestSnapshotsWhileKilled kills a registry that takes snapshots all the time. What is left of those that were not whole goes away, and the
// newest can be restored.
func TestSnapshotsWhileKilled(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	b := start(t, options{root: root, env: []string{"REGISTRY_METADATA_SQLITE_BACKUP_KEEP=2"}})
	c := b.client()
	content := client.Content{Seed: 1, Size: 1000}
	if err := c.PushBlob(t.Context(), "app", content.Digest(), content.Reader(0), content.Size); err != nil {
		t.Fatal(err)
	}
	for range 15 {
		done := make(chan struct{})
		go func() { defer close(done); _, _ = b.try("backup") }() // which is cut off
		time.Sleep(time.Duration(5+len(content.Digest())%20) * time.Millisecond)
		b.Kill()
		<-done
		b.restart()
	}
	b.do("backup")
	b.fsck()
	left, err := filepath.Glob(filepath.Join(root, ".snapshot-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("files are left: %v, %v", left, err)
	}
	if lines := strings.Count(b.do("restore", "--list"), "\n"); lines < 1 || lines > 2 {
		t.Errorf("%d snapshots are there", lines)
	}
	b.stop()
	t.Log(b.do("restore", "--replace"))
	b.restart()
	if err := verifyBlob(t.Context(), b.client(), name{"app", content.Digest().String()}, content); err != nil {
		t.Error(err)
	}
}
