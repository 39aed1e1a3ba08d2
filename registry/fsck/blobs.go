package fsck

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"berth/storage"
	"berth/storage/metadata"

	"github.com/opencontainers/go-digest"
	"golang.org/x/time/rate"
)

// blobs checks that every blob has its bytes.
func (c *check) blobs(ctx context.Context) error {
	const often = 64 << 20 // bytes that are read between two reports of progress
	for last := digest.Digest(""); ; {
		blobs, err := c.Metadata.Blobs(ctx, last, page)
		if err != nil {
			return fmt.Errorf("list blobs: %w", err)
		}
		for _, b := range blobs {
			if err := c.blob(ctx, b); err != nil {
				return err
			}
			if c.Rehash && c.report.Bytes-c.shown >= often {
				c.progress()
			}
			last = b.Digest
		}
		c.progress()
		if len(blobs) < page {
			return nil
		}
	}
}

func (c *check) blob(ctx context.Context, b metadata.Blob) error {
	c.report.Blobs++
	c.report.Bytes += b.Size
	if !b.Inline {
		c.outside++
	}
	if !b.Quarantined.IsZero() {
		return c.quarantined(ctx, b)
	}
	problem := c.bytes(ctx, b)
	if isDamage(problem) {
		problem = c.bytes(ctx, b) // what read them may have erred
	}
	if problem == nil {
		c.stored = c.stored || !b.Inline
		return nil
	}
	if current, err := c.current(ctx, b); err != nil || !current {
		return err
	}
	f := Finding{Subject: b.Digest.String(), Problem: problem.Error()}
	switch {
	case !isDamage(problem):
		f.Remedy = "see why it can't be read, and check again"
	case !c.Repair:
		f.Remedy = "registry fsck --repair quarantines it, and then a push of the same content heals it"
	default:
		return c.quarantine(ctx, b, f, problem)
	}
	c.add(f)
	return nil
}

// current reports whether a key is still that of the blob it was listed with.
func (c *check) current(ctx context.Context, b metadata.Blob) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	uses, err := c.Metadata.KeyUses(ctx, []string{b.Key})
	if err != nil {
		return false, fmt.Errorf("look up key %s: %w", b.Key, err)
	}
	return len(uses) == 1 && uses[0].Use == "blob", nil
}

// quarantine quarantines a blob that is damaged.
func (c *check) quarantine(ctx context.Context, b metadata.Blob, f Finding, problem error) (err error) {
	if errors.Is(problem, storage.ErrNotFound) {
		empty, err := c.empty(ctx)
		if err != nil {
			return err
		}
		if empty {
			f.Remedy = "not quarantined, since the blob store has nothing at all: mount its disk, or correct the configuration; " +
				"if everything is lost indeed, push something new and repair again"
			c.add(f)
			return nil
		}
	}
	done, err := c.Metadata.Quarantine(ctx, b.Digest, b.Key)
	if err != nil {
		c.failed(f, err)
		return nil
	}
	if !done { // it has other bytes by now
		return nil
	}
	f.Repaired = "it is quarantined: whoever pulls it is told that it is not there"
	if f.Remedy, err = c.pushAgain(ctx, b.Digest); err != nil {
		return err
	}
	c.add(f)
	return nil
}

var errStored = errors.New("something is stored")

// empty reports whether the blob store has nothing at all: sooner than that all is lost, its disk is not mounted.
func (c *check) empty(ctx context.Context) (bool, error) {
	if c.stored {
		return false, nil
	}
	for _, prefix := range []string{metadata.BlobPrefix, metadata.AdoptedPrefix + "blobs/"} {
		err := c.lister.List(ctx, prefix, func(storage.Object) error { return errStored })
		if err != nil && !errors.Is(err, errStored) {
			return false, fmt.Errorf("list objects: %w", err)
		}
		c.stored = c.stored || err != nil
	}
	return !c.stored, nil
}

// quarantined is about a blob that is quarantined. When all its bytes are read and right after all, the quarantine ends.
func (c *check) quarantined(ctx context.Context, b metadata.Blob) error {
	f := Finding{Subject: b.Digest.String(), Problem: "quarantined since " + b.Quarantined.UTC().Format(time.RFC3339)}
	right := c.Rehash && c.bytes(ctx, b) == nil
	if current, err := c.current(ctx, b); err != nil || !current {
		return err
	}
	var err error
	switch {
	case !right:
		f.Remedy, err = c.pushAgain(ctx, b.Digest)
	case !c.Repair:
		f.Problem += ", and its bytes are right"
		f.Remedy = "registry fsck --rehash --repair ends the quarantine"
	default:
		f.Problem += ", and its bytes are right"
		return c.endQuarantine(ctx, b, f)
	}
	if err == nil {
		c.add(f)
	}
	return err
}

func (c *check) endQuarantine(ctx context.Context, b metadata.Blob, f Finding) error {
	done, err := c.Metadata.EndQuarantine(ctx, b.Digest, b.Key)
	switch {
	case err != nil:
		c.failed(f, err)
	case done:
		f.Repaired = "the quarantine ended"
		c.add(f)
	}
	return nil
}

// pushAgain says where to push a blob that is quarantined, which heals it everywhere.
func (c *check) pushAgain(ctx context.Context, d digest.Digest) (string, error) {
	const some = 3
	names, err := c.Metadata.BlobRepositories(ctx, d, "", some+1)
	if err != nil {
		return "", fmt.Errorf("find the repositories of %s: %w", d, err)
	}
	switch {
	case len(names) == 0:
		return "only the trash has it: it goes with that", nil
	case len(names) > some:
		names[some] = "others"
	}
	return "push it again; it is in " + strings.Join(names, ", "), nil
}

// wrongError says that bytes which were all read are not the blob's.
type wrongError struct {
	key string
	n   int64
	got digest.Digest
}

func (e wrongError) Error() string {
	return fmt.Sprintf("the %d bytes under key %s have digest %s", e.n, e.key, e.got)
}

// isDamage reports whether an error of reading a blob says something about its bytes, and not about how they were read.
func isDamage(err error) bool {
	_, wrong := errors.AsType[wrongError](err)
	return wrong || errors.Is(err, storage.ErrNotFound) || errors.Is(err, storage.ErrShort)
}

// bytes returns what is wrong with a blob's bytes.
func (c *check) bytes(ctx context.Context, b metadata.Blob) error {
	r, err := c.Blobs.Open(ctx, b.Key, b.Size)
	if err != nil {
		return err
	}
	if c.Rehash {
		err = c.rehash(ctx, b, r)
	}
	if closed := r.Close(); closed != nil { // what was read proves nothing then
		return closed
	}
	return err
}

func (c *check) rehash(ctx context.Context, b metadata.Blob, r io.Reader) error {
	sum := b.Digest.Algorithm().Hash()
	n, err := io.CopyBuffer(sum, reader{ctx, r, c.limiter}, c.buffer)
	if err != nil {
		return err
	}
	if got := digest.NewDigest(b.Digest.Algorithm(), sum); got != b.Digest || n != b.Size {
		return wrongError{b.Key, n, got}
	}
	return nil
}

// reader ends with ctx, since rehashing a large blob takes a while, and is not faster than its limiter.
type reader struct {
	ctx context.Context // of the one call that this reader lives in
	io.Reader
	limiter *rate.Limiter
}

func (r reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := r.Reader.Read(p)
	if r.limiter == nil {
		return n, err
	}
	select {
	case <-time.After(r.limiter.ReserveN(time.Now(), n).Delay()):
		return n, err
	case <-r.ctx.Done():
		return n, r.ctx.Err()
	}
}
