package client

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"

	"berth/registry/manifest"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// fake is a registry with one repository, app, from which can be read what a test puts there, in the forms in which real
// registries differ from each other.
type fake struct {
	*httptest.Server
	t    *testing.T
	held map[digest.Digest]held
	tags map[string]digest.Digest
	// referrers are served in pages of perPage, unless referrersStatus says otherwise.
	referrers       map[digest.Digest][]v1.Descriptor
	perPage         int
	referrersStatus int
	// refuse answers a request itself, where it returns true.
	refuse func(http.ResponseWriter, *http.Request) bool
}

// held is a blob or a manifest.
type held struct {
	mediaType string
	body      []byte
}

func newFake(t *testing.T) *fake {
	f := unstarted(t)
	f.Start()
	return f
}

func unstarted(t *testing.T) *fake {
	f := &fake{t: t, perPage: 100}
	f.held, f.tags, f.referrers = map[digest.Digest]held{}, map[string]digest.Digest{}, map[digest.Digest][]v1.Descriptor{}
	f.Server = httptest.NewUnstartedServer(f)
	f.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Cleanup(f.Close)
	return f
}

func (f *fake) host() string {
	_, host, _ := strings.Cut(f.URL, "://")
	return host
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if f.refuse != nil && f.refuse(w, r) {
		return
	}
	kind, name, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v2/app/"), "/")
	switch {
	case kind == "referrers":
		f.serveReferrers(w, r, digest.Digest(name))
	case kind == "tags":
		_ = json.NewEncoder(w).Encode(map[string]any{"name": "app", "tags": slices.Sorted(maps.Keys(f.tags))})
	case kind == "manifests" || kind == "blobs":
		if d, ok := f.tags[name]; ok {
			name = d.String()
		}
		found, ok := f.held[digest.Digest(name)]
		if !ok {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", found.mediaType)
		w.Header().Set("Content-Length", strconv.Itoa(len(found.body)))
		w.Header().Set("Docker-Content-Digest", name)
		_, _ = w.Write(found.body)
	default:
		http.NotFound(w, r)
	}
}

func (f *fake) serveReferrers(w http.ResponseWriter, r *http.Request, d digest.Digest) {
	if f.referrersStatus != 0 {
		w.WriteHeader(f.referrersStatus)
		return
	}
	first, _ := strconv.Atoi(r.URL.Query().Get("first"))
	all := f.referrers[d]
	last := min(first+f.perPage, len(all))
	if last < len(all) {
		w.Header().Set("Link", fmt.Sprintf(`<%s?first=%d>; rel="next"`, r.URL.Path, last))
	}
	w.Header().Set("Content-Type", v1.MediaTypeImageIndex)
	_ = json.NewEncoder(w).Encode(v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: all[first:last]})
}

// put stores a document, under tags if some are named, and returns its descriptor.
func (f *fake) put(mediaType string, document any, tags ...string) v1.Descriptor {
	f.t.Helper()
	body, err := json.Marshal(document)
	if err != nil {
		f.t.Fatal(err)
	}
	d := v1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(body), Size: int64(len(body))}
	f.held[d.Digest] = held{mediaType, body}
	for _, tag := range tags {
		f.tags[tag] = d.Digest
	}
	return d
}

// layer describes a layer, which nobody fetches.
func layer(name string, size int64) v1.Descriptor {
	return v1.Descriptor{MediaType: v1.MediaTypeImageLayerGzip, Digest: digest.FromString(name), Size: size}
}

// image stores an image for a platform, or none where that is empty, and returns its descriptor as an index would list it.
func (f *fake) image(platform string, layers []v1.Descriptor, tags ...string) v1.Descriptor {
	f.t.Helper()
	config := map[string]any{"created": "2026-01-02T03:04:05Z", "rootfs": map[string]any{}}
	var p *v1.Platform
	if platform != "" {
		parts := append(strings.Split(platform, "/"), "")
		config["os"], config["architecture"], config["variant"] = parts[0], parts[1], parts[2]
		p = &v1.Platform{OS: parts[0], Architecture: parts[1], Variant: parts[2]}
	}
	d := f.put(v1.MediaTypeImageManifest, v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest,
		Config: f.put(v1.MediaTypeImageConfig, config), Layers: layers}, tags...)
	d.Platform = p
	return d
}

// attestation stores what BuildKit would attest about an image.
func (f *fake) attestation(about v1.Descriptor, predicate string) v1.Descriptor {
	f.t.Helper()
	statement := layer(predicate+about.Digest.String(), 10)
	statement.MediaType, statement.Annotations = "application/vnd.in-toto+json", map[string]string{predicateType: predicate}
	d := f.image("unknown/unknown", []v1.Descriptor{statement})
	d.Annotations = map[string]string{
		"vnd.docker.reference.type":   "attestation-manifest",
		"vnd.docker.reference.digest": about.Digest.String(),
	}
	return d
}

// index stores an index, and list a Docker manifest list.
func (f *fake) index(children []v1.Descriptor, tags ...string) v1.Descriptor {
	f.t.Helper()
	return f.put(v1.MediaTypeImageIndex, v1.Index{Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: v1.MediaTypeImageIndex, Manifests: children}, tags...)
}

func (f *fake) list(children []v1.Descriptor, tags ...string) v1.Descriptor {
	f.t.Helper()
	return f.put(manifest.MediaTypeDockerManifestList, v1.Index{Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: manifest.MediaTypeDockerManifestList, Manifests: children}, tags...)
}

// reader asks it over plain HTTP.
func (f *fake) reader() *Client {
	return New(Config{PlainHTTP: func(host string) bool { return host == f.host() }})
}

// ref is a reference to its repository.
func (f *fake) ref(rest string) Reference {
	f.t.Helper()
	ref, err := ParseReference(f.host() + "/app" + rest)
	if err != nil {
		f.t.Fatal(err)
	}
	return ref
}
