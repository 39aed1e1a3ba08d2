package registry

import (
	"bytes"
	"reflect"
	"testing"

	"berth/storage/metadata"

	"github.com/opencontainers/go-digest"
)

func FuzzDecodePending(f *testing.F) {
	for _, u := range []metadata.Upload{
		{Repository: "a/b", ID: "one", Algorithm: digest.SHA256, Content: []byte{}},
		{Repository: "c", ID: "two", Algorithm: digest.SHA512, Size: 3, Content: []byte{0, 1, 255}},
	} {
		record := encodePending(u)
		if got, ended, err := decodePending(record); err != nil || ended || !reflect.DeepEqual(got, u) {
			f.Errorf("%+v, %t, %v; want %+v", got, ended, err, u)
		}
		f.Add(record)
		f.Add(encodeEnd(u.Repository, u.ID))
	}
	f.Fuzz(func(t *testing.T, record []byte) {
		u, ended, err := decodePending(record)
		if err != nil {
			return
		}
		again := encodeEnd(u.Repository, u.ID)
		if !ended {
			again = encodePending(u)
		}
		if got, gotEnded, err := decodePending(again); err != nil || gotEnded != ended || !reflect.DeepEqual(got, u) {
			t.Errorf("%x: %+v, %t, %v; want %+v", record, got, gotEnded, err, u)
		}
		if !ended && !bytes.HasSuffix(record, u.Content) {
			t.Errorf("%x: the bytes are %x", record, u.Content)
		}
	})
}
