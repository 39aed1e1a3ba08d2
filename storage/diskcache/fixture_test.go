package diskcache

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"berth/storage/filesystem"
	"berth/storage/storagetest"
)

// beforeOpen is an offset that is before all bytes.
const beforeOpen = -1

var errBroken = errors.New("the connection broke")

// remote is a backend that is elsewhere. It counts, holds and breaks what is read from it.
type remote struct {
	*filesystem.Store
	opens atomic.Int64
	bytes atomic.Int64
	open  atomic.Int64 // readers that are not closed
	// breakAt is after how many bytes the next readers break, and breaks how many of them do.
	breakAt, breaks atomic.Int64

	mu   sync.Mutex
	hold map[int64]chan struct{} // closed when bytes from there on may be read
}

func newRemote(t testing.TB) *remote {
	t.Helper()
	store, err := filesystem.Open(filesystem.Config{Root: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	return &remote{Store: store, hold: map[int64]chan struct{}{}}
}

func (*remote) WholeObjects()  {}
func (*remote) MinPart() int64 { return 1 }
func (*remote) Link(context.Context, string, string) (string, error) {
	return "", errors.ErrUnsupported
}

// holdAt keeps readers from what is at offset and behind until release is called, and with beforeOpen from opening anything.
func (b *remote) holdAt(t testing.TB, offset int64) (release func()) {
	held := make(chan struct{})
	b.mu.Lock()
	defer b.mu.Unlock()
	b.hold[offset] = held
	release = sync.OnceFunc(func() { close(held) })
	t.Cleanup(release)
	return release
}

// held waits until at is free, and returns how many bytes from there are.
func (b *remote) held(ctx context.Context, at int64) (int64, error) {
	free := int64(maxSize)
	b.mu.Lock()
	var wait chan struct{}
	for offset, held := range b.hold {
		if offset <= at {
			wait = held
		} else {
			free = min(free, offset-at)
		}
	}
	b.mu.Unlock()
	if wait == nil {
		return free, nil
	}
	select {
	case <-wait:
		return maxSize, nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

func (b *remote) Open(ctx context.Context, key string, size int64) (io.ReadSeekCloser, error) {
	b.opens.Add(1)
	if _, err := b.held(ctx, beforeOpen); err != nil {
		return nil, err
	}
	r, err := b.Store.Open(ctx, key, size)
	if err != nil {
		return nil, err
	}
	breakAt := int64(maxSize)
	if b.breaks.Add(-1) >= 0 {
		breakAt = b.breakAt.Load()
	}
	b.open.Add(1)
	return &remoteReader{ReadSeekCloser: r, ctx: ctx, backend: b, breakAt: breakAt}, nil
}

type remoteReader struct {
	io.ReadSeekCloser
	ctx         context.Context
	backend     *remote
	at, breakAt int64
}

func (r *remoteReader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, r.ctx.Err()
	}
	free, err := r.backend.held(r.ctx, r.at)
	if err != nil {
		return 0, err
	}
	if r.at >= r.breakAt {
		return 0, errBroken
	}
	n, err := r.ReadSeekCloser.Read(p[:min(int64(len(p)), free, r.breakAt-r.at)])
	r.at += int64(n)
	r.backend.bytes.Add(int64(n))
	return n, err
}

func (r *remoteReader) Close() error {
	r.backend.open.Add(-1)
	return r.ReadSeekCloser.Close()
}

func (r *remoteReader) Seek(offset int64, whence int) (int64, error) {
	at, err := r.ReadSeekCloser.Seek(offset, whence)
	r.at = at
	return at, err
}

// bench is a cache over a backend.
type bench struct {
	*Cache
	t       testing.TB
	backend *remote
	config  Config
	lines   *logged
}

// logged counts the lines of a log.
type logged struct {
	mu  sync.Mutex
	all []string
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, string(p))
	return len(p), nil
}

func (l *logged) take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := l.all
	l.all = nil
	return all
}

func newBench(t testing.TB, size int64) *bench {
	t.Helper()
	b := &bench{t: t, backend: newRemote(t), lines: &logged{}}
	b.config = Config{Backend: b.backend, Directory: filepath.Join(t.TempDir(), "a", "cache"), Size: size, Log: slog.New(slog.NewTextHandler(b.lines, nil))}
	b.open()
	t.Cleanup(func() {
		if err := b.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			t.Error(err)
		}
		if open := b.backend.open.Load(); open != 0 {
			t.Errorf("%d readers of the backend were left open", open)
		}
	})
	return b
}

