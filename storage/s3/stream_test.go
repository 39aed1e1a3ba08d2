package s3

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"berth/storage"
	"berth/storage/s3/s3test"
)

// TestStream makes objects of streams that end well and badly: the one before stays until the new one is whole, and nothing is left.
func TestStream(t *testing.T) {
	errOwn := errors.New("the source failed")
	large := make([]byte, 3*minPart+12345)
	rand.NewChaCha8([32]byte{1}).Read(large)
	cases := []struct {
		name      string
		data      []byte
		operation string
		fault     s3test.Fault
		end       error // of what writes
		fails     bool
	}{
		{name: "empty"},
		{name: "one part", data: large[:1000]},
		{name: "parts", data: large},
		{name: "a lost answer of the end", data: large, operation: "CompleteMultipartUpload", fault: s3test.Lost},
		{name: "the source of one part fails", data: large[:1000], end: errOwn, fails: true},
		{name: "the source fails", data: large, end: errOwn, fails: true},
		{name: "a part fails", data: large, operation: "UploadPart", fault: s3test.Broken, fails: true},
		{name: "the begin is never answered", data: large, operation: "CreateMultipartUpload", fault: s3test.Lost, fails: true},
		{name: "the end fails", data: large, operation: "CompleteMultipartUpload", fault: s3test.Broken, fails: true},
		{name: "one part fails", data: large[:1000], operation: "PutObject", fault: s3test.Broken, fails: true},
	}
	servers(t, func(t *testing.T, server *s3test.Server) {
		for _, test := range cases {
			t.Run(test.name, func(t *testing.T) {
				b := newBench(t, server)
				c := b.config()
				c.Attempts = 3
				s := b.open(t, c)
				before := []byte("what was there before")
				if err := (Bucket{s}).Stream(t.Context(), "a/backup.tar", all(before, nil)); err != nil {
					t.Fatal(err)
				}
				times := 1
				if test.fails {
					times = 100
				}
				b.proxy.Fail(test.operation, test.fault, times)
				err := (Bucket{s}).Stream(t.Context(), "a/backup.tar", all(test.data, test.end))
				if (err != nil) != test.fails || test.end != nil && !errors.Is(err, test.end) {
					t.Errorf("the stream says %v", err)
				}
				want := test.data
				if test.fails {
					want = before
				}
				wantObject(t, s, "a/backup.tar", want)
				if left := server.Unfinished(t, b.bucket, "root/a/backup.tar"); len(left) > 0 {
					t.Errorf("unfinished are %q", left)
				}
			})
		}
	})
}

// TestStreamGone ends a stream whose caller goes away in the middle.
func TestStreamGone(t *testing.T) {
	servers(t, func(t *testing.T, server *s3test.Server) {
		b := newBench(t, server)
		s := b.open(t, b.config())
		ctx, cancel := context.WithCancel(t.Context())
		err := (Bucket{s}).Stream(ctx, "backup.tar", func(w io.Writer) error {
			_, err := w.Write(make([]byte, 2*minPart+1))
			cancel()
			return err
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("the stream says %v", err)
		}
		if _, err := s.size(t.Context(), "backup.tar"); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("there is an object: %v", err)
		}
		if left := server.Unfinished(t, b.bucket, "root/backup.tar"); len(left) > 0 {
			t.Errorf("unfinished are %q", left)
		}
		if calls := b.proxy.Calls(); calls["AbortMultipartUpload"] != 1 {
			t.Errorf("calls %v", calls)
		}
	})
}

// all writes data, and then ends with an error.
func all(data []byte, end error) func(io.Writer) error {
	return func(w io.Writer) error {
		if _, err := w.Write(data); err != nil {
			return err
		}
		return end
	}
}

func wantObject(t *testing.T, s *Store, key string, want []byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	size, err := s.size(ctx, key)
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.Open(ctx, key, size)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the object has %d bytes, want %d: %v", len(got), len(want), err)
	}
}

func TestOwns(t *testing.T) {
	for _, test := range []struct {
		root, bucket, key string
		want              bool
	}{
		{"", "images", "backup.tar", true},
		{"", "backups", "backup.tar", false},
		{"/registry/", "images", "registry/backup.tar", true},
		{"/registry/", "images", "registry", false},
		{"/registry/", "images", "registry-backups/backup.tar", false},
		{"registry/a", "images", "registry/backup.tar", false},
	} {
		c := Config{Bucket: "images", RootDirectory: test.root}
		if got := c.Owns(test.bucket, test.key); got != test.want {
			t.Errorf("%q owns %s/%s: %v", test.root, test.bucket, test.key, got)
		}
	}
}
