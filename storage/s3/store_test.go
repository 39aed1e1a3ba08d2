package s3

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"berth/storage"
	"berth/storage/s3/s3test"
	"berth/storage/storagetest"
)

// bench is a server, a proxy in front of it, and an empty bucket.
type bench struct {
	server *s3test.Server
	proxy  *s3test.Proxy
	bucket string
}

func newBench(t *testing.T, server *s3test.Server) bench {
	return bench{server, s3test.NewProxy(t, server), server.Bucket(t)}
}

// config is that of a store behind the proxy, with the smallest parts.
func (b bench) config() Config {
	return Config{
		AccessKey: s3test.AccessKey, SecretKey: s3test.SecretKey, Bucket: b.bucket, RegionEndpoint: b.proxy.URL, ForcePathStyle: true,
		RootDirectory: "/root/", ChunkSize: minPart, backoff: 10 * time.Millisecond,
	}
}

func (b bench) open(t *testing.T, c Config) *Store {
	t.Helper()
	s, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	b.proxy.Calls()
	return s
}

// wantCalls compares the calls since the last time.
func (b bench) wantCalls(t *testing.T, what string, want map[string]int) {
	t.Helper()
	if got := b.proxy.Calls(); !maps.Equal(got, want) {
		t.Errorf("%s: calls %v, want %v", what, got, want)
	}
}

// servers runs a test with each server.
func servers(t *testing.T, run func(t *testing.T, server *s3test.Server)) {
	for _, name := range []string{s3test.Versity, s3test.MinIO} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run(t, s3test.Start(t, name))
		})
	}
}

func TestContract(t *testing.T) {
	servers(t, func(t *testing.T, server *s3test.Server) {
		for _, checksum := range []string{ChecksumCRC32, ChecksumSHA256, ChecksumOff} {
			t.Run(checksum, func(t *testing.T) {
				storagetest.Run(t, func(t *testing.T) storage.Blobs {
					b := newBench(t, server)
					c := b.config()
					c.Checksum = checksum
					return b.open(t, c)
				})
			})
		}
	})
}

// TestStore runs what is special to S3 with each server.
func TestStore(t *testing.T) {
	servers(t, func(t *testing.T, server *s3test.Server) {
		for _, test := range []struct {
			name string
			run  func(t *testing.T, b bench)
		}{
			{"Calls", testCalls},
			{"GoOn", testGoOn},
			{"Repeated", testRepeated},
			{"LostComplete", testLostComplete},
			{"OtherCompleted", testOtherCompleted},
			{"LateWriter", testLateWriter},
			{"Strays", testStrays},
			{"Refused", testRefused},
			{"Hanging", testHanging},
			{"Disconnected", testDisconnected},
			{"Delete", testDelete},
			{"List", testList},
			{"Read", testRead},
			{"Link", testLink},
			{"Open", testOpen},
		} {
			t.Run(test.name, func(t *testing.T) { test.run(t, newBench(t, server)) })
		}
	})
}

const key = "blobs/3f9a01c2/0001/0123456789abcdef0123456789abcdef"

// mib is 1 MiB of content.
const mib = 1 << 20

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func mustAppend(t *testing.T, s *Store, from storage.Checkpoint, pieces ...[]byte) storage.Checkpoint {
	t.Helper()
	c, err := storagetest.Append(t.Context(), s, from, pieces...)
	must(t, err)
	return c
}

func mustComplete(t *testing.T, s *Store, c storage.Checkpoint, content []byte) {
	t.Helper()
	must(t, s.Complete(t.Context(), c))
	must(t, storagetest.Check(t.Context(), s, c, content))
}

