package clients

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// A wire is what lies between a client and the registry: a TCP proxy that counts bytes and can be cut, once.
type wire struct {
	up, down flow
}

// flow is one direction of a wire, over all its connections.
type flow struct {
	mu      sync.Mutex
	carried int64
	left    int64 // until the cut; 0 when none will come
	cuts    int
}

// newWire lays a wire to the registry that ends at an address of the registry's machine.
func newWire(t *testing.T, m *machine, address, registry string) *wire {
	t.Helper()
	var listener net.Listener
	err := m.inNetwork(func() (err error) {
		listener, err = net.Listen("tcp", address)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	dial := func() (c net.Conn, err error) {
		err = m.inNetwork(func() error {
			c, err = net.Dial("tcp", registry)
			return err
		})
		return c, err
	}
	w := &wire{}
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	work.Go(func() { w.serve(ctx, listener, dial) })
	t.Cleanup(func() {
		cancel()
		_ = listener.Close() // it was open
		work.Wait()
	})
	return w
}

// serve returns when the listener is closed and all connections are, which ctx closes.
func (w *wire) serve(ctx context.Context, listener net.Listener, dial func() (net.Conn, error)) {
	var work sync.WaitGroup
	defer work.Wait()
	for {
		client, err := listener.Accept()
		if err != nil {
			return
		}
		server, err := dial()
		if err != nil {
			_ = client.Close() // all that a client can see of a registry that is away
			continue
		}
		w.connect(ctx, client.(*net.TCPConn), server.(*net.TCPConn), &work)
	}
}

// connect carries both ways until one of both ends closes, or ctx is done, or a cut. A client whose push is cut sees a reset,
// and one whose pull is cut the end of the stream: its own end is read until it closes, or a reset would overtake the data.
func (w *wire) connect(ctx context.Context, client, server *net.TCPConn, work *sync.WaitGroup) {
	closeBoth := sync.OnceFunc(func() { _, _ = client.Close(), server.Close() })
	context.AfterFunc(ctx, closeBoth)
	work.Go(func() {
		defer closeBoth()
		if w.up.carry(server, client) {
			_ = client.SetLinger(0) // makes Close a reset
			return
		}
		_, _ = io.Copy(io.Discard, client) // which ends with the connection
	})
	work.Go(func() {
		if w.down.carry(client, server) {
			_, _ = client.CloseWrite(), server.Close()
			return
		}
		closeBoth()
	})
}

// carry copies until one of both ends, or until the cut, and returns whether it was that.
func (f *flow) carry(to io.Writer, from io.Reader) (cut bool) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		n, cut := f.pass(n)
		if _, failed := to.Write(buffer[:n]); failed != nil || err != nil || cut {
			return cut
		}
	}
}

// pass counts n bytes and returns how many of them still get through, and whether the connection is cut behind them.
func (f *flow) pass(n int) (int, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	cut := f.left > 0 && int64(n) >= f.left
	if cut {
		n, f.left = int(f.left), 0
		f.cuts++
	} else if f.left > 0 {
		f.left -= int64(n)
	}
	f.carried += int64(n)
	return n, cut
}

// cutAfter has the connection cut that carries the last of so many bytes from now on.
func (f *flow) cutAfter(bytes int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.left, f.cuts = bytes, 0
}

// wasCut reports whether the cut has come.
func (f *flow) wasCut() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.cuts > 0
}

// total returns how many bytes were carried so far.
func (f *flow) total() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.carried
}

// inNetwork runs a function whose sockets are on the machine's network. The thread is taken back afterwards rather than given
// up: the kernel kills machines with the thread that made them.
func (m *machine) inNetwork(do func() error) (err error) {
	runtime.LockOSThread()
	own, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer own.Close()
	there, err := os.Open("/proc/" + m.pid() + "/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer there.Close()
	if err = unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err == nil {
		err = do()
	}
	if back := unix.Setns(int(own.Fd()), unix.CLONE_NEWNET); back != nil {
		return errors.Join(err, back) // the thread stays locked, and nobody else gets it
	}
	runtime.UnlockOSThread()
	return err
}
