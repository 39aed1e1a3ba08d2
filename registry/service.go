package registry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"berth/storage"
	"berth/storage/metadata"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/time/rate"
)

// Config is what a Service works with. Blobs and Metadata have to be set.
type Config struct {
	Blobs    storage.Blobs
	Metadata *metadata.Store
	// Inline is the most bytes of a blob that Metadata keeps, where Blobs has to find them, as storage/small does. Zero keeps none there. It is
	// for Metadata that is Alone.
	Inline int
	// Journal has new uploads of so few bytes, which no transaction has recorded yet. Then RecoverUploads has to be called with what it had,
	// FollowUploads has to run, and KeepUploads to be called at the end. Nil has every upload be recorded when it begins.
	Journal Journal
	// ChildRequired reports whether a manifest that an index lists for a platform has to be there when the index is
	// pushed. Nil requires all. The platform is nil where the index names none.
	ChildRequired func(*v1.Platform) bool
	// SparseImages accepts images of which the repository lacks layers. The config has to be there all the same.
	SparseImages bool
	// Coverage says which platforms tags have to be for.
	Coverage []CoveragePolicy
	// Indexes says of which tags the registry makes indexes. The first rule that matches a tag counts.
	Indexes []IndexRule
	// Immutable reports whether a tag never moves once it is set. Nil says that of none.
	Immutable func(repository, tag string) bool
	// SparseDeletes lets a manifest be deleted that a client's index lists. The index stays, without it.
	SparseDeletes bool
	// Redirect has clients read blobs from the blob store by themselves, where that is a storage.Linker.
	Redirect bool
	// URLAllowed reports whether a layer that is kept elsewhere may be at a URL. Nil allows all.
	URLAllowed func(url string) bool
	// Log receives what clients can't do anything about. It may be nil.
	Log *slog.Logger
}

// Service is the registry. Make it with New. Its methods may be called at the same time.
type Service struct {
	blobs         storage.Blobs
	facts         *metadata.Store
	childRequired func(*v1.Platform) bool
	sparseImages  bool
	urlAllowed    func(url string) bool
	coverage      []CoveragePolicy
	indexes       []IndexRule
	immutable     func(repository, tag string) bool
	sparseDeletes bool
	links         storage.Linker // nil unless clients are to read from the blob store
	sessions      sessions
	pending       pending
	inline        int
	pulls         pulls
	buffers       buffers
	small         smallBlobs
	log           *slog.Logger
	lost          rate.Sometimes // logs blobs without bytes
}

