package registry

import (
	"context"
	"errors"

	"github.com/opencontainers/go-digest"
)

// Service is the registry. Make it with New.
type Service struct{}

// Blob returns the descriptor of a blob of a repository, and makes sure that the blob stays for the lease time, so that a
// client may rely on it when it pushes a manifest. It fails with ErrBlobUnknown.
func (s *Service) Blob(ctx context.Context, repository string, d digest.Digest) (Descriptor, error) {
	return Descriptor{}, errors.ErrUnsupported
}

// OpenBlob opens a blob of a repository. It fails with ErrBlobUnknown.
func (s *Service) OpenBlob(ctx context.Context, repository string, d digest.Digest) (*Blob, error) {
	return nil, errors.ErrUnsupported
}

// ResolveManifest returns the descriptor of a manifest. It fails with ErrManifestUnknown.
func (s *Service) ResolveManifest(ctx context.Context, repository string, ref Reference) (Descriptor, error) {
	return Descriptor{}, errors.ErrUnsupported
}

// Manifest returns a manifest. It fails with ErrManifestUnknown.
func (s *Service) Manifest(ctx context.Context, repository string, ref Reference) (Manifest, error) {
	return Manifest{}, errors.ErrUnsupported
}

// PlatformManifest returns the manifest that an index of the repository lists for linux/amd64, for clients that
// understand no index. It fails with ErrManifestUnknown.
func (s *Service) PlatformManifest(ctx context.Context, repository string, index digest.Digest) (Manifest, error) {
	return Manifest{}, errors.ErrUnsupported
}

// StartUpload begins an upload session whose bytes will be hashed with algorithm, or with sha256 when that is empty.
func (s *Service) StartUpload(ctx context.Context, repository string, algorithm digest.Algorithm) (Upload, error) {
	return Upload{}, errors.ErrUnsupported
}

// UploadStatus returns the state of a session. It fails with ErrUploadUnknown.
func (s *Service) UploadStatus(ctx context.Context, repository, id string) (Upload, error) {
	return Upload{}, errors.ErrUnsupported
}

// WriteUpload appends a chunk and returns the session's state, also beside an error where it is known. A session has
// one writer: a newer call cuts off an older one, which fails with ErrUploadSuperseded. It fails with ErrUploadUnknown,
// with ErrUploadRange when the chunk does not begin at the session's Size, with ErrSizeInvalid when the body is shorter
// or longer than the chunk's Length, with ErrUploadInterrupted when the body can't be read (what came until then is
// kept), and with ErrNoSpace.
func (s *Service) WriteUpload(ctx context.Context, repository, id string, c Chunk) (Upload, error) {
	return Upload{}, errors.ErrUnsupported
}

// FinishUpload appends a last chunk, which may be empty, checks that the whole has digest d, and makes it a blob of the
// repository. It fails as WriteUpload does, and with ErrDigestInvalid, after which the session is as it was before the
// call. Finishing a finished session with the same digest succeeds again, within the hour.
func (s *Service) FinishUpload(ctx context.Context, repository, id string, c Chunk, d digest.Digest) (Descriptor, error) {
	return Descriptor{}, errors.ErrUnsupported
}

// CancelUpload ends a session and frees what it holds. It fails with ErrUploadUnknown.
func (s *Service) CancelUpload(ctx context.Context, repository, id string) error {
	return errors.ErrUnsupported
}

// PushBlob stores a whole blob in one call. It fails with ErrDigestInvalid, ErrUploadInterrupted and ErrNoSpace, after
// which nothing is left of it.
func (s *Service) PushBlob(ctx context.Context, repository string, d digest.Digest, c Chunk) (Descriptor, error) {
	return Descriptor{}, errors.ErrUnsupported
}

// MountBlob makes a blob of another repository appear in this one, and reports whether it could: that the source is
// absent, unreadable or lacks the blob is no error.
func (s *Service) MountBlob(ctx context.Context, repository string, m Mount) (bool, error) {
	return false, errors.ErrUnsupported
}

// DeleteBlob removes a blob from a repository. It fails with ErrBlobUnknown, and with ErrConflict while a manifest of
// the repository references it.
func (s *Service) DeleteBlob(ctx context.Context, repository string, d digest.Digest) error {
	return errors.ErrUnsupported
}

// PutManifest stores a manifest and sets its tags. It fails with ErrManifestInvalid, ErrManifestBlobUnknown (the detail
// lists what is missing), ErrDigestInvalid, ErrTooLarge and ErrNoSpace.
func (s *Service) PutManifest(ctx context.Context, repository string, p ManifestPush) (ManifestPushed, error) {
	return ManifestPushed{}, errors.ErrUnsupported
}

// DeleteManifest removes a manifest and the tags that point to it. It fails with ErrManifestUnknown, and with
// ErrConflict while an index of the repository needs it.
func (s *Service) DeleteManifest(ctx context.Context, repository string, d digest.Digest) error {
	return errors.ErrUnsupported
}

// DeleteTag removes a tag and nothing else. It fails with ErrManifestUnknown.
func (s *Service) DeleteTag(ctx context.Context, repository, tag string) error {
	return errors.ErrUnsupported
}

// Tags lists the tags of a repository, sorted bytewise, and reports whether there are more. It fails with
// ErrNameUnknown.
func (s *Service) Tags(ctx context.Context, repository string, p Page) ([]string, bool, error) {
	return nil, false, errors.ErrUnsupported
}

// Repositories lists the repositories that hold a manifest, sorted bytewise, and reports whether there are more.
func (s *Service) Repositories(ctx context.Context, p Page) ([]string, bool, error) {
	return nil, false, errors.ErrUnsupported
}

// Referrers lists the manifests of a repository whose subject is d, sorted by digest, with their artifact types and
// annotations, and reports whether there are more. An empty artifactType lists all. Page.Last is a digest.
func (s *Service) Referrers(ctx context.Context, repository string, d digest.Digest, artifactType string, p Page) ([]Descriptor, bool, error) {
	return nil, false, errors.ErrUnsupported
}
