package tls

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
)

// TestRotationUnderLoad replaces the certificate ten times under ten thousand requests, of which none fails: with
// HTTP/1.1 and HTTP/2, on connections that are kept and on new ones.
func TestRotationUnderLoad(t *testing.T) {
	const requests, rotations = 10_000, 10
	source := open(t, Config{Directory: t.TempDir()})
	address := serve(t, with(source))
	var count atomic.Int64
	var seen sync.Map // of certificates, by the number of their names
	var clients sync.WaitGroup
	for _, way := range []struct {
		http2, fresh bool
	}{{false, false}, {false, true}, {true, false}, {true, true}} {
		settings := trusting(t, source.CA())
		settings.VerifyConnection = func(state tls.ConnectionState) error {
			seen.Store(len(certificateNames(state.PeerCertificates[0])), true)
			return nil
		}
		c := client(t, settings, address, way.http2)
		clients.Go(func() {
			for count.Add(1) <= requests {
				if err := ask(c); err != nil {
					t.Errorf("%+v: %v", way, err)
					return
				}
				if way.fresh {
					c.CloseIdleConnections()
				}
			}
		})
	}
	before := source.Leaf()
	for i := range rotations {
		for n := int64(requests / (rotations + 1) * (i + 1)); count.Load() < n && !t.Failed(); {
			if err := ask(client(t, trusting(t, source.CA()), address, false)); err != nil {
				t.Error(err)
			}
		}
		source.Learn(calling(fmt.Sprintf("nas%d", i)))
		if source.Leaf().Equal(before) {
			t.Fatal("the certificate was not replaced")
		}
		before = source.Leaf()
	}
	clients.Wait()
	var kinds []int
	seen.Range(func(names, _ any) bool { kinds = append(kinds, names.(int)); return true })
	if slices.Sort(kinds); len(kinds) < rotations {
		t.Errorf("clients saw only certificates of %v names", kinds)
	}
}

func ask(c *http.Client) error {
	response, err := c.Get("https://localhost/")
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && (response.StatusCode != http.StatusOK || len(body) == 0) {
		err = fmt.Errorf("got %d %q", response.StatusCode, body)
	}
	return err
}
