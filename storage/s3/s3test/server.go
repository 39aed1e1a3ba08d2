// Package s3test runs S3 servers for tests, on loopback and in folders of their own, and a proxy that counts their calls and makes
// them fail.
package s3test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// The servers that Start knows.
const (
	Versity = "versitygw"
	MinIO   = "minio"
)

// The credentials of every server.
const (
	AccessKey = "berth-test"
	SecretKey = "berth-test-secret"
)

// readyWithin is how long a server may take to answer, on a machine that does other things too.
const readyWithin = time.Minute

// Server is a running server. Its methods may be called at the same time, except for Run and Kill.
type Server struct {
	// URL is where it answers, also after Kill and Run.
	URL string

	name      string
	program   string
	directory string
	address   string
	process   *exec.Cmd
	buckets   atomic.Int64
}

// Start runs a server until the test ends. Where its program is missing, it skips the test, except in CI.
func Start(tb testing.TB, name string) *Server {
	tb.Helper()
	program, err := find(name)
	switch {
	case err != nil && os.Getenv("CI") != "":
		tb.Fatal(err)
	case err != nil:
		tb.Skip(err)
	}
	s, err := Launch(tb.Context(), name, program, tb.TempDir())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(s.Kill)
	return s
}

// Launch runs a server, one of those that have names, with its data in a directory, until Kill.
func Launch(ctx context.Context, name, program, directory string) (*Server, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	s := &Server{URL: "http://" + address, name: name, program: program, directory: directory, address: address}
	return s, s.Run(ctx)
}

// PID is the process id of the server, which runs.
func (s *Server) PID() int { return s.process.Process.Pid }

// find returns the path of a program that `make tools` built: in the folder BERTH_TOOLS, or else in .cache/bin of the module.
func find(name string) (string, error) {
	dir := os.Getenv("BERTH_TOOLS")
	if dir == "" {
		root, err := moduleRoot()
		if err != nil {
			return "", err
		}
		dir = filepath.Join(root, ".cache", "bin")
	}
	program, err := exec.LookPath(filepath.Join(dir, name))
	if err != nil {
		return "", fmt.Errorf("%s is missing: run make tools: %w", name, err)
	}
	return program, nil
}

func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("no go.mod above the test")
		}
		dir = parent
	}
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// Run runs the server, again after Kill, and waits until it answers.
func (s *Server) Run(ctx context.Context) error {
	var args, env []string
	data := filepath.Join(s.directory, "data")
	switch s.name {
	case Versity:
		args = []string{"--port", s.address, "--keep-alive", "--quiet", "posix", data}
		env = []string{"ROOT_ACCESS_KEY=" + AccessKey, "ROOT_SECRET_KEY=" + SecretKey}
	case MinIO:
		args = []string{"server", "--quiet", "--address", s.address, "--console-address", "127.0.0.1:0", data}
		env = []string{"MINIO_ROOT_USER=" + AccessKey, "MINIO_ROOT_PASSWORD=" + SecretKey, "MINIO_BROWSER=off", "MINIO_UPDATE=off", "MINIO_SITE_REGION=us-east-1"}
	default:
		return fmt.Errorf("no server is called %q", s.name)
	}
	if err := os.MkdirAll(data, 0o755); err != nil {
		return err
	}
	log, err := os.OpenFile(s.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	s.process = exec.Command(s.program, args...)
	s.process.Dir, s.process.Stdout, s.process.Stderr = s.directory, log, log
	s.process.Env = append(os.Environ(), append(env, "HOME="+s.directory)...)
	if err := s.process.Start(); err != nil {
		return err
	}
	return s.await(ctx)
}

func (s *Server) logFile() string { return filepath.Join(s.directory, "log") }

// await waits until the server answers a request that it understands.
func (s *Server) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		_, err := s.client(s.URL).ListBuckets(ctx, &s3.ListBucketsInput{}, func(o *s3.Options) { o.RetryMaxAttempts = 1 })
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			log, _ := os.ReadFile(s.logFile())
			s.Kill()
			return fmt.Errorf("%s does not answer: %w\n%s", s.name, err, log)
		}
	}
}

// Kill ends the server as kill -9 does.
func (s *Server) Kill() {
	if s.process == nil {
		return
	}
	_ = s.process.Process.Kill()
	_ = s.process.Wait() // its exit status is that of a process that was killed
	s.process = nil
}

func (s *Server) client(url string) *s3.Client {
	return s3.New(s3.Options{
		BaseEndpoint: aws.String(url),
		Region:       "us-east-1",
		UsePathStyle: true,
		Credentials:  credentials.NewStaticCredentialsProvider(AccessKey, SecretKey, ""),
		HTTPClient:   http.DefaultClient,
	})
}

// Client returns a client that asks the server itself.
func (s *Server) Client() *s3.Client { return s.client(s.URL) }

// Bucket makes a bucket and returns its name.
func (s *Server) Bucket(tb testing.TB) string {
	tb.Helper()
	name := fmt.Sprintf("bucket-%d", s.buckets.Add(1))
	if _, err := s.Client().CreateBucket(tb.Context(), &s3.CreateBucketInput{Bucket: aws.String(name)}); err != nil {
		tb.Fatal(err)
	}
	return name
}

// Unfinished returns the keys of the bucket's unfinished multipart uploads that begin with prefix. MinIO knows whole keys only.
func (s *Server) Unfinished(tb testing.TB, bucket, prefix string) (keys []string) {
	tb.Helper()
	out, err := s.Client().ListMultipartUploads(tb.Context(), &s3.ListMultipartUploadsInput{Bucket: aws.String(bucket), Prefix: aws.String(prefix)})
	if err != nil {
		tb.Fatal(err)
	}
	for _, u := range out.Uploads {
		keys = append(keys, aws.ToString(u.Key))
	}
	return keys
}

// Objects returns how many objects a bucket has.
func (s *Server) Objects(tb testing.TB, bucket string) (n int) {
	tb.Helper()
	pages := s3.NewListObjectsV2Paginator(s.Client(), &s3.ListObjectsV2Input{Bucket: aws.String(bucket)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(tb.Context())
		if err != nil {
			tb.Fatal(err)
		}
		n += len(page.Contents)
	}
	return n
}

// KnowsWholeKeysOnly says whether the server lists unfinished multipart uploads only for the whole key of one.
func (s *Server) KnowsWholeKeysOnly() bool { return s.name == MinIO }
