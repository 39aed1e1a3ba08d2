package s3

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"sync"
	"testing"

	"berth/storage"
	"berth/storage/s3/s3test"
	"berth/storage/storagetest"
)

// TestServerKilled ends the server in the middle of a push, which goes on when the server is back in time, and else from the last
// checkpoint.
func TestServerKilled(t *testing.T) {
	servers(t, func(t *testing.T, server *s3test.Server) {
		b := newBench(t, server)
		config := b.config()
		config.Attempts = 3
		hasty := b.open(t, config)
		config.Attempts = 10_000
		patient := b.open(t, config)

		content := storagetest.Content(1, 2*minPart)
		c := mustAppend(t, patient, storage.Checkpoint{Key: key}, content)
		more := storagetest.Content(2, minPart+1000)
		b.proxy.Fail("UploadPart", s3test.Held, 1)
		type result struct {
			c   storage.Checkpoint
			err error
		}
		pushed := make(chan result)
		go func() {
			next, err := storagetest.Append(t.Context(), patient, c, more)
			pushed <- result{next, err}
		}()
		b.proxy.Arrived()
		server.Kill()
		b.proxy.Release()
		if _, err := storagetest.Append(t.Context(), hasty, c, more); err == nil {
			t.Error("append without a server: no error")
		} else {
			t.Log(err)
		}
		if _, err := storagetest.Put(t.Context(), hasty, key+"-small", []byte("x")); err == nil {
			t.Error("put without a server: no error")
		}
		must(t, server.Run(t.Context()))
		waited := <-pushed
		must(t, waited.err)
		must(t, hasty.Complete(t.Context(), waited.c))
		must(t, storagetest.Check(t.Context(), hasty, waited.c, slices.Concat(content, more)))
		if hasty.used() != 0 || patient.used() != 0 {
			t.Errorf("%d and %d slabs are still used", hasty.used(), patient.used())
		}
	})
}

// TestMemory pushes much more at the same time than the memory of the store holds, and looks at what is really used.
func TestMemory(t *testing.T) {
	b := newBench(t, s3test.Start(t, s3test.Versity))
	config := b.config()
	config.Memory = 6 * minPart
	s := b.open(t, config)
	const writers, size = 32, 3*minPart + 1000
	content := storagetest.Content(1, size)

	before := heap()
	done, peak := make(chan struct{}), make(chan uint64)
	go func() { peak <- watchHeap(done) }()
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			c, err := storagetest.Append(t.Context(), s, storage.Checkpoint{Key: fmt.Sprintf("%s-%d", key, i)}, slices.Collect(slices.Chunk(content, 99_991))...)
			if err == nil {
				err = s.Complete(t.Context(), c)
			}
			if err != nil {
				t.Errorf("writer %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	close(done)
	// What is not of parts: connections, their buffers on both sides of the proxy, goroutines.
	const overhead = 400 << 10
	limit := uint64(config.Memory + writers*parallel*overhead)
	used := <-peak - min(before, heap())
	t.Logf("%d MiB at the most, of %d MiB that were pushed at once with %d MiB of memory", used>>20, int64(writers*size)>>20, config.Memory>>20)
	if used > limit {
		t.Errorf("more than %d MiB were used", limit>>20)
	}
}

// heap is how many bytes are in use.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func watchHeap(done <-chan struct{}) (peak uint64) {
	for {
		peak = max(peak, heap())
		select {
		case <-done:
			return peak
		default:
		}
	}
}

// TestPayload looks at how bodies are protected: signed only where TLS does not protect them, with one checksum in a header.
func TestPayload(t *testing.T) {
	b := newBench(t, s3test.Start(t, s3test.Versity))
	for _, test := range []struct {
		checksum string
		tls      bool
		header   string
	}{
		{ChecksumCRC32, true, "X-Amz-Checksum-Crc32"},
		{ChecksumSHA256, true, "X-Amz-Checksum-Sha256"},
		{ChecksumOff, true, ""},
		{ChecksumCRC32, false, "X-Amz-Checksum-Crc32"},
		{ChecksumOff, false, ""},
	} {
		t.Run(fmt.Sprintf("%s %t", test.checksum, test.tls), func(t *testing.T) {
			var mu sync.Mutex
			bodies := 0
			front := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				mu.Lock()
				if op := s3test.Operation(r); op == "PutObject" || op == "UploadPart" {
					bodies++
					checkPayload(t, r, test.tls, test.header)
				}
				mu.Unlock()
				b.proxy.ServeHTTP(w, r)
			}))
			config := b.config()
			config.Checksum = test.checksum
			if test.tls {
				front.StartTLS()
				config.SkipVerify = true
			} else {
				front.Start()
			}
			t.Cleanup(front.Close)
			config.RegionEndpoint = front.URL
			s := b.open(t, config)
			for _, size := range []int{0, 1000, minPart + 1000} {
				content := storagetest.Content(1, size)
				c, err := storagetest.Put(t.Context(), s, fmt.Sprintf("%s-%s-%t-%d", key, test.checksum, test.tls, size), content)
				must(t, err)
				must(t, storagetest.Check(t.Context(), s, c, content))
			}
			mu.Lock()
			defer mu.Unlock()
			if bodies != 4 {
				t.Errorf("%d bodies were sent", bodies)
			}
		})
	}
}

func checkPayload(t *testing.T, r *http.Request, tls bool, header string) {
	hash := r.Header.Get("X-Amz-Content-Sha256")
	if tls != (hash == "UNSIGNED-PAYLOAD") || !tls && len(hash) != 64 {
		t.Errorf("payload is signed as %q", hash)
	}
	for _, name := range []string{"X-Amz-Checksum-Crc32", "X-Amz-Checksum-Sha256"} {
		if got := r.Header.Get(name); (got != "") != (name == header) {
			t.Errorf("%s: %q", name, got)
		}
	}
	if r.Header.Get("X-Amz-Trailer") != "" || r.ContentLength < 0 {
		t.Errorf("trailers %q, length %d", r.Header.Get("X-Amz-Trailer"), r.ContentLength)
	}
}
