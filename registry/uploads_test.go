package registry_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"testing"

	"berth/registry"
	"berth/storage/small"
	"berth/storage/storagetest"

	"github.com/opencontainers/go-digest"
)

func TestUploadShapes(t *testing.T) {
	contents := map[string][]byte{
		"empty":           {},
		"small":           []byte("hello"),
		"small enough":    storagetest.Content(1, small.Limit),
		"not small":       storagetest.Content(1, small.Limit+1),
		"a buffer":        storagetest.Content(1, 128<<10),
		"a buffer and 1":  storagetest.Content(2, 128<<10+1),
		"several buffers": storagetest.Content(3, 3<<20+77),
	}
	shapes := map[string]func(t *testing.T, f *fixture, content []byte, d digest.Digest){
		"one call": func(t *testing.T, f *fixture, content []byte, d digest.Digest) {
			if _, err := f.PushBlob(t.Context(), "a/b", d, chunk(content)); err != nil {
				t.Fatal(err)
			}
		},
		"last chunk only": func(t *testing.T, f *fixture, content []byte, d digest.Digest) {
			u := start(t, f, "")
			finish(t, f, u.ID, content, d)
		},
		"one chunk": func(t *testing.T, f *fixture, content []byte, d digest.Digest) {
			u := start(t, f, d.Algorithm())
			write(t, f, u.ID, content)
			finish(t, f, u.ID, nil, d)
		},
		"three chunks with a restart before each": func(t *testing.T, f *fixture, content []byte, d digest.Digest) {
			u := start(t, f, "")
			third := len(content) / 3
			for i := range 2 {
				f = f.restart(t)
				write(t, f, u.ID, content[i*third:(i+1)*third])
			}
			finish(t, f.restart(t), u.ID, content[2*third:], d)
		},
	}
	for shape, push := range shapes {
		for name, content := range contents {
			for _, algorithm := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
				t.Run(shape+"/"+name+"/"+algorithm.String(), func(t *testing.T) {
					onBoth(t, func(t *testing.T, f *fixture) {
						d := algorithm.FromBytes(content)
						push(t, f, content, d)
						if got := f.read(t, "a/b", d); !bytes.Equal(got, content) {
							t.Errorf("read %d bytes that differ from the %d pushed", len(got), len(content))
						}
						if got, err := f.Blob(t.Context(), "a/b", d); err != nil || got.Size != int64(len(content)) {
							t.Errorf("blob is %+v, %v", got, err)
						}
						if _, err := f.Blob(t.Context(), "other", d); !errors.Is(err, registry.ErrBlobUnknown) {
							t.Errorf("in another repository: %v", err)
						}
					})
				})
			}
		}
	}
}

