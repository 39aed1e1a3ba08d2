package api

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// TestUploadStalls has clients that send too little in the middle of a chunk: they are refused, and what came counts.
func TestUploadStalls(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		t.Run(fmt.Sprint("http2 ", http2), func(t *testing.T) { testUploadStalls(t, http2) })
	}
}

func testUploadStalls(t *testing.T, http2 bool) {
	s := newServer(t, options{http2: http2, config: Config{BodyTimeout: 300 * time.Millisecond}})
	for name, send := range map[string]func(io.Writer){
		"nothing more": func(w io.Writer) { _, _ = w.Write([]byte("xxxxxxxxxx")) },
		"a byte now and then": func(w io.Writer) {
			for range 100 {
				if _, err := w.Write([]byte("x")); err != nil {
					return
				}
				time.Sleep(50 * time.Millisecond)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			upload := s.startUpload("a")
			reader, writer := io.Pipe()
			go send(writer)
			s.do(http.MethodPatch, upload, reader).wantError(http.StatusBadRequest, "BLOB_UPLOAD_INVALID")
			_ = reader.Close()
			end := s.get(upload).want(http.StatusNoContent).header.Get("Range")
			if end == "0-99" || end == "0-0" {
				t.Errorf("what came is %s", end)
			}
		})
	}
	t.Run("slow", func(t *testing.T) { // but never below what is asked for
		s := newServer(t, options{http2: http2, config: Config{BodyTimeout: 2 * time.Second}})
		const pieces = 30
		piece := bytes.Repeat([]byte("x"), leastProgress)
		reader, writer := io.Pipe()
		go func() {
			for range pieces {
				time.Sleep(100 * time.Millisecond)
				_, _ = writer.Write(piece)
			}
			_ = writer.Close()
		}()
		upload := s.startUpload("a")
		s.do(http.MethodPatch, upload, reader).want(http.StatusAccepted)
		d := digest.FromBytes(bytes.Repeat(piece, pieces)).String()
		s.do(http.MethodPut, upload+"?digest="+d, nil).want(http.StatusCreated)
	})
}

// TestBusyServer has the server take longer than the timeout before each read, and the client send each byte then only: nobody is to
// blame, and the request goes on.
func TestBusyServer(t *testing.T) {
	const timeout = 200 * time.Millisecond
	reads := make(chan bool)
	handler := LimitBodies(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for err := error(nil); err == nil; {
			time.Sleep(timeout * 2)
			reads <- true
			if _, err = r.Body.Read(make([]byte, 1)); err != nil && err != io.EOF {
				t.Error(err)
			}
		}
		time.Sleep(timeout * 2) // the connection is watched meanwhile
		if r.Context().Err() != nil {
			t.Error("the request was given up")
		}
	}), timeout)
	for _, version := range []int{1, 2} {
		s := httptest.NewUnstartedServer(handler)
		s.EnableHTTP2 = version == 2
		s.StartTLS()
		defer s.Close()
		body, out := io.Pipe()
		go func() {
			for range 3 {
				<-reads
				_, _ = out.Write([]byte("x"))
			}
			<-reads
			_ = out.Close()
		}()
		answer, err := s.Client().Post(s.URL, "text/plain", body)
		if err != nil {
			t.Fatal(err)
		}
		if _ = answer.Body.Close(); answer.ProtoMajor != version {
			t.Errorf("it spoke %s", answer.Proto)
		}
	}
}

// TestUnreadBodies sends requests whose announced body never comes to what does not read it: they are answered, and the connection
// does not stay.
func TestUnreadBodies(t *testing.T) {
	const timeout = 200 * time.Millisecond
	for name, handle := range map[string]http.HandlerFunc{
		"answers": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) },
		"reads": func(w http.ResponseWriter, r *http.Request) {
			if _, err := io.ReadAll(r.Body); err == nil {
				t.Error("the body has an end")
			}
			w.WriteHeader(http.StatusUnauthorized)
		},
	} {
		s := httptest.NewServer(LimitBodies(handle, timeout))
		defer s.Close()
		for _, method := range []string{http.MethodGet, http.MethodDelete, http.MethodPost, http.MethodPut} {
			t.Run(name+" "+method, func(t *testing.T) {
				conn, err := net.Dial("tcp", s.Listener.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
				if _, err := io.WriteString(conn, method+" / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345"); err != nil {
					t.Fatal(err)
				}
				in := bufio.NewReader(conn)
				answer, err := http.ReadResponse(in, nil)
				if err != nil {
					t.Fatal(err)
				}
				if answer.StatusCode != http.StatusUnauthorized {
					t.Errorf("status %d", answer.StatusCode)
				}
				_ = answer.Body.Close()
				if _, err := in.ReadByte(); err != io.EOF {
					t.Errorf("the connection stays: %v", err)
				}
			})
		}
	}
}

// TestUnwantedBody has GET bring a body, after which the connection and the answer go on as usual.
func TestUnwantedBody(t *testing.T) {
	const timeout = 100 * time.Millisecond
	s := httptest.NewServer(LimitBodies(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).Flush()
		time.Sleep(3 * timeout)
		if r.Context().Err() != nil {
			t.Error("the request was given up")
		}
	}), timeout))
	defer s.Close()
	for range 2 {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL, strings.NewReader("what for?"))
		if err != nil {
			t.Fatal(err)
		}
		answer, err := s.Client().Do(request)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, answer.Body)
		_ = answer.Body.Close()
		if answer.Close {
			t.Error("the connection is given up")
		}
	}
}

// TestCutTooLate cuts off a request whose body is read already. The next request on the same connection must not feel it.
func TestCutTooLate(t *testing.T) {
	for name, handle := range map[string]func(*body) error{
		"after the end": func(b *body) error {
			_, err := io.Copy(io.Discard, b)
			return errors.Join(err, b.Close())
		},
		"before the end": func(b *body) error {
			err := b.Close()
			_, copied := io.Copy(io.Discard, b) // of what has arrived already
			return errors.Join(err, copied)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodGet {
					time.Sleep(20 * time.Millisecond) // the server looks meanwhile whether the client is there
					if r.Context().Err() != nil {
						w.WriteHeader(statusClientGone)
					}
					return
				}
				b := newBody(w, r, time.Minute)
				defer b.release()
				if err := handle(b); err != nil {
					t.Error(err)
				}
			}))
			defer s.Close()
			for range 20 {
				for method, body := range map[string]io.Reader{http.MethodPatch: strings.NewReader("all"), http.MethodGet: nil} {
					request, err := http.NewRequestWithContext(t.Context(), method, s.URL, body)
					if err != nil {
						t.Fatal(err)
					}
					answer, err := s.Client().Do(request)
					if err != nil {
						t.Fatal(err)
					}
					answer.Body.Close()
					if answer.StatusCode != http.StatusOK {
						t.Fatalf("%s: status %d", method, answer.StatusCode)
					}
				}
			}
		})
	}
}
