package conformance

import (
	"bytes"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"berth/conformance/client"
	"berth/conformance/server"
	"berth/storage/metadata/postgrestest"
	"berth/storage/s3/s3test"

	"github.com/jackc/pgx/v5/pgconn"
)

// cluster is several servers of one registry: their facts are in PostgreSQL, their bytes in S3.
type cluster struct {
	t        *testing.T
	postgres *postgrestest.Server
	dsn      string
	s3       *s3test.Server
	proxy    *s3test.Proxy // in front of s3
	bucket   string
	replicas []*berth
	logs     []*output // of the replicas
}

// output keeps all that a program prints.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// newCluster starts two servers, each with a data directory of its own.
func newCluster(t *testing.T, o options) *cluster {
	t.Helper()
	c := &cluster{t: t, postgres: startPostgres(t), s3: s3test.Start(t, s3test.Versity)}
	c.proxy, c.dsn, c.bucket = s3test.NewProxy(t, c.s3), c.postgres.NewDatabase(t, ""), c.s3.Bucket(t)
	for range 2 {
		c.run(o, func(*server.Config) {})
	}
	return c
}

// run starts one more server, after a change of how it is run.
func (c *cluster) run(o options, change func(*server.Config)) *berth {
	c.t.Helper()
	b := &berth{t: c.t, root: c.t.TempDir()}
	o.root = b.root
	o.env = append(c.env(b.root), o.env...)
	config := configure(c.t, o)
	log := &output{}
	config.Output = log
	change(&config)
	b.run(config)
	c.t.Cleanup(func() {
		b.Kill()
		if c.t.Failed() {
			for line := range strings.Lines(log.String()) {
				if strings.Contains(line, "level=ERROR") {
					c.t.Log(line)
				}
			}
			c.t.Logf("a server printed at last:\n%s", b.Printed())
		}
	})
	c.replicas, c.logs = append(c.replicas, b), append(c.logs, log)
	return b
}

// env names the parts that a server shares with the others.
func (c *cluster) env(root string) []string {
	return []string{
		"REGISTRY_STORAGE=s3", "REGISTRY_STORAGE_DIRECTORY=" + root, "REGISTRY_STORAGE_S3_BUCKET=" + c.bucket, "REGISTRY_STORAGE_S3_REGION=us-east-1",
		"REGISTRY_STORAGE_S3_REGIONENDPOINT=" + c.proxy.URL, "REGISTRY_STORAGE_S3_CHUNKSIZE=5MiB",
		"REGISTRY_STORAGE_S3_ACCESSKEY=" + s3test.AccessKey, "REGISTRY_STORAGE_S3_SECRETKEY=" + s3test.SecretKey,
		"REGISTRY_METADATA_POSTGRES_DSN=" + c.dsn, "REGISTRY_GC_INTERVAL=1s",
	}
}