func start(t testing.TB, f *fixture, algorithm digest.Algorithm) registry.Upload {
	t.Helper()
	u, err := f.StartUpload(t.Context(), "a/b", algorithm)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func write(t testing.TB, f *fixture, id string, content []byte) registry.Upload {
	t.Helper()
	u, err := f.WriteUpload(t.Context(), "a/b", id, chunk(content))
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func finish(t testing.TB, f *fixture, id string, content []byte, d digest.Digest) {
	t.Helper()
	if _, err := f.FinishUpload(t.Context(), "a/b", id, chunk(content), d); err != nil {
		t.Fatal(err)
	}
}

func TestUploadRefusals(t *testing.T) { onBoth(t, testUploadRefusals) }

func testUploadRefusals(t *testing.T, f *fixture) {
	u := start(t, f, "")
	write(t, f, u.ID, []byte("hello "))
	right := digest.FromString("hello world")
	at := func(offset int64, content string) registry.Chunk {
		c := chunk([]byte(content))
		c.Offset = offset
		return c
	}
	short := chunk([]byte("wor"))
	short.Length = 5
	long := chunk([]byte("worldwide"))
	long.Length = 5
	for _, test := range []struct {
		name string
		c    registry.Chunk
		want error
	}{
		{"skips ahead", at(7, "orld"), registry.ErrUploadRange},
		{"goes back", at(0, "hello world"), registry.ErrUploadRange},
		{"shorter than it says", short, registry.ErrSizeInvalid},
		{"longer than it says", long, registry.ErrSizeInvalid},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := f.WriteUpload(t.Context(), "a/b", u.ID, test.c)
			if !errors.Is(err, test.want) || got.Size != 6 {
				t.Errorf("write: %+v, %v", got, err)
			}
			if _, err := f.FinishUpload(t.Context(), "a/b", u.ID, test.c, right); !errors.Is(err, test.want) {
				t.Errorf("finish: %v", err)
			}
		})
	}
	if _, err := f.FinishUpload(t.Context(), "a/b", u.ID, chunk([]byte("World")), right); !errors.Is(err, registry.ErrDigestInvalid) {
		t.Errorf("wrong bytes: %v", err)
	}
	if _, err := f.FinishUpload(t.Context(), "a/b", u.ID, chunk([]byte("world")), digest.SHA512.FromString("else")); !errors.Is(err, registry.ErrDigestInvalid) {
		t.Errorf("wrong digest of another algorithm: %v", err)
	}
	for _, unknown := range []struct{ repository, id string }{{"a/b", "nothing"}, {"b/a", u.ID}} {
		if _, err := f.WriteUpload(t.Context(), unknown.repository, unknown.id, chunk(nil)); !errors.Is(err, registry.ErrUploadUnknown) {
			t.Errorf("unknown upload %v: %v", unknown, err)
		}
	}
	// After all that, the session is what it was.
	if got, err := f.UploadStatus(t.Context(), "a/b", u.ID); err != nil || got.Size != 6 {
		t.Errorf("status: %+v, %v", got, err)
	}
	finish(t, f, u.ID, []byte("world"), right)
	if got := f.read(t, "a/b", right); string(got) != "hello world" {
		t.Errorf("read %q", got)
	}
}

func TestFinishAgain(t *testing.T) { onBoth(t, testFinishAgain) }

func testFinishAgain(t *testing.T, f *fixture) {
	u := start(t, f, "")
	content := []byte("hello")
	finish(t, f, u.ID, content, digest.FromBytes(content))
	finish(t, f, u.ID, content, digest.FromBytes(content))
	finish(t, f, u.ID, nil, digest.FromBytes(content))
	if _, err := f.FinishUpload(t.Context(), "a/b", u.ID, chunk(nil), digest.FromString("x")); !errors.Is(err, registry.ErrUploadUnknown) {
		t.Errorf("with another digest: %v", err)
	}
	if _, err := f.WriteUpload(t.Context(), "a/b", u.ID, chunk(content)); !errors.Is(err, registry.ErrUploadUnknown) {
		t.Errorf("write: %v", err)
	}
	if _, err := f.UploadStatus(t.Context(), "a/b", u.ID); !errors.Is(err, registry.ErrUploadUnknown) {
		t.Errorf("status: %v", err)
	}
	if err := f.CancelUpload(t.Context(), "a/b", u.ID); !errors.Is(err, registry.ErrUploadUnknown) {
		t.Errorf("cancel: %v", err)
	}
}

func TestCancelFreesBytes(t *testing.T) { onBoth(t, testCancelFreesBytes) }

func testCancelFreesBytes(t *testing.T, f *fixture) {
	u := start(t, f, "")
	write(t, f, u.ID, []byte("hello"))
	if err := f.CancelUpload(t.Context(), "a/b", u.ID); err != nil {
		t.Fatal(err)
	}
	f.reap(t)
	if report := f.checkClean(t); report.Objects != 0 {
		t.Errorf("%d objects are left", report.Objects)
	}
	if err := f.CancelUpload(t.Context(), "a/b", u.ID); !errors.Is(err, registry.ErrUploadUnknown) {
		t.Errorf("cancel again: %v", err)
	}
}

// What is held already is neither written again nor kept twice, however it is sent.
func TestPushOfHeldContent(t *testing.T) { onBoth(t, testPushOfHeldContent) }

