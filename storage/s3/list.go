package s3

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"berth/storage"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

// Delete implements storage.Blobs. A request of a writer that is still under way can make the object or an upload anew; deleting
// again later removes that too.
func (s *Store) Delete(ctx context.Context, key string) error {
	return wrap("delete", key, s.remove(ctx, key))
}

func (s *Store) remove(ctx context.Context, key string) error {
	if err := begin(ctx, key); err != nil {
		return err
	}
	_, err := s.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: s.bucket, Key: s.object(key)})
	if err != nil && !isMissing(err) {
		return err
	}
	return s.abortUploads(ctx, key)
}

// abortUploads ends all multipart uploads of a key.
func (s *Store) abortUploads(ctx context.Context, key string) error {
	var ids []*string
	err := s.uploads(ctx, key, func(u types.MultipartUpload) error {
		if aws.ToString(u.Key) == *s.object(key) {
			ids = append(ids, u.UploadId)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, id := range ids {
		_, err := s.client.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: s.bucket, Key: s.object(key), UploadId: id})
		if err != nil && !isMissing(err) {
			return fmt.Errorf("end a multipart upload: %w", err)
		}
	}
	return nil
}

// uploads calls fn for every unfinished multipart upload whose key begins with prefix.
func (s *Store) uploads(ctx context.Context, prefix string, fn func(types.MultipartUpload) error) error {
	pages := s3.NewListMultipartUploadsPaginator(s.client, &s3.ListMultipartUploadsInput{Bucket: s.bucket, Prefix: s.object(prefix)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return fmt.Errorf("list multipart uploads: %w", err)
		}
		for _, u := range page.Uploads {
			if err := fn(u); err != nil {
				return err
			}
		}
	}
	return nil
}

// List implements storage.Lister. It finds unfinished multipart uploads too, as objects of size 0, so that recovery needs nothing
// else to find what to Delete. (MinIO lists them by their whole key only; it ends them by itself after a day.) What has no key of
// package storage is passed over.
func (s *Store) List(ctx context.Context, prefix string, fn func(storage.Object) error) error {
	err := s.list(ctx, prefix, fn)
	var stopped stoppedError
	if errors.As(err, &stopped) {
		return stopped.error
	}
	return wrap("list", prefix, err)
}

// stoppedError is an error of the caller's function.
type stoppedError struct{ error }

func (s *Store) list(ctx context.Context, prefix string, fn func(storage.Object) error) error {
	// The uploads come first: one that is completed meanwhile is found as an object, and the other way round it would be missed.
	unfinished := map[string]time.Time{}
	err := s.uploads(ctx, prefix, func(u types.MultipartUpload) error {
		unfinished[aws.ToString(u.Key)] = aws.ToTime(u.Initiated)
		return nil
	})
	if err != nil {
		return err
	}
	pages := s3.NewListObjectsV2Paginator(s.client, &s3.ListObjectsV2Input{Bucket: s.bucket, Prefix: s.object(prefix)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return err
		}
		for _, o := range page.Contents {
			delete(unfinished, aws.ToString(o.Key))
			if err := s.visit(aws.ToString(o.Key), aws.ToInt64(o.Size), aws.ToTime(o.LastModified), fn); err != nil {
				return err
			}
		}
	}
	for name, begun := range unfinished {
		if err := s.visit(name, 0, begun, fn); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func (s *Store) visit(name string, size int64, modified time.Time, fn func(storage.Object) error) error {
	key, ok := strings.CutPrefix(name, s.prefix)
	if !ok || storage.CheckKey(key) != nil {
		return nil
	}
	if err := fn(storage.Object{Key: key, Size: size, Modified: modified}); err != nil {
		return stoppedError{err}
	}
	return nil
}
