package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// legacyImage writes an image as distribution's registry keeps it, and returns its manifest.
func legacyImage(t *testing.T, directory, repository, tag string) string {
	t.Helper()
	root := filepath.Join(directory, "docker", "registry", "v2")
	write := func(content string, path ...string) {
		file := filepath.Join(append([]string{root}, path...)...)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, []byte(content), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	blob := func(content string) (link, hex string) {
		hex = strings.TrimPrefix(digestOf(content), "sha256:")
		write(content, "blobs", "sha256", hex[:2], hex, "data")
		return "sha256:" + hex, hex
	}
	const config = `{"os":"linux","architecture":"arm64","rootfs":{"type":"layers","diff_ids":[]}}`
	link, hex := blob(config)
	write(link, "repositories", repository, "_layers", "sha256", hex, "link")
	m := v1.Manifest{MediaType: v1.MediaTypeImageManifest, Layers: []v1.Descriptor{}}
	m.SchemaVersion = 2
	m.Config = v1.Descriptor{MediaType: v1.MediaTypeImageConfig, Digest: digest.Digest(link), Size: int64(len(config))}
	body, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	link, hex = blob(string(body))
	write(link, "repositories", repository, "_manifests", "revisions", "sha256", hex, "link")
	write(link, "repositories", repository, "_manifests", "tags", tag, "current", "link")
	return string(body)
}

// stuck is a log that takes no line with a text until it is let go.
type stuck struct {
	output
	text    string
	reached chan struct{}
	letGo   chan struct{}
}

func (s *stuck) Write(p []byte) (int, error) {
	if strings.Contains(string(p), s.text) {
		select {
		case s.reached <- struct{}{}:
		default:
		}
		<-s.letGo
	}
	return s.output.Write(p)
}

// TestSlowStart looks at a registry that takes data over, which takes long: it is well, and serves nobody. When it is ended
// meanwhile, the next start goes on.
func TestSlowStart(t *testing.T) {
	directory, port := t.TempDir(), freeAddress(t)
	body := legacyImage(t, directory, "team/app", "1")
	environ := []string{"REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY=" + directory, "REGISTRY_HTTP_ADDR=" + port, "REGISTRY_AUTH=none", "REGISTRY_HTTP_TLS_MODE=off"}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	log := &stuck{text: "taking over the data", reached: make(chan struct{}, 1), letGo: make(chan struct{})}
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, []string{"serve"}, environ, strings.NewReader(""), io.Discard, log) }()
	select {
	case <-log.reached:
	case err := <-ended:
		t.Fatalf("it ended with %v:\n%s", err, log.String())
	}
	if out, _, err := command(t, environ, "healthcheck"); err != nil || !strings.Contains(out, "starting: taking over the data of distribution's registry: 0 blobs of 2") {
		t.Errorf("healthcheck: %q, %v", out, err)
	}
	if _, _, err := command(t, environ, "healthcheck", "--ready"); err == nil || !strings.Contains(err.Error(), "not ready: starting: taking over") {
		t.Errorf("healthcheck --ready: %v", err)
	}
	if _, _, err := command(t, environ, "gc", "status"); err == nil || !strings.Contains(err.Error(), "it is starting, try again later: taking over") {
		t.Errorf("gc status: %v", err)
	}
	if conn, err := net.Dial("tcp", port); err == nil {
		conn.Close()
		t.Error("balancers would send requests already")
	}
	stop()
	close(log.letGo)
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("it ended with %v", err)
	}
	if _, _, err := command(t, environ, "healthcheck"); !errors.Is(err, errNoServer) {
		t.Errorf("healthcheck afterwards: %v", err)
	}

	r := serve(t, directory, environ[1:]...)
	defer r.end(t)
	if status, got := get(t, "http://"+port+"/v2/team/app/manifests/1", "", ""); status != http.StatusOK || got != body {
		t.Errorf("%d %s", status, got)
	}
	if out, _, err := command(t, r.environ, "healthcheck", "--ready"); err != nil || out != "ok\n" {
		t.Errorf("healthcheck of one that serves: %q, %v", out, err)
	}
}

// TestExtendStart asks the service manager for time while a start goes on, and no longer.
func TestExtendStart(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "notify")
	listener, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	start, err := beginStart(t.Context(), filepath.Join(t.TempDir(), "admin.sock"), manager{socket, time.Millisecond, slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	told := make([]byte, 100)
	var all []string
	for range 2 {
		n, err := listener.Read(told)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, string(told[:n]))
	}
	start.close()
	if want := []string{"EXTEND_TIMEOUT_USEC=60000000", "EXTEND_TIMEOUT_USEC=60000000"}; !slices.Equal(all, want) {
		t.Errorf("told %q", all)
	}
}