func testPushOfHeldContent(t *testing.T, f *fixture) {
	content := storagetest.Content(4, 300<<10)
	d := f.push(t, "a/b", content).Digest
	u := start(t, f, "")
	finish(t, f, u.ID, content, d)
	f.push(t, "c", content)
	if report := f.checkClean(t); report.Objects != 1 {
		t.Errorf("%d objects before the reaper came", report.Objects)
	}
	v := start(t, f, "")
	write(t, f, v.ID, content)
	finish(t, f, v.ID, nil, d)
	f.reap(t)
	if report := f.checkClean(t); report.Objects != 1 || report.Blobs != 1 {
		t.Errorf("%d objects for %d blobs", report.Objects, report.Blobs)
	}
	wrong := append([]byte("x"), content[1:]...)
	if _, err := f.PushBlob(t.Context(), "evil", d, chunk(wrong)); !errors.Is(err, registry.ErrDigestInvalid) {
		t.Errorf("wrong bytes under a held digest: %v", err)
	}
	if _, err := f.Blob(t.Context(), "evil", d); !errors.Is(err, registry.ErrBlobUnknown) {
		t.Errorf("a held blob appeared without its bytes being sent: %v", err)
	}
	if got := f.read(t, "c", d); !bytes.Equal(got, content) {
		t.Error("the blob changed")
	}
}

// slowBody is a body that says when it is read from and then waits to be closed, as a stalled client's is.
type slowBody struct {
	first   io.Reader
	stalled chan struct{}
	closed  chan struct{}
	once    sync.Once
	keep    chan struct{} // when set, a Read that was cut off returns only after this
}

func newSlowBody(first []byte) *slowBody {
	return &slowBody{first: bytes.NewReader(first), stalled: make(chan struct{}), closed: make(chan struct{})}
}

func (b *slowBody) Read(p []byte) (int, error) {
	if n, err := b.first.Read(p); err == nil {
		return n, nil
	}
	close(b.stalled)
	<-b.closed
	if b.keep != nil {
		<-b.keep
	}
	return 0, errors.New("closed while reading")
}

func (b *slowBody) Close() error {
	b.once.Do(func() { close(b.closed) })
	return nil
}

func TestNewerWriterWins(t *testing.T) { onBoth(t, testNewerWriterWins) }

func testNewerWriterWins(t *testing.T, f *fixture) {
	for _, size := range []int{5, 1 << 20} {
		u := start(t, f, "")
		old := newSlowBody(storagetest.Content(5, size))
		result := make(chan error)
		go func() {
			_, err := f.WriteUpload(context.Background(), "a/b", u.ID, registry.Chunk{Body: old, Offset: 0, Length: -1})
			result <- err
		}()
		<-old.stalled
		content := storagetest.Content(6, size)
		c := chunk(content)
		c.Offset = 0
		if _, err := f.WriteUpload(t.Context(), "a/b", u.ID, c); err != nil {
			t.Errorf("newer: %v", err)
		}
		if err := <-result; !errors.Is(err, registry.ErrUploadSuperseded) {
			t.Errorf("older: %v", err)
		}
		finish(t, f, u.ID, nil, digest.FromBytes(content))
		if got := f.read(t, "a/b", digest.FromBytes(content)); !bytes.Equal(got, content) {
			t.Error("the bytes are not the newer writer's")
		}
	}
}

// Of many that wait for a session, the newest gets it, and the others are told.
func TestNewestOfManyWins(t *testing.T) { onBoth(t, testNewestOfManyWins) }

