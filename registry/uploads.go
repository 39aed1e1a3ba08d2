package registry

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"hash"
	"io"
	"math"

	"berth/storage/metadata"

	"github.com/opencontainers/go-digest"
)

// StartUpload begins an upload session whose bytes will be hashed with algorithm, or with sha256 when that is empty. It fails with
// ErrNoSpace, and with ErrDenied when a quota has no room left.
func (s *Service) StartUpload(ctx context.Context, repository string, algorithm digest.Algorithm) (Upload, error) {
	if algorithm == "" {
		algorithm = digest.Canonical
	}
	if err := s.room(); err != nil {
		return Upload{}, err
	}
	if err := s.checkQuota(ctx, repository, 0, ""); err != nil {
		return Upload{}, err
	}
	u := metadata.Upload{ID: newUploadID(), Repository: repository, Algorithm: algorithm, Content: []byte{}}
	if s.pending.put(u) {
		return asUpload(u), nil
	}
	u, err := s.facts.StartUpload(ctx, u.ID, repository, algorithm, "")
	if err != nil {
		return Upload{}, explain(err, nil, "start upload to %s", repository)
	}
	return asUpload(u), nil
}

// UploadStatus returns the state of a session. It fails with ErrUploadUnknown.
func (s *Service) UploadStatus(ctx context.Context, repository, id string) (Upload, error) {
	if u, ok := s.pending.get(repository, id); ok {
		return asUpload(u), nil
	}
	u, err := s.facts.Upload(ctx, repository, id)
	if err == nil && u.Committed != "" {
		err = metadata.ErrNotFound
	}
	if err != nil {
		return Upload{}, explain(err, ErrUploadUnknown, "find upload %s", id)
	}
	return asUpload(u), nil
}

// WriteUpload appends a chunk and returns the session's state, also beside an error where it is known. A session has
// one writer: a newer call cuts off an older one, which fails with ErrUploadSuperseded and leaves nothing. It fails with
// ErrUploadUnknown, with ErrUploadRange when the chunk does not begin at the session's Size, with ErrSizeInvalid when the
// body is shorter or longer than the chunk's Length, with ErrUploadInterrupted when the body can't be read (what came
// until then is kept), with ErrNoSpace, and with ErrDenied when a quota has no room for so much.
func (s *Service) WriteUpload(ctx context.Context, repository, id string, c Chunk) (Upload, error) {
	h, err := s.sessions.take(ctx, sessionKey(repository, id), c.Body)
	if err != nil {
		return Upload{}, err
	}
	defer s.sessions.leave(sessionKey(repository, id), h)
	a, err := s.claimNext(ctx, repository, id)
	if err != nil {
		return Upload{}, err
	}
	defer a.close()
	if a.facts.Committed != "" {
		return Upload{}, ErrUploadUnknown
	}
	start := asUpload(a.facts)
	if err := c.checkOffset(start.Size); err != nil {
		return start, err
	}
	if err := s.checkQuota(ctx, repository, c.end(start.Size), ""); err != nil {
		return start, err
	}
	interrupted := a.append(ctx, c)
	if h.superseded.Load() {
		return start, ErrUploadSuperseded
	}
	if interrupted != nil && !isInterrupted(interrupted) {
		return start, interrupted
	}
	// The client may be gone. What it sent is worth keeping all the same.
	if err := a.checkpoint(context.WithoutCancel(ctx)); err != nil {
		return start, err
	}
	return asUpload(a.facts), interrupted
}