// testCalls counts what a push costs.
func testCalls(t *testing.T, b bench) {
	s := b.open(t, b.config())
	for _, test := range []struct {
		size int
		want map[string]int
	}{
		{0, map[string]int{"PutObject": 1}},
		{4 << 10, map[string]int{"PutObject": 1}},
		{minPart, map[string]int{"PutObject": 1}},
		{minPart + 1, map[string]int{"CreateMultipartUpload": 1, "UploadPart": 2, "CompleteMultipartUpload": 1}},
		{3 * minPart, map[string]int{"CreateMultipartUpload": 1, "UploadPart": 3, "CompleteMultipartUpload": 1}},
	} {
		content := storagetest.Content(1, test.size)
		c, err := storagetest.Put(t.Context(), s, fmt.Sprintf("%s-%d", key, test.size), content)
		must(t, err)
		b.wantCalls(t, fmt.Sprintf("put of %d bytes", test.size), test.want)
		must(t, storagetest.Check(t.Context(), s, c, content))
		b.wantCalls(t, fmt.Sprintf("read of %d bytes", test.size), map[string]int{"GetObject": 1})
	}
}

// testGoOn goes on in another store after every kind of checkpoint, counts what that costs, and goes on once more.
func testGoOn(t *testing.T, b bench) {
	first, second := b.open(t, b.config()), b.open(t, b.config())
	piece := storagetest.Content(2, minPart+100)
	for _, test := range []struct {
		name  string
		size  int
		spare bool
		want  map[string]int
	}{
		{"small", 1000, true, map[string]int{"GetObject": 1, "CreateMultipartUpload": 1, "UploadPart": 2}},
		{"below the edge", minPart - 1, true, map[string]int{"GetObject": 1, "CreateMultipartUpload": 1, "UploadPart": 3}},
		{"whole part", minPart, true, map[string]int{"HeadObject": 1, "CreateMultipartUpload": 1, "UploadPartCopy": 1, "UploadPart": 2}},
		{"short tail", minPart + 1, true, map[string]int{
			"CompleteMultipartUpload": 1, "HeadObject": 1, "CreateMultipartUpload": 1, "UploadPartCopy": 1, "UploadPart": 2}},
		{"whole parts", 2 * minPart, false, map[string]int{"UploadPart": 2}},
		{"whole parts and a short tail", 3*minPart - 1, true, map[string]int{
			"CompleteMultipartUpload": 1, "HeadObject": 1, "CreateMultipartUpload": 1, "UploadPartCopy": 1, "UploadPart": 2}},
	} {
		t.Run(test.name, func(t *testing.T) {
			content := storagetest.Content(1, test.size)
			name := fmt.Sprintf("%s-%d", key, test.size)
			c := mustAppend(t, first, storage.Checkpoint{Key: name}, content)
			b.proxy.Calls()
			c.Spare = name + "-spare"
			next := mustAppend(t, second, c, piece)
			b.wantCalls(t, "going on", test.want)
			if want := map[bool]string{false: name, true: c.Spare}[test.spare]; next.Key != want {
				t.Errorf("it goes on under %s instead of %s", next.Key, want)
			}
			content = append(content, piece...)
			next = mustAppend(t, first, next, piece[:10], piece[10:5000])
			content = append(content, piece[:5000]...)
			mustComplete(t, second, next, content)
		})
	}
}

// testRepeated loses or refuses each kind of call, and nothing is noticed of it but its repetition.
func testRepeated(t *testing.T, b bench) {
	s := b.open(t, b.config())
	for _, operation := range []string{"PutObject", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload", "GetObject", "DeleteObject"} {
		for name, fault := range map[string]s3test.Fault{
			"SlowDown": s3test.SlowDown, "Broken": s3test.Broken, "Reset": s3test.Reset, "Lost": s3test.Lost,
		} {
			t.Run(operation+" "+name, func(t *testing.T) {
				for i, size := range []int{1000, 2*minPart + 1000} {
					content := storagetest.Content(uint64(i), size)
					b.proxy.Fail(operation, fault, 1)
					c, err := storagetest.Put(t.Context(), s, fmt.Sprintf("%s-%s-%s-%d", key, operation, name, i), content)
					must(t, err)
					must(t, storagetest.Check(t.Context(), s, c, content))
					must(t, s.Delete(t.Context(), c.Key))
					if left := b.server.Unfinished(t, b.bucket, s.prefix+c.Key); len(left) > 0 {
						t.Errorf("left: %q", left)
					}
				}
			})
		}
	}
}