func (b *bench) open() {
	b.t.Helper()
	cache, err := Open(b.t.Context(), b.config)
	if err != nil {
		b.t.Fatal(err)
	}
	b.Cache = cache
}

// restart is another process.
func (b *bench) restart() {
	b.t.Helper()
	must(b.t, b.Close())
	b.open()
}

// put stores a blob, which the cache does not see.
func (b *bench) put(key string, size int) blob {
	b.t.Helper()
	content := storagetest.Content(uint64(len(key)+size), size)
	_, err := storagetest.Put(b.t.Context(), b.backend, key, content)
	must(b.t, err)
	return blob{key, content}
}

type blob struct {
	key     string
	content []byte
}

func (b blob) size() int64 { return int64(len(b.content)) }

func (b *bench) reader(o blob) io.ReadSeekCloser {
	b.t.Helper()
	r, err := b.Open(b.t.Context(), o.key, o.size())
	must(b.t, err)
	return r
}

// read reads a blob as a client does and compares.
func (b *bench) read(o blob) error {
	r, err := b.Open(b.t.Context(), o.key, o.size())
	if err != nil {
		return err
	}
	got, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil {
		return err
	}
	if !bytes.Equal(got, o.content) {
		return errors.New("other bytes came back")
	}
	return nil
}

// wantOpens looks at how often the backend was asked since the last time, once nothing is being fetched any more.
func (b *bench) wantOpens(what string, want int64) {
	b.t.Helper()
	if got := b.backend.opens.Swap(0); got != want {
		b.t.Errorf("%s: the backend was asked %d times, want %d", what, got, want)
	}
}

// wantLines looks at what was logged since the last time.
func (b *bench) wantLines(what string, want ...string) {
	b.t.Helper()
	got := b.lines.take()
	if len(got) != len(want) {
		b.t.Errorf("%s: %d lines were logged, want %d: %q", what, len(got), len(want), got)
		return
	}
	for i := range want {
		if !strings.Contains(got[i], want[i]) {
			b.t.Errorf("%s: logged %q, want %q", what, got[i], want[i])
		}
	}
}

// files returns the sizes of the files that are there, without the lock.
func (b *bench) files() map[string]int64 {
	b.t.Helper()
	found, err := os.ReadDir(b.config.Directory)
	must(b.t, err)
	sizes := map[string]int64{}
	for _, f := range found {
		if info, err := f.Info(); err == nil && f.Name() != "lock" {
			sizes[f.Name()] = info.Size()
		}
	}
	return sizes
}

// path returns where the file of a blob is.
func (b *bench) path(o blob) string {
	return filepath.Join(b.config.Directory, fileName(identify(o.key), o.size()))
}

func (b *bench) kept(o blob) bool {
	_, err := os.Stat(b.path(o))
	return err == nil
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// whole reports whether an entry is complete and nobody reads it.
func (b *bench) whole(o blob) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.entries[identify(o.key)]
	return e != nil && e.place != nil
}

// readers returns how many read a blob now.
func (b *bench) readers(o blob) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	if e := b.entries[identify(o.key)]; e != nil {
		return e.readers
	}
	return 0
}

// busy reports whether anything is being fetched or read.
func (b *bench) busy() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used != b.unused
}

var _ Backend = (*remote)(nil)
