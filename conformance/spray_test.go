package conformance

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"berth/conformance/client"

	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/crypto/bcrypt"
)

const (
	sprayed      = 10_000 // wrong passwords
	sprayers     = 50
	sprayedUsers = 5
	pullers      = 8
	newcomerUser = "newcomer"
	// pullTime is how long pulls are counted without the spray.
	pullTime = 3 * time.Second
	// sprayTime bounds the spray on a slow machine.
	sprayTime = 3 * time.Minute
)

// TestSpray tries passwords from many connections while others pull. It is alone on the machine, because it compares rates.
func TestSpray(t *testing.T) {
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.DefaultCost)
	if err != nil {
		t.Fatal(err)
	}
	users := filepath.Join(t.TempDir(), "htpasswd")
	if err := os.WriteFile(users, fmt.Appendf(nil, "%s:%s\n%s:%s\n", user, hash, newcomerUser, hash), 0o600); err != nil {
		t.Fatal(err)
	}
	b := start(t, options{tls: true, env: []string{"REGISTRY_AUTH=htpasswd", "REGISTRY_AUTH_HTPASSWD_PATH=" + users}})
	as := func(password string) *client.Client {
		c := b.client()
		c.User, c.Password = user, password
		return c
	}
	pushTiny(t, as(password))

	quiet, cancel := context.WithTimeout(t.Context(), pullTime)
	defer cancel()
	before := pulls(quiet, t, as)
	during, cancel := context.WithTimeout(t.Context(), sprayTime)
	defer cancel()
	var answers map[int]int
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer cancel()
		answers = spray(during, t, b)
	}()
	newcomer := make(chan time.Duration, 1)
	go func() { newcomer <- firstLogin(during, t, b) }()
	meanwhile := pulls(during, t, as)
	<-done
	t.Logf("a first login from another address took %v", (<-newcomer).Round(time.Millisecond))
	t.Logf("pulls a second: %.0f before, %.0f during the spray (%.2f of that); the spray got %v", before, meanwhile, meanwhile/before, answers)
	if meanwhile < before/2 {
		t.Errorf("the spray left %.2f of the pulls", meanwhile/before)
	}
	if total := answers[http.StatusUnauthorized] + answers[http.StatusTooManyRequests] + answers[http.StatusServiceUnavailable]; total != sprayed {
		t.Errorf("of %d wrong passwords, %v were refused", sprayed, answers)
	}
	if tried := answers[http.StatusUnauthorized]; tried > 2*sprayedUsers*20+sprayed/100 {
		t.Errorf("%d were tried", tried)
	}
	b.stop()
}

// firstLogin logs in from another address than the spray's, as somebody who was not here since the registry started. It has to
// work, in the time that clients wait.
func firstLogin(ctx context.Context, t *testing.T, b *berth) time.Duration {
	transport, err := b.Transport()
	if err != nil {
		t.Error(err)
		return 0
	}
	defer transport.CloseIdleConnections()
	transport.DialContext = (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}).DialContext
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, b.URL+"/v2/", nil)
	if err != nil {
		t.Error(err)
		return 0
	}
	r.SetBasicAuth(newcomerUser, password)
	time.Sleep(pullTime) // until the spray is under way
	began := time.Now()
	response, err := transport.RoundTrip(r)
	if err != nil {
		t.Error(err)
		return 0
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Errorf("the first login during the spray: %s", response.Status)
	}
	return time.Since(began)
}

// pulls returns how many manifests a second are pulled until ctx ends. No pull may fail.
func pulls(ctx context.Context, t *testing.T, as func(password string) *client.Client) float64 {
	var pulled atomic.Int64
	var running sync.WaitGroup
	began := time.Now()
	for range pullers {
		c := as(password)
		running.Go(func() {
			for ctx.Err() == nil {
				if _, err := c.Manifest(context.WithoutCancel(ctx), "pulled", "v1"); err != nil {
					t.Errorf("a pull failed: %v", err)
					return
				}
				pulled.Add(1)
			}
		})
	}
	running.Wait()
	return float64(pulled.Load()) / time.Since(began).Seconds()
}

// spray tries wrong passwords, for a user that there is and for some that there are not, and returns how often each status
// was the answer.
func spray(ctx context.Context, t *testing.T, b *berth) map[int]int {
	var mu sync.Mutex
	answers := make(map[int]int)
	var next atomic.Int64
	var running sync.WaitGroup
	for range sprayers {
		c := b.client()
		running.Go(func() {
			for i := next.Add(1); i <= sprayed && ctx.Err() == nil; i = next.Add(1) {
				status, err := tryPassword(ctx, c, i)
				if err != nil {
					t.Errorf("try %d: %v", i, err)
					return
				}
				mu.Lock()
				answers[status]++
				mu.Unlock()
			}
		})
	}
	running.Wait()
	return answers
}

func tryPassword(ctx context.Context, c *client.Client, i int64) (int, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, c.URL+"/v2/", nil)
	if err != nil {
		return 0, err
	}
	name := user
	if n := i % sprayedUsers; n > 0 {
		name = fmt.Sprint("user", n)
	}
	if i%100 == 0 { // a name that nobody tried yet, which is not refused without a look
		name = fmt.Sprint("random", i)
	}
	r.SetBasicAuth(name, fmt.Sprint("wrong", i))
	response, err := c.HTTP.Do(r)
	if err != nil {
		return 0, err
	}
	return response.StatusCode, response.Body.Close()
}

// pushTiny pushes an image without layers.
func pushTiny(t *testing.T, c *client.Client) {
	t.Helper()
	config := client.Content{Seed: 1, Size: 100}
	body, err := json.Marshal(v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest, Layers: []v1.Descriptor{},
		Config: v1.Descriptor{MediaType: "application/vnd.example", Digest: config.Digest(), Size: config.Size},
	})
	if err == nil {
		err = c.PushBlob(t.Context(), "pulled", config.Digest(), config.Reader(0), config.Size)
	}
	if err == nil {
		err = c.PushManifest(t.Context(), "pulled", "v1", v1.MediaTypeImageManifest, body)
	}
	if err != nil {
		t.Fatal(err)
	}
}
