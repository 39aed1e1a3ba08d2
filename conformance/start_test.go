package conformance

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"berth/conformance/client"
	"berth/conformance/server"
)

// refusal starts a registry that has to end by itself with an error, and returns what it printed.
func refusal(t *testing.T, c server.Config) string {
	t.Helper()
	s, err := server.Launch(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Kill)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	err = s.Wait(ctx)
	if _, ok := errors.AsType[*exec.ExitError](err); !ok {
		t.Fatalf("the registry should refuse to start: %v; it printed:\n%s", err, s.Printed())
	}
	return s.Printed()
}

// mention fails the test unless a text has all the words.
func mention(t *testing.T, text string, words ...string) {
	t.Helper()
	for _, word := range words {
		if !strings.Contains(text, word) {
			t.Errorf("it does not mention %q:\n%s", word, text)
		}
	}
}

// TestDataDirectoryNotWritable starts a registry as a user who may read its data directory but not write there.
func TestDataDirectoryNotWritable(t *testing.T) {
	t.Parallel()
	needRoot(t)
	const nobody = 65534
	root := t.TempDir()
	c := configure(t, options{root: root})
	c.Program = copyProgram(t, c.Program)
	c.Attr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	for _, dir := range []string{root, c.Dir, filepath.Dir(c.Program)} {
		allowRead(t, dir)
	}
	mention(t, refusal(t, c), root, "writable")
}

// copyProgram copies an executable to where every user can run it.
func copyProgram(t *testing.T, from string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), filepath.Base(from))
	body, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, body, 0o755); err != nil {
		t.Fatal(err)
	}
	return to
}

// allowRead lets every user look into a directory that TempDir made, and into the one around it, which TempDir made too.
func allowRead(t *testing.T, dir string) {
	t.Helper()
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSecondProcess starts a second registry on the data directory of the first, which goes on undisturbed.
func TestSecondProcess(t *testing.T) {
	t.Parallel()
	b := start(t, options{})
	mention(t, refusal(t, configure(t, options{root: b.root})), b.root, "another")
	if _, err := b.client().Tags(t.Context(), "no/such", 1); client.Status(err) != http.StatusNotFound {
		t.Errorf("the first registry: %v, want status 404", err)
	}
	b.stop()
}

// TestUnknownKey starts a registry with a misspelled key in its configuration. It says where, and what it may have meant.
func TestUnknownKey(t *testing.T) {
	t.Parallel()
	c := configure(t, options{root: t.TempDir()})
	path := filepath.Join(t.TempDir(), "config.yml")
	if err := os.WriteFile(path, []byte("version: 0.1\nlog:\n  levle: debug\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	c.Args = []string{"serve", path}
	mention(t, refusal(t, c), "levle", "level", path, "3")
	c.Args = []string{"config", "check", path}
	mention(t, refusal(t, c), "levle", "level", path, "3")
}

// TestDrain asks a registry to end in the middle of an upload. It takes no more connections, but finishes what it has begun,
// and what it then acknowledges is there when it starts again.
func TestDrain(t *testing.T) {
	t.Parallel()
	const repository, size, first = "start/drain", 4 << 20, 1 << 20
	ctx, b := t.Context(), start(t, options{})
	c, content := b.client(), client.Content{Seed: 1, Size: size}
	location, err := c.StartUpload(ctx, repository)
	if err != nil {
		t.Fatal(err)
	}
	body := newHalting(content, 0, first)
	answer := make(chan error, 1)
	go func() {
		// With Expect the client sends nothing of the body until the registry wants to read it.
		r := client.Request{Method: http.MethodPatch, Target: location, Body: body, Length: size,
			Header: http.Header{"Expect": {"100-continue"}, "Content-Type": {"application/octet-stream"}}}
		resp, err := c.Do(ctx, r, http.StatusAccepted)
		if err == nil {
			location = resp.Header.Get("Location")
			err = resp.Body.Close()
		}
		answer <- err
	}()
	<-body.reached
	if err := b.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	waitRefused(t, b.host())
	close(body.release)
	if err := <-answer; err != nil {
		t.Errorf("an upload that had begun: %v; want it to be finished", err)
	}
	if err := b.Wait(ctx); err != nil {
		t.Errorf("the registry ended with %v", err)
	}

	b.restart()
	if err := b.client().FinishUpload(ctx, location, content.Digest(), nil, 0); err != nil {
		t.Error(err)
	}
	b.stop()
	b.fsck("--rehash")
}

// waitRefused waits until nobody listens at an address.
func waitRefused(t *testing.T, address string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			return
		}
		conn.Close()
	}
	t.Fatal("the registry still takes connections a minute after it was asked to end")
}

// TestCommands runs the commands that need no server.
func TestCommands(t *testing.T) {
	t.Parallel()
	c := configure(t, options{root: t.TempDir()})
	for _, args := range []string{"version", "config check", "--help", "fsck --help"} {
		cmd := exec.CommandContext(t.Context(), c.Program, strings.Fields(args)...)
		cmd.Env = c.Env
		if out, err := cmd.CombinedOutput(); err != nil || len(out) == 0 {
			t.Errorf("registry %s: %v, printed %q", args, err, out)
		}
	}
	cmd := exec.CommandContext(t.Context(), c.Program, "no-such-command")
	if out, err := cmd.CombinedOutput(); err == nil {
		t.Error(fmt.Errorf("a command that does not exist succeeds: %s", out))
	}
}
