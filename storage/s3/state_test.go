package s3

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"hash/crc32"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"berth/storage/storagetest"
)

func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		`{"u":"id","c":"crc32","p":[{"n":1,"b":5242880,"e":"d41d8cd98f00b204e9800998ecf8427e","x":"AAAAAA=="}]}`,
		`{"u":"id","s":true,"m":true,"p":[{"n":1,"b":1,"e":"a"},{"n":10000,"b":5368709120,"e":"b"}]}`,
		`{"u":"id","p":[]}`, `{"u":"","p":[{"n":1,"b":1,"e":"a"}]}`, `{"u":"id","p":[{"n":2,"b":1,"e":"a"},{"n":2,"b":1,"e":"a"}]}`,
		`{"u":"id","c":"md5","p":[{"n":1,"b":1,"e":"a"}]}`, `{"u":"id","p":[{"n":1,"b":-1,"e":"a"}]}`, `null`, ``, `[]`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, state []byte) {
		u, err := parse(state)
		if err != nil {
			return
		}
		if u.size() <= 0 || u.next() <= int32(len(u.Parts)) || u.ID == "" {
			t.Errorf("parse %q: %+v", state, u)
		}
		_, _, _ = u.etag(), u.sum(), u.completed()
		again, err := u.encode()
		if err != nil {
			t.Fatal(err)
		}
		if second, err := parse(again); err != nil || len(second.Parts) != len(u.Parts) || second.ID != strings.ToValidUTF8(u.ID, "\ufffd") {
			t.Errorf("parse %q again: %+v, %v", again, second, err)
		}
	})
}

func TestParse(t *testing.T) {
	u := upload{ID: "id", Checksum: ChecksumSHA256, Parts: []part{{1, minPart, "a", "x"}, {3, 1, "b", "y"}}}
	state, err := u.encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := parse(state)
	if err != nil || got.ID != u.ID || got.Parts[1] != u.Parts[1] || got.size() != minPart+1 || got.next() != 4 || got.extensible() {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{
		"", "x", `{}`, `{"u":"id"}`, `{"u":"id","p":[]}`, `{"u":"","p":[{"n":1,"b":1,"e":"a"}]}`, `{"u":"id","p":[{"n":0,"b":1,"e":"a"}]}`,
		`{"u":"id","p":[{"n":10001,"b":1,"e":"a"}]}`, `{"u":"id","p":[{"n":1,"b":0,"e":"a"}]}`, `{"u":"id","p":[{"n":1,"b":1,"e":""}]}`,
		`{"u":"id","p":[{"n":1,"b":5368709121,"e":"a"}]}`, `{"u":"id","p":[{"n":2,"b":1,"e":"a"},{"n":1,"b":1,"e":"a"}]}`,
		`{"u":"id","c":"md5","p":[{"n":1,"b":1,"e":"a"}]}`,
	} {
		if u, err := parse([]byte(bad)); err == nil {
			t.Errorf("parse %q: %+v", bad, u)
		}
	}
}

// TestContent reads parts around the borders of slabs, and compares their checksums.
func TestContent(t *testing.T) {
	for _, n := range []int{0, 1, slabSize - 1, slabSize, slabSize + 1, 3*slabSize + 100} {
		want := storagetest.Content(1, n)
		b := buffer{budget: newBudget(100*slabSize, 10*slabSize)}
		b.reset(10 * slabSize)
		for rest := want; len(rest) > 0; {
			added, err := b.add(t.Context(), rest[:min(1000, len(rest))])
			if err != nil {
				t.Fatal(err)
			}
			rest = rest[added:]
		}
		c := b.content()
		if err := iotest.TestReader(c.reader(), want); err != nil {
			t.Errorf("%d bytes: %v", n, err)
		}
		if got, err := io.ReadAll(c.reader()); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes: others, or %v", n, err)
		}
		for _, at := range []int{0, n / 3, n} {
			r, got := c.reader(), bytes.Buffer{}
			_, err := r.Seek(int64(at), io.SeekStart)
			if copied, copyErr := io.Copy(&got, r); errors.Join(err, copyErr) != nil || copied != int64(n-at) || !bytes.Equal(got.Bytes(), want[at:]) {
				t.Errorf("%d bytes from %d: others, %v or %v", n, at, err, copyErr)
			}
		}
		sha, crc := sha256.Sum256(want), crc32.ChecksumIEEE(want)
		if c.sum(ChecksumSHA256) != base64.StdEncoding.EncodeToString(sha[:]) ||
			c.sum(ChecksumCRC32) != base64.StdEncoding.EncodeToString([]byte{byte(crc >> 24), byte(crc >> 16), byte(crc >> 8), byte(crc)}) ||
			c.sum(ChecksumOff) != "" {
			t.Errorf("%d bytes: wrong checksums", n)
		}
	}
}

func TestPartSize(t *testing.T) {
	c, err := Config{Bucket: "b"}.complete()
	if err != nil {
		t.Fatal(err)
	}
	s := &Store{config: c, largest: c.Memory / 4}
	var all int64
	for number := range int32(maxParts) {
		size := s.partSize(number + 1)
		if size < minPart || size > s.largest || size%slabSize != 0 {
			t.Fatalf("part %d has %d bytes", number+1, size)
		}
		all += size
	}
	if all < 512<<30 {
		t.Errorf("an object has at most %d GiB", all>>30)
	}
}

func TestConfig(t *testing.T) {
	for says, c := range map[string]Config{
		"storage.s3.bucket":         {},
		"storage.s3.accesskey":      {Bucket: "b", SecretKey: "s"},
		"5 MiB":                     {Bucket: "b", ChunkSize: minPart - 1},
		"a quarter":                 {Bucket: "b", ChunkSize: minPart + 1, Memory: 4 * minPart},
		"crc32, sha256 and off":     {Bucket: "b", Checksum: "md5"},
		"7 days":                    {Bucket: "b", LinkLifetime: maxLinkLifetime + 1},
		"storage.s3.regionendpoint": {Bucket: "b", RegionEndpoint: "ftp://host"},
		"storage.redirect.endpoint": {Bucket: "b", RedirectEndpoint: "https://user:secret@host"},
	} {
		_, err := c.complete()
		if err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "secret@") {
			t.Errorf("%+v: %v", c, err)
		}
	}
	for host, want := range map[string]string{"host:9000": "https://host:9000", "http://host": "http://host"} {
		if c, err := (Config{Bucket: "b", RegionEndpoint: host}).complete(); err != nil || c.RegionEndpoint != want || c.Insecure != strings.HasPrefix(want, "http:") {
			t.Errorf("%s: %+v, %v", host, c, err)
		}
	}
}
