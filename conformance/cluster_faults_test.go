package conformance

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"berth/conformance/client"
	"berth/conformance/server"
	"berth/storage/s3/s3test"
)

// disturb has images pushed by way of a balancer while something happens to the parts of the cluster. In the end everything that
// any server ever acknowledged is there at each of them, byte for byte, and nothing else is left anywhere.
func (c *cluster) disturb(happens func(ctx context.Context)) (interrupted int64) {
	c.t.Helper()
	front, book, seed := c.balance(connections, false), newLedger(), crashSeed(c.t)
	crew := hire(front, book, seed, true)
	ctx, cancel := context.WithCancel(c.t.Context())
	failed := work(ctx, cancel, crew)
	c.t.Cleanup(func() { cancel(); failed() })
	await(c.t, "pushes", func() bool { _, manifests, _ := book.size(); return manifests > 0 })
	happens(ctx)
	_, before, _ := book.size()
	await(c.t, "pushes afterwards", func() bool { _, manifests, _ := book.size(); return manifests > before || ctx.Err() != nil })
	cancel()
	for _, err := range failed() {
		c.t.Error(err)
	}
	for _, p := range crew {
		interrupted += p.interrupted.Load()
	}
	blobs, manifests, tags := book.size()
	c.t.Logf("%d requests had to be repeated; %d blobs, %d manifests and %d tags were acknowledged", interrupted, blobs, manifests, tags)
	for _, one := range c.clients() {
		for _, err := range book.verify(c.t.Context(), one) {
			c.t.Error(err)
		}
	}
	c.settle()
	return interrupted
}

// TestReplicaKilled kills one server after the other at random moments, while the clients go on at the other one.
func TestReplicaKilled(t *testing.T) {
	t.Parallel()
	c := newCluster(t, options{})
	const kills = 20
	random := rand.New(rand.NewPCG(rand.Uint64(), 0))
	interrupted := c.disturb(func(ctx context.Context) {
		for i := range kills {
			pass(ctx, time.Duration(100+random.IntN(400))*time.Millisecond)
			c.replicas[i%2].Kill()
			pass(ctx, time.Duration(random.IntN(300))*time.Millisecond)
			c.replicas[i%2].restart()
			await(c.t, "answers health checks", func() bool { return healthy(c.replicas[i%2]) })
		}
	})
	if interrupted < kills {
		t.Error("the kills hit too little for this test to mean anything")
	}
}

