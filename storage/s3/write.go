package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/url"

	"berth/storage"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

const (
	// copySize is how much a request has the server copy, so that none takes too long.
	copySize = 1 << 30
	// lanes keep the claims that go on in one multipart upload apart: each takes every eighth part number, from a random one on.
	// A claim that was superseded but does not know it yet then seldom replaces a part of the newer one. Should it all the same,
	// the newer one's upload can't be completed any more and has to be repeated; no other bytes get into the object.
	lanes = 8
)

var errSpare = errors.New("it can't be appended to, and no spare key was given")

// Write implements storage.Blobs.
func (s *Store) Write(ctx context.Context, from storage.Checkpoint) (storage.Writer, error) {
	w := s.newWriter(ctx, from.Key)
	if err := w.resume(ctx, from); err != nil {
		return nil, wrap("write", from.Key, errors.Join(err, w.Close()))
	}
	return w, nil
}

// resume makes the writer go on from a checkpoint: in the same multipart upload where S3 allows that, else under the spare key.
func (w *writer) resume(ctx context.Context, from storage.Checkpoint) error {
	if err := begin(ctx, from.Key); err != nil {
		return err
	}
	if from.Size == 0 {
		w.buffer.reset(w.store.partSize(1))
		return nil
	}
	if len(from.State) > 0 {
		u, err := parse(from.State)
		if err == nil {
			err = u.check(from.Size)
		}
		if err != nil {
			return err
		}
		if u.extensible() && u.next() < maxParts/2 {
			w.goOn(u)
			return nil
		}
		if err := w.store.completeUpload(ctx, from.Key, u); err != nil {
			return err
		}
	}
	if from.Spare == "" {
		return errSpare
	}
	if err := storage.CheckKey(from.Spare); err != nil {
		return err
	}
	w.key = from.Spare
	if from.Size < minPart {
		w.buffer.reset(w.store.partSize(1))
		return w.fetch(ctx, from)
	}
	return w.copy(ctx, from)
}

// goOn takes over a multipart upload.
func (w *writer) goOn(u upload) {
	u.Shared = true
	w.upload, w.number, w.sent = u, u.next()-1, u.size()
	w.step, w.lane = lanes, rand.Int32N(lanes)
	w.buffer.reset(w.store.partSize(w.number))
}

// fetch begins with the bytes of a small object.
func (w *writer) fetch(ctx context.Context, from storage.Checkpoint) error {
	r, err := w.store.Open(ctx, from.Key, from.Size)
	var short shortError
	if errors.As(err, &short) {
		return fmt.Errorf("%w: %w", storage.ErrNotFound, short)
	}
	if err != nil {
		return err
	}
	defer r.Close()
	piece := make([]byte, slabSize)
	for w.buffer.size < from.Size {
		n, err := r.Read(piece[:min(slabSize, from.Size-w.buffer.size)])
		if _, err := w.buffer.add(ctx, piece[:n]); err != nil {
			return err
		}
		if err == io.EOF && w.buffer.size < from.Size {
			return io.ErrUnexpectedEOF
		}
		if err != nil && err != io.EOF {
			return err
		}
	}
	return nil
}

// copy begins with the bytes of a large object, which the server copies. The parts of such an upload have no checksums: servers
// don't agree on those of copied parts, and want them of all parts or of none.
func (w *writer) copy(ctx context.Context, from storage.Checkpoint) error {
	if err := w.store.holds(ctx, from.Key, from.Size); err != nil {
		return err
	}
	u, err := w.store.createUpload(ctx, w.key, ChecksumOff)
	if err != nil {
		return err
	}
	n := (from.Size + copySize - 1) / copySize // equal pieces, since a small last one could not be followed by others
	for i := range n {
		p, err := w.store.copyPart(ctx, w.key, u, int32(i+1), from.Key, from.Size*i/n, from.Size*(i+1)/n)
		if err != nil {
			return err
		}
		u.Parts = append(u.Parts, p)
	}
	w.upload, w.number, w.sent = u, u.next()-1, from.Size
	w.buffer.reset(w.store.partSize(w.number))
	return nil
}

// copyPart makes the bytes [begin, end) of an object a part.
func (s *Store) copyPart(ctx context.Context, key string, u upload, number int32, source string, begin, end int64) (part, error) {
	out, err := s.client.UploadPartCopy(takesLong(ctx), &s3.UploadPartCopyInput{
		Bucket:          s.bucket,
		Key:             s.object(key),
		UploadId:        aws.String(u.ID),
		PartNumber:      aws.Int32(number),
		CopySource:      aws.String((&url.URL{Path: s.config.Bucket + "/" + *s.object(source)}).EscapedPath()),
		CopySourceRange: aws.String(byteRange(begin, end)),
	})
	if err != nil {
		return part{}, fmt.Errorf("copy part %d: %w", number, err)
	}
	p := part{Number: number, Size: end - begin, ETag: unquote(out.CopyPartResult.ETag)}
	if p.ETag == "" {
		return part{}, fmt.Errorf("copy part %d: the server named no ETag", number)
	}
	return p, nil
}
