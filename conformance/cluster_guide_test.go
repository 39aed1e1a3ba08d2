package conformance

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"berth/conformance/client"
	"berth/conformance/server"
	"berth/storage/s3/s3test"
)

// TestScaleOutGuide does what docs/guides/scale-out.md says: it moves a registry with images to PostgreSQL and S3, and serves it from
// two servers, which have its images and take others. Then it moves one that took over the images of distribution's.
func TestScaleOutGuide(t *testing.T) {
	t.Parallel()
	t.Run("own data", func(t *testing.T) { t.Parallel(); testScaleOut(t, false) })
	t.Run("adopted data", func(t *testing.T) { t.Parallel(); testScaleOut(t, true) })
}

func testScaleOut(t *testing.T, adopted bool) {
	t.Helper()
	if _, err := exec.LookPath("rclone"); err != nil {
		unavailable(t, "this test needs rclone")
	}
	page, err := os.ReadFile("../docs/guides/scale-out.md")
	if err != nil {
		t.Fatal(err)
	}
	postgres, s3, work := startPostgres(t), s3test.Start(t, s3test.Versity), t.TempDir()
	bucket := s3.Bucket(t)
	var taken images
	if adopted {
		taken = fillPeer(t, filepath.Join(work, "data"))
	}
	old := start(t, options{root: filepath.Join(work, "data")})
	content := client.Content{Seed: 1, Size: 3 << 20}
	image := manifestOf(content.Digest(), content.Size)
	if err := old.client().PushBlob(t.Context(), "new", content.Digest(), content.Reader(0), content.Size); err != nil {
		t.Fatal(err)
	}
	if err := old.client().PushManifest(t.Context(), "new", "1", "application/vnd.oci.image.manifest.v1+json", image); err != nil {
		t.Fatal(err)
	}
	old.stop()

	_, config, _ := strings.Cut(string(page), "```yaml\n")
	config, _, _ = strings.Cut(config, "```")
	address, err := server.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	second, err := server.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	names := strings.NewReplacer("registry.lan:5000", address, "registry.lan", "127.0.0.1", "https://s3.lan:7070", s3.URL, "bucket: registry", "bucket: "+bucket,
		":s3:registry/", ":s3:"+bucket+"/")
	g := guide{t, work, []string{
		"PATH=" + filepath.Dir(old.Program) + ":" + os.Getenv("PATH"), "HOME=" + work,
		"RCLONE_S3_PROVIDER=Other", "RCLONE_S3_ENDPOINT=" + s3.URL, "RCLONE_S3_ACCESS_KEY_ID=" + s3test.AccessKey, "RCLONE_S3_SECRET_ACCESS_KEY=" + s3test.SecretKey,
	}}
	g.write("config.yml", names.Replace(config))
	g.write("dsn", postgres.NewDatabase(t, ""))
	g.write("access-key", s3test.AccessKey)
	g.write("secret-key", s3test.SecretKey)
	g.write("htpasswd", "")
	if err := os.Rename(writeHtpasswd(t), filepath.Join(work, "htpasswd")); err != nil {
		t.Fatal(err)
	}
	var secrets string
	var servers []*server.Server
	for _, block := range strings.Split(string(page), "```sh\n")[1:] {
		block, _, _ = strings.Cut(names.Replace(block), "```")
		switch {
		case strings.Contains(block, "docker/registry/v2") && !adopted:
			continue
		case strings.HasPrefix(block, "export "):
			secrets = strings.ReplaceAll(strings.SplitN(block, "registry config", 2)[0], "=", "="+work+"/")
			block = secrets + "registry config check config.yml"
		case strings.HasPrefix(block, "registry serve"):
			for i, addr := range []string{address, second} {
				data := filepath.Join(work, []string{"data", "data-of-the-second"}[i])
				servers = append(servers, g.serve(secrets+"export REGISTRY_HTTP_ADDR="+addr+" REGISTRY_STORAGE_DIRECTORY="+data+"\nexec "+block, "https://"+addr, server.AutomaticCA(data)))
			}
			continue
		}
		out := g.run(secrets + block)
		want := "1 blobs (3.0 MiB), 1 manifests, 1 objects: 0 findings"
		if adopted {
			want = ": 0 findings"
		}
		if strings.Contains(block, "fsck") && !strings.Contains(out, want) {
			t.Errorf("fsck says %s", out)
		}
	}
	if len(servers) != 2 {
		t.Fatalf("the guide starts %d servers", len(servers))
	}
	one, err := os.ReadFile(filepath.Join(work, "data/tls/ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if two, err := os.ReadFile(filepath.Join(work, "data-of-the-second/tls/ca.pem")); err != nil || string(one) != string(two) {
		t.Errorf("the servers have different CAs: %v", err)
	}
	for _, one := range servers {
		c := (&berth{t: t, Server: one}).client()
		c.User, c.Password = user, password
		if err := verifyBlob(t.Context(), c, name{"new", content.Digest().String()}, content); err != nil {
			t.Error(err)
		}
		if got, err := c.Manifest(t.Context(), "new", "1"); err != nil || string(got) != string(image) {
			t.Errorf("the image is not there: %v", err)
		}
		taken.compare(t, c)
	}
}

// guide is a folder in which the commands of a guide run.
type guide struct {
	t         *testing.T
	directory string
	env       []string
}

func (g guide) write(name, content string) {
	g.t.Helper()
	if err := os.WriteFile(filepath.Join(g.directory, name), []byte(content), 0o600); err != nil {
		g.t.Fatal(err)
	}
}

// run runs a block as a reader does, and expects it to succeed.
func (g guide) run(block string) string {
	g.t.Helper()
	command := exec.CommandContext(g.t.Context(), "sh", "-euc", block)
	command.Dir, command.Env = g.directory, g.env
	out, err := command.CombinedOutput()
	if err != nil {
		g.t.Fatalf("%v\n%s\n%s", err, block, out)
	}
	return string(out)
}

// serve runs a block that serves a registry until the test ends.
func (g guide) serve(block, url, ca string) *server.Server {
	g.t.Helper()
	s, err := server.Start(g.t.Context(), server.Config{
		Program: "/bin/sh", Args: []string{"-euc", "cd " + g.directory + "\n" + block}, Dir: g.directory, Env: g.env, URL: url, CA: ca,
	})
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(s.Kill)
	return s
}
