package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"

	"berth/storage"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"
)

// code returns the S3 error code of an answer, or nothing when there was no answer.
func code(err error) string {
	var api smithy.APIError
	if errors.As(err, &api) {
		return api.ErrorCode()
	}
	return ""
}

// status returns the HTTP status of an answer, or 0 when there was none.
func status(err error) int {
	var answer *awshttp.ResponseError
	if errors.As(err, &answer) {
		return answer.HTTPStatusCode()
	}
	return 0
}

// isMissing says that there is no such object or upload. That there is no such bucket is another matter: all would look deleted.
func isMissing(err error) bool {
	switch code(err) {
	case "NoSuchKey", "NoSuchUpload", "NotFound":
		return true
	}
	return false
}

func isNoSpace(err error) bool {
	switch code(err) {
	case "QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "InsufficientStorage":
		return true
	}
	return status(err) == http.StatusInsufficientStorage
}

// isUnavailable says that there was no answer, or one of a server that has too much to do or is being started.
func isUnavailable(err error) bool {
	switch s := status(err); {
	case s == 0:
		return code(err) == "" && !errors.Is(err, context.Canceled) && isTransport(err)
	default:
		return s >= http.StatusInternalServerError || s == http.StatusTooManyRequests || s == http.StatusRequestTimeout
	}
}

// isTransport says that an error is of a request or its connection, and not of what was asked for.
func isTransport(err error) bool {
	_, operation := errors.AsType[*smithy.OperationError](err)
	_, network := errors.AsType[net.Error](err)
	_, stalled := errors.AsType[stalledError](err)
	return operation || network || stalled || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF)
}

// wrap gives an error its operation and key, and the error of package storage that it is.
func wrap(op, key string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, storage.ErrNotFound), errors.Is(err, storage.ErrShort), errors.Is(err, storage.ErrNoSpace):
	case isMissing(err):
		err = fmt.Errorf("%w: %w", storage.ErrNotFound, err)
	case isNoSpace(err):
		err = fmt.Errorf("%w: %w", storage.ErrNoSpace, err)
	case isUnavailable(err):
		err = fmt.Errorf("%w: %w", storage.ErrUnavailable, err)
	}
	return fmt.Errorf("%s object %s: %w", op, key, err)
}

// probe lists one object, which needs the bucket, its region, and credentials that may list.
func (s *Store) probe(ctx context.Context) error {
	_, err := s.client.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: s.bucket, Prefix: aws.String(s.prefix), MaxKeys: aws.Int32(1)})
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", s.remedy(err), err)
}

// remedy says what to do about an error of the first request.
func (s *Store) remedy(err error) string {
	switch code(err) {
	case "NoSuchBucket":
		return "there is no such bucket: make it, or correct storage.s3.bucket"
	case "PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "MovedPermanently":
		return fmt.Sprintf("the bucket is not in region %s: correct storage.s3.region%s", s.client.Options().Region, region(err))
	case "InvalidAccessKeyId", "InvalidToken", "ExpiredToken", "XAdminUserNotFound":
		return "the server does not know the access key: correct storage.s3.accesskey, or the credentials of the environment"
	case "SignatureDoesNotMatch":
		return "the secret key is wrong: correct storage.s3.secretkey, or the credentials of the environment"
	case "RequestTimeTooSkewed":
		return "the clock of this machine and the server's differ: correct the one that is wrong"
	case "AccessDenied", "AllAccessDisabled", "Forbidden":
		return "access denied: allow s3:ListBucket and s3:ListBucketMultipartUploads for the bucket, and s3:GetObject, s3:PutObject, " +
			"s3:DeleteObject and s3:AbortMultipartUpload for its objects"
	}
	if status(err) == 0 {
		return "no answer: is storage.s3.regionendpoint (or the region) right, are credentials set, and can this machine reach it?"
	}
	return "the server refused the first request"
}

// region says where a bucket is, when the answer does.
func region(err error) string {
	var answer *awshttp.ResponseError
	if errors.As(err, &answer) && answer.Response != nil {
		if name := answer.Response.Header.Get("X-Amz-Bucket-Region"); name != "" {
			return " to " + name
		}
	}
	return ""
}