// New returns a registry over what c names.
func New(c Config) *Service {
	if c.ChildRequired == nil {
		c.ChildRequired = func(*v1.Platform) bool { return true }
	}
	if c.URLAllowed == nil {
		c.URLAllowed = func(string) bool { return true }
	}
	if c.Immutable == nil {
		c.Immutable = func(string, string) bool { return false }
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	s := &Service{
		log: c.Log, lost: rate.Sometimes{First: 10, Interval: time.Minute},
		blobs: c.Blobs, facts: c.Metadata, inline: c.Inline,
		childRequired: c.ChildRequired, sparseImages: c.SparseImages, urlAllowed: c.URLAllowed, coverage: c.Coverage,
		indexes: c.Indexes, immutable: c.Immutable, sparseDeletes: c.SparseDeletes,
	}
	if s.inline > 0 {
		s.pending.journal = c.Journal
	}
	s.buffers.size = bufferSize
	if _, ok := c.Blobs.(storage.Parted); ok {
		s.buffers.size = partBufferSize
	}
	if c.Redirect {
		s.links, _ = c.Blobs.(storage.Linker)
	}
	return s
}

// Blob returns the descriptor of a blob of a repository, and makes sure that the blob stays for the lease time, so that a
// client may rely on it when it pushes a manifest. It fails with ErrBlobUnknown.
func (s *Service) Blob(ctx context.Context, repository string, d digest.Digest) (Descriptor, error) {
	b, err := s.facts.LeaseBlob(ctx, repository, d)
	if err != nil {
		return Descriptor{}, explain(err, ErrBlobUnknown, "find blob %s", d)
	}
	return blobDescriptor(d, b.Size), nil
}

// OpenBlob opens a blob of a repository. It fails with ErrBlobUnknown, also when its bytes are missing.
func (s *Service) OpenBlob(ctx context.Context, repository string, d digest.Digest) (*Blob, error) {
	b, err := s.facts.Blob(ctx, repository, d)
	if err != nil {
		return nil, explain(err, ErrBlobUnknown, "find blob %s", d)
	}
	if r, ok := s.small.open(b.Key, b.Size); ok {
		return &Blob{Descriptor: blobDescriptor(d, b.Size), ReadSeekCloser: r}, nil
	}
	r, err := s.blobs.Open(ctx, b.Key, b.Size)
	if err == nil {
		r, err = s.small.remember(b.Key, d, b.Size, r)
	}
	if errors.Is(err, storage.ErrNotFound) || errors.Is(err, storage.ErrShort) {
		s.lost.Do(func() {
			s.log.Error("a blob has no bytes, or not all: registry fsck --repair quarantines such blobs, so that a push heals them",
				"repository", repository, "digest", d, "key", b.Key, "error", err)
		})
		return nil, errLost
	}
	if err != nil {
		return nil, explain(err, nil, "open blob %s", d)
	}
	return &Blob{Descriptor: blobDescriptor(d, b.Size), ReadSeekCloser: r}, nil
}

// LinkBlob returns the descriptor of a blob of a repository, and a URL under which anybody can read it for some minutes, as content of
// type application/octet-stream. The URL is empty where clients are not to read from the blob store. It fails with
// ErrBlobUnknown.
func (s *Service) LinkBlob(ctx context.Context, repository string, d digest.Digest) (_ Descriptor, url string, err error) {
	if s.links == nil {
		return Descriptor{}, "", nil
	}
	b, err := s.facts.Blob(ctx, repository, d)
	if err != nil {
		return Descriptor{}, "", explain(err, ErrBlobUnknown, "find blob %s", d)
	}
	found := blobDescriptor(d, b.Size)
	url, err = s.links.Link(ctx, b.Key, found.MediaType)
	return found, url, explain(err, nil, "link to blob %s", d)
}

// MountBlob makes a blob of another repository appear in this one, and reports whether it could: that the source is
// absent, unreadable or lacks the blob is no error. It fails with ErrDenied when a quota has no room for it.
func (s *Service) MountBlob(ctx context.Context, repository string, m Mount) (bool, error) {
	source, err := s.mountSource(ctx, m)
	if err != nil || source == "" {
		return false, err
	}
	err = s.facts.MountBlob(ctx, repository, source, m.Digest)
	if errors.Is(err, metadata.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, explain(err, nil, "mount blob %s", m.Digest)
	}
	return true, nil
}

// mountSource returns a repository that the client may take a blob from, or nothing.
func (s *Service) mountSource(ctx context.Context, m Mount) (string, error) {
	if m.From != "" {
		if !m.Readable(m.From) {
			return "", nil
		}
		return m.From, nil
	}
	const page = 100
	for last := ""; ; {
		names, err := s.facts.BlobRepositories(ctx, m.Digest, last, page)
		if err != nil {
			return "", explain(err, nil, "find blob %s", m.Digest)
		}
		for _, name := range names {
			if m.Readable(name) {
				return name, nil
			}
		}
		if len(names) < page {
			return "", nil
		}
		last = names[page-1]
	}
}

// MinChunk returns how many bytes each chunk of an upload but the last should have; 0 where that makes no difference. Smaller ones
// are taken too.
func (s *Service) MinChunk() int64 {
	if b, ok := s.blobs.(storage.Parted); ok {
		return b.MinPart()
	}
	return 0
}

// room fails with ErrNoSpace when the last free space is to be kept for deletes and their bookkeeping.
func (s *Service) room() error {
	if b, ok := s.blobs.(storage.Limited); ok {
		return explain(b.Room(), nil, "look for room")
	}
	return nil
}

func blobDescriptor(d digest.Digest, size int64) Descriptor {
	return Descriptor{MediaType: "application/octet-stream", Digest: d, Size: size}
}

// explain turns an error of storage into what a client should be told: absent when it says that something was not found,
// else the subject wrapped around it. Errors that are for clients already are left alone.
func explain(err error, absent *Error, format string, args ...any) error {
	var told *Error
	var exceeded *metadata.QuotaError
	switch {
	case err == nil || errors.As(err, &told):
		return err
	case errors.As(err, &exceeded):
		return explainQuota(exceeded)
	case errors.Is(err, metadata.ErrQuarantined):
		return errQuarantined
	case absent != nil && errors.Is(err, metadata.ErrNotFound):
		return absent
	case errors.Is(err, metadata.ErrSuperseded):
		return ErrUploadSuperseded
	case errors.Is(err, storage.ErrNoSpace), errors.Is(err, metadata.ErrNoSpace):
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	case errors.Is(err, metadata.ErrUnavailable), errors.Is(err, storage.ErrUnavailable):
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), err)
}
