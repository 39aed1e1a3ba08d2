package api

import (
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
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

// TestBlobReaderGone checks that a client which hangs up is no fault.
func TestBlobReaderGone(t *testing.T) {
	for name, o := range map[string]options{"plain": {}, "tls": {tls: true}, "http2": {http2: true}} {
		t.Run(name, func(t *testing.T) {
			o.config.AccessLog = true
			s := newServer(t, o)
			path := "/v2/a/blobs/" + s.pushBlob("a", strings.Repeat("x", 32<<20))
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
			if lines := s.log.records(t, "request"); len(lines) != 2 || lines[1]["bytes"].(float64) >= 32<<20 {
				t.Errorf("access lines %v", lines)
			}
		})
	}
}
