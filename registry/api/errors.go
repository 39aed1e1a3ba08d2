package api

import (
	"context"
	"errors"
	"log/slog"
	"net/http"

	"berth/registry"
)

// Errors that only HTTP knows.
var (
	errNotFound        = &registry.Error{Code: "NOT_FOUND", Message: "no such endpoint: see the OCI distribution spec"}
	errPageSize        = &registry.Error{Code: "PAGINATION_NUMBER_INVALID", Message: "invalid number of results: n is a whole number from 0"}
	errRangeInvalid    = &registry.Error{Code: "RANGE_INVALID", Message: "the blob has no such range of bytes"}
	errQuery           = &registry.Error{Code: "QUERY_INVALID", Message: "malformed query"}
	errBody            = &registry.Error{Code: "BODY_INVALID", Message: "malformed body"}
	errContentType     = &registry.Error{Code: "CONTENT_TYPE_INVALID", Message: "the Content-Type has to be application/json"}
	errTooManyRequests = &registry.Error{Code: "TOOMANYREQUESTS", Message: "too many requests"}
	errTooManyTags     = &registry.Error{Code: "TAG_INVALID", Message: "too many tags in one request"}
	errUnauthorized    = &registry.Error{Code: "UNAUTHORIZED", Message: "authentication required"}
	errUnavailable     = &registry.Error{Code: "UNAVAILABLE", Message: "not available now"}
	errInternal        = &registry.Error{Code: "UNKNOWN", Message: "internal error"}
)

// statusClientGone is what the access line says of a client that did not wait for its answer.
const statusClientGone = 499

// status returns the status code of an error's kind.
func status(e *registry.Error) int {
	switch e.Kind() {
	case registry.ErrBlobUnknown, registry.ErrUploadUnknown, registry.ErrManifestUnknown, registry.ErrNameUnknown, errNotFound:
		return http.StatusNotFound
	case registry.ErrDigestInvalid, registry.ErrSizeInvalid, registry.ErrManifestInvalid, registry.ErrNameInvalid,
		registry.ErrTagInvalid, registry.ErrUploadInterrupted, errPageSize, errQuery, errBody:
		return http.StatusBadRequest
	case registry.ErrManifestBlobUnknown:
		// The spec's table has 404, every registry in use 400, which is what clients have met.
		return http.StatusBadRequest
	case registry.ErrUploadRange, errRangeInvalid:
		return http.StatusRequestedRangeNotSatisfiable
	case registry.ErrUploadSuperseded, registry.ErrConflict:
		return http.StatusConflict
	case errUnauthorized:
		return http.StatusUnauthorized
	case registry.ErrDenied:
		return http.StatusForbidden
	case errTooManyRequests:
		return http.StatusTooManyRequests
	case errUnavailable, registry.ErrUnavailable:
		return http.StatusServiceUnavailable
	case registry.ErrUnsupported:
		return http.StatusMethodNotAllowed
	case registry.ErrTooLarge:
		return http.StatusRequestEntityTooLarge
	case errContentType:
		return http.StatusUnsupportedMediaType
	case errTooManyTags:
		return http.StatusRequestURITooLong
	case registry.ErrNoSpace:
		return http.StatusInsufficientStorage
	}
	return http.StatusInternalServerError
}

// fail answers with an error. What has no kind is a fault of the machinery: the log gets its text, the client an id to
// ask about.
func (h *handler) fail(c *call, err error) {
	var e *registry.Error
	var refusal *Refusal
	switch {
	case errors.As(err, &refusal):
		refusal.setHeaders(c.w.Header())
		e = refusal.kind().Withf("%s", refusal.Message)
	case errors.As(err, &e):
		if status(e) >= http.StatusInternalServerError {
			h.logFault(c, slog.LevelWarn, err)
		}
	case c.w.broken || errors.Is(err, context.Canceled):
		c.w.abandon()
	default:
		h.logFault(c, slog.LevelError, err)
		e = errInternal.Withf("internal error: the registry's log has it as request %s", c.id)
	}
	if c.w.status == 0 {
		h.writeError(c, e)
	}
}

func (h *handler) logFault(c *call, level slog.Level, err error) {
	h.Log.LogAttrs(c.r.Context(), level, "request failed", slog.String("request", c.id), slog.String("method", c.r.Method),
		slog.String("endpoint", string(c.kind)), slog.String("repository", c.repository), slog.Any("error", err))
}

func (h *handler) writeError(c *call, e *registry.Error) {
	code := status(e)
	c.failure = e.Code
	header := c.w.Header()
	if e.Kind() == registry.ErrUnavailable {
		header.Set("Retry-After", "1")
	}
	if code == http.StatusMethodNotAllowed && header.Get("Allow") == "" {
		header.Set("Allow", c.kind.methods())
	}
	writeJSON(c, code, contentJSON, errorBody{Errors: []errorEntry{{e.Code, e.Message, e.Detail}}})
}

// errorBody is the body of an error (OCI distribution spec, "Error Codes").
type errorBody struct {
	Errors []errorEntry `json:"errors"`
}

type errorEntry struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Detail  any    `json:"detail,omitempty"`
}
