package s3

import (
	"context"
	"errors"
	"fmt"
	"io"

	"berth/storage"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// maxResumes is how often a reader goes on after its connection broke.
const maxResumes = 8

// Open implements storage.Blobs. It asks for the whole object at once, so that reading it is one request. Seeking costs nothing, and
// reading on elsewhere another one. The reader uses ctx until it is closed.
func (s *Store) Open(ctx context.Context, key string, size int64) (io.ReadSeekCloser, error) {
	if err := begin(ctx, key); err != nil {
		return nil, wrap("open", key, err)
	}
	r := &reader{store: s, ctx: ctx, key: key, size: size}
	if err := r.get(); err != nil {
		return nil, wrap("open", key, err)
	}
	return r, nil
}

// reader reads the first size bytes of an object.
type reader struct {
	store   *Store
	ctx     context.Context // of Open
	key     string
	size    int64
	etag    *string
	at      int64         // where the next Read begins
	body    io.ReadCloser // nil when it has to be asked for again
	bodyAt  int64         // where body goes on
	resumes int
}

// get asks for the bytes from at on. It asks for all of an empty object: S3 knows no empty range.
func (r *reader) get() error {
	in := &s3.GetObjectInput{Bucket: r.store.bucket, Key: r.store.object(r.key), IfMatch: r.etag}
	if r.size > 0 {
		in.Range = aws.String(byteRange(r.at, r.size))
	}
	out, err := r.store.client.GetObject(r.ctx, in)
	if code(err) == "InvalidRange" {
		return shortError{r.at, r.size}
	}
	if err != nil {
		return err
	}
	r.body, r.bodyAt, r.etag = out.Body, r.at, out.ETag
	if have := r.at + aws.ToInt64(out.ContentLength); have < r.size {
		return errors.Join(shortError{have, r.size}, r.drop())
	}
	return nil
}

// shortError says that an object has fewer bytes than it should, or no more than have.
type shortError struct{ have, want int64 }

func (e shortError) Error() string {
	return fmt.Sprintf("%v: it has %d bytes of %d", storage.ErrShort, e.have, e.want)
}
func (e shortError) Unwrap() error { return storage.ErrShort }

// Read implements io.Reader. A connection that breaks is made again.
func (r *reader) Read(p []byte) (int, error) {
	for {
		if r.at >= r.size {
			return 0, io.EOF
		}
		n, err := r.read(p[:min(int64(len(p)), r.size-r.at)])
		r.at += int64(n)
		if err == nil || n > 0 || r.at >= r.size {
			return n, nil
		}
		if r.resumes++; r.ctx.Err() != nil || r.resumes > maxResumes {
			return 0, wrap("read", r.key, err)
		}
	}
}

// read reads from the connection, and closes it when that fails.
func (r *reader) read(p []byte) (int, error) {
	if r.body != nil && r.bodyAt != r.at {
		_ = r.drop() // of no interest any more
	}
	if r.body == nil {
		if err := r.get(); err != nil {
			r.resumes = maxResumes // the client has tried often enough
			return 0, err
		}
	}
	n, err := r.body.Read(p)
	r.bodyAt += int64(n)
	if err == io.EOF && r.bodyAt < r.size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		_ = r.drop() // the read's error says more
	}
	return n, err
}

// Seek implements io.Seeker.
func (r *reader) Seek(offset int64, whence int) (int64, error) {
	at, err := seek(r.at, r.size, offset, whence)
	if err != nil {
		return 0, fmt.Errorf("object %s: %w", r.key, err)
	}
	r.at = at
	return at, nil
}

// Close implements io.Closer.
func (r *reader) Close() error {
	r.resumes = maxResumes
	return r.drop()
}

func (r *reader) drop() error {
	if r.body == nil {
		return nil
	}
	err := r.body.Close()
	r.body = nil
	return err
}

var _ storage.Linker = (*Store)(nil)

// Link implements storage.Linker. It asks nobody, so that it does not notice that there is no such object.
func (s *Store) Link(ctx context.Context, key, contentType string) (string, error) {
	if err := begin(ctx, key); err != nil {
		return "", wrap("link", key, err)
	}
	in := &s3.GetObjectInput{Bucket: s.bucket, Key: s.object(key)}
	if contentType != "" {
		in.ResponseContentType = aws.String(contentType)
	}
	out, err := s.signer.PresignGetObject(ctx, in, s3.WithPresignExpires(s.config.LinkLifetime))
	if err != nil {
		return "", wrap("link", key, err)
	}
	return out.URL, nil
}
