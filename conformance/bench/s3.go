package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"

	"berth/conformance/client"
	"berth/conformance/server"
	"berth/storage/metadata/postgrestest"
	"berth/storage/s3/s3test"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

// The buckets are one for each registry, and one for what the gateway is asked directly.
const gatewayBucket = "gateway"

// s3Bench is what is measured on S3: the registries, and last the gateway itself.
type s3Bench struct {
	settings settings
	dir      string
	gateway  *s3test.Server
	targets  []*target
	buckets  []string // of each target
	stops    []func()
}

// measureS3 compares a Berth whose blobs are in a bucket, with SQLite and with PostgreSQL, with distribution on the same gateway,
// and with what the gateway answers when no registry is in between.
func measureS3(ctx context.Context, s settings, stdout, stderr io.Writer) (err error) {
	b := &s3Bench{settings: s}
	if b.dir, err = os.MkdirTemp("", "bench"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	if err := b.start(ctx, stderr); err != nil {
		return err
	}
	table, turns := newS3Table(b.targets), turns{settings: s, targets: b.targets, stderr: stderr, after: b.empty}
	for _, g := range s.selected(b.groups()) {
		results, err := turns.measure(ctx, g.rows)
		if err != nil {
			return err
		}
		table.add(g.rows[0], results[0])
	}
	if err := table.addMemory(b.targets); err != nil {
		return err
	}
	return table.print(stdout)
}

// groups returns the rows, each by itself.
func (b *s3Bench) groups() []group {
	s, objects := b.settings, b.objects()
	smallBlob, largeBlob := newUnique(small), newUnique(s.large)
	return []group{
		{rows: []row{{name: byTag, do: getManifest, direct: objects.get}}},
		{rows: []row{{name: "blob push 4 KiB (POST, PATCH, PUT)", do: pushBlob(smallBlob), direct: objects.put(smallBlob)}}},
		{rows: []row{{name: fmt.Sprintf("blob push %d MiB", s.large>>20), bytes: s.large, do: pushBlob(largeBlob), direct: objects.putParts(largeBlob)}}},
	}
}

// empty deletes large objects: those of all rounds would need a large disk. Nothing asks for them again.
func (b *s3Bench) empty(ctx context.Context, t *target, r row) error {
	if r.bytes == 0 {
		return nil
	}
	c, bucket := b.gateway.Client(), b.buckets[slices.Index(b.targets, t)]
	pages := s3.NewListObjectsV2Paginator(c, &s3.ListObjectsV2Input{Bucket: aws.String(bucket)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return err
		}
		for _, o := range page.Contents {
			if aws.ToInt64(o.Size) < r.bytes {
				continue
			}
			if _, err := c.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: aws.String(bucket), Key: o.Key}); err != nil {
				return err
			}
		}
	}
	return nil
}

// start starts everything, and pushes what is pulled.
func (b *s3Bench) start(ctx context.Context, stderr io.Writer) error {
	tool := func(name string) string { return filepath.Join(b.settings.tools, name) }
	directory, err := b.folder("gateway")
	if err != nil {
		return err
	}
	program, err := filepath.Abs(tool("versitygw"))
	if err != nil {
		return err
	}
	if b.gateway, err = s3test.Launch(ctx, s3test.Versity, program, directory); err != nil {
		return err
	}
	b.stops = append(b.stops, b.gateway.Kill)
	dsn, err := b.postgres(ctx)
	if err != nil {
		return err
	}
	postgres := "REGISTRY_METADATA_POSTGRES_DSN=" + dsn
	for _, r := range []struct {
		name, program, bucket string
		env                   []string
	}{
		{"berth, SQLite", b.settings.s3, "sqlite", nil},
		{"berth, PostgreSQL", b.settings.s3, "postgres", []string{postgres}},
		{"distribution", tool("distribution"), "distribution", nil},
		{"distribution, inmemory cache", tool("distribution"), "cached", []string{"REGISTRY_STORAGE_CACHE_BLOBDESCRIPTOR=inmemory"}},
	} {
		fmt.Fprintf(stderr, "preparing %s\n", r.name)
		if r.program == b.settings.s3 {
			r.env = append(r.env, "REGISTRY_AUTH=none", "REGISTRY_STORAGE_DIRECTORY="+filepath.Join(b.dir, r.bucket, "data"))
		}
		if err := b.startOne(ctx, r.name, r.program, r.bucket, r.env); err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
	}
	b.targets = append(b.targets, &target{name: "the gateway itself", url: b.gateway.URL, pid: b.gateway.PID(), gateway: true})
	b.buckets = append(b.buckets, gatewayBucket)
	return b.objects().prepare(ctx)
}