func testNewestOfManyWins(t *testing.T, f *fixture) {
	u := start(t, f, "")
	first := newSlowBody(nil)
	first.keep = make(chan struct{})
	type result struct {
		number int
		err    error
	}
	results := make(chan result)
	send := func(number int, body io.ReadCloser) {
		go func() {
			_, err := f.WriteUpload(context.Background(), "a/b", u.ID, registry.Chunk{Body: body, Offset: 0, Length: -1})
			results <- result{number, err}
		}()
	}
	send(0, first)
	<-first.stalled
	const last = 6
	for number := 1; number <= last; number++ {
		send(number, io.NopCloser(bytes.NewReader([]byte{byte(number)})))
		waitForUsers(t, f.Service, u.ID, number+1)
	}
	close(first.keep)
	for range last + 1 {
		r := <-results
		if (r.err == nil) != (r.number == last) || r.err != nil && !errors.Is(r.err, registry.ErrUploadSuperseded) {
			t.Errorf("request %d: %v", r.number, r.err)
		}
	}
	finish(t, f, u.ID, nil, digest.FromBytes([]byte{last}))
}

// Many writers on one session: whatever happens, what is committed has the digest that it was committed under.
func TestManyWriters(t *testing.T) { onBoth(t, testManyWriters) }

func testManyWriters(t *testing.T, f *fixture) {
	u := start(t, f, "")
	var writers sync.WaitGroup
	for i := range 16 {
		writers.Go(func() {
			content := storagetest.Content(uint64(i), 200<<10)
			c := chunk(content)
			c.Offset = 0
			_, err := f.FinishUpload(context.Background(), "a/b", u.ID, c, digest.FromBytes(content))
			if err != nil && !errors.Is(err, registry.ErrUploadSuperseded) && !errors.Is(err, registry.ErrUploadUnknown) {
				t.Errorf("writer %d: %v", i, err)
			}
		})
	}
	writers.Wait()
	f.reap(t)
	if report := f.checkClean(t); report.Blobs != 1 {
		t.Errorf("%d blobs of one session", report.Blobs)
	}
}

func TestInterruptedBodyIsKept(t *testing.T) { onBoth(t, testInterruptedBodyIsKept) }

func testInterruptedBodyIsKept(t *testing.T, f *fixture) {
	for _, size := range []int{100, 128 << 10, 1<<20 + 5} {
		u := start(t, f, "")
		content := storagetest.Content(7, size)
		cut := io.NopCloser(io.MultiReader(bytes.NewReader(content[:size-50]), cutOff{}))
		got, err := f.WriteUpload(t.Context(), "a/b", u.ID, registry.Chunk{Body: cut, Offset: 0, Length: int64(size)})
		if !errors.Is(err, registry.ErrUploadInterrupted) || got.Size != int64(size-50) {
			t.Fatalf("interrupted write: %+v, %v", got, err)
		}
		g := f.restart(t)
		if got, err := g.UploadStatus(t.Context(), "a/b", u.ID); err != nil || got.Size != int64(size-50) {
			t.Errorf("status: %+v, %v", got, err)
		}
		finish(t, g, u.ID, content[size-50:], digest.FromBytes(content))
		if got := g.read(t, "a/b", digest.FromBytes(content)); !bytes.Equal(got, content) {
			t.Error("the bytes differ")
		}
	}
}

// cutOff fails as a body does whose connection was cut.
type cutOff struct{}

func (cutOff) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestInterruptedFinish(t *testing.T) { onBoth(t, testInterruptedFinish) }

func testInterruptedFinish(t *testing.T, f *fixture) {
	u := start(t, f, "")
	content := []byte("hello world")
	cut := io.NopCloser(io.MultiReader(bytes.NewReader(content[:5]), cutOff{}))
	d := digest.FromBytes(content)
	_, err := f.FinishUpload(t.Context(), "a/b", u.ID, registry.Chunk{Body: cut, Offset: -1, Length: -1}, d)
	if !errors.Is(err, registry.ErrUploadInterrupted) {
		t.Fatal(err)
	}
	_, err = f.PushBlob(t.Context(), "a/b", d, registry.Chunk{Body: io.NopCloser(cutOff{}), Offset: -1, Length: -1})
	if !errors.Is(err, registry.ErrUploadInterrupted) {
		t.Fatal(err)
	}
	finish(t, f, u.ID, content, d)
}
