package api

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

const (
	ociIndex    = "application/vnd.oci.image.index.v1+json"
	ociManifest = "application/vnd.oci.image.manifest.v1+json"
	dockerList  = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerImage = "application/vnd.docker.distribution.manifest.v2+json"
)

func TestAcceptsIndex(t *testing.T) {
	tests := []struct {
		name   string
		accept []string
		want   bool
	}{
		{"absent", nil, true},
		{"empty", []string{""}, true},
		{"blank elements", []string{" , ,", ""}, true},
		{"anything", []string{"*/*"}, true},
		{"any application", []string{"application/*;q=0.1"}, true},
		{"index", []string{ociIndex}, true},
		{"index in capitals", []string{strings.ToUpper(ociIndex)}, true},
		{"list of Docker", []string{dockerList}, true},
		{"index in a second header", []string{ociManifest, ociIndex}, true},
		{"index late in a list", []string{ociManifest + ", " + dockerImage + " ,\t" + ociIndex + " ; q=0.5"}, true},
		{"manifest", []string{ociManifest}, false},
		{"manifests", []string{ociManifest + "," + dockerImage, "application/json"}, false},
		{"something else", []string{"text/html"}, false},
		{"another wildcard", []string{"text/*"}, false},
		{"index refused", []string{ociManifest + ", " + ociIndex + ";q=0"}, false},
		{"index refused at length", []string{ociIndex + "; charset=x; Q=0.000"}, false},
		{"anything refused", []string{"*/*;q=0"}, false},
		{"quality that is none", []string{ociIndex + ";q=high"}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := acceptsIndex(tt.accept); got != tt.want {
				t.Errorf("acceptsIndex(%q) = %v, want %v", tt.accept, got, tt.want)
			}
		})
	}
}

// FuzzAcceptsIndex checks what must hold for every header: a wildcard or an index type beside it opens it, and a
// manifest's type beside it changes nothing once something was listed.
func FuzzAcceptsIndex(f *testing.F) {
	for _, value := range []string{"", "*/*", ociIndex, ociManifest, ociIndex + ";q=0", "a/b;q=0.5, c/d", ",;,=", `x;y="a,b"`} {
		f.Add(value)
	}
	f.Fuzz(func(t *testing.T, value string) {
		for _, open := range []string{"*/*", ociIndex, dockerList + ";q=0.1"} {
			if !acceptsIndex([]string{value, open}) || !acceptsIndex([]string{open + "," + value}) {
				t.Fatalf("%q beside %q does not accept an index", open, value)
			}
		}
		alone, beside := acceptsIndex([]string{value}), acceptsIndex([]string{value, ociManifest})
		if beside && !alone {
			t.Fatalf("%q accepts an index only when a manifest's type is added", value)
		}
		if alone && beside && !strings.Contains(value, "/") {
			t.Fatalf("%q accepts an index beside a manifest's type without naming a type", value)
		}
	})
}

func TestNotModified(t *testing.T) {
	tests := []struct {
		name   string
		header []string
		want   bool
	}{
		{"absent", nil, false},
		{"the same", []string{`"` + sum256 + `"`}, true},
		{"weak", []string{`W/"` + sum256 + `"`}, true},
		{"without quotes", []string{sum256}, true},
		{"anything", []string{"*"}, true},
		{"in a list", []string{`"x", "` + sum256 + `"`}, true},
		{"in a second header", []string{`"x"`, `"` + sum256 + `"`}, true},
		{"another", []string{`"` + sum512 + `"`}, false},
		{"empty", []string{""}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r.Header["If-None-Match"] = tt.header
			if got := notModified(r, etag(sum256)); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}
