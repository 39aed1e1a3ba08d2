package metadata

import (
	"bytes"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

func TestEncodeDigest(t *testing.T) {
	sha256, sha512 := strings.Repeat("0a", 32), strings.Repeat("f0", 64)
	for _, test := range []struct {
		digest digest.Digest
		want   []byte // nil for an error
	}{
		{digest.Digest("sha256:" + sha256), append([]byte{1}, bytes.Repeat([]byte{0x0a}, 32)...)},
		{digest.Digest("sha512:" + sha512), append([]byte{2}, bytes.Repeat([]byte{0xf0}, 64)...)},
		{"", nil},
		{"sha256:", nil},
		{digest.Digest("sha256:" + strings.ToUpper(sha256)), nil},
		{digest.Digest("sha256:" + sha256[1:]), nil},
		{digest.Digest("sha256:" + sha256 + "00"), nil},
		{digest.Digest("sha512:" + sha256), nil},
		{digest.Digest("sha384:" + strings.Repeat("0a", 48)), nil},
		{digest.Digest("md5:" + sha256[:32]), nil},
		{digest.Digest(sha256), nil},
		{"sha256:../../../etc/passwd", nil},
	} {
		got, err := encodeDigest(test.digest)
		if (err == nil) != (test.want != nil) || !bytes.Equal(got, test.want) {
			t.Errorf("%s: %x, %v", test.digest, got, err)
			continue
		}
		if err != nil {
			continue
		}
		if back, err := decodeDigest(got); back != test.digest || err != nil {
			t.Errorf("%s comes back as %s, %v", test.digest, back, err)
		}
	}
}

// TestScanDigest reads what a driver may hand over.
func TestScanDigest(t *testing.T) {
	for _, src := range []any{[]byte{}, []byte{1}, []byte{0, 1}, make([]byte, 33), append([]byte{1}, make([]byte, 64)...),
		append([]byte{2}, make([]byte, 32)...), "sha256:00", int64(1)} {
		var d sqlDigest
		if err := d.Scan(src); err == nil {
			t.Errorf("%v is read as %s", src, d)
		}
	}
	d := sqlDigest("x")
	if err := d.Scan(nil); err != nil || d != "" {
		t.Errorf("null is read as %q, %v", d, err)
	}
	if v, err := d.Value(); v != nil || err != nil {
		t.Errorf("no digest is written as %v, %v", v, err)
	}
}

func FuzzDecodeDigest(f *testing.F) {
	f.Add([]byte(nil))
	f.Add([]byte{1})
	f.Add(append([]byte{1}, make([]byte, 32)...))
	f.Add(append([]byte{2}, make([]byte, 64)...))
	f.Add(append([]byte{3}, make([]byte, 32)...))
	f.Fuzz(func(t *testing.T, raw []byte) {
		d, err := decodeDigest(raw)
		if err != nil {
			return
		}
		if back, err := encodeDigest(d); err != nil || !bytes.Equal(back, raw) {
			t.Errorf("%x is %s, which is %x, %v", raw, d, back, err)
		}
	})
}

func FuzzEncodeDigest(f *testing.F) {
	f.Add("sha256:" + strings.Repeat("0a", 32))
	f.Add("sha512:" + strings.Repeat("0a", 64))
	f.Add("sha256:" + strings.Repeat("0A", 32))
	f.Add("sha256:..")
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		raw, err := encodeDigest(digest.Digest(text))
		if err != nil {
			return
		}
		if back, err := decodeDigest(raw); err != nil || string(back) != text {
			t.Errorf("%q is %x, which is %s, %v", text, raw, back, err)
		}
	})
}
