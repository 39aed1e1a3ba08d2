// Package s3 keeps blobs as objects of an S3 bucket: the object of a key is RootDirectory/key.
//
// A nil error of Checkpoint or Complete means that the bucket confirmed the bytes, so that they are as durable as its operator
// makes them, and a nil error of Delete that neither an object nor an unfinished multipart upload is left under the key. What fits
// one part is one PutObject under its final key; a larger object is a multipart upload whose parts are sent at the same time.
// Nothing is copied or renamed, except to go on after a short last part. All uploads of a store together hold no more than Memory,
// and writers wait (Write blocks) while there is none left.
//
// It relies on the caller to use each key for one claim of an upload only: a claim that was superseded may still write under its
// own key, or add parts to a multipart upload that the newer one goes on with, but Complete names every part by its ETag and
// checksum, so that such parts are left out or make it fail; they never get into an object. It does not notice bytes that rot in
// the bucket, and does not tell a complete object from one that a checkpoint made readable early. In a bucket that keeps versions,
// what is deleted stays as an old version.
//
// It fails with the errors of package storage, or with those of the SDK, wrapped with the key. Requests that may be repeated
// are repeated, with jitter; one that makes no progress is given up. No error names a secret.
package s3

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"berth/storage"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

const (
	minPart  = 5 << 20 // S3 takes smaller parts only as an upload's last
	maxPart  = 5 << 30
	maxParts = 10_000

	defaultMemory       = 256 << 20
	defaultChunkSize    = 16 << 20
	defaultLinkLifetime = 20 * time.Minute
	maxLinkLifetime     = 7 * 24 * time.Hour // of a signature
	defaultPatience     = 30 * time.Second
	defaultAttempts     = 7
)

// Config says which bucket a Store uses and how. Most fields are keys of distribution's storage.s3 section. Bucket is needed, and
// Region too unless the environment names one or RegionEndpoint is set.
type Config struct {
	// AccessKey and SecretKey, and SessionToken for temporary ones, sign the requests. Without the first two the SDK's default
	// chain looks for credentials: environment, shared files, container, instance.
	AccessKey, SecretKey, SessionToken string

	Bucket string
	Region string
	// RegionEndpoint is the URL or the host of a server that is not AWS.
	RegionEndpoint string
	// ForcePathStyle puts the bucket into the path instead of the host.
	ForcePathStyle bool
	// RootDirectory comes before all keys.
	RootDirectory string

	// Insecure is plain HTTP, where RegionEndpoint does not say. It is the opposite of distribution's secure.
	Insecure bool
	// SkipVerify accepts any certificate.
	SkipVerify bool
	// UseDualStack, UseFIPSEndpoint and Accelerate choose other endpoints of AWS.
	UseDualStack, UseFIPSEndpoint, Accelerate bool
	// UserAgent is added to that of the requests.
	UserAgent string

	// Encrypt has the bucket encrypt objects, with the KMS key KeyID when there is one.
	Encrypt bool
	KeyID   string
	// StorageClass and ObjectACL are those of new objects. Empty, and NONE, leave them to the bucket.
	StorageClass, ObjectACL string

	// Memory bounds what all uploads hold together, in bytes. Zero is 256 MiB.
	Memory int64
	// ChunkSize is the size of parts in bytes. Zero is 16 MiB. It is at least 5 MiB and at most a quarter of Memory.
	ChunkSize int64
	// Checksum protects each part on its way: ChecksumCRC32 (also when empty), ChecksumSHA256 or ChecksumOff.
	Checksum string

	// LinkLifetime is how long a Link works. Zero is 20 minutes.
	LinkLifetime time.Duration
	// RedirectEndpoint is the RegionEndpoint of links, where clients reach the bucket by another name.
	RedirectEndpoint string

	// Patience is how long a request may make no progress. Zero is 30 s. Where the server has much to do it waits longer.
	Patience time.Duration
	// Attempts is how often a request is tried that may be repeated. Zero is 7, in about 20 s when a server refuses at once.
	Attempts int
	// backoff is the longest pause before another attempt. Zero is maxBackoff.
	backoff time.Duration
}

// The values of Config.Checksum.
const (
	ChecksumCRC32  = "crc32"
	ChecksumSHA256 = "sha256"
	ChecksumOff    = "off"
)

// Store implements storage.Blobs, storage.Lister, storage.Linker, storage.Parted and storage.WholeObjects. It needs no closing.
type Store struct {
	config  Config
	bucket  *string
	prefix  string
	largest int64 // bytes of the largest part that the memory allows
	client  *s3.Client
	signer  *s3.PresignClient
	budget  *budget
	md5     atomic.Bool // whether an ETag was what MD5 makes of the parts
}