// folder makes one that the user of another server can reach.
func (b *s3Bench) folder(name string) (string, error) {
	if err := os.Chmod(b.dir, 0o711); err != nil { //nolint:gosec // no secrets are in it
		return "", err
	}
	path := filepath.Join(b.dir, name)
	return path, os.Mkdir(path, 0o700)
}

// postgres starts a server as it comes, which syncs what it commits, and returns its DSN.
func (b *s3Bench) postgres(ctx context.Context) (string, error) {
	directory, err := b.folder("database")
	if err != nil {
		return "", err
	}
	db, err := postgrestest.Start(ctx, directory)
	if err != nil {
		return "", err
	}
	b.stops = append(b.stops, func() { _ = db.Kill() }) // what it holds is removed next
	return db.DSN("postgres"), nil
}

func (b *s3Bench) startOne(ctx context.Context, name, program, bucket string, env []string) error {
	if _, err := b.gateway.Client().CreateBucket(ctx, &s3.CreateBucketInput{Bucket: aws.String(bucket)}); err != nil {
		return err
	}
	program, err := filepath.Abs(program)
	if err != nil {
		return err
	}
	text := fmt.Sprintf(s3Configuration, s3test.AccessKey, s3test.SecretKey, bucket, b.gateway.URL)
	c, err := configure(filepath.Join(b.dir, bucket), text)
	if err != nil {
		return err
	}
	c.Program, c.Env = program, env
	running, err := server.Start(ctx, c)
	if err != nil {
		return err
	}
	b.stops = append(b.stops, running.Kill)
	t := &target{name: name, url: c.URL, ca: c.CA, pid: running.PID()}
	b.targets, b.buckets = append(b.targets, t), append(b.buckets, bucket)
	return prepare(ctx, t, b.settings)
}

func (b *s3Bench) close() error {
	for i := range b.stops {
		b.stops[len(b.stops)-1-i]()
	}
	return os.RemoveAll(b.dir)
}

// s3Configuration is understood by each of the registries. None logs requests: who is to read that takes the client's processors.
const s3Configuration = `  s3:
    accesskey: %s
    secretkey: %s
    bucket: %s
    region: us-east-1
    regionendpoint: %s
    forcepathstyle: true
  redirect:
    disable: true
log:
  level: warn
  accesslog:
    disabled: true
`

// objects asks the gateway itself.
type objects struct{ client *s3.Client }

// objects returns one that keeps its connections.
func (b *s3Bench) objects() *objects {
	return &objects{client: s3.New(b.gateway.Client().Options(), func(o *s3.Options) {
		o.HTTPClient = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: b.settings.connections}}
	})}
}

// partSize is that of the parts that a Berth sends unless it is told otherwise.
const partSize = 16 << 20

func (o *objects) prepare(ctx context.Context) error {
	if _, err := o.client.CreateBucket(ctx, &s3.CreateBucketInput{Bucket: aws.String(gatewayBucket)}); err != nil {
		return err
	}
	body := bytes.Repeat([]byte{'x'}, 700) // as many as the manifest has
	_, err := o.client.PutObject(ctx, &s3.PutObjectInput{Bucket: aws.String(gatewayBucket), Key: aws.String(pulledTag), Body: bytes.NewReader(body)})
	return err
}

