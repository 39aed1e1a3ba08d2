package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"berth/config"
	"berth/storage/s3"
)

// bucketScheme begins the name of an object in S3, s3://BUCKET/KEY.
const bucketScheme = "s3://"

// object is one of a bucket that holds backups.
type object struct {
	bucket s3.Bucket
	key    string
}

// openObject opens the bucket of a name s3://BUCKET/KEY, as the registry's own when that is in S3, and else as the environment says. One
// that is to be written must not be the registry's.
func (s streams) openObject(ctx context.Context, c *config.Config, name string, write bool) (o object, err error) {
	bucket, key, _ := strings.Cut(strings.TrimPrefix(name, bucketScheme), "/")
	if bucket == "" || key == "" {
		return o, fmt.Errorf("%s names no object: write s3://BUCKET/KEY", name)
	}
	settings := s3.Config{RegionEndpoint: cmp.Or(variable(s.environ, "AWS_ENDPOINT_URL_S3"), variable(s.environ, "AWS_ENDPOINT_URL"))}
	settings.ForcePathStyle = settings.RegionEndpoint != ""
	if c.Storage.Driver == "s3" {
		settings = s3Config(c.Storage)
		if write && settings.Owns(bucket, key) {
			return o, fmt.Errorf("%s is among the registry's own objects: choose another bucket, or a key outside of storage.s3.rootdirectory", name)
		}
	}
	settings.Bucket, settings.RootDirectory = bucket, ""
	settings.ObjectACL, settings.Accelerate = "", false // which are for the registry's bucket: nobody else may read a backup
	o = object{key: key}
	o.bucket, err = s3.OpenBucket(ctx, settings)
	if err != nil && c.Storage.Driver != "s3" {
		err = fmt.Errorf("with what AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY say: %w", err)
	}
	return o, err
}

// open reads the object.
func (o object) open(ctx context.Context) (io.ReadCloser, error) { return o.bucket.Open(ctx, o.key) }

// stream makes the object of what write writes, when all of it is there.
func (o object) stream(ctx context.Context, write func(io.Writer) error) error {
	return o.bucket.Stream(ctx, o.key, func(w io.Writer) error {
		out := bufio.NewWriterSize(w, 128<<10)
		if err := write(out); err != nil {
			return err
		}
		return out.Flush()
	})
}

// refuseTarget fails when the argument that names the configuration is where a backup is or should go.
func refuseTarget(args []string, flag string) error {
	if len(args) > 0 && strings.HasPrefix(args[0], bucketScheme) {
		return errors.New("the argument is the configuration: name the backup with " + flag)
	}
	return nil
}
