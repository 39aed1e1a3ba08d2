package manifest

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

func FuzzParse(f *testing.F) {
	for _, body := range []string{image, index, untyped, "", "{", `{"schemaVersion":1}`, `{"schemaVersion":2,"Layers":[]}`,
		`{"a\"":{"b":[{},[]]},"a\u0022":1}`, strings.Replace(image, `"layers"`, `"subject":`+child+`,"layers"`, 1)} {
		f.Add("", []byte(body))
		f.Add(v1.MediaTypeImageManifest, []byte(body))
	}
	f.Add("application/vnd.oci.image.index.v1+json; charset=utf-8", []byte(index))
	f.Fuzz(func(t *testing.T, contentType string, body []byte) {
		m, err := Parse(contentType, body)
		if err != nil {
			if _, ok := errors.AsType[*Invalid](err); !ok {
				t.Fatalf("error of type %T", err)
			}
			return
		}
		checkManifest(t, m)
		again, err := Parse(m.MediaType, body)
		if err != nil || !reflect.DeepEqual(m, again) {
			t.Errorf("as its own media type: %+v, %v, want %+v", again, err, m)
		}
		checkUnambiguous(t, m, body)
	})
}

// checkManifest checks what Parse promises of what it returns.
func checkManifest(t *testing.T, m Manifest) {
	t.Helper()
	if IsIndex(m.MediaType) == (m.Config != nil) || IsIndex(m.MediaType) == (m.Blobs != nil) || IsIndex(m.MediaType) == (m.Children == nil) {
		t.Errorf("neither image nor index: %+v", m)
	}
	descriptors := append(append([]v1.Descriptor{}, m.Blobs...), m.Children...)
	if m.Subject != nil {
		descriptors = append(descriptors, *m.Subject)
	}
	for _, d := range descriptors {
		if err := d.Digest.Validate(); err != nil || d.Size < 0 || d.MediaType == "" {
			t.Errorf("bad descriptor %+v: %v", d, err)
		}
	}
}

// checkUnambiguous reads the body into a map, which knows case and keeps the last of two equal keys, and compares.
func checkUnambiguous(t *testing.T, m Manifest, body []byte) {
	t.Helper()
	var strict map[string]json.RawMessage
	if err := json.Unmarshal(body, &strict); err != nil {
		t.Fatal(err)
	}
	field, want := "manifests", m.Children
	if !IsIndex(m.MediaType) {
		field, want = "layers", m.Blobs[1:]
	}
	var list []map[string]any
	if raw, ok := strict[field]; ok {
		if err := json.Unmarshal(raw, &list); err != nil {
			t.Fatal(err)
		}
	}
	if len(list) != len(want) {
		t.Fatalf("%s: %d entries, want %d", field, len(want), len(list))
	}
	for i := range list {
		if list[i]["digest"] != want[i].Digest.String() {
			t.Errorf("%s[%d]: %v, want %v", field, i, want[i].Digest, list[i]["digest"])
		}
	}
}

func BenchmarkParse(b *testing.B) {
	layers := func(n int) string {
		return strings.Replace(image, layer, strings.Repeat(layer+",", n-1)+layer, 1)
	}
	annotations := make(map[string]string)
	for i := range 390 {
		annotations[fmt.Sprintf("large-annotation-%d", i)] = strings.Repeat("A", 10000)
	}
	large, err := json.Marshal(annotations)
	if err != nil {
		b.Fatal(err)
	}
	for _, bench := range []struct{ name, body string }{
		{"4 layers", layers(4)},
		{"100 layers", layers(100)},
		{"4 MB of annotations", strings.Replace(image, `"layers"`, `"annotations":`+string(large)+`,"layers"`, 1)},
	} {
		b.Run(bench.name, func(b *testing.B) {
			body := []byte(bench.body)
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Parse(v1.MediaTypeImageManifest, body); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
