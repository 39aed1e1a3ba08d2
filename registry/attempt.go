package registry

import (
	"bytes"
	"context"
	"encoding"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"time"

	"berth/registry/manifest"
	"berth/storage"
	"berth/storage/metadata"

	"github.com/opencontainers/go-digest"
)

// maxConfig is the largest blob in bytes that is looked at for the platform of an image.
const maxConfig = 1 << 20

// attempt is one claim of an upload session: its facts, the hash of its bytes, and their writer.
type attempt struct {
	s     *Service
	facts metadata.Upload
	sum   hash.Hash
	// pending is set as long as no row knows the upload.
	pending bool
	start   int64 // bytes when it was claimed
	// discard is set when the bytes are held already under the digest that the client declared: they are only hashed.
	discard  bool
	declared digest.Digest
	out      storage.Writer // nil until there is a byte to write
	sniffed  *prefix        // the bytes so far while they can be an image config; nil when they are not known
	renewed  time.Time      // when the session's time began anew
	got      int64          // bytes so far
	askAt    int64          // at which of them quotas are asked again
}

// renewEvery is how often a chunk that takes long keeps its session from expiring. It is also how soon a writer learns
// that a newer one took the session over in another process.
const renewEvery = time.Minute

// quotaStride is after how many bytes quotas are asked again whether there is room: a client need not say how much it will send.
const quotaStride = 64 << 20

// claim becomes the newest owner of a session. It fails with ErrUploadUnknown.
func (s *Service) claim(ctx context.Context, repository, id string, declared digest.Digest) (*attempt, error) {
	facts, err := s.facts.ClaimUpload(ctx, repository, id, declared)
	if err != nil {
		return nil, explain(err, ErrUploadUnknown, "claim upload %s", id)
	}
	return s.attempt(ctx, facts, declared)
}

// attempt goes on with an upload that a row knows.
func (s *Service) attempt(ctx context.Context, facts metadata.Upload, declared digest.Digest) (*attempt, error) {
	a := s.newAttempt(facts, declared)
	a.discard = facts.Pinned != "" && facts.Pinned == declared
	if err := a.fetch(ctx); err != nil {
		return nil, explain(err, nil, "resume upload %s", facts.ID)
	}
	if facts.HashState == nil || facts.Committed != "" {
		return a, nil
	}
	if err := a.sum.(encoding.BinaryUnmarshaler).UnmarshalBinary(facts.HashState); err != nil {
		return nil, fmt.Errorf("resume upload %s: %w", facts.ID, err)
	}
	return a, nil
}

// attemptPending goes on with an upload that is pending.
func (s *Service) attemptPending(facts metadata.Upload, declared digest.Digest) *attempt {
	a := s.newAttempt(facts, declared)
	a.pending = true
	a.facts.Content = slices.Clip(facts.Content) // an attempt that fails changes nothing
	a.sum.Write(facts.Content)
	return a
}

func (s *Service) newAttempt(facts metadata.Upload, declared digest.Digest) *attempt {
	a := &attempt{s: s, facts: facts, start: facts.Size, declared: declared, renewed: time.Now(), got: facts.Size, askAt: facts.Size + quotaStride}
	if facts.Size == 0 {
		a.sniffed = &prefix{}
		if declared != "" {
			a.facts.Algorithm = declared.Algorithm()
		}
	}
	a.sum = a.facts.Algorithm.Hash()
	return a
}

// fetch fills Content while the upload has few bytes.
func (a *attempt) fetch(ctx context.Context) error {
	switch {
	case a.discard || a.facts.Committed != "" || a.facts.Size > int64(a.s.inline) || a.s.inline == 0:
		return nil
	case a.facts.Size == 0:
		a.facts.Content = []byte{}
		return nil
	}
	content, ok, err := a.s.facts.SmallObject(ctx, a.facts.Key)
	if ok && int64(len(content)) >= a.facts.Size { // else the blob store has it
		a.facts.Content = content[:a.facts.Size]
	}
	return err
}

// append reads a chunk and adds it to the session's bytes, not yet durably.
func (a *attempt) append(ctx context.Context, c Chunk) error {
	n, err := a.s.receive(attemptWriter{ctx, a}, a.sum, c)
	a.facts.Size += n
	return explainWrite(err, "write upload %s", a.facts.ID)
}

// attemptWriter opens the bytes' writer with the first byte, so that empty chunks touch no storage.
type attemptWriter struct {
	ctx context.Context // of the one call that this writer lives in
	a   *attempt
}

