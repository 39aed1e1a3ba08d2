package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"strconv"
	"syscall"
)

const contentJSON = "application/json"

// response counts what a handler writes.
type response struct {
	http.ResponseWriter
	// status is zero until the header is written.
	status int
	bytes  int64
	// broken says that the client can't be written to any more.
	broken bool
}

// Unwrap lets http.ResponseController find the server's own writer.
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *response) WriteHeader(code int) {
	w.status = code
	w.ResponseWriter.WriteHeader(code)
}

func (w *response) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	w.bytes += int64(n)
	w.broken = w.broken || err != nil
	return n, err
}

// ReadFrom lets the server hand a file to the kernel. Its error may be the file's or the connection's.
func (w *response) ReadFrom(r io.Reader) (int64, error) {
	n, err := io.Copy(w.ResponseWriter, r)
	w.bytes += n
	for _, gone := range []error{syscall.EPIPE, syscall.ECONNRESET, syscall.ETIMEDOUT, os.ErrDeadlineExceeded} {
		w.broken = w.broken || errors.Is(err, gone)
	}
	return n, err
}

// abandon ends the answer to a client that is gone.
func (w *response) abandon() {
	if w.status == 0 {
		w.WriteHeader(statusClientGone)
	}
}

// writeBody answers with a whole body. An error while writing is the client's, who is gone.
func writeBody(c *call, code int, contentType string, body []byte) {
	header := c.w.Header()
	header.Set("Content-Type", contentType)
	header.Set("Content-Length", strconv.Itoa(len(body)))
	c.w.WriteHeader(code)
	if c.r.Method != http.MethodHead {
		c.w.Write(body)
	}
}

// writeEmpty answers without a body.
func writeEmpty(c *call, code int) {
	if code != http.StatusNoContent && code != http.StatusNotModified {
		c.w.Header().Set("Content-Length", "0")
	}
	c.w.WriteHeader(code)
}

// writeJSON answers with v, which is of a type that can be encoded.
func writeJSON(c *call, code int, contentType string, v any) {
	var body bytes.Buffer
	encoder := json.NewEncoder(&body)
	encoder.SetEscapeHTML(false) // messages are read as they are
	if err := encoder.Encode(v); err != nil {
		writeEmpty(c, http.StatusInternalServerError)
		return
	}
	writeBody(c, code, contentType, bytes.TrimSuffix(body.Bytes(), []byte("\n")))
}
