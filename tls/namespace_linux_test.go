package tls

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestNamespaceGainsAnAddress runs a source on a machine of its own, a network namespace, and gives that an address. It is
// the one test of the real clock and the real addresses together.
func TestNamespaceGainsAnAddress(t *testing.T) {
	if os.Geteuid() != 0 && os.Getenv("CI") == "" {
		t.Skip("only root may make a network namespace")
	}
	t.Parallel() // it mostly waits
	const address = "10.11.12.13"
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	type opened struct {
		source *Source
		thread int
		err    error
	}
	started, done := make(chan opened), make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with its namespace
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			started <- opened{err: err}
			return
		}
		source, err := Open(Config{Directory: t.TempDir()}, quiet())
		started <- opened{source, unix.Gettid(), err}
		if err == nil {
			source.Run(ctx)
		}
	}()
	running := <-started
	if running.err != nil {
		t.Fatal(running.err)
	}
	if names := certificateNames(running.source.Leaf()); slices.Contains(names, address) {
		t.Fatalf("got %v before", names)
	}
	added := make(chan error)
	go func() { added <- addAddress(running.thread, address) }()
	if err := <-added; err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	for running.source.Leaf().VerifyHostname(address) != nil && ctx.Err() == nil {
		time.Sleep(100 * time.Millisecond)
	}
	if ctx.Err() != nil {
		t.Errorf("the certificate did not get the address; it names %v", certificateNames(running.source.Leaf()))
	}
	t.Logf("the certificate had the address after %v", time.Since(begun).Round(time.Second))
	stop()
	<-done
}

// addAddress gives an address to the loopback interface of a thread's namespace.
func addAddress(thread int, address string) error {
	runtime.LockOSThread() // as above
	namespace, err := os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", thread))
	if err != nil {
		return err
	}
	defer namespace.Close()
	if err := unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter the namespace: %w", err)
	}
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(socket)
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	var ip [4]byte
	if _, err := fmt.Sscanf(address, "%d.%d.%d.%d", &ip[0], &ip[1], &ip[2], &ip[3]); err != nil {
		return err
	}
	if err := request.SetInet4Addr(ip[:]); err != nil {
		return err
	}
	if err := unix.IoctlIfreq(socket, unix.SIOCSIFADDR, request); err != nil {
		return fmt.Errorf("set the address: %w", err)
	}
	return nil
}