// testLostComplete loses all answers of a Complete, so that only the object tells.
func testLostComplete(t *testing.T, b bench) {
	for _, checksum := range []string{ChecksumCRC32, ChecksumSHA256, ChecksumOff} {
		t.Run(checksum, func(t *testing.T) {
			config := b.config()
			config.Attempts, config.Checksum = 1, checksum
			s := b.open(t, config)
			content := storagetest.Content(1, 2*minPart+1)
			c := mustAppend(t, s, storage.Checkpoint{Key: key + checksum}, content)
			b.proxy.Calls()
			b.proxy.Fail("CompleteMultipartUpload", s3test.Lost, 1)
			mustComplete(t, s, c, content)
			b.wantCalls(t, "complete", map[string]int{"CompleteMultipartUpload": 1, "HeadObject": 1, "GetObject": 1})
			mustComplete(t, s, c, content) // again
		})
	}
}

// testOtherCompleted has a claim that was superseded complete the upload with other bytes of the same number.
func testOtherCompleted(t *testing.T, b bench) {
	for _, checksum := range []string{ChecksumCRC32, ChecksumSHA256, ChecksumOff} {
		t.Run(checksum, func(t *testing.T) {
			config := b.config()
			config.Checksum = checksum
			s := b.open(t, config)
			c := mustAppend(t, s, storage.Checkpoint{Key: key + checksum}, storagetest.Content(1, 2*minPart))
			older := appendIn(t, s, c, 0, storagetest.Content(2, 1000))
			newer := appendIn(t, s, c, 1, storagetest.Content(3, 1000))
			must(t, s.Complete(t.Context(), older))
			must(t, s.Complete(t.Context(), older)) // again
			if err := s.Complete(t.Context(), newer); !errors.Is(err, storage.ErrNotFound) {
				t.Errorf("complete what another claim completed: %v", err)
			}
		})
	}
}

// appendIn goes on in a multipart upload with part numbers of a lane.
func appendIn(t *testing.T, s *Store, from storage.Checkpoint, lane int32, piece []byte) storage.Checkpoint {
	t.Helper()
	w, err := s.Write(t.Context(), from)
	must(t, err)
	w.(*writer).lane = lane
	_, err = w.Write(piece)
	must(t, err)
	c, err := w.Checkpoint(t.Context())
	must(t, err)
	must(t, w.Close())
	return c
}

// testLateWriter has a part of a superseded claim arrive after the newer claim's parts.
func testLateWriter(t *testing.T, b bench) {
	s := b.open(t, b.config())
	content := storagetest.Content(1, 2*minPart)
	for lane := range int32(lanes) {
		c := mustAppend(t, s, storage.Checkpoint{Key: fmt.Sprintf("%s-%d", key, lane)}, content)
		newer := lateWriter(t, b, s, c, lane)
		if lane == 0 { // the only one in which the late part takes the place of the newer one
			if err := s.Complete(t.Context(), newer); code(err) != "InvalidPart" {
				t.Errorf("complete with a part that was replaced: %v", err)
			}
			continue
		}
		mustComplete(t, s, newer, slices.Concat(content, storagetest.Content(3, 3000)))
	}
}

// lateWriter holds a claim's part in lane 0 back until a newer claim has written in another.
func lateWriter(t *testing.T, b bench, s *Store, c storage.Checkpoint, lane int32) (newer storage.Checkpoint) {
	c.Spare = c.Key + "-a"
	older, err := s.Write(t.Context(), c)
	must(t, err)
	older.(*writer).lane = 0
	_, err = older.Write(storagetest.Content(2, 2000))
	must(t, err)
	b.proxy.Fail("UploadPart", s3test.Held, 1)
	held := make(chan error)
	go func() {
		_, err := older.Checkpoint(t.Context())
		held <- err
	}()
	b.proxy.Arrived()

	c.Spare = c.Key + "-b"
	newer = appendIn(t, s, c, lane, storagetest.Content(3, 3000))

	b.proxy.Release()
	must(t, <-held)
	must(t, older.Close())
	return newer
}