// pass lets time pass, which may be cut short.
func pass(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

func healthy(b *berth) bool {
	resp, err := http.Get(b.URL + "/health")
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// TestS3Refuses has S3 answer 503 to everything for 30 seconds.
func TestS3Refuses(t *testing.T) {
	t.Parallel()
	c := newCluster(t, options{})
	interrupted := c.disturb(func(ctx context.Context) {
		c.proxy.FailAll(s3test.SlowDown)
		pass(ctx, 30*time.Second)
		c.proxy.FailAll(s3test.None)
	})
	if interrupted == 0 {
		t.Error("nobody noticed")
	}
}

// TestS3LosesAnswers has the answers of calls lost that made an object or a part.
func TestS3LosesAnswers(t *testing.T) {
	t.Parallel()
	c := newCluster(t, options{})
	c.disturb(func(ctx context.Context) {
		for range 30 {
			for _, operation := range []string{"CompleteMultipartUpload", "PutObject", "CreateMultipartUpload", "UploadPart"} {
				c.proxy.Fail(operation, s3test.Lost, 1)
			}
			pass(ctx, 200*time.Millisecond)
		}
	})
	if calls := c.proxy.Calls(); calls["CompleteMultipartUpload"] < 5 {
		t.Errorf("too few calls for this test to mean anything: %v", calls)
	}
}

// TestPostgresRestarts stops the database in both ways while images are pushed.
func TestPostgresRestarts(t *testing.T) {
	t.Parallel()
	c := newCluster(t, options{})
	interrupted := c.disturb(func(ctx context.Context) {
		for i := range 6 {
			pass(ctx, 700*time.Millisecond)
			stop := c.postgres.Stop
			if i%2 == 1 {
				stop = c.postgres.Kill
			}
			if err := stop(); err != nil {
				t.Error(err)
			}
			pass(ctx, time.Duration(i)*300*time.Millisecond)
			if err := c.postgres.Run(t.Context()); err != nil {
				t.Error(err)
			}
		}
	})
	if interrupted == 0 {
		t.Error("nobody noticed")
	}
}

// TestPartition cuts one of the servers off from the database: nothing gets through, and nothing says so. It says that it is not
// available, its balancer sends requests elsewhere, and it goes on when the network is back.
func TestPartition(t *testing.T) {
	t.Parallel()
	needRoot(t)
	c := newCluster(t, options{})
	n := newNamespace(t)
	cut := c.addIn(n)
	c.disturb(func(ctx context.Context) {
		n.do(t, "iptables", "-I", "OUTPUT", "-p", "tcp", "--dport", n.port, "-j", "DROP")
		began := time.Now()
		await(c.t, "says that the server is cut off", func() bool { return !healthy(cut) })
		_, err := cut.client().Manifest(ctx, "crash/r0", "latest")
		t.Logf("after %s the server that is cut off says: %v", time.Since(began).Round(time.Millisecond), err)
		if client.Status(err) != http.StatusServiceUnavailable {
			t.Error("it should say that it is not available")
		}
		pass(ctx, 20*time.Second)
		n.do(t, "iptables", "-D", "OUTPUT", "-p", "tcp", "--dport", n.port, "-j", "DROP")
		await(c.t, "finds the server healthy again", func() bool { return healthy(cut) })
	})
}

// namespace is a network of its own, with a cable to that of the tests.
type namespace struct{ name, inside, outside, port string }

func newNamespace(t *testing.T) *namespace {
	t.Helper()
	id := rand.IntN(200)
	n := &namespace{name: fmt.Sprintf("berth%d", id), outside: fmt.Sprintf("10.84.%d.1", id), inside: fmt.Sprintf("10.84.%d.2", id)}
	cable := fmt.Sprintf("berth%d", id)
	for _, line := range []string{
		"netns add " + n.name,
		"link add " + cable + " type veth peer name eth0 netns " + n.name,
		"address add " + n.outside + "/24 dev " + cable,
		"link set " + cable + " up",
		"-n " + n.name + " link set lo up",
		"-n " + n.name + " address add " + n.inside + "/24 dev eth0",
		"-n " + n.name + " link set eth0 up",
	} {
		if out, err := exec.CommandContext(t.Context(), "ip", strings.Fields(line)...).CombinedOutput(); err != nil {
			unavailable(t, fmt.Sprintf("this test makes a network: ip %s: %v: %s", line, err, out))
		}
		if strings.HasPrefix(line, "netns add") {
			t.Cleanup(func() { _ = exec.Command("ip", "netns", "delete", n.name).Run() }) // which takes the cable with it
		}
	}
	return n
}

// addIn starts one more server, in a network of its own.
func (c *cluster) addIn(n *namespace) *berth {
	c.t.Helper()
	_, database, _ := strings.Cut(c.dsn, "dbname=")
	postgres, s3 := relay(c.t, n.outside, "unix", c.postgres.Socket()), relay(c.t, n.outside, "tcp", strings.TrimPrefix(c.proxy.URL, "http://"))
	n.port = strconv.Itoa(postgres.Port)
	address := n.inside + ":5000"
	return c.run(options{env: []string{
		"REGISTRY_HTTP_ADDR=" + address, "REGISTRY_STORAGE_S3_REGIONENDPOINT=http://" + s3.String(),
		fmt.Sprintf("REGISTRY_METADATA_POSTGRES_DSN=host=%s port=%d user=postgres dbname=%s", n.outside, postgres.Port, database),
	}}, func(s *server.Config) {
		s.Args = append([]string{"netns", "exec", n.name, s.Program}, s.Args...)
		s.Program, s.URL = "ip", "http://"+address
	})
}

// relay carries connections from a port of an address to a server, until the test ends.
func relay(t *testing.T, from, network, to string) *net.TCPAddr {
	t.Helper()
	listener, err := net.Listen("tcp", from+":0")
	if err != nil {
		t.Fatal(err)
	}
	var carrying sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	carrying.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			upstream, err := net.Dial(network, to)
			if err != nil {
				client.Close()
				continue
			}
			end := sync.OnceFunc(func() { client.Close(); upstream.Close() })
			context.AfterFunc(ctx, end)
			for _, way := range [][2]net.Conn{{client, upstream}, {upstream, client}} {
				carrying.Go(func() {
					defer end()
					_, _ = io.Copy(way[0], way[1]) // it ends as connections do
				})
			}
		}
	})
	t.Cleanup(func() {
		cancel()
		listener.Close()
		carrying.Wait()
	})
	return listener.Addr().(*net.TCPAddr)
}

func (n *namespace) do(t *testing.T, command ...string) {
	t.Helper()
	args := append([]string{"netns", "exec", n.name}, command...)
	if out, err := exec.CommandContext(t.Context(), "ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(command, " "), err, out)
	}
}