// Open returns the store in c.Bucket after one request to see that it is there and may be listed.
func Open(ctx context.Context, c Config) (*Store, error) {
	c, err := c.complete()
	if err != nil {
		return nil, fmt.Errorf("blob store: %w", err)
	}
	client, signer, err := connect(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("blob store s3://%s: %w", c.Bucket, err)
	}
	s := &Store{
		config:  c,
		bucket:  aws.String(c.Bucket),
		largest: min(c.Memory/4/slabSize*slabSize, maxPart),
		client:  client,
		signer:  signer,
	}
	s.budget = newBudget(c.Memory, s.largest)
	if root := strings.Trim(c.RootDirectory, "/"); root != "" {
		s.prefix = root + "/"
	}
	if err := s.probe(ctx); err != nil {
		return nil, fmt.Errorf("blob store s3://%s: %w", c.Bucket, err)
	}
	return s, nil
}

// complete fills in the defaults and refuses what can't work.
func (c Config) complete() (Config, error) {
	if c.Memory == 0 {
		c.Memory = defaultMemory
	}
	if c.ChunkSize == 0 {
		c.ChunkSize = min(defaultChunkSize, max(c.Memory/4, minPart))
	}
	if c.Checksum == "" {
		c.Checksum = ChecksumCRC32
	}
	if c.LinkLifetime == 0 {
		c.LinkLifetime = defaultLinkLifetime
	}
	if c.Patience == 0 {
		c.Patience = defaultPatience
	}
	if c.backoff == 0 {
		c.backoff = maxBackoff
	}
	if c.Attempts == 0 {
		c.Attempts = defaultAttempts
	}
	if strings.EqualFold(c.StorageClass, "none") {
		c.StorageClass = ""
	}
	if err := c.completeEndpoints(); err != nil {
		return c, err
	}
	return c, c.check()
}

// completeEndpoints makes URLs of the endpoints. From then on Insecure says whether requests go over plain HTTP.
func (c *Config) completeEndpoints() (err error) {
	if c.RedirectEndpoint, err = c.endpoint(c.RedirectEndpoint); err != nil {
		return fmt.Errorf("storage.redirect.endpoint: %w", err)
	}
	if c.RegionEndpoint, err = c.endpoint(c.RegionEndpoint); err != nil {
		return fmt.Errorf("storage.s3.regionendpoint: %w", err)
	}
	if c.RegionEndpoint != "" {
		c.Insecure = strings.HasPrefix(c.RegionEndpoint, "http://")
	}
	return nil
}

func (c Config) check() error {
	switch {
	case c.Bucket == "":
		return errors.New("no bucket: set storage.s3.bucket")
	case (c.AccessKey == "") != (c.SecretKey == ""):
		return errors.New("storage.s3.accesskey and storage.s3.secretkey go together: set both, or none to use the environment's credentials")
	case c.ChunkSize < minPart || c.ChunkSize > maxPart:
		return fmt.Errorf("storage.s3.chunksize is %d bytes: S3 takes parts of 5 MiB to 5 GiB", c.ChunkSize)
	case c.ChunkSize > c.Memory/4/slabSize*slabSize:
		return fmt.Errorf("storage.s3.chunksize is %d bytes, more than a quarter of the %d bytes of storage.s3.memory: "+
			"make it smaller or give uploads more memory", c.ChunkSize, c.Memory)
	case c.Checksum != ChecksumCRC32 && c.Checksum != ChecksumSHA256 && c.Checksum != ChecksumOff:
		return fmt.Errorf("storage.s3.checksum is %q: it is one of crc32, sha256 and off", c.Checksum)
	case c.LinkLifetime < time.Second || c.LinkLifetime > maxLinkLifetime:
		return fmt.Errorf("the lifetime of links is %s: it is at least a second and at most 7 days", c.LinkLifetime)
	case c.Patience < 0 || c.Attempts < 0:
		return errors.New("patience and attempts can't be negative")
	}
	return nil
}

// WholeObjects implements storage.WholeObjects.
func (*Store) WholeObjects() {}

// MinPart implements storage.Parted.
func (*Store) MinPart() int64 { return minPart }

// partSize is the size of the part with a number. It doubles every thousand parts, as far as the memory allows, so that the ten
// thousand that S3 knows take any object.
func (s *Store) partSize(number int32) int64 {
	size := s.config.ChunkSize
	for range number / 1000 {
		size = min(2*size, s.largest)
	}
	return size
}

// object returns an object's key in the bucket.
func (s *Store) object(key string) *string { return aws.String(s.prefix + key) }

// begin checks what every call needs: a key that stays below the root, and a caller who still wants the answer.
func begin(ctx context.Context, key string) error {
	if err := storage.CheckKey(key); err != nil {
		return err
	}
	return ctx.Err()
}