func (w attemptWriter) Write(p []byte) (n int, err error) {
	a := w.a
	if len(p) == 0 {
		return 0, nil
	}
	if !a.pending && time.Since(a.renewed) > renewEvery {
		if err := a.s.facts.RenewUpload(w.ctx, a.facts); err != nil {
			return 0, err
		}
		a.renewed = time.Now()
	}
	if a.sniffed != nil {
		a.sniffed.add(p)
	}
	if a.discard {
		return len(p), nil
	}
	if a.got += int64(len(p)); a.got > a.askAt {
		if err := a.s.checkQuota(w.ctx, a.facts.Repository, a.got, a.declared); err != nil {
			return 0, err
		}
		a.askAt += quotaStride
	}
	a.facts.Config = nil
	if a.facts.Content != nil && len(a.facts.Content)+len(p) <= a.s.inline {
		if int64(len(a.facts.Content)) == a.start { // once for each chunk, as who writes a file does
			if err := a.s.room(); err != nil {
				return 0, err
			}
		}
		a.facts.Content = append(a.facts.Content, p...)
		return len(p), nil
	}
	if err := a.open(w.ctx); err != nil || a.discard {
		return len(p), err
	}
	return a.out.Write(p)
}

// open opens the writer, and gives it what was too little for it until now.
func (a *attempt) open(ctx context.Context) (err error) {
	if a.out != nil {
		return nil
	}
	content := a.facts.Content
	if a.pending {
		if err := a.keep(ctx); err != nil || a.discard {
			return err
		}
	}
	from := a.at()
	if content != nil {
		from.Size = 0
	}
	if a.out, err = a.s.blobs.Write(ctx, from); err != nil {
		return err
	}
	a.facts.Content, a.facts.Outgrown = nil, content != nil && a.facts.Size > 0
	_, err = a.out.Write(content)
	return err
}

// keep has a row know the upload: all of it at the end of a chunk, and within one what there was before.
func (a *attempt) keep(ctx context.Context) error {
	kept, err := a.s.keep(ctx, a.facts, a.declared)
	if err != nil {
		return err
	}
	a.facts, a.pending = kept, false
	if a.discard = a.facts.Pinned != ""; a.discard {
		a.facts.Content = nil
	}
	return nil
}

func (a *attempt) at() storage.Checkpoint {
	return storage.Checkpoint{Key: a.facts.Key, Size: a.facts.Size, State: a.facts.State, Spare: a.facts.Spare}
}

// checkpoint makes the bytes durable and then records how far they go.
func (a *attempt) checkpoint(ctx context.Context) error {
	if a.facts.Size == a.start || a.discard {
		return nil
	}
	if a.pending && a.s.pending.put(a.facts) {
		return nil
	}
	if a.pending { // there is no room for it
		return explain(a.keep(ctx), nil, "checkpoint upload %s", a.facts.ID)
	}
	if err := a.sync(ctx); err != nil {
		return err
	}
	state, err := a.sum.(encoding.BinaryMarshaler).MarshalBinary()
	if err != nil {
		return fmt.Errorf("checkpoint upload %s: %w", a.facts.ID, err)
	}
	a.facts.HashState = state
	a.facts.Config = a.sniffed.config()
	return explain(a.s.facts.CheckpointUpload(ctx, a.facts), nil, "checkpoint upload %s", a.facts.ID)
}

// sync makes the bytes durable.
func (a *attempt) sync(ctx context.Context) error {
	if a.out == nil {
		return nil
	}
	if a.facts.Spare != "" {
		// Of two claims that go on with one upload in different processes, the older learns here that it is: it should not
		// send the last bytes that it has.
		if err := a.s.facts.RenewUpload(ctx, a.facts); err != nil {
			return explain(err, nil, "sync upload %s", a.facts.ID)
		}
	}
	c, err := a.out.Checkpoint(ctx)
	if err != nil {
		return explainWrite(err, "sync upload %s", a.facts.ID)
	}
	a.facts.Size, a.facts.State = c.Size, c.State
	if c.Key != a.facts.Key {
		a.facts.Left, a.facts.Key, a.facts.Spare = a.facts.Key, c.Key, ""
	}
	return nil
}

// commit makes the session's bytes the blob d, when they have that digest.
func (a *attempt) commit(ctx context.Context, d digest.Digest) error {
	sameAlgorithm := d.Algorithm() == a.facts.Algorithm
	if sameAlgorithm {
		if err := checkDigest(a.sum, d); err != nil {
			return err
		}
	}
	if !a.discard && a.facts.Content == nil {
		if err := a.complete(ctx); err != nil {
			return err
		}
	}
	if !sameAlgorithm {
		if err := a.rehash(ctx, d); err != nil {
			return err
		}
	}
	if err := a.readConfig(ctx); err != nil {
		return err
	}
	err := a.record(ctx, d)
	if errors.Is(err, metadata.ErrQuarantined) { // since the client began: the bytes that it sent were not kept
		return ErrUnavailable.Withf("the registry's copy of blob %s was found to be damaged: push it again", d)
	}
	return explain(err, nil, "commit blob %s", d)
}

