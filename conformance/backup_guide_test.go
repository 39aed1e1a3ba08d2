package conformance

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"berth/conformance/client"
	"berth/storage/s3/s3test"
)

// TestBackupGuide does what docs/guides/backup.md says, on machines that lose their disks in between: with blobs on the disk, and in S3.
func TestBackupGuide(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/guides/backup.md")
	if err != nil {
		t.Fatal(err)
	}
	files, bucketed, ok := strings.Cut(string(page), "\n## Blobs in S3\n")
	if !ok {
		t.Fatal("the guide has no part about S3")
	}
	t.Run("files", func(t *testing.T) {
		s3 := s3test.Start(t, s3test.MinIO)
		backups := s3.Bucket(t)
		files = strings.ReplaceAll(files, "s3://backups/", "s3://"+backups+"/")
		g := newLossyGuide(t, func(string) []string {
			return []string{"AWS_ACCESS_KEY_ID=" + s3test.AccessKey, "AWS_SECRET_ACCESS_KEY=" + s3test.SecretKey, "AWS_ENDPOINT_URL=" + s3.URL}
		}, "")
		out := g.follow(t, files)
		if !strings.Contains(out, "facts, 1 blobs)") || !strings.Contains(out, ": 0 findings") {
			t.Error(out)
		}
		one, err := os.ReadFile(filepath.Join(g.directory, "backup/registry.tar"))
		if err != nil {
			t.Fatal(err)
		}
		if other, err := os.ReadFile(filepath.Join(g.directory, "elsewhere/registry.tar")); err != nil || len(other) < len(one) {
			t.Errorf("%d bytes elsewhere of %d, %v", len(other), len(one), err)
		}
		if n := s3.Objects(t, backups); n != 1 {
			t.Errorf("%d backups are in the bucket", n)
		}
		if nights, err := filepath.Glob(filepath.Join(g.directory, "backup/registry-*.tar")); err != nil || len(nights) != 1 {
			t.Errorf("of this night there are %q, %v", nights, err)
		}
	})
	t.Run("S3", func(t *testing.T) {
		s3 := s3test.Start(t, s3test.Versity)
		_, config, _ := strings.Cut(bucketed, "```yaml\n")
		config, _, _ = strings.Cut(config, "```")
		g := newLossyGuide(t, func(root string) []string { return bucket(t, s3, s3test.NewProxy(t, s3), root) }, config)
		if out := g.follow(t, bucketed); strings.Count(out, ": 0 findings") != 2 {
			t.Error(out)
		}
	})
}

// lossyGuide is a guide whose reader loses the disk before restoring.
type lossyGuide struct {
	guide
	old     *berth
	content client.Content
}

func newLossyGuide(t *testing.T, env func(root string) []string, config string) *lossyGuide {
	t.Helper()
	work := t.TempDir()
	data := filepath.Join(work, "data")
	b := start(t, options{root: data, env: env(data)})
	content := client.Content{Seed: 1, Size: 3 << 20}
	if err := b.client().PushBlob(t.Context(), "app", content.Digest(), content.Reader(0), content.Size); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"backup", "elsewhere"} {
		if err := os.Mkdir(filepath.Join(work, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	g := &lossyGuide{guide{t, work, append(b.Env, "PATH="+filepath.Dir(b.Program)+":"+os.Getenv("PATH"), "HOME="+work)}, b, content}
	g.write("config.yml", "version: 0.1\n"+config)
	return g
}

// follow runs the commands of a part of the page, and returns what they printed.
func (g *lossyGuide) follow(t *testing.T, part string) string {
	t.Helper()
	var all strings.Builder
	for _, block := range strings.Split(part, "```sh\n")[1:] {
		block, _, _ = strings.Cut(block, "```")
		block = strings.NewReplacer(" /backup", " "+g.directory+"/backup", " /elsewhere", " "+g.directory+"/elsewhere").Replace(block)
		if strings.Contains(block, "registry restore") { // the disk is gone
			g.old.stop()
			if err := os.RemoveAll(g.old.root); err != nil {
				t.Fatal(err)
			}
		}
		commands, serve, _ := strings.Cut(block, "registry serve")
		all.WriteString(g.run(commands))
		if serve != "" {
			s := g.serve("exec registry serve"+serve, g.old.URL, "")
			if err := verifyBlob(t.Context(), (&berth{t: t, Server: s}).client(), name{"app", g.content.Digest().String()}, g.content); err != nil {
				t.Error(err)
			}
		}
	}
	return all.String()
}