// testStrays loses the answer of the call that begins an upload: the repetition begins another.
func testStrays(t *testing.T, b bench) {
	s := b.open(t, b.config())
	content := storagetest.Content(1, minPart+1)
	b.proxy.Fail("CreateMultipartUpload", s3test.Lost, 1)
	c := mustAppend(t, s, storage.Checkpoint{Key: key}, content)
	if n := len(b.server.Unfinished(t, b.bucket, s.prefix+key)); n != 2 {
		t.Errorf("%d uploads: the test does not test what it should", n)
	}
	mustComplete(t, s, c, content)
	if left := b.server.Unfinished(t, b.bucket, s.prefix+key); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

// testRefused gives up after the attempts that it has, and what was durable stays.
func testRefused(t *testing.T, b bench) {
	config := b.config()
	config.Attempts = 2
	s := b.open(t, config)
	content := storagetest.Content(1, 2*minPart)
	c := mustAppend(t, s, storage.Checkpoint{Key: key}, content)
	b.proxy.Fail("UploadPart", s3test.SlowDown, 2)
	_, err := storagetest.Append(t.Context(), s, c, storagetest.Content(2, 1000))
	if code(err) != "SlowDown" {
		t.Errorf("append: %v", err)
	}
	b.proxy.Calls()
	mustComplete(t, s, c, content)
	if used := s.used(); used != 0 {
		t.Errorf("%d slabs are still used", used)
	}
}

func (s *Store) used() int {
	s.budget.mu.Lock()
	defer s.budget.mu.Unlock()
	return s.budget.used
}

// testHanging has a server that says nothing any more.
func testHanging(t *testing.T, b bench) {
	config := b.config()
	config.Patience = 200 * time.Millisecond
	s := b.open(t, config)
	content := storagetest.Content(1, 2*minPart+1000)
	for _, operation := range []string{"CreateMultipartUpload", "UploadPart", "GetObject", "DeleteObject"} {
		b.proxy.Fail(operation, s3test.Hang, 1)
	}
	c, err := storagetest.Put(t.Context(), s, key, content)
	must(t, err)
	must(t, storagetest.Check(t.Context(), s, c, content))
	must(t, s.Delete(t.Context(), key))

	config.Attempts = 1
	s = b.open(t, config)
	b.proxy.Fail("PutObject", s3test.Hang, 1)
	_, err = storagetest.Put(t.Context(), s, key, []byte("x"))
	var stalled stalledError
	if !errors.As(err, &stalled) {
		t.Errorf("put at a server that hangs: %v", err)
	}
}

// testDisconnected cancels the context of a writer, as a client does that goes away: a checkpoint still saves what arrived.
func testDisconnected(t *testing.T, b bench) {
	s := b.open(t, b.config())
	content := storagetest.Content(1, 2*minPart+1000)
	ctx, cancel := context.WithCancel(t.Context())
	w, err := s.Write(ctx, storage.Checkpoint{Key: key})
	must(t, err)
	b.proxy.Fail("UploadPart", s3test.Held, 2)
	_, err = w.Write(content)
	must(t, err)
	b.proxy.Arrived()
	b.proxy.Arrived()
	cancel()
	b.proxy.Release()
	c, err := w.Checkpoint(t.Context())
	must(t, err)
	must(t, w.Close())
	mustComplete(t, s, c, content)
}

func testDelete(t *testing.T, b bench) {
	s := b.open(t, b.config())
	c := mustAppend(t, s, storage.Checkpoint{Key: key}, storagetest.Content(1, minPart+1))
	longer := mustAppend(t, s, storage.Checkpoint{Key: key + "0"}, storagetest.Content(1, minPart+1))
	b.proxy.Calls()
	must(t, s.Delete(t.Context(), c.Key))
	b.wantCalls(t, "delete", map[string]int{"DeleteObject": 1, "ListMultipartUploads": 1, "AbortMultipartUpload": 1})
	if err := s.Complete(t.Context(), c); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("complete what was deleted: %v", err)
	}
	if _, err := storagetest.Append(t.Context(), s, c, []byte("x")); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("append to what was deleted: %v", err)
	}
	mustComplete(t, s, longer, storagetest.Content(1, minPart+1))
}