// FinishUpload appends a last chunk, which may be empty, checks that the whole has digest d, and makes it a blob of the
// repository. It fails as WriteUpload does, and with ErrDigestInvalid; after a failure the session is as it was before
// the call. Finishing a finished session with the same digest succeeds again, within the hour.
func (s *Service) FinishUpload(ctx context.Context, repository, id string, c Chunk, d digest.Digest) (Descriptor, error) {
	h, err := s.sessions.take(ctx, sessionKey(repository, id), c.Body)
	if err != nil {
		return Descriptor{}, err
	}
	defer s.sessions.leave(sessionKey(repository, id), h)
	a, err := s.claimLast(ctx, repository, id, c, d)
	if err != nil {
		return Descriptor{}, err
	}
	defer a.close()
	if a.facts.Committed != "" {
		return s.finished(ctx, repository, a.facts.Committed, d)
	}
	if err := c.checkOffset(a.facts.Size); err != nil {
		return Descriptor{}, err
	}
	if err := s.checkQuota(ctx, repository, c.end(a.facts.Size), d); err != nil {
		return Descriptor{}, err
	}
	err = a.append(ctx, c)
	if h.superseded.Load() {
		return Descriptor{}, ErrUploadSuperseded
	}
	if err == nil {
		err = a.commit(context.WithoutCancel(ctx), d)
	}
	return blobDescriptor(d, a.facts.Size), err
}

// claimNext claims a session for a chunk. Where this process is the only one, its sessions keep writers apart, and the first chunk needs no
// claim: it costs a transaction, which waits for those that are being synced.
func (s *Service) claimNext(ctx context.Context, repository, id string) (*attempt, error) {
	if u, ok := s.pending.get(repository, id); ok {
		return s.attemptPending(u, ""), nil
	}
	if s.facts.Alone() {
		facts, err := s.facts.Upload(ctx, repository, id)
		if err == nil && facts.Fresh() {
			return s.attempt(ctx, facts, "")
		}
	}
	return s.claim(ctx, repository, id, "")
}

// claimLast claims a session for its last chunk. When there are no more bytes to write, and nobody else may be writing any, it is enough to
// have read it: a claim would only keep others out for the moment until it is committed.
func (s *Service) claimLast(ctx context.Context, repository, id string, c Chunk, d digest.Digest) (*attempt, error) {
	if u, ok := s.pending.get(repository, id); ok {
		return s.attemptPending(u, d), nil
	}
	if c.Body == nil || c.Length == 0 {
		facts, err := s.facts.Upload(ctx, repository, id)
		if err == nil && facts.Committed == "" && facts.Pinned == "" && facts.Size > 0 && facts.Spare == "" {
			facts.Unclaimed = true
			return s.attempt(ctx, facts, d)
		}
	}
	return s.claim(ctx, repository, id, d)
}

// finished answers a request to finish what is finished: its first answer may have been lost.
func (s *Service) finished(ctx context.Context, repository string, committed, d digest.Digest) (Descriptor, error) {
	if committed != d {
		return Descriptor{}, ErrUploadUnknown
	}
	found, err := s.Blob(ctx, repository, d)
	if errors.Is(err, ErrBlobUnknown) {
		err = ErrUploadUnknown // the blob was deleted since
	}
	return found, err
}

// CancelUpload ends a session and frees what it holds. It fails with ErrUploadUnknown.
func (s *Service) CancelUpload(ctx context.Context, repository, id string) error {
	h, err := s.sessions.take(ctx, sessionKey(repository, id), nil)
	if err != nil {
		return err
	}
	defer s.sessions.leave(sessionKey(repository, id), h)
	if s.pending.remove(repository, id) {
		return nil
	}
	return explain(s.facts.CancelUpload(ctx, repository, id), ErrUploadUnknown, "cancel upload %s", id)
}

