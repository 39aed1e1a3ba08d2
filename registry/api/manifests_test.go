package api

import (
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"berth/registry"
)

func TestManifest(t *testing.T) {
	s := newServer(t, options{})
	d, body := s.pushImage("a/b", "v1", "layer")
	headers := []string{
		"Content-Type", ociManifest, "Content-Length", strconv.Itoa(len(body)), "Docker-Content-Digest", d, "Etag", `"` + d + `"`, "Vary", "Accept",
	}
	for _, reference := range []string{"v1", d, strings.Replace(d, ":", "%3A", 1)} {
		path := "/v2/a/b/manifests/" + reference
		s.get(path).want(http.StatusOK).wantBody(body).wantHeaders(headers...)
		s.do(http.MethodHead, path, nil).want(http.StatusOK).wantBody("").wantHeaders(headers...)
		s.get(path, "If-None-Match", `"`+d+`"`).want(http.StatusNotModified).wantBody("").wantHeaders("Etag", `"`+d+`"`, "Content-Type", "")
		s.do(http.MethodHead, path, nil, "If-None-Match", `W/"`+d+`"`).want(http.StatusNotModified)
	}
	// An image is served whatever the client says that it understands.
	s.get("/v2/a/b/manifests/v1", "Accept", dockerImage).want(http.StatusOK).wantBody(body)
}

func TestManifestUnknown(t *testing.T) {
	s := newServer(t, options{})
	d, _ := s.pushImage("a", "v1", "layer")
	for _, path := range []string{"/v2/a/manifests/v2", "/v2/a/manifests/" + sum256, "/v2/b/manifests/v1", "/v2/b/manifests/" + d} {
		s.get(path).wantError(http.StatusNotFound, "MANIFEST_UNKNOWN").wantHeaders("Etag", "")
		s.do(http.MethodHead, path, nil).want(http.StatusNotFound).wantBody("")
		s.do(http.MethodDelete, path, nil).wantError(http.StatusNotFound, "MANIFEST_UNKNOWN")
	}
}

// indexOf returns an index that lists manifests by digest and platform in turn.
func indexOf(mediaType, manifestType string, children ...string) string {
	var entries []string
	for i := 0; i+1 < len(children); i += 2 {
		entries = append(entries, `{"mediaType":"`+manifestType+`","digest":"`+children[i]+`","size":500,"platform":{"os":"linux","architecture":"`+children[i+1]+`"}}`)
	}
	return `{"schemaVersion":2,"mediaType":"` + mediaType + `","manifests":[` + strings.Join(entries, ",") + `]}`
}

func TestNegotiation(t *testing.T) {
	s := newServer(t, options{})
	arm, _ := s.pushImage("a", "", "arm layer")
	amd, image := s.pushImage("a", "", "amd layer")
	index := indexOf(ociIndex, ociManifest, arm, "arm64", amd, "amd64")
	d := s.pushManifest("a", "multi", ociIndex, index)
	s.pushManifest("a", "armed", ociIndex, indexOf(ociIndex, ociManifest, arm, "arm64"))

	for _, accept := range []string{"", "*/*", ociIndex, dockerList, ociManifest + ", " + ociIndex} {
		s.get("/v2/a/manifests/multi", "Accept", accept).want(http.StatusOK).wantBody(index).wantHeaders("Content-Type", ociIndex, "Docker-Content-Digest", d)
	}
	old := []string{"Accept", ociManifest, "Accept", dockerImage}
	child := []string{"Content-Type", ociManifest, "Docker-Content-Digest", amd, "Etag", `"` + amd + `"`, "Vary", "Accept", "Content-Length", strconv.Itoa(len(image))}
	s.get("/v2/a/manifests/multi", old...).want(http.StatusOK).wantBody(image).wantHeaders(child...)
	s.do(http.MethodHead, "/v2/a/manifests/multi", nil, old...).want(http.StatusOK).wantBody("").wantHeaders(child...)
	s.get("/v2/a/manifests/multi", append(old, "If-None-Match", `"`+amd+`"`)...).want(http.StatusNotModified)
	s.get("/v2/a/manifests/"+d, old...).want(http.StatusOK).wantBody(index)
	s.get("/v2/a/manifests/armed", old...).wantError(http.StatusNotFound, "MANIFEST_UNKNOWN")
}

func TestManifestPut(t *testing.T) {
	s := newServer(t, options{})
	config, layer := s.pushBlob("a", `{"os":"linux","architecture":"amd64"}`), s.pushBlob("a", "layer")
	subject := `,"subject":{"mediaType":"` + ociManifest + `","digest":"` + sum256 + `","size":7}`
	body := imageManifest(config, layer, subject)
	for _, algorithm := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
		d := algorithm.FromString(body).String()
		a := s.do(http.MethodPut, "/v2/a/manifests/"+d+"?tag=v1&tag=latest&tag=v1", strings.NewReader(body), "Content-Type", ociManifest+"; charset=utf-8")
		a.want(http.StatusCreated).wantBody("").wantHeaders("Location", "/v2/a/manifests/"+d, "Docker-Content-Digest", d, "OCI-Subject", sum256, "Content-Length", "0")
		if tags := a.header.Values("OCI-Tag"); !slices.Contains(tags, "v1") || !slices.Contains(tags, "latest") {
			t.Errorf("OCI-Tag %q", tags)
		}
		for _, tag := range []string{"v1", "latest"} {
			s.get("/v2/a/manifests/"+tag).want(http.StatusOK).wantBody(body).wantHeaders("Docker-Content-Digest", d)
		}
	}
	d := digest.FromString(body).String()
	s.do(http.MethodPut, "/v2/a/manifests/v2", strings.NewReader(body)).want(http.StatusCreated).wantHeaders("Location", "/v2/a/manifests/"+d, "OCI-Tag", "")
}

