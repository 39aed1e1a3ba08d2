package conformance

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"berth/conformance/client"
	"berth/storage/s3/s3test"
)

// TestBackupGuide does what docs/guides/backup.md says, on one machine that loses its disk in between.
func TestBackupGuide(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/guides/backup.md")
	if err != nil {
		t.Fatal(err)
	}
	s3, work := s3test.Start(t, s3test.Versity), t.TempDir()
	data := filepath.Join(work, "data")
	b := start(t, options{root: data, env: bucket(t, s3, s3test.NewProxy(t, s3), data)})
	content := client.Content{Seed: 1, Size: 3 << 20}
	if err := b.client().PushBlob(t.Context(), "app", content.Digest(), content.Reader(0), content.Size); err != nil {
		t.Fatal(err)
	}
	g := guide{t, work, append(b.Env, "PATH="+filepath.Dir(b.Program)+":"+os.Getenv("PATH"), "HOME="+work)}
	_, config, _ := strings.Cut(string(page), "```yaml\n")
	config, _, _ = strings.Cut(config, "```")
	g.write("config.yml", "version: 0.1\n"+config)
	for i, block := range strings.Split(string(page), "```sh\n")[1:] {
		block, _, _ = strings.Cut(block, "```")
		commands, serve, _ := strings.Cut(block, "registry serve")
		if i == 1 { // the disk is gone
			b.stop()
			if err := os.RemoveAll(data); err != nil {
				t.Fatal(err)
			}
		}
		t.Log(g.run(commands))
		if serve != "" {
			s := g.serve("exec registry serve"+serve, b.URL, "")
			c := &berth{t: t, Server: s}
			if err := verifyBlob(t.Context(), c.client(), name{"app", content.Digest().String()}, content); err != nil {
				t.Error(err)
			}
		}
	}
}
