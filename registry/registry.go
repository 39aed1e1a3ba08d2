// Package registry is the domain: it pushes, pulls, lists and deletes blobs and manifests of an OCI registry. It knows
// no HTTP, no SQL dialect and no file path.
//
// Bytes live in a storage.Blobs under opaque keys, facts in a metadata.Store. The package guarantees that a fact never
// promises bytes that are not durable, that what a call reported as stored survives a crash, and that what a manifest
// references is not deleted under it. It does not decide who may do what: callers ask before they call.
//
// Errors that a client should be told of are of type *Error; any other error is a fault of the machinery.
package registry

import (
	"io"

	"berth/registry/manifest"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// MaxManifestSize is the largest manifest in bytes, as the OCI distribution spec recommends ("Pushing Manifests").
const MaxManifestSize = 4 << 20

// MaxReferences is how many blobs and manifests one manifest may reference.
const MaxReferences = manifest.MaxReferences

// Descriptor says what a digest is: of blobs, only digest and size are known.
type Descriptor = v1.Descriptor

// Manifest is a manifest with its exact bytes.
type Manifest struct {
	Descriptor
	Body []byte
}

// Blob is an open blob. Close it.
type Blob struct {
	Descriptor
	io.ReadSeekCloser
}

// Upload is the state of an upload session.
type Upload struct {
	// ID names the session: letters, digits and '-'.
	ID string
	// Size is how many bytes are durable: the next chunk begins here.
	Size int64
}

// Chunk is a piece of an upload.
type Chunk struct {
	// Body is the bytes. It is read to its end but never closed, except that Close is called from another goroutine to
	// make a blocked Read return: when a newer request takes over the session. Nil is an empty chunk.
	Body io.ReadCloser
	// Offset is where in the upload the chunk begins, or -1 for where the upload ends now.
	Offset int64
	// Length is how many bytes Body has to have, or -1 for as many as come.
	Length int64
}

// ManifestPush is a manifest to store.
type ManifestPush struct {
	Reference Reference
	// Tags are tags to set besides Reference (the tag parameters of the spec's main branch).
	Tags []string
	// MediaType is what the client said; empty when it said nothing.
	MediaType string
	Body      []byte
	// User is who pushes, or empty.
	User string
}

// ManifestPushed says what a push of a manifest did.
type ManifestPushed struct {
	Descriptor
	// Subject is the digest of the manifest that the pushed one refers to, or empty.
	Subject digest.Digest
	// Assembled are the indexes that the registry made of the push.
	Assembled []Assembled
	// Warnings are sentences for the person who pushed, which changed nothing.
	Warnings []string
}

// Mount asks for a blob of one repository to appear in another without its bytes being sent.
type Mount struct {
	Digest digest.Digest
	// From is the repository to take it from, or empty for any.
	From string
	// Readable reports whether the client may pull from a repository.
	Readable func(repository string) bool
}

// Page asks for a part of a sorted list.
type Page struct {
	// Last is the name after which the page begins, or empty for the first page.
	Last string
	// N is the most entries to return: at least 1.
	N int
}
