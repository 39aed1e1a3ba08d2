package registry

import "fmt"

// Error is an error that a client is told of, with its code from the OCI distribution spec ("Error Codes").
//
// The exported variables of this file are its kinds; errors.Is compares by kind, so that a copy with a message or a
// detail of its own still is what it was made from.
type Error struct {
	// Code is the spec's code, or one of the same form where the spec has none.
	Code string
	// Message is a sentence for people: what is wrong and, where there is one, the remedy.
	Message string
	// Detail is for programs: anything that encodes to JSON, or nil.
	Detail any

	kind *Error
}

// The kinds of errors, each with the code that clients see.
var (
	ErrBlobUnknown         = &Error{Code: "BLOB_UNKNOWN", Message: "blob unknown to this repository"}
	ErrUploadUnknown       = &Error{Code: "BLOB_UPLOAD_UNKNOWN", Message: "blob upload unknown: it expired, was cancelled or never began; start a new one"}
	ErrUploadSuperseded    = &Error{Code: "BLOB_UPLOAD_INVALID", Message: "another request took over this upload"}
	ErrUploadRange         = &Error{Code: "BLOB_UPLOAD_INVALID", Message: "chunk does not begin where the upload ends"}
	ErrUploadInterrupted   = &Error{Code: "BLOB_UPLOAD_INVALID", Message: "the request's body ended early"}
	ErrDigestInvalid       = &Error{Code: "DIGEST_INVALID", Message: "provided digest did not match uploaded content or is malformed"}
	ErrSizeInvalid         = &Error{Code: "SIZE_INVALID", Message: "provided length did not match content length"}
	ErrTooLarge            = &Error{Code: "SIZE_INVALID", Message: "content is larger than allowed"}
	ErrManifestUnknown     = &Error{Code: "MANIFEST_UNKNOWN", Message: "manifest unknown"}
	ErrManifestInvalid     = &Error{Code: "MANIFEST_INVALID", Message: "manifest invalid"}
	ErrManifestBlobUnknown = &Error{Code: "MANIFEST_BLOB_UNKNOWN", Message: "manifest references content that this repository does not have; push it first"}
	ErrNameInvalid         = &Error{Code: "NAME_INVALID", Message: "invalid repository name"}
	ErrNameUnknown         = &Error{Code: "NAME_UNKNOWN", Message: "repository name not known to registry"}
	ErrTagInvalid          = &Error{Code: "TAG_INVALID", Message: "invalid tag"}
	ErrDenied              = &Error{Code: "DENIED", Message: "requested access to the resource is denied"}
	ErrConflict            = &Error{Code: "DENIED", Message: "the resource is in use"}
	ErrUnsupported         = &Error{Code: "UNSUPPORTED", Message: "the operation is unsupported"}
	ErrNoSpace             = &Error{Code: "INSUFFICIENT_STORAGE", Message: "the registry's disk is full"}
	ErrUnavailable         = &Error{Code: "UNAVAILABLE", Message: "the registry can't reach its database or storage now: try again"}
)

// What is told of blobs that are there and can't be served.
var (
	errQuarantined = ErrBlobUnknown.Withf("the registry's copy of this blob is damaged: push it again")
	errLost        = ErrBlobUnknown.Withf("the registry has lost the bytes of this blob: its log says how to repair that")
)

// Error returns the code and the message.
func (e *Error) Error() string { return e.Code + ": " + e.Message }

// Kind returns the variable of this package that e was made from.
func (e *Error) Kind() *Error {
	if e.kind != nil {
		return e.kind
	}
	return e
}

// Is reports whether target is e's kind.
func (e *Error) Is(target error) bool { return target == error(e.Kind()) }

// Withf returns an error of the same kind with a message of its own.
func (e *Error) Withf(format string, args ...any) *Error {
	return &Error{Code: e.Code, Message: fmt.Sprintf(format, args...), Detail: e.Detail, kind: e.Kind()}
}

// Detailed returns an error of the same kind with a detail.
func (e *Error) Detailed(detail any) *Error {
	return &Error{Code: e.Code, Message: e.Message, Detail: detail, kind: e.Kind()}
}