// record makes the upload the blob d, in one transaction.
func (a *attempt) record(ctx context.Context, d digest.Digest) error {
	if !a.pending {
		return a.s.facts.CommitUpload(ctx, a.facts, d)
	}
	err := a.s.facts.CommitWhole(ctx, a.facts, d)
	if err == nil {
		a.s.pending.remove(a.facts.Repository, a.facts.ID)
	}
	return err
}

// complete makes the bytes durable and readable under their key.
func (a *attempt) complete(ctx context.Context) error {
	if a.out == nil && a.facts.Size == 0 {
		// An empty blob has an object too: every key of a blob does.
		out, err := a.s.blobs.Write(ctx, a.at())
		if err != nil {
			return explain(err, nil, "write upload %s", a.facts.ID)
		}
		a.out = out
	}
	if err := a.sync(ctx); err != nil {
		return err
	}
	return explainWrite(a.s.blobs.Complete(ctx, a.at()), "complete upload %s", a.facts.ID)
}

// explainWrite explains an error of writing. Bytes that were checkpointed and are not there any more can only be sent again.
func explainWrite(err error, format string, args ...any) error {
	if errors.Is(err, storage.ErrNotFound) {
		return fmt.Errorf("%w: %w", ErrUploadUnknown, err)
	}
	if errors.Is(err, storage.ErrTooLarge) {
		return ErrTooLarge.Withf("%v", err)
	}
	return explain(err, nil, format, args...)
}

func checkDigest(sum hash.Hash, d digest.Digest) error {
	if got := digest.NewDigest(d.Algorithm(), sum); got != d {
		return ErrDigestInvalid.Withf("the uploaded bytes have digest %s, not %s", got, d)
	}
	return nil
}

// rehash reads the bytes back to check a digest of an algorithm that was not announced when the session began.
func (a *attempt) rehash(ctx context.Context, d digest.Digest) error {
	r, err := a.read(ctx)
	if err != nil {
		return err
	}
	defer r.Close()
	sum := d.Algorithm().Hash()
	if _, err := io.Copy(sum, r); err != nil {
		return fmt.Errorf("read upload %s: %w", a.facts.ID, err)
	}
	return checkDigest(sum, d)
}

// read reads the upload's bytes back, which are complete.
func (a *attempt) read(ctx context.Context) (io.ReadCloser, error) {
	if a.facts.Content != nil {
		return io.NopCloser(bytes.NewReader(a.facts.Content)), nil
	}
	r, err := a.s.blobs.Open(ctx, a.facts.Key, a.facts.Size)
	return r, explain(err, nil, "read upload %s", a.facts.ID)
}

// readConfig finds out whether the bytes are an image config: from those that passed by, else, when they came in several
// chunks and are few, from storage.
func (a *attempt) readConfig(ctx context.Context) error {
	if a.discard || a.facts.Config != nil {
		return nil
	}
	if a.sniffed != nil {
		a.facts.Config = a.sniffed.config()
		return nil
	}
	a.facts.Config = &metadata.ImageConfig{}
	if a.facts.Size > maxConfig {
		return nil
	}
	r, err := a.read(ctx)
	if err != nil {
		return err
	}
	defer r.Close()
	p := &prefix{}
	if _, err := io.Copy(p, r); err != nil {
		return fmt.Errorf("read upload %s: %w", a.facts.ID, err)
	}
	a.facts.Config = p.config()
	return nil
}

// close gives up what the attempt holds open. Bytes that were not checkpointed are dropped by the next claim.
func (a *attempt) close() {
	if a.out != nil {
		_ = a.out.Close() // everything that counts was synced before
	}
}

// prefix keeps the first bytes of an upload while they can be an image config, which is a JSON object.
type prefix struct {
	bytes   []byte
	refused bool
}

func (p *prefix) add(b []byte) {
	if p.refused {
		return
	}
	if len(p.bytes) == 0 {
		b = bytes.TrimLeft(b, " \t\r\n")
	}
	if len(p.bytes)+len(b) > maxConfig || len(p.bytes) == 0 && len(b) > 0 && b[0] != '{' {
		p.refused, p.bytes = true, nil
		return
	}
	p.bytes = append(p.bytes, b...)
}

// Write makes prefix an io.Writer.
func (p *prefix) Write(b []byte) (int, error) {
	if len(b) > 0 {
		p.add(b)
	}
	return len(b), nil
}

// config returns what the bytes say when they are an image config, and a zero one when they are none. Of bytes that are
// not known it returns nil.
func (p *prefix) config() *metadata.ImageConfig {
	if p == nil {
		return nil
	}
	c, _ := manifest.ParseConfig(p.bytes)
	return &metadata.ImageConfig{OS: c.OS, Architecture: c.Architecture, Variant: c.Variant, Created: c.Created}
}

func isInterrupted(err error) bool { return errors.Is(err, ErrUploadInterrupted) }
