package api

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"

	"berth/storage"
)

func TestBlob(t *testing.T) {
	s := newServer(t, options{})
	d := s.pushBlob("a/b", "hello")
	path := "/v2/a/b/blobs/" + d
	headers := []string{
		"Content-Type", "application/octet-stream", "Content-Length", "5", "Docker-Content-Digest", d, "Etag", `"` + d + `"`,
		"Accept-Ranges", "bytes", "Cache-Control", "max-age=31536000, immutable",
	}
	s.get(path).want(http.StatusOK).wantBody("hello").wantHeaders(headers...)
	s.get(path + "?ns=docker.io").want(http.StatusOK).wantBody("hello")
	s.do(http.MethodHead, path, nil).want(http.StatusOK).wantBody("").wantHeaders(headers...)
	s.do(http.MethodHead, path, nil, "Range", "bytes=0-1").want(http.StatusOK).wantHeaders("Content-Length", "5")

	s.get(path, "If-None-Match", `"`+d+`"`).want(http.StatusNotModified).wantBody("").wantHeaders("Etag", `"`+d+`"`, "Content-Length", "")
	s.do(http.MethodHead, path, nil, "If-None-Match", "*").want(http.StatusNotModified)
	s.get(path, "If-None-Match", `"other"`).want(http.StatusOK).wantBody("hello")
}

func TestBlobRange(t *testing.T) {
	s := newServer(t, options{})
	d := s.pushBlob("a", "0123456789")
	path, tag := "/v2/a/blobs/"+d, `"`+d+`"`
	tests := []struct {
		name    string
		headers []string
		status  int
		body    string
		part    string // Content-Range
	}{
		{"middle", []string{"Range", "bytes=2-4"}, 206, "234", "bytes 2-4/10"},
		{"to the end", []string{"Range", "bytes=7-"}, 206, "789", "bytes 7-9/10"},
		{"suffix", []string{"Range", "bytes=-2"}, 206, "89", "bytes 8-9/10"},
		{"too far", []string{"Range", "bytes=8-100"}, 206, "89", "bytes 8-9/10"},
		{"several", []string{"Range", "bytes=0-1,4-5"}, 200, "0123456789", ""},
		{"another unit", []string{"Range", "lines=0-1"}, 200, "0123456789", ""},
		{"unchanged", []string{"Range", "bytes=0-0", "If-Range", tag}, 206, "0", "bytes 0-0/10"},
		{"changed", []string{"Range", "bytes=0-0", "If-Range", `"other"`}, 200, "0123456789", ""},
		{"held already", []string{"Range", "bytes=0-0", "If-None-Match", tag}, 304, "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s.get(path, tt.headers...).want(tt.status).wantBody(tt.body).wantHeaders("Content-Range", tt.part)
		})
	}
	for _, header := range []string{"bytes=5-0", "bytes=10-", "bytes=x"} {
		s.get(path, "Range", header).wantError(http.StatusRequestedRangeNotSatisfiable, "RANGE_INVALID").
			wantHeaders("Content-Range", "bytes */10", "Cache-Control", "", "Etag", "")
	}
}

// TestBlobWhole sends more than a copy buffer over every kind of connection.
func TestBlobWhole(t *testing.T) {
	raw := make([]byte, 3*copyBuffer+12345)
	random := rand.NewChaCha8([32]byte{1})
	random.Read(raw)
	content := string(raw)
	for name, o := range map[string]options{"plain": {}, "tls": {tls: true}, "http2": {http2: true}} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, o)
			path := "/v2/a/blobs/" + s.pushBlob("a", content)
			if a := s.get(path).want(http.StatusOK); a.body != content {
				t.Errorf("%d bytes came back otherwise than they went", len(a.body))
			}
			if a := s.get(path, "Range", "bytes=100000-").want(http.StatusPartialContent); a.body != content[100000:] {
				t.Errorf("%d bytes came back otherwise than they went", len(a.body))
			}
		})
	}
}

func TestBlobEmpty(t *testing.T) {
	s := newServer(t, options{})
	path := "/v2/a/blobs/" + s.pushBlob("a", "")
	s.get(path).want(http.StatusOK).wantBody("").wantHeaders("Content-Length", "0")
	s.get(path, "Range", "bytes=0-").want(http.StatusOK).wantBody("").wantHeaders("Content-Length", "0")
}

