package api

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"berth/storage"
)

const octets = "application/octet-stream"

func TestUploadWhole(t *testing.T) {
	s := newServer(t, options{})
	for _, algorithm := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
		d := algorithm.FromString("hello").String()
		s.do(http.MethodPost, "/v2/a/blobs/uploads/?digest="+d, strings.NewReader("hello"), "Content-Type", octets).want(http.StatusCreated).
			wantBody("").wantHeaders("Location", "/v2/a/blobs/"+d, "Docker-Content-Digest", d, "Content-Length", "0")
		s.get("/v2/a/blobs/" + d).want(http.StatusOK).wantBody("hello")
	}
}

func TestUploadSession(t *testing.T) {
	s := newServer(t, options{})
	d := digest.FromString("hello world").String()
	a := s.do(http.MethodPost, "/v2/a/blobs/uploads/", nil).want(http.StatusAccepted)
	upload := a.header.Get("Location")
	headers := []string{"Location", upload, "Docker-Upload-Uuid", upload[strings.LastIndex(upload, "/")+1:]}
	a.wantHeaders(append(headers, "Range", "0-0", "Content-Length", "0")...)

	s.get(upload).want(http.StatusNoContent).wantHeaders(append(headers, "Range", "0-0")...)
	s.do(http.MethodPatch, upload, io.NopCloser(strings.NewReader("hello"))).want(http.StatusAccepted).wantHeaders(append(headers, "Range", "0-4")...)
	s.do(http.MethodPatch, upload, strings.NewReader(" wor"), "Content-Type", octets, "Content-Range", "5-8").want(http.StatusAccepted).wantHeaders("Range", "0-8")
	s.do(http.MethodHead, upload, nil).want(http.StatusNoContent).wantHeaders(append(headers, "Range", "0-8")...)
	s.do(http.MethodPatch, upload, nil).want(http.StatusAccepted).wantHeaders("Range", "0-8")
	for range 2 { // the second time as if the first answer had been lost
		s.do(http.MethodPut, upload+"?digest="+d, strings.NewReader("ld"), "Content-Range", "bytes 9-10/11").want(http.StatusCreated).
			wantHeaders("Location", "/v2/a/blobs/"+d, "Docker-Content-Digest", d)
	}
	s.get("/v2/a/blobs/" + d).want(http.StatusOK).wantBody("hello world")
	s.get(upload).wantError(http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN")
}

func TestUploadAlgorithm(t *testing.T) {
	s := newServer(t, options{})
	d := digest.SHA512.FromString("hello").String()
	upload := s.do(http.MethodPost, "/v2/a/blobs/uploads/?digest-algorithm=sha512", nil).want(http.StatusAccepted).header.Get("Location")
	s.do(http.MethodPut, upload+"?digest="+d, strings.NewReader("hello")).want(http.StatusCreated)
	s.do(http.MethodPost, "/v2/a/blobs/uploads/?digest-algorithm=md5", nil).wantError(http.StatusBadRequest, "DIGEST_INVALID")
}

// parted is a store on which short chunks are dear.
type parted struct{ storage.Blobs }

func (parted) MinPart() int64 { return 5 << 20 }

func TestChunkMinLength(t *testing.T) {
	const name = "OCI-Chunk-Min-Length"
	d := digest.FromString("hello").String()
	for want, wrap := range map[string]func(storage.Blobs) storage.Blobs{
		"":        nil,
		"5242880": func(b storage.Blobs) storage.Blobs { return parted{b} },
	} {
		s := newServer(t, options{wrap: wrap})
		s.do(http.MethodPost, "/v2/a/blobs/uploads/?mount="+d, nil).want(http.StatusAccepted).wantHeaders(name, want)
		upload := s.do(http.MethodPost, "/v2/a/blobs/uploads/", nil).want(http.StatusAccepted).wantHeaders(name, want).header.Get("Location")
		for i, piece := range []string{"h", "el", "lo"} { // which is less, and no fault
			first := max(0, 2*i-1)
			s.do(http.MethodPatch, upload, strings.NewReader(piece), "Content-Range", fmt.Sprintf("%d-%d", first, first+len(piece)-1)).
				want(http.StatusAccepted).wantHeaders(name, "")
		}
		s.do(http.MethodPut, upload+"?digest="+d, nil).want(http.StatusCreated).wantHeaders(name, "")
		s.get("/v2/a/blobs/" + d).want(http.StatusOK).wantBody("hello")
		s.do(http.MethodPost, "/v2/a/blobs/uploads/?digest="+d, strings.NewReader("hello")).want(http.StatusCreated).wantHeaders(name, "")
	}
}

func TestUploadBadChunks(t *testing.T) {
	s := newServer(t, options{})
	upload := s.startUpload("a")
	s.do(http.MethodPatch, upload, strings.NewReader("hello")).want(http.StatusAccepted)
	tests := []struct {
		name, contentRange string
		status             int
		code               string
	}{
		{"gap", "6-8", 416, "BLOB_UPLOAD_INVALID"},
		{"overlap", "4-6", 416, "BLOB_UPLOAD_INVALID"},
		{"again", "0-2", 416, "BLOB_UPLOAD_INVALID"},
		{"malformed", "five", 416, "BLOB_UPLOAD_INVALID"},
		{"backwards", "7-5", 416, "BLOB_UPLOAD_INVALID"},
		{"too short", "5-8", 400, "SIZE_INVALID"},
		{"too long", "5-6", 400, "SIZE_INVALID"},
	}
	for _, tt := range tests {
		for method, path := range map[string]string{http.MethodPatch: upload, http.MethodPut: upload + "?digest=" + sum256} {
			t.Run(tt.name+" "+method, func(t *testing.T) {
				a := s.do(method, path, strings.NewReader("abc"), "Content-Range", tt.contentRange).wantError(tt.status, tt.code)
				if tt.status == http.StatusRequestedRangeNotSatisfiable {
					a.wantHeaders("Range", "0-4", "Location", upload)
				}
				s.get(upload).want(http.StatusNoContent).wantHeaders("Range", "0-4")
			})
		}
	}
	s.do(http.MethodPatch, upload, io.NopCloser(strings.NewReader("abc")), "Content-Range", "5-8").wantError(http.StatusBadRequest, "SIZE_INVALID")
}

func TestUploadBadDigest(t *testing.T) {
	s := newServer(t, options{})
	upload := s.startUpload("a")
	s.do(http.MethodPatch, upload, strings.NewReader("hello")).want(http.StatusAccepted)
	for _, query := range []string{"", "?digest=", "?digest=sha256:x", "?digest=md5:5d41402abc4b2a76b9719d911017c592", "?digest=" + sum256, "?digest=" + sum512} {
		s.do(http.MethodPut, upload+query, nil).wantError(http.StatusBadRequest, "DIGEST_INVALID")
	}
	s.get("/v2/a/blobs/"+sum256).wantError(http.StatusNotFound, "BLOB_UNKNOWN")
	s.do(http.MethodPut, upload+"?digest="+digest.FromString("hello").String(), nil).want(http.StatusCreated)

	for _, d := range []string{"", "sha256:x", sum256, sum512} {
		s.do(http.MethodPost, "/v2/a/blobs/uploads/?digest="+d, strings.NewReader("hello")).wantError(http.StatusBadRequest, "DIGEST_INVALID")
	}
}

func TestUploadUnknown(t *testing.T) {
	s := newServer(t, options{})
	upload := s.startUpload("a")
	other := strings.Replace(upload, "/v2/a/", "/v2/b/", 1)
	d := digest.FromString("hello").String()
	for _, path := range []string{"/v2/a/blobs/uploads/nothing", other} {
		s.get(path).wantError(http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN")
		s.do(http.MethodPatch, path, strings.NewReader("hello")).wantError(http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN")
		s.do(http.MethodPatch, path, strings.NewReader("hello"), "Content-Range", "x").wantError(http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN")
		s.do(http.MethodPut, path+"?digest="+d, strings.NewReader("hello")).wantError(http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN")
		s.do(http.MethodDelete, path, nil).wantError(http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN")
	}
	s.do(http.MethodDelete, upload, nil).want(http.StatusNoContent).wantBody("")
	s.get(upload).wantError(http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN")
}

func TestMount(t *testing.T) {
	s := newServer(t, options{})
	d := s.pushBlob("source", "hello")
	mounts := map[string]string{"from": "&from=source", "anywhere": "", "empty": "&from="}
	for name, query := range mounts {
		s.do(http.MethodPost, "/v2/"+name+"/blobs/uploads/?mount="+d+query, nil).want(http.StatusCreated).
			wantHeaders("Location", "/v2/"+name+"/blobs/"+d, "Docker-Content-Digest", d)
		s.get("/v2/" + name + "/blobs/" + d).want(http.StatusOK).wantBody("hello")
	}
}

func TestMountImpossible(t *testing.T) {
	s := newServer(t, options{})
	d := s.pushBlob("source", "hello")
	for _, query := range []string{
		"mount=" + d + "&from=elsewhere", "mount=" + d + "&from=NOT%2fa..name", "mount=" + sum512 + "&from=source", "mount=" + sum256,
		"mount=nonsense&from=source", "mount=",
	} {
		upload := s.do(http.MethodPost, "/v2/a/blobs/uploads/?"+query, nil).want(http.StatusAccepted).wantHeaders("Range", "0-0").header.Get("Location")
		s.do(http.MethodPut, upload+"?digest="+digest.FromString(query).String(), strings.NewReader(query)).want(http.StatusCreated)
	}
}

// TestUploadInterrupted lets a client die in the middle of a PATCH: what came is kept, and the next one goes on from it.
func TestUploadInterrupted(t *testing.T) {
	s := newServer(t, options{})
	upload := s.startUpload("a")
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "PATCH %s HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhello", upload)
	conn.(*net.TCPConn).CloseWrite()
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || resp.StatusCode != http.StatusBadRequest {
		t.Fatalf("answer %v, %v", resp, err)
	}
	s.get(upload).want(http.StatusNoContent).wantHeaders("Range", "0-4")
	d := digest.FromString("hello world").String()
	s.do(http.MethodPut, upload+"?digest="+d, strings.NewReader(" world"), "Content-Range", "5-10").want(http.StatusCreated)
	s.get("/v2/a/blobs/" + d).want(http.StatusOK).wantBody("hello world")
}

// TestUploadTakenOver sends a second PATCH while a first one hangs: the second wins, the first is cut off.
func TestUploadTakenOver(t *testing.T) {
	for name, o := range map[string]options{"plain": {}, "tls": {tls: true}, "http2": {http2: true}} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, o)
			s.Client().Transport.(*http.Transport).ExpectContinueTimeout = time.Minute
			upload := s.startUpload("a")
			first, bytes := s.hangingPatch(upload)
			io.WriteString(bytes, "first")

			s.do(http.MethodPatch, upload, strings.NewReader("second")).want(http.StatusAccepted).wantHeaders("Range", "0-5")
			if status := <-first; status != http.StatusConflict && status != 0 {
				t.Errorf("the first was answered with %d", status)
			}
			d := digest.FromString("second").String()
			s.do(http.MethodPut, upload+"?digest="+d, nil).want(http.StatusCreated)
			s.get("/v2/a/blobs/" + d).want(http.StatusOK).wantBody("second")
			if faults := s.log.records(t, "request failed"); len(faults) > 0 {
				t.Errorf("logged as a fault: %v", faults)
			}
		})
	}
}

// hangingPatch begins a PATCH and returns when the handler reads its body, which is what is written to the pipe. The
// channel gets the status, or zero when the connection was cut first.
func (s *server) hangingPatch(upload string) (<-chan int, *io.PipeWriter) {
	s.t.Helper()
	body, bytes := io.Pipe()
	reading := make(chan struct{})
	trace := &httptrace.ClientTrace{Got100Continue: func() { close(reading) }}
	r, err := http.NewRequestWithContext(httptrace.WithClientTrace(s.t.Context(), trace), http.MethodPatch, s.URL+upload, body)
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header.Set("Expect", "100-continue")
	status := make(chan int, 1)
	go func() {
		defer close(status)
		defer body.Close()
		if resp, err := s.Client().Do(r); err == nil {
			resp.Body.Close()
			status <- resp.StatusCode
		}
	}()
	<-reading
	return status, bytes
}

// TestUploadEarlyRefusal checks that a large body which nobody read does not spoil the next request.
func TestUploadEarlyRefusal(t *testing.T) {
	s := newServer(t, options{})
	large := strings.Repeat("x", 4<<20)
	for range 3 {
		r, err := http.NewRequest(http.MethodPatch, s.URL+"/v2/a/blobs/uploads/nothing", strings.NewReader(large))
		if err != nil {
			t.Fatal(err)
		}
		if resp, err := s.Client().Do(r); err == nil { // the connection may be closed before the client has sent it all
			resp.Body.Close()
			if resp.StatusCode != http.StatusNotFound {
				t.Errorf("status %d", resp.StatusCode)
			}
		}
		s.get("/v2/").want(http.StatusOK).wantBody("{}")
	}
}

// A query that can't be read is refused, not read in part.
func TestMalformedQuery(t *testing.T) {
	s := newServer(t, options{})
	s.do(http.MethodPost, "/v2/a/blobs/uploads/?digest=%zz", strings.NewReader("hello")).wantError(http.StatusBadRequest, "QUERY_INVALID")
	s.do(http.MethodPut, s.startUpload("a")+"?digest=%zz", strings.NewReader("hello")).wantError(http.StatusBadRequest, "QUERY_INVALID")
	s.do(http.MethodPut, s.startUpload("a"), strings.NewReader("hello")).wantError(http.StatusBadRequest, "DIGEST_INVALID")
}