// testList finds what was not completed, where the server tells, and ignores what is not the store's.
func testList(t *testing.T, b bench) {
	other := b.config()
	other.RootDirectory = "root2"
	mustAppend(t, b.open(t, other), storage.Checkpoint{Key: key}, []byte("other"))
	s := b.open(t, b.config())
	mustAppend(t, s, storage.Checkpoint{Key: "a/whole"}, []byte("12345"))
	unfinished := mustAppend(t, s, storage.Checkpoint{Key: "a/unfinished"}, storagetest.Content(1, minPart+1))

	for _, prefix := range []string{"a/", unfinished.Key} {
		sizes := map[string]int64{}
		must(t, s.List(t.Context(), prefix, func(o storage.Object) error {
			sizes[o.Key] = o.Size
			return nil
		}))
		want := map[string]int64{"a/whole": 5, unfinished.Key: 0}
		if prefix == unfinished.Key || b.server.KnowsWholeKeysOnly() {
			delete(want, "a/whole")
			if prefix == "a/" {
				want = map[string]int64{"a/whole": 5}
			}
		}
		if !maps.Equal(sizes, want) {
			t.Errorf("list %s: %v, want %v", prefix, sizes, want)
		}
	}
}

// testRead breaks connections in the middle of objects.
func testRead(t *testing.T, b bench) {
	s := b.open(t, b.config())
	content := storagetest.Content(1, 3*mib)
	c, err := storagetest.Put(t.Context(), s, key, content)
	must(t, err)
	b.proxy.Fail("GetObject", s3test.Half, 3)
	b.proxy.Calls()
	must(t, storagetest.Check(t.Context(), s, c, content))
	b.wantCalls(t, "read", map[string]int{"GetObject": 4})

	b.proxy.Fail("GetObject", s3test.Half, 100)
	if err := storagetest.Check(t.Context(), s, c, content); err == nil {
		t.Error("read of an object that always breaks: no error")
	}
	if n := b.proxy.Calls()["GetObject"]; n != maxResumes+1 {
		t.Errorf("%d calls", n)
	}
}

func testOpen(t *testing.T, b bench) {
	for name, test := range map[string]struct {
		change func(*Config)
		says   string
	}{
		"no such bucket": {func(c *Config) { c.Bucket = "nothing" }, "storage.s3.bucket"},
		"access key":     {func(c *Config) { c.AccessKey = "somebody" }, "storage.s3.accesskey"},
		"secret key":     {func(c *Config) { c.SecretKey = "very-secret" }, "storage.s3.secretkey"},
		"unreachable":    {func(c *Config) { c.RegionEndpoint, c.Attempts = "http://127.0.0.1:1", 1 }, "storage.s3.regionendpoint"},
		"region":         {func(c *Config) { c.Region = "eu-north-9" }, "storage.s3.region"},
	} {
		t.Run(name, func(t *testing.T) {
			config := b.config()
			test.change(&config)
			_, err := Open(t.Context(), config)
			if err == nil {
				t.Fatal("no error")
			}
			if !strings.Contains(err.Error(), test.says) {
				t.Errorf("%q does not say %q", err, test.says)
			}
			if strings.Contains(err.Error(), config.SecretKey) {
				t.Errorf("%q names the secret", err)
			}
		})
	}
}
