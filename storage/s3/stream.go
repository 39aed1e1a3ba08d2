package s3

import (
	"context"
	"errors"
	"io"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// abortPatience is how long a stream that failed may take to leave nothing.
const abortPatience = 30 * time.Second

// Owns reports whether an object would be one of the store's: those are below RootDirectory, or, without one, all of the bucket.
func (c Config) Owns(bucket, key string) bool {
	root := strings.Trim(c.RootDirectory, "/")
	return bucket == c.Bucket && (root == "" || strings.HasPrefix(key, root+"/"))
}

// Bucket holds objects under keys that its user chooses, such as backups. Its methods may be called at the same time.
type Bucket struct{ store *Store }

// OpenBucket returns the bucket that c names.
func OpenBucket(ctx context.Context, c Config) (Bucket, error) {
	s, err := Open(ctx, c)
	return Bucket{s}, err
}

// Stream makes an object of what write writes, in place of one that is there. It is seen when it is whole; after an error the one before
// is as it was, and nothing is left of a multipart upload, unless the server can't be reached any more. A key is not for two at once.
func (b Bucket) Stream(ctx context.Context, key string, write func(io.Writer) error) error {
	s := b.store
	if err := begin(ctx, key); err != nil {
		return wrap("write", key, err)
	}
	w := s.newWriter(ctx, key)
	w.buffer.reset(s.partSize(1))
	err := write(w)
	if err == nil {
		err = s.finish(ctx, w)
	}
	refused := w.err != nil // by the server, which may have begun an upload without telling
	if closed := w.Close(); err == nil {
		return closed
	}
	return errors.Join(err, wrap("abort", key, s.abandon(ctx, key, w.upload, refused)))
}

func (s *Store) finish(ctx context.Context, w *writer) error {
	c, err := w.Checkpoint(ctx)
	if err != nil {
		return err
	}
	return s.Complete(ctx, c)
}

// abandon ends the multipart upload of a stream that failed, whether or not somebody waits for it.
func (s *Store) abandon(ctx context.Context, key string, u upload, refused bool) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortPatience)
	defer cancel()
	switch {
	case u.Strays || u.ID == "" && refused:
		return s.abortUploads(ctx, key)
	case u.ID == "":
		return nil
	}
	_, err := s.client.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{
		Bucket: s.bucket, Key: s.object(key), UploadId: aws.String(u.ID),
	})
	if isMissing(err) {
		return nil
	}
	return err
}

// Open reads an object as it is now. It fails with storage.ErrNotFound.
func (b Bucket) Open(ctx context.Context, key string) (io.ReadCloser, error) {
	size, err := b.store.size(ctx, key)
	if err != nil {
		return nil, err
	}
	return b.store.Open(ctx, key, size)
}

func (s *Store) size(ctx context.Context, key string) (int64, error) {
	if err := begin(ctx, key); err != nil {
		return 0, wrap("look at", key, err)
	}
	out, err := s.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: s.bucket, Key: s.object(key)})
	if err != nil {
		return 0, wrap("look at", key, err)
	}
	return aws.ToInt64(out.ContentLength), nil
}
