package conformance

import (
	"context"
	"encoding/json"
	"fmt"
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
	if err := os.WriteFile(users, fmt.Appendf(nil, "%s:%s\n", user, hash), 0o600); err != nil {
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
	meanwhile := pulls(during, t, as)
	<-done
	t.Logf("pulls a second: %.0f before, %.0f during the spray (%.2f of that); the spray got %v", before, meanwhile, meanwhile/before, answers)
	if meanwhile < before/2 {
		t.Errorf("the spray left %.2f of the pulls", meanwhile/before)
	}
	if total := answers[http.StatusUnauthorized] + answers[http.StatusTooManyRequests]; total != sprayed {
		t.Errorf("of %d wrong passwords, %v were refused", sprayed, answers)
	}
	if answers[http.StatusUnauthorized] > 2*sprayedUsers*20 {
		t.Errorf("%d were tried", answers[http.StatusUnauthorized])
	}
	b.stop()
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
