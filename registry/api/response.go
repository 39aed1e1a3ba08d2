package api

import (
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
	w.broken = w.broken || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, os.ErrDeadlineExceeded)
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

// writeJSON answers with v. That it can't be encoded is nobody's input: every type of this package can.
func writeJSON(c *call, code int, contentType string, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		code, contentType, body = http.StatusInternalServerError, contentJSON, []byte(`{"errors":[{"code":"UNKNOWN","message":"internal error"}]}`)
	}
	writeBody(c, code, contentType, body)
}