// PushBlob stores a whole blob in one call. It fails with ErrDigestInvalid, ErrSizeInvalid, ErrUploadInterrupted,
// ErrNoSpace, and ErrDenied when a quota has no room for it, after which nothing is left of it.
func (s *Service) PushBlob(ctx context.Context, repository string, d digest.Digest, c Chunk) (Descriptor, error) {
	if held, err := s.Blob(ctx, repository, d); err == nil {
		return held, s.pushAgain(ctx, repository, d, c)
	}
	if err := s.room(); err != nil {
		return Descriptor{}, err
	}
	if err := s.checkQuota(ctx, repository, c.Length, d); err != nil {
		return Descriptor{}, err
	}
	a, err := s.startWhole(ctx, repository, d)
	if err != nil {
		return Descriptor{}, explain(err, nil, "start upload to %s", repository)
	}
	defer a.close()
	if err = a.append(ctx, c); err == nil {
		err = a.commit(context.WithoutCancel(ctx), d)
	}
	if err == nil || a.pending {
		return blobDescriptor(d, a.facts.Size), err
	}
	if cancelled := s.facts.CancelUpload(context.WithoutCancel(ctx), repository, a.facts.ID); cancelled != nil {
		return Descriptor{}, fmt.Errorf("%w (and its session is left to expire: %w)", err, cancelled)
	}
	return Descriptor{}, err
}

// startWhole begins an upload whose first chunk is its last, which nobody else can know of.
func (s *Service) startWhole(ctx context.Context, repository string, d digest.Digest) (*attempt, error) {
	id := newUploadID()
	if s.inline > 0 {
		return s.attemptPending(metadata.Upload{ID: id, Repository: repository, Algorithm: d.Algorithm(), Content: []byte{}}, d), nil
	}
	facts, err := s.facts.StartUpload(ctx, id, repository, d.Algorithm(), d)
	if err != nil {
		return nil, err
	}
	return s.attempt(ctx, facts, d)
}

// pushAgain takes a blob that the repository has: what comes is hashed, and nothing is written. The answer is as good as that to a push, since
// nobody sees a link before it is durable, and the blob stays as long as after a HEAD.
func (s *Service) pushAgain(ctx context.Context, repository string, d digest.Digest, c Chunk) error {
	sum := d.Algorithm().Hash()
	if _, err := s.receive(io.Discard, sum, c); err != nil {
		return err
	}
	if err := checkDigest(sum, d); err != nil {
		return err
	}
	_, err := s.Blob(ctx, repository, d)
	if errors.Is(err, ErrBlobUnknown) { // since the client began: its bytes were not kept
		return ErrUnavailable.Withf("blob %s went away while it was pushed again: push it once more", d)
	}
	return err
}

// receive reads a chunk, writes and hashes it, and returns how many bytes it had.
func (s *Service) receive(out io.Writer, sum hash.Hash, c Chunk) (int64, error) {
	if c.Body == nil || c.Length == 0 {
		return 0, nil
	}
	n, err := s.buffers.transfer(out, sum, c.read())
	var reading readError
	switch {
	case errors.As(err, &reading):
		err = fmt.Errorf("%w: %w", ErrUploadInterrupted, reading)
	case err == nil && c.Length >= 0 && n != c.Length:
		err = ErrSizeInvalid.Withf("the body does not have the %d bytes that its headers promise", c.Length)
	}
	return n, err
}

func (c Chunk) checkOffset(size int64) error {
	if c.Offset >= 0 && c.Offset != size {
		return ErrUploadRange.Withf("the chunk begins at byte %d but the upload ends at %d: ask for the upload's status and go on from there", c.Offset, size)
	}
	return nil
}

// end is how large an upload is with the chunk, at the least: a client may promise more than a number holds.
func (c Chunk) end(size int64) int64 { return size + min(max(c.Length, 0), math.MaxInt64-size) }

// read returns the chunk's body, cut off one byte after its length so that too much is noticed.
func (c Chunk) read() io.Reader {
	if c.Length >= 0 {
		return io.LimitReader(c.Body, c.Length+1)
	}
	return c.Body
}

func asUpload(u metadata.Upload) Upload { return Upload{ID: u.ID, Size: u.Size} }

func sessionKey(repository, id string) string { return repository + "/" + id }

// newUploadID returns a random UUID: the form that clients of Docker-Upload-UUID know.
func newUploadID() string {
	var raw [16]byte
	rand.Read(raw[:]) // never fails
	raw[6] = raw[6]&0x0f | 0x40
	raw[8] = raw[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", raw[:4], raw[4:6], raw[6:8], raw[8:10], raw[10:])
}
