package main

import (
	"archive/tar"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// shelf is a registry to import from, with the oddities of those that are out there: it has lists in pages of one, no API for
// referrers, and what a test puts there.
type shelf struct {
	*httptest.Server
	t    *testing.T
	tags map[string]map[string]digest.Digest // by repository
	held map[digest.Digest]held
	// refuse answers a request itself, where it returns true.
	refuse func(http.ResponseWriter, *http.Request) bool
	bare   bool // it says no digests

	mu    sync.Mutex
	asked []string // METHOD path, of manifests and blobs
}

type held struct{ mediaType, body string }

func newShelf(t *testing.T) *shelf {
	s := &shelf{t: t, tags: map[string]map[string]digest.Digest{}, held: map[digest.Digest]held{}}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *shelf) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s.refuse != nil && s.refuse(w, r) {
		return
	}
	path := strings.TrimPrefix(r.URL.Path, "/v2/")
	switch {
	case path == "_catalog":
		s.list(w, r, "repositories", slices.Sorted(maps.Keys(s.tags)))
		return
	case strings.HasSuffix(path, "/tags/list"):
		tags, ok := s.tags[strings.TrimSuffix(path, "/tags/list")]
		if !ok {
			http.NotFound(w, r)
			return
		}
		s.list(w, r, "tags", slices.Sorted(maps.Keys(tags)))
		return
	}
	s.mu.Lock()
	s.asked = append(s.asked, r.Method+" "+path)
	s.mu.Unlock()
	name, reference, _ := strings.Cut(path, "/manifests/")
	if _, blob, ok := strings.Cut(path, "/blobs/"); ok {
		reference = blob
	}
	d := digest.Digest(reference)
	if tagged, ok := s.tags[name][reference]; ok {
		d = tagged
	}
	found, ok := s.held[d]
	if !ok {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", found.mediaType)
	w.Header().Set("Content-Length", strconv.Itoa(len(found.body)))
	if !s.bare {
		w.Header().Set("Docker-Content-Digest", d.String())
	}
	if r.Method != http.MethodHead {
		_, _ = w.Write([]byte(found.body)) // the client sees that it failed
	}
}

// list answers with the entry after the last one.
func (s *shelf) list(w http.ResponseWriter, r *http.Request, field string, all []string) {
	at, _ := strconv.Atoi(r.URL.Query().Get("last"))
	if at+1 < len(all) {
		w.Header().Set("Link", fmt.Sprintf(`<%s?last=%d>; rel="next"`, r.URL.Path, at+1))
	}
	_ = json.NewEncoder(w).Encode(map[string][]string{field: all[min(at, len(all)):min(at+1, len(all))]})
}

// put stores a document, under REPO:TAGs if some are named.
func (s *shelf) put(mediaType, body string, names ...string) v1.Descriptor {
	d := v1.Descriptor{MediaType: mediaType, Digest: digest.FromString(body), Size: int64(len(body))}
	s.held[d.Digest] = held{mediaType, body}
	for _, name := range names {
		repository, tag, _ := strings.Cut(name, ":")
		if s.tags[repository] == nil {
			s.tags[repository] = map[string]digest.Digest{}
		}
		s.tags[repository][tag] = d.Digest
	}
	return d
}

func (s *shelf) putJSON(mediaType string, document any, names ...string) v1.Descriptor {
	s.t.Helper()
	body, err := json.Marshal(document)
	if err != nil {
		s.t.Fatal(err)
	}
	return s.put(mediaType, string(body), names...)
}

// image stores an image with a layer of its own, and more.
func (s *shelf) image(content string, more []v1.Descriptor, names ...string) v1.Descriptor {
	s.t.Helper()
	return s.putJSON(v1.MediaTypeImageManifest, v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest,
		Config: s.put(v1.MediaTypeImageConfig, `{"os":"linux","architecture":"amd64","rootfs":{}}`),
		Layers: append([]v1.Descriptor{s.put(v1.MediaTypeImageLayerGzip, content)}, more...)}, names...)
}

func (s *shelf) index(children []v1.Descriptor, names ...string) v1.Descriptor {
	s.t.Helper()
	return s.putJSON(v1.MediaTypeImageIndex, v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex,
		Manifests: children}, names...)
}

// tar writes all that it has as a layout.
func (s *shelf) tar(path string, entries []v1.Descriptor) {
	s.t.Helper()
	f, err := os.Create(path)
	if err != nil {
		s.t.Fatal(err)
	}
	defer f.Close()
	w := tar.NewWriter(f)
	index, err := json.Marshal(v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: entries})
	if err != nil {
		s.t.Fatal(err)
	}
	files := map[string]string{"oci-layout": `{"imageLayoutVersion":"1.0.0"}`, "./index.json": string(index)}
	for d, h := range s.held {
		files["blobs/"+d.Algorithm().String()+"/"+d.Encoded()] = h.body
	}
	for name, body := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(body)), Typeflag: tar.TypeReg}); err != nil {
			s.t.Fatal(err)
		}
		if _, err := w.Write([]byte(body)); err != nil {
			s.t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		s.t.Fatal(err)
	}
}