func (o *objects) get(ctx context.Context, _ *client.Client) error {
	out, err := o.client.GetObject(ctx, &s3.GetObjectInput{Bucket: aws.String(gatewayBucket), Key: aws.String(pulledTag)})
	if err != nil {
		return err
	}
	defer out.Body.Close()
	_, err = io.Copy(io.Discard, out.Body)
	return err
}

func (o *objects) put(u *unique) func(context.Context, *client.Client) error {
	return func(ctx context.Context, _ *client.Client) error {
		next := u.take()
		body, err := io.ReadAll(u.body(next))
		if err != nil {
			return err
		}
		_, err = o.client.PutObject(ctx, &s3.PutObjectInput{
			Bucket: aws.String(gatewayBucket), Key: aws.String(next.digest.Encoded()), Body: bytes.NewReader(body),
		})
		return err
	}
}

// putParts sends an object in parts, one after the other: as many objects as there are connections are under way.
func (o *objects) putParts(u *unique) func(context.Context, *client.Client) error {
	return func(ctx context.Context, _ *client.Client) error {
		next := u.take()
		bucket, key := aws.String(gatewayBucket), aws.String(next.digest.Encoded())
		upload, err := o.client.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{Bucket: bucket, Key: key})
		if err != nil {
			return err
		}
		body, part := u.body(next), make([]byte, partSize)
		var parts []types.CompletedPart
		for {
			n, err := io.ReadFull(body, part)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
				return err
			}
			number := aws.Int32(int32(len(parts) + 1))
			sent, err := o.client.UploadPart(ctx, &s3.UploadPartInput{
				Bucket: bucket, Key: key, UploadId: upload.UploadId, PartNumber: number, Body: bytes.NewReader(part[:n]),
			})
			if err != nil {
				return err
			}
			parts = append(parts, types.CompletedPart{PartNumber: number, ETag: sent.ETag, ChecksumCRC32: sent.ChecksumCRC32})
		}
		_, err = o.client.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{
			Bucket: bucket, Key: key, UploadId: upload.UploadId, MultipartUpload: &types.CompletedMultipartUpload{Parts: parts},
		})
		return err
	}
}

// s3Table compares medians over the rounds. A ratio is the median of those within a round: the machine is not the same from one to
// the next.
type s3Table struct {
	out bytes.Buffer
}

func newS3Table(targets []*target) *s3Table {
	t := &s3Table{}
	header, rule := "| work |", "|---|"
	for _, target := range targets {
		header, rule = header+" "+target.name+" |", rule+"---:|"
	}
	t.out.WriteString(header + " SQLite, to distribution | PostgreSQL, to distribution |\n" + rule + "---:|---:|\n")
	return t
}

func (t *s3Table) add(r row, results []rounds) {
	fmt.Fprintf(&t.out, "| %s |", r.name)
	for _, result := range results {
		fmt.Fprintf(&t.out, " %s |", rate(r, result))
	}
	const sqlite, postgres, distribution = 0, 1, 2
	for _, berth := range []int{sqlite, postgres} {
		fmt.Fprintf(&t.out, " %s |", times(ratio(results[berth], results[distribution], result.perSecond)))
	}
	t.out.WriteString("\n")
}

func (t *s3Table) addMemory(targets []*target) error {
	t.out.WriteString("| peak memory |")
	for _, target := range targets {
		peak, err := server.PeakMemory(target.pid)
		if err != nil {
			return err
		}
		fmt.Fprintf(&t.out, " %d MiB |", peak>>20)
	}
	t.out.WriteString(" | |\n")
	return nil
}

func (t *s3Table) print(w io.Writer) error {
	_, err := w.Write(t.out.Bytes())
	return err
}