// startPostgres runs PostgreSQL until the test ends, as durable as it comes.
func startPostgres(t *testing.T) *postgrestest.Server {
	t.Helper()
	directory, err := os.MkdirTemp("", "postgres") // which another user has to reach
	if err != nil {
		t.Fatal(err)
	}
	s, err := postgrestest.Start(t.Context(), directory)
	if errors.Is(err, postgrestest.ErrUnavailable) {
		unavailable(t, err.Error())
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Remove(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// The ways in which a balancer spreads what it gets over the servers: each connection to the next one, or each request.
const (
	connections = "tcp"
	requests    = "http"
)

const haproxyConfig = `
global
    maxconn 1000
defaults
    mode %s
    timeout connect 5s
    timeout client 1m
    timeout server 1m
    timeout check 5s
    retries 3
    option redispatch 1
frontend registry
    bind %s
    %s
    default_backend servers
backend servers
    balance roundrobin
    option httpchk GET /health
    default-server check inter 200ms fall 1 rise 1 %s
`

// balance runs HAProxy in front of the servers. Those that speak HTTPS do so through a balancer of connections; one of requests has
// a certificate of its own, and they have to speak HTTP.
func (c *cluster) balance(mode string, secure bool) *berth {
	c.t.Helper()
	program := haproxy(c.t)
	address, err := server.FreeAddress()
	if err != nil {
		c.t.Fatal(err)
	}
	dir := c.t.TempDir()
	config := server.Config{Program: program, Args: []string{"-db", "-f", filepath.Join(dir, "haproxy.cfg")}, Dir: dir, URL: "http://" + address}
	bind, request, check := address, "", ""
	switch {
	case secure && mode == connections:
		config.URL, config.CA = "https://"+address, c.replicas[0].CA
		check = "check-ssl verify none"
	case secure:
		config.URL, config.CA = "https://"+address, makeBundle(c.t, filepath.Join(dir, "bundle.pem"))
		bind += " ssl crt " + filepath.Join(dir, "bundle.pem") + " alpn h2,http/1.1"
		request = "http-request set-header X-Forwarded-Proto https"
	}
	text := fmt.Sprintf(haproxyConfig, mode, bind, request, check)
	for i, replica := range c.replicas {
		text += fmt.Sprintf("    server s%d %s\n", i, replica.host())
	}
	if err := os.WriteFile(filepath.Join(dir, "haproxy.cfg"), []byte(text), 0o600); err != nil {
		c.t.Fatal(err)
	}
	b := &berth{t: c.t}
	b.run(config)
	c.t.Cleanup(func() {
		b.Kill()
		if c.t.Failed() {
			c.t.Logf("haproxy printed at last:\n%s", b.Printed())
		}
	})
	return b
}

// haproxy returns the path of the program, which Debian has where only root looks.
func haproxy(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"haproxy", "/usr/sbin/haproxy"} {
		if program, err := exec.LookPath(name); err == nil {
			return program
		}
	}
	unavailable(t, "this test needs haproxy")
	return ""
}

// makeBundle writes a certificate with its key into one file, as HAProxy wants it, and returns the path of the certificate alone.
func makeBundle(t *testing.T, path string) (certificate string) {
	t.Helper()
	certificate, key, err := server.MakeCertificate(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	var bundle []byte
	for _, part := range []string{certificate, key} {
		text, err := os.ReadFile(part)
		if err != nil {
			t.Fatal(err)
		}
		bundle = append(bundle, text...)
	}
	if err := os.WriteFile(path, bundle, 0o600); err != nil {
		t.Fatal(err)
	}
	return certificate
}

// crossed returns how many uploads had more than one request, and how many of them more than one server.
func (c *cluster) crossed() (all, crossed int) {
	seen := map[string][]int{} // by session: the requests at each server
	for i, log := range c.logs {
		for line := range strings.Lines(log.String()) {
			if !strings.Contains(line, " endpoint=upload") {
				continue
			}
			_, id, _ := strings.Cut(line, " reference=")
			id, _, _ = strings.Cut(id, " ")
			if seen[id] == nil {
				seen[id] = make([]int, len(c.logs))
			}
			seen[id][i]++
		}
	}
	delete(seen, "") // mounts and pushes in one request have none
	for _, counts := range seen {
		total, servers := 0, 0
		for _, n := range counts {
			total += n
			servers += min(n, 1)
		}
		if total > 1 {
			all++
		}
		if servers > 1 {
			crossed++
		}
	}
	return all, crossed
}

// later moves what waits in the database, so that it is as if time had passed, and nothing else.
func (c *cluster) later(passed time.Duration) {
	c.t.Helper()
	c.sql(fmt.Sprintf(`UPDATE dead_keys SET delete_after = delete_after - %d`, passed.Milliseconds()))
	c.sql(fmt.Sprintf(`UPDATE uploads SET expires_at = expires_at - %d`, passed.Milliseconds()))
	c.sql(fmt.Sprintf(`UPDATE generations SET seen_at = seen_at - %d`, passed.Milliseconds()))
}

func (c *cluster) sql(statement string) {
	c.t.Helper()
	db, err := sql.Open("pgx", c.dsn)
	if err != nil {
		c.t.Fatal(err)
	}
	defer db.Close()
	for range 20 {
		_, err = db.ExecContext(c.t.Context(), statement)
		if failure, ok := errors.AsType[*pgconn.PgError](err); !ok || failure.Code != "40P01" { // the reaper was at the same rows
			break
		}
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) count(query string) (n int) {
	c.t.Helper()
	db, err := sql.Open("pgx", c.dsn)
	if err != nil {
		c.t.Fatal(err)
	}
	defer db.Close()
	if err := db.QueryRowContext(c.t.Context(), query).Scan(&n); err != nil {
		c.t.Fatal(err)
	}
	return n
}

// settle stops the servers and starts them again, as if all the time had passed that anything waits for, and waits until they have
// deleted what is to be deleted. Then there is nothing in the bucket but the blobs, no upload of parts is unfinished, and fsck finds
// nothing.
func (c *cluster) settle() {
	c.t.Helper()
	for _, b := range c.replicas {
		if b.Running() {
			b.stop()
		}
	}
	left := func() int {
		return c.count(`SELECT count(*) FROM dead_keys`) + c.count(`SELECT count(*) FROM uploads`)
	}
	c.replicas[0].restart()
	await(c.t, "deletes what is dead", func() bool { // uploads end, what they leave is deleted later, and once more after that
		if left() == 0 {
			return true
		}
		c.later(30 * 24 * time.Hour)
		return false
	})
	c.replicas[0].stop()
	if n := left(); n > 0 {
		c.t.Errorf("%d keys and uploads are left", n)
	}
	if keys := c.s3.Unfinished(c.t, c.bucket, ""); len(keys) > 0 {
		c.t.Errorf("uploads of parts are unfinished: %v", keys)
	}
	if objects, blobs := c.s3.Objects(c.t, c.bucket), c.count(`SELECT count(*) FROM blobs`); objects != blobs {
		c.t.Errorf("%d objects for %d blobs", objects, blobs)
	}
	c.replicas[0].fsck("--rehash")
}

// await waits for something that has to come soon.
func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !done(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it is a minute, and still nobody %s", what)
		}
	}
}

// clients returns a client of each server.
func (c *cluster) clients() (all []*client.Client) {
	for _, b := range c.replicas {
		all = append(all, b.client())
	}
	return all
}

// TestOfficialSuiteOnReplicas runs the official suite against two servers, with each request of an upload at another one: behind a
// balancer of connections, where each request has its own, and behind one of requests; with blobs from the servers, and with
// blobs from the bucket.
func TestOfficialSuiteOnReplicas(t *testing.T) {
	t.Parallel()
	dir, err := tools()
	if err != nil {
		t.Fatal(err)
	}
	for _, run := range []struct {
		mode     string
		redirect bool
	}{{connections, false}, {requests, true}} {
		name := run.mode + map[bool]string{false: ", blobs from the registry", true: ", blobs from the bucket"}[run.redirect]
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var o options
			suite := []string{"OCI_VERSION=1.1", "OCI_TLS=disabled"}
			if run.redirect {
				suite = append(suite, "OCI_API_BLOBS_DIGEST_HEADER=false")
			} else {
				o.env = append(o.env, "REGISTRY_STORAGE_REDIRECT_DISABLE=true")
			}
			if run.mode == connections {
				o.env = append(o.env, "REGISTRY_HTTP_HEADERS={Connection: [close]}")
			}
			c := newCluster(t, o)
			front := c.balance(run.mode, false)
			out := t.TempDir()
			cmd := exec.CommandContext(t.Context(), filepath.Join(dir, "conformance"))
			cmd.Dir = out
			cmd.Env = append([]string{"HOME=" + out, "OCI_RESULTS_DIR=" + out, "OCI_REGISTRY=" + front.host()}, suite...)
			if output, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("the suite: %v\n%s", err, output[max(0, len(output)-2000):])
			}
			reportFailures(t, filepath.Join(out, "junit.xml"))
			all, crossed := c.crossed()
			t.Logf("of %d uploads with more than one request %d were at both servers", all, crossed)
			if all == 0 || crossed < all*9/10 {
				t.Error("that is too few for this test to mean anything")
			}
		})
	}
}

// TestClientsOnReplicas has crane and oras do all that they do in TestClients, over HTTPS and with a password, with two servers.
func TestClientsOnReplicas(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{connections, requests} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			o := options{htpasswd: true, tls: mode == connections}
			if mode == connections {
				o.env = []string{"REGISTRY_HTTP_HEADERS={Connection: [close]}", "REGISTRY_HTTP_HTTP2_DISABLED=true"} // which would end requests beside it
			} else {
				o.env = []string{"REGISTRY_HTTP_TRUSTEDPROXIES=[127.0.0.1/32]"}
			}
			c := newCluster(t, o)
			front := c.balance(mode, true)
			testLogin(t, front)
			testCrane(t, front)
			testOras(t, front)
			testArtifact(t, front)
			all, crossed := c.crossed()
			t.Logf("of %d uploads with more than one request %d were at both servers", all, crossed)
			if all < 10 || crossed < 4 { // they have several at once, and which server gets which is chance: it was 8 to 17 of 20
				t.Error("that is too few for this test to mean anything")
			}
			for _, b := range c.replicas {
				b.fsck("--rehash")
			}
			c.settle()
		})
	}
}
