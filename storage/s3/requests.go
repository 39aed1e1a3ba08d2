package s3

import (
	"context"
	"crypto/md5" //nolint:gosec // what S3 makes ETags of
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"

	"berth/storage"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

// putObject stores a whole object.
func (s *Store) putObject(ctx context.Context, key string, c content) error {
	in := &s3.PutObjectInput{
		Bucket:        s.bucket,
		Key:           s.object(key),
		Body:          c.reader(),
		ContentLength: aws.Int64(c.size),
		ACL:           types.ObjectCannedACL(s.config.ObjectACL),
		StorageClass:  types.StorageClass(s.config.StorageClass),
	}
	in.ServerSideEncryption, in.SSEKMSKeyId = s.encryption()
	in.ChecksumCRC32, in.ChecksumSHA256 = sums(s.config.Checksum, c.sum(s.config.Checksum))
	_, err := s.client.PutObject(ctx, in, s.unsigned)
	return err
}

// sums puts a checksum into the field of its algorithm.
func sums(algorithm, sum string) (crc32, sha256 *string) {
	switch {
	case sum == "":
	case algorithm == ChecksumCRC32:
		crc32 = aws.String(sum)
	case algorithm == ChecksumSHA256:
		sha256 = aws.String(sum)
	}
	return crc32, sha256
}

func (s *Store) encryption() (types.ServerSideEncryption, *string) {
	switch {
	case !s.config.Encrypt:
		return "", nil
	case s.config.KeyID == "":
		return types.ServerSideEncryptionAes256, nil
	}
	return types.ServerSideEncryptionAwsKms, aws.String(s.config.KeyID)
}

// createUpload begins a multipart upload whose parts have checksums of an algorithm.
func (s *Store) createUpload(ctx context.Context, key, checksum string) (upload, error) {
	var u upload
	in := &s3.CreateMultipartUploadInput{
		Bucket:       s.bucket,
		Key:          s.object(key),
		ACL:          types.ObjectCannedACL(s.config.ObjectACL),
		StorageClass: types.StorageClass(s.config.StorageClass),
	}
	in.ServerSideEncryption, in.SSEKMSKeyId = s.encryption()
	switch checksum {
	case ChecksumCRC32:
		in.ChecksumAlgorithm = types.ChecksumAlgorithmCrc32
	case ChecksumSHA256:
		in.ChecksumAlgorithm = types.ChecksumAlgorithmSha256
	}
	if in.ChecksumAlgorithm != "" {
		u.Checksum = checksum
		in.ChecksumType = types.ChecksumTypeComposite
	}
	out, err := s.client.CreateMultipartUpload(ctx, in)
	if err != nil {
		return u, fmt.Errorf("begin a multipart upload: %w", err)
	}
	if u.ID = aws.ToString(out.UploadId); u.ID == "" {
		return u, fmt.Errorf("begin a multipart upload: the server named no id")
	}
	attempts, _ := retry.GetAttemptResults(out.ResultMetadata)
	u.Strays = len(attempts.Results) > 1
	return u, nil
}

// sendPart sends a part of a multipart upload.
func (s *Store) sendPart(ctx context.Context, key, id, checksum string, number int32, c content) (part, error) {
	in := &s3.UploadPartInput{
		Bucket:        s.bucket,
		Key:           s.object(key),
		UploadId:      aws.String(id),
		PartNumber:    aws.Int32(number),
		Body:          c.reader(),
		ContentLength: aws.Int64(c.size),
	}
	p := part{Number: number, Size: c.size, Sum: c.sum(checksum)}
	in.ChecksumCRC32, in.ChecksumSHA256 = sums(checksum, p.Sum)
	out, err := s.client.UploadPart(ctx, in, s.unsigned)
	if err != nil {
		return p, fmt.Errorf("send part %d: %w", number, err)
	}
	if p.ETag = unquote(out.ETag); p.ETag == "" {
		return p, fmt.Errorf("send part %d: the server named no ETag", number)
	}
	return p, nil
}

// Complete implements storage.Blobs. A checkpoint without state is a whole object already, and its word is taken for that.
func (s *Store) Complete(ctx context.Context, c storage.Checkpoint) error {
	return wrap("complete", c.Key, s.complete(ctx, c))
}

func (s *Store) complete(ctx context.Context, c storage.Checkpoint) error {
	if err := begin(ctx, c.Key); err != nil || len(c.State) == 0 {
		return err
	}
	u, err := parse(c.State)
	if err == nil {
		err = u.check(c.Size)
	}
	if err != nil {
		return err
	}
	if err := s.completeUpload(ctx, c.Key, u); err != nil || !u.Strays {
		return err
	}
	return s.abortUploads(ctx, c.Key)
}

// errOther says that another claim completed the upload with parts of its own.
var errOther = fmt.Errorf("%w: the upload was completed with other parts", storage.ErrNotFound)

// completeUpload makes an object of the parts. An error may be that of a repetition whose first try succeeded, so that the object
// has the last word. So it has when another claim may have completed the upload: not every server looks at the parts then.
func (s *Store) completeUpload(ctx context.Context, key string, u upload) error {
	_, err := s.client.CompleteMultipartUpload(takesLong(ctx), &s3.CompleteMultipartUploadInput{
		Bucket:          s.bucket,
		Key:             s.object(key),
		UploadId:        aws.String(u.ID),
		MultipartUpload: u.completed(),
	})
	if err == nil && !u.Shared || ctx.Err() != nil {
		return err
	}
	proven, refuted, headErr := s.inspect(ctx, key, u)
	switch {
	case proven:
		return nil
	case err == nil && refuted:
		return errOther
	case err == nil:
		return headErr
	case headErr != nil && !isMissing(headErr):
		return fmt.Errorf("%w (and whether it was done is not known: %w)", err, headErr)
	}
	return err
}

// inspect asks for the object of a key and says whether it is proven or refuted that it was made of these parts.
func (s *Store) inspect(ctx context.Context, key string, u upload) (proven, refuted bool, err error) {
	in := &s3.HeadObjectInput{Bucket: s.bucket, Key: s.object(key)}
	if u.Checksum == ChecksumSHA256 {
		in.ChecksumMode = types.ChecksumModeEnabled
	}
	out, err := s.client.HeadObject(ctx, in)
	if err != nil {
		return false, false, err
	}
	if aws.ToInt64(out.ContentLength) != u.size() {
		return false, true, nil
	}
	proven, refuted = s.madeOf(u, out.ETag, out.ChecksumSHA256, out.ServerSideEncryption)
	return proven, refuted, nil
}

// madeOf compares what the server says of an object with the parts that it should have. That its size is right proves nothing, and
// a CRC is easily forged. ETags of objects that KMS encrypts say nothing, nor do those of servers that make them in a way of their own, which is
// seen by none of them ever having been right.
func (s *Store) madeOf(u upload, etag, sum *string, encryption types.ServerSideEncryption) (proven, refuted bool) {
	if unquote(etag) == u.etag() {
		s.md5.Store(true)
		return true, false
	}
	if want := u.sum(); want != "" && aws.ToString(sum) == want {
		return true, false
	}
	kms := encryption == types.ServerSideEncryptionAwsKms || encryption == types.ServerSideEncryptionAwsKmsDsse
	return false, !kms && s.md5.Load()
}

// etag is the ETag of the object that is made of the parts, where ETags are MD5 sums.
func (u upload) etag() string {
	h := md5.New() //nolint:gosec // as above
	for _, p := range u.Parts {
		sum, _ := hex.DecodeString(p.ETag)
		h.Write(sum)
	}
	return fmt.Sprintf("%x-%d", h.Sum(nil), len(u.Parts))
}

// sum is the SHA-256 of the parts' SHA-256, or nothing when they have none.
func (u upload) sum() string {
	if u.Checksum != ChecksumSHA256 {
		return ""
	}
	h := sha256.New()
	for _, p := range u.Parts {
		sum, err := base64.StdEncoding.DecodeString(p.Sum)
		if err != nil || len(sum) != sha256.Size {
			return ""
		}
		h.Write(sum)
	}
	return fmt.Sprintf("%s-%d", base64.StdEncoding.EncodeToString(h.Sum(nil)), len(u.Parts))
}

// holds fails with storage.ErrNotFound unless there is an object of at least size bytes.
func (s *Store) holds(ctx context.Context, key string, size int64) error {
	out, err := s.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: s.bucket, Key: s.object(key)})
	if err != nil {
		return err
	}
	if have := aws.ToInt64(out.ContentLength); have < size {
		return fmt.Errorf("%w: it has %d bytes of %d", storage.ErrNotFound, have, size)
	}
	return nil
}

// encode returns the State of a checkpoint, which parse reads.
func (u upload) encode() ([]byte, error) { return json.Marshal(u) }

// byteRange is the range of the bytes [begin, end).
func byteRange(begin, end int64) string { return fmt.Sprintf("bytes=%d-%d", begin, end-1) }

func unquote(etag *string) string { return strings.Trim(aws.ToString(etag), `"`) }
