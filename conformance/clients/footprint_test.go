package clients

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"berth/conformance/server"
)

const (
	// mostIdle is how much memory the program may hold after its start on linux/amd64, in bytes.
	mostIdle = 30 << 20
	// guestBase is where qemu puts the memory of a 32-bit program, which has guestSize.
	guestBase, guestSize = 1 << 32, 1 << 32
)

// footprint is what an image and its program take.
type footprint struct {
	packed, unpacked int64 // bytes of the image, as a registry transfers it and as docker keeps it
	idle             int64 // bytes of memory after the start
	first, again     time.Duration
}

func (f footprint) String() string {
	return fmt.Sprintf("image %.1f MB, packed %.1f MB; idle %.1f MiB; the first start takes %v, the next %v",
		float64(f.unpacked)/1e6, float64(f.packed)/1e6, float64(f.idle)/(1<<20), f.first.Round(time.Millisecond), f.again.Round(time.Millisecond))
}

// measure starts an image's program twice on the same data, run by another program where this machine can't run it itself.
func (i berthImage) measure(dockerHost *machine, resident func(pid int) (int64, error), runner ...string) footprint {
	t := dockerHost.t
	t.Helper()
	unpacked, err := strconv.ParseInt(strings.TrimSpace(dockerHost.do("docker image inspect --format {{.Size}} "+i.name)), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), "registry")
	dockerHost.do("docker create --name copied --platform " + i.platform + " " + i.name + " && docker cp copied:/bin/registry " + program + " && docker rm copied")
	f := footprint{packed: compressedSize(t, i.archive), unpacked: unpacked}
	command, data := append(runner, program, "serve"), ""
	idle := make([]int64, 5) // which pages of a program the kernel brings beside those that it needs differs from start to start
	for i := range idle {
		data = t.TempDir()
		f.first, idle[i] = started(t, command, data, resident)
	}
	slices.Sort(idle)
	f.idle = idle[len(idle)/2]
	f.again, _ = started(t, command, data, resident)
	if f.unpacked > mostImage {
		t.Errorf("the image for %s has %d bytes, more than %d", i.platform, f.unpacked, mostImage)
	}
	t.Logf("%s: %v", i.platform, f)
	return f
}

// started runs a registry until it has answered a request, and returns how long it took to be ready and what it holds then.
func started(t *testing.T, command []string, data string, resident func(pid int) (int64, error)) (time.Duration, int64) {
	t.Helper()
	address, err := server.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	manager := listenNotify(t)
	begin := time.Now()
	s, err := server.Launch(server.Config{Program: command[0], Args: command[1:], Dir: t.TempDir(), Env: []string{
		"NOTIFY_SOCKET=" + manager.LocalAddr().String(), "REGISTRY_HTTP_ADDR=" + address, "REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY=" + data}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Kill()
	if state := told(t, manager); state != "READY=1" {
		t.Fatalf("told %q; it printed:\n%s", state, s.Printed())
	}
	ready := time.Since(begin)
	if out, err := exec.CommandContext(t.Context(), "curl", "--silent", "--show-error", "--insecure", "https://"+address+"/v2/").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	idle, err := resident(s.PID())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	if err := s.Stop(ctx); err != nil {
		t.Error(err)
	}
	return ready, idle
}

// listenNotify makes a socket for NOTIFY_SOCKET, to which every user may send.
func listenNotify(t *testing.T) *net.UnixConn {
	t.Helper()
	dir, err := os.MkdirTemp("", "notify") // a path that every user can reach, and short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "socket")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	for name, mode := range map[string]os.FileMode{dir: 0o711, path: 0o666} {
		if err := os.Chmod(name, mode); err != nil {
			t.Fatal(err)
		}
	}
	return conn
}

// told returns the next state that a service manager is told.
func told(t *testing.T, manager *net.UnixConn) string {
	t.Helper()
	if err := manager.SetReadDeadline(time.Now().Add(startTimeout)); err != nil {
		t.Fatal(err)
	}
	state := make([]byte, 200)
	n, err := manager.Read(state)
	if err != nil {
		t.Fatalf("a service manager is told nothing: %v", err)
	}
	return string(state[:n])
}

// resident returns the physical memory of a process, in bytes.
func resident(pid int) (int64, error) { return residentIn(pid, 0, 1<<63) }

// guestResident is resident for a 32-bit program that qemu runs: its memory alone, not that of qemu.
func guestResident(pid int) (int64, error) { return residentIn(pid, guestBase, guestBase+guestSize) }

// residentIn adds up the physical memory of the mappings that begin in [from, to).
func residentIn(pid int, from, to uint64) (size int64, err error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps", pid))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	counts := false
	for lines := bufio.NewScanner(f); lines.Scan(); err = lines.Err() {
		line := lines.Text()
		if begin, _, ok := strings.Cut(strings.Fields(line)[0], "-"); ok {
			address, err := strconv.ParseUint(begin, 16, 64)
			if err != nil {
				return 0, fmt.Errorf("read %s: %w", f.Name(), err)
			}
			counts = address >= from && address < to
		}
		if value, ok := strings.CutPrefix(line, "Rss:"); ok && counts {
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(value, "kB")), 10, 64)
			if err != nil {
				return 0, fmt.Errorf("read %s: %w", f.Name(), err)
			}
			size += kib << 10
		}
	}
	return size, err
}
