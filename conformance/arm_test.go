package conformance

import (
	"bufio"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"berth/conformance/client"

	"github.com/opencontainers/go-digest"
)

// guestBase is where qemu puts the address space of the program that it runs, 4 GiB of its own.
const guestBase uint64 = 1 << 32

// armv7 returns a script that runs the registry for linux/arm/v7 in the place of the one for this machine. It is built as
// `make cross` does, so that it is compiled once.
func armv7(t *testing.T) string {
	t.Helper()
	qemu, err := exec.LookPath("qemu-arm-static")
	if err != nil {
		unavailable(t, "this test needs qemu-arm-static")
	}
	executable, err := buildARMv7()
	if err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(t.TempDir(), "registry")
	content := fmt.Sprintf("#!/bin/sh\nexec %s -B %#x %s \"$@\"\n", qemu, guestBase, executable)
	if err := os.WriteFile(script, []byte(content), 0o755); err != nil {
		t.Fatal(err)
	}
	return script
}

var buildARMv7 = sync.OnceValues(func() (string, error) {
	path, err := filepath.Abs(filepath.Join(cache, "registry-armv7"))
	if err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-buildvcs=false", "-o", path, "./cmd/registry")
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH=arm", "GOARM=7", "CGO_ENABLED=0", "GOWORK=off", "GOTOOLCHAIN=local")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build for linux/arm/v7: %w\n%s", err, out)
	}
	return path, nil
})

// TestARMv7 runs the official suite against the registry for linux/arm/v7.
func TestARMv7(t *testing.T) {
	t.Parallel()
	run := suiteRuns()[0]
	run.options.program = armv7(t)
	check(t, run, runSuite(t, run))
}

// TestARMv7Crash kills the registry for linux/arm/v7 while images are pushed to it over HTTPS. Everything that it
// acknowledged is there afterwards. It also tells how long that registry takes to start, and how much memory it holds then.
func TestARMv7Crash(t *testing.T) {
	t.Parallel()
	const kills = 4
	seed := crashSeed(t)
	b := start(t, options{program: armv7(t), tls: true})
	b.stop()
	begin := time.Now()
	b.restart()
	t.Logf("under qemu it answers after %v and then holds %.1f MiB", time.Since(begin).Round(time.Millisecond),
		float64(guestMemory(t, b.PID()))/(1<<20))

	book := newLedger()
	ctx, cancel := context.WithCancel(t.Context())
	failed := work(ctx, cancel, hire(b, book, seed, false))
	t.Cleanup(func() { cancel(); failed() })
	for range kills {
		grow(ctx, book)
		b.Kill()
		b.restart()
	}
	grow(ctx, book)
	cancel()
	for _, err := range failed() {
		t.Error(err)
	}
	for _, err := range book.verify(t.Context(), b.client()) {
		t.Error(err)
	}
	b.stop()
	b.fsck("--rehash")
}

// grow waits until more manifests were acknowledged than are in the book now, or ctx ends.
func grow(ctx context.Context, book *ledger) {
	_, before, _ := book.size()
	for _, now, _ := book.size(); now <= before+2 && ctx.Err() == nil; _, now, _ = book.size() {
		time.Sleep(5 * time.Millisecond)
	}
}

// guestMemory returns how much of the memory of a program that runs under qemu is in physical memory, in bytes. What qemu
// needs for itself, above all the code that it translated, does not count.
func guestMemory(t *testing.T, pid int) int64 {
	t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var total int64
	guest := false
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if begin, _, ok := strings.Cut(fields[0], "-"); ok {
			address, err := strconv.ParseUint(begin, 16, 64)
			guest = err == nil && address >= guestBase && address < 2*guestBase
		} else if guest && fields[0] == "Rss:" {
			kib, err := strconv.ParseInt(fields[1], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			total += kib << 10
		}
	}
	if err := lines.Err(); err != nil || total == 0 {
		t.Fatalf("the memory of process %d: %d bytes, %v", pid, total, err)
	}
	return total
}

// TestARMv7Large pushes a blob of 3 GiB to the registry for linux/arm/v7, and pulls it. No size or offset of it may be
// kept in 32 bits: the second chunk begins above 2 GiB, and a part above 2 GiB is asked for.
func TestARMv7Large(t *testing.T) {
	t.Parallel()
	const repository, size, first = "arm/large", 3 << 30, 2<<30 + 1
	dir := t.TempDir()
	needSpace(t, dir, size+1<<30)
	ctx, b := t.Context(), start(t, options{root: dir, program: armv7(t)})
	c, d := b.client(), digestOf(t, io.LimitReader(zeros{}, size))

	location, err := c.StartUpload(ctx, repository)
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if location, err = c.WriteChunk(ctx, location, 0, zeros{}, first); err != nil {
		t.Fatal(err)
	}
	if got, err := c.UploadSize(ctx, location); err != nil || got != first {
		t.Fatalf("after the first chunk the registry has %d bytes, want %d; %v", got, int64(first), err)
	}
	if location, err = c.WriteChunk(ctx, location, first, zeros{}, size-first); err != nil {
		t.Fatal(err)
	}
	if err := c.FinishUpload(ctx, location, d, nil, 0); err != nil {
		t.Fatal(err)
	}
	t.Logf("pushed 3 GiB in %v", time.Since(begin).Round(time.Second))

	body, err := c.Blob(ctx, repository, d)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	if got := digestOf(t, body); got != d {
		t.Errorf("pulled %s, want %s", got, d)
	}
	expectPart(t, c, repository, d, first, size)
	b.stop()
	b.fsck()
}

// expectPart asks for 100 bytes of a blob, from an offset that does not fit 31 bits.
func expectPart(t *testing.T, c *client.Client, repository string, d digest.Digest, offset, size int64) {
	t.Helper()
	resp, err := c.Do(t.Context(), client.Request{
		Method: http.MethodGet, Target: "/v2/" + repository + "/blobs/" + d.String(),
		Header: http.Header{"Range": {fmt.Sprintf("bytes=%d-%d", offset, offset+99)}},
	}, http.StatusPartialContent)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	part, err := io.ReadAll(resp.Body)
	want := fmt.Sprintf("bytes %d-%d/%d", offset, offset+99, size)
	if got := resp.Header.Get("Content-Range"); err != nil || len(part) != 100 || got != want {
		t.Errorf("a part: %d bytes of %q, want 100 of %q; %v", len(part), got, want, err)
	}
}

// zeros is a file without an end that has nothing but holes.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func digestOf(t *testing.T, r io.Reader) digest.Digest {
	t.Helper()
	h := sha256.New()
	if _, err := io.CopyBuffer(h, r, make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	return digest.NewDigest(digest.SHA256, h)
}