func TestBlobUnknown(t *testing.T) {
	s := newServer(t, options{})
	d := s.pushBlob("a", "hello")
	for _, path := range []string{"/v2/a/blobs/" + sum512, "/v2/b/blobs/" + d} {
		s.get(path).wantError(http.StatusNotFound, "BLOB_UNKNOWN").wantHeaders("Docker-Content-Digest", "")
		s.do(http.MethodHead, path, nil).want(http.StatusNotFound).wantBody("")
		s.do(http.MethodDelete, path, nil).wantError(http.StatusNotFound, "BLOB_UNKNOWN")
	}
}

func TestBlobDelete(t *testing.T) {
	s := newServer(t, options{})
	d := s.pushBlob("a", "hello")
	s.do(http.MethodDelete, "/v2/a/blobs/"+d, nil).want(http.StatusAccepted).wantBody("").wantHeaders("Content-Length", "0")
	s.get("/v2/a/blobs/"+d).wantError(http.StatusNotFound, "BLOB_UNKNOWN")

	s.pushImage("a", "v1", "layer")
	s.do(http.MethodDelete, "/v2/a/blobs/"+s.pushBlob("a", "layer"), nil).wantError(http.StatusConflict, "DENIED")
}

// cutStore opens blobs whose bytes end in the middle.
type cutStore struct {
	storage.Blobs
	err error
}

func (s cutStore) Open(ctx context.Context, key string, size int64) (io.ReadSeekCloser, error) {
	r, err := s.Blobs.Open(ctx, key, size)
	return &cutReader{r, size / 2, s.err}, err
}

type cutReader struct {
	io.ReadSeekCloser
	left int64
	err  error
}

func (r *cutReader) Read(p []byte) (int, error) {
	if r.left == 0 {
		return 0, r.err
	}
	n, err := r.ReadSeekCloser.Read(p[:min(int64(len(p)), r.left)])
	r.left -= int64(n)
	return n, err
}

// TestBlobCutShort checks that a client can't take what a broken store has left for the whole.
func TestBlobCutShort(t *testing.T) {
	for name, o := range map[string]options{"plain": {}, "tls": {tls: true}, "http2": {http2: true}} {
		for _, cause := range []error{io.EOF, errors.New("bad sector")} {
			t.Run(name+" "+cause.Error(), func(t *testing.T) {
				o.wrap = func(b storage.Blobs) storage.Blobs { return cutStore{b, cause} }
				s := newServer(t, o)
				resp, err := s.Client().Get(s.URL + "/v2/a/blobs/" + s.pushBlob("a", strings.Repeat("x", 100_000)))
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				if got, err := io.ReadAll(resp.Body); err == nil || resp.StatusCode != http.StatusOK {
					t.Errorf("status %d: %d bytes came as if they were whole", resp.StatusCode, len(got))
				}
				s.stop()
				if faults := s.log.records(t, "request failed"); len(faults) != 1 || faults[0]["level"] != "ERROR" {
					t.Errorf("log %v", faults)
				}
			})
		}
	}
}

// TestBlobReaderGone checks that a client which hangs up is no fault.
func TestBlobReaderGone(t *testing.T) {
	for name, o := range map[string]options{"plain": {}, "tls": {tls: true}, "http2": {http2: true}} {
		t.Run(name, func(t *testing.T) {
			o.config.AccessLog = true
			s := newServer(t, o)
			path := "/v2/a/blobs/" + s.pushBlob("a", strings.Repeat("x", 16<<20))
			resp, err := s.Client().Get(s.URL + path)
			if err != nil {
				t.Fatal(err)
			}
			io.ReadFull(resp.Body, make([]byte, 1000))
			resp.Body.Close()
			s.Client().CloseIdleConnections()
			s.stop() // waits until the handler has noticed
			if faults := s.log.records(t, "request failed"); len(faults) > 0 {
				t.Errorf("logged as a fault: %v", faults)
			}
			if lines := s.log.records(t, "request"); len(lines) != 2 || lines[1]["bytes"].(float64) >= 16<<20 {
				t.Errorf("access lines %v", lines)
			}
		})
	}
}