func TestManifestPutRefused(t *testing.T) {
	s := newServer(t, options{})
	_, image := s.pushImage("a", "v1", "layer")
	d := digest.FromString(image).String()
	absent := imageManifest(sum256, digest.FromString("absent").String(), "")
	tests := []struct {
		name, reference, mediaType, body string
		status                           int
		code                             string
	}{
		{"no JSON", "v2", ociManifest, "hello", 400, "MANIFEST_INVALID"},
		{"nothing", "v2", ociManifest, "", 400, "MANIFEST_INVALID"},
		{"duplicate keys", "v2", ociManifest, `{"schemaVersion":2,"schemaVersion":2}`, 400, "MANIFEST_INVALID"},
		{"another type than it says", "v2", ociIndex, image, 400, "MANIFEST_INVALID"},
		{"a type that is none", "v2", "text/html", image, 400, "MANIFEST_INVALID"},
		{"schema 1", "v2", "application/vnd.docker.distribution.manifest.v1+json", `{"schemaVersion":1}`, 400, "MANIFEST_INVALID"},
		{"another digest", sum256, ociManifest, image, 400, "DIGEST_INVALID"},
		{"bad digest", "sha256:baddigeststring", ociManifest, image, 400, "DIGEST_INVALID"},
		{"bad tag", ".v2", ociManifest, image, 400, "TAG_INVALID"},
		{"bad tag parameter", d + "?tag=.v2", ociManifest, image, 400, "TAG_INVALID"},
		{"too many tags", d + "?tag=x" + strings.Repeat("&tag=x", maxTags), ociManifest, image, 414, "TAG_INVALID"},
		{"absent blobs", "v2", ociManifest, absent, 400, "MANIFEST_BLOB_UNKNOWN"},
		{"too large", "v2", ociManifest, image + strings.Repeat(" ", registry.MaxManifestSize), 413, "SIZE_INVALID"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := "/v2/a/manifests/" + tt.reference
			a := s.do(http.MethodPut, path, strings.NewReader(tt.body), "Content-Type", tt.mediaType).wantError(tt.status, tt.code)
			if tt.body == absent && (!strings.Contains(a.body, sum256) || !strings.Contains(a.body, digest.FromString("absent").String())) {
				t.Errorf("the error does not name what is absent: %s", a.body)
			}
			// The same without Content-Length.
			s.do(http.MethodPut, path, io.NopCloser(strings.NewReader(tt.body)), "Content-Type", tt.mediaType).wantError(tt.status, tt.code)
			s.get("/v2/a/manifests/v2").want(http.StatusNotFound)
		})
	}
}

func TestManifestOfLargestSize(t *testing.T) {
	s := newServer(t, options{})
	_, image := s.pushImage("a", "v1", "layer")
	image += strings.Repeat(" ", registry.MaxManifestSize-len(image))
	s.pushManifest("a", "large", ociManifest, image)
	s.get("/v2/a/manifests/large").want(http.StatusOK).wantBody(image)
}

func TestManifestDelete(t *testing.T) {
	s := newServer(t, options{})
	d, body := s.pushImage("a", "v1", "layer")
	s.pushManifest("a", "v2", ociManifest, body)
	s.do(http.MethodDelete, "/v2/a/manifests/v1", nil).want(http.StatusAccepted).wantBody("").wantHeaders("Content-Length", "0")
	s.get("/v2/a/manifests/v1").want(http.StatusNotFound)
	s.get("/v2/a/manifests/v2").want(http.StatusOK)

	index := s.pushManifest("a", "multi", ociIndex, indexOf(ociIndex, ociManifest, d, "amd64"))
	s.do(http.MethodDelete, "/v2/a/manifests/"+d, nil).wantError(http.StatusConflict, "DENIED")
	s.do(http.MethodDelete, "/v2/a/manifests/"+index, nil).want(http.StatusAccepted)
	s.do(http.MethodDelete, "/v2/a/manifests/"+d, nil).want(http.StatusAccepted)
	for _, reference := range []string{"v2", d, "multi"} {
		s.get("/v2/a/manifests/" + reference).want(http.StatusNotFound)
	}
}

func TestWarning(t *testing.T) {
	if got := warning(`say "no" \ yes`); got != `299 - "say \"no\" \\ yes"` {
		t.Errorf("got %s", got)
	}
}
