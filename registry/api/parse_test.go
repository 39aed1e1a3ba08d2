package api

import (
	"errors"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"berth/registry"
)

const (
	sum256 = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	sum512 = "sha512:cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce" +
		"47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e"
)

func tagged(kind kind, name, tag string) target {
	return target{kind: kind, repository: name, reference: registry.Reference{Tag: tag}}
}

func digested(kind kind, name, d string) target {
	return target{kind: kind, repository: name, reference: registry.Reference{Digest: digest.Digest(d)}}
}

func TestParse(t *testing.T) {
	tests := []struct {
		method, path string
		want         target
	}{
		{"GET", "/v2/", target{kind: kindBase}},
		{"HEAD", "/v2/_catalog", target{kind: kindCatalog}},
		{"GET", "/v2/a/tags/list", target{kind: kindTags, repository: "a"}},
		{"GET", "/v2/a/manifests/latest", tagged(kindManifest, "a", "latest")},
		{"PUT", "/v2/a/b/c/manifests/v1.0", tagged(kindManifest, "a/b/c", "v1.0")},
		{"DELETE", "/v2/a/manifests/" + sum256, digested(kindManifest, "a", sum256)},
		{"GET", "/v2/a/manifests/sha256%3A" + sum256[7:], digested(kindManifest, "a", sum256)},
		{"HEAD", "/v2/a/blobs/" + sum512, digested(kindBlob, "a", sum512)},
		{"GET", "/v2/a/referrers/" + sum256, digested(kindReferrers, "a", sum256)},
		{"POST", "/v2/a/blobs/uploads/", target{kind: kindUploads, repository: "a"}},
		{"POST", "/v2/a/b/blobs/uploads", target{kind: kindUploads, repository: "a/b"}},
		{"PATCH", "/v2/a/blobs/uploads/3f-A9", target{kind: kindUpload, repository: "a", upload: "3f-A9"}},
		{"OPTIONS", "/v2/a/blobs/uploads/3f", target{kind: kindUpload, repository: "a", upload: "3f"}},

		// Names may be made of the words that tell the endpoints apart.
		{"GET", "/v2/manifests/manifests/manifests", tagged(kindManifest, "manifests", "manifests")},
		{"GET", "/v2/a/blobs/tags/list", target{kind: kindTags, repository: "a/blobs"}},
		{"GET", "/v2/a/blobs/uploads/manifests/x", tagged(kindManifest, "a/blobs/uploads", "x")},
		{"GET", "/v2/a/manifests/blobs/" + sum256, digested(kindBlob, "a/manifests", sum256)},
		{"POST", "/v2/blobs/uploads/blobs/uploads/", target{kind: kindUploads, repository: "blobs/uploads"}},
		{"GET", "/v2/tags/list/tags/list", target{kind: kindTags, repository: "tags/list"}},
		{"GET", "/v2/a/manifests/list", tagged(kindManifest, "a", "list")},

		// What the spec does not have.
		{"DELETE", "/v2/_berth/repositories/a/b", target{kind: kindRepository, repository: "a/b"}},
		{"DELETE", "/v2/_berth/repositories/a/manifests/b", target{kind: kindRepository, repository: "a/manifests/b"}},
		{"GET", "/v2/_berth/tags/a/b/v1.0", tagged(kindTag, "a/b", "v1.0")},
		{"POST", "/v2/_berth/tags/tags/list", tagged(kindTag, "tags", "list")},

		// An escape that was not needed changes nothing.
		{"GET", "/v2/%61/tags/list", target{kind: kindTags, repository: "a"}},
	}
	for _, tt := range tests {
		t.Run(tt.method+" "+tt.path, func(t *testing.T) {
			got, err := parse(tt.method, tt.path)
			if err != nil || got != tt.want {
				t.Errorf("got %+v, %v; want %+v", got, err, tt.want)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	tests := []struct {
		method, path string
		want         error
	}{
		{"GET", "", errNotFound},
		{"GET", "/v1/search", errNotFound},
		{"GET", "/v2/a", errNotFound},
		{"GET", "/v2/a/", errNotFound},
		{"GET", "/v2/_catalog/", errNotFound},
		{"GET", "/v2/a/tags/", errNotFound},
		{"GET", "/v2/a/tags/list/", errNotFound},
		{"GET", "/v2/a/manifests/b/c", errNotFound},
		{"GET", "/v2/a/uploads/b", errNotFound},
		{"GET", "/v2/a/blobs/uploads/b/", errNotFound},
		{"GET", "/v2/a/%6Danifests/b", errNotFound},

		{"POST", "/v2/", registry.ErrUnsupported},
		{"DELETE", "/v2/a/tags/list", registry.ErrUnsupported},
		{"PUT", "/v2/a/blobs/" + sum256, registry.ErrUnsupported},
		{"GET", "/v2/a/blobs/uploads/", registry.ErrUnsupported},
		{"BREW", "/v2/a/manifests/latest", registry.ErrUnsupported},
		{"GET,", "/v2/a/manifests/latest", registry.ErrUnsupported},

		{"GET", "/v2//manifests/latest", registry.ErrNameInvalid},
		{"GET", "/v2/tags/list", registry.ErrNameInvalid},
		{"GET", "/v2/A/tags/list", registry.ErrNameInvalid},
		{"GET", "/v2/a//b/tags/list", registry.ErrNameInvalid},
		{"GET", "/v2/../a/tags/list", registry.ErrNameInvalid},
		{"GET", "/v2/a/../../b/tags/list", registry.ErrNameInvalid},
		{"GET", "/v2/a/%2e%2e/b/tags/list", registry.ErrNameInvalid},
		{"GET", "/v2/a%2Fb/tags/list", registry.ErrNameInvalid},
		{"GET", "/v2/a%00/tags/list", registry.ErrNameInvalid},
		{"GET", "/v2/a%/tags/list", registry.ErrNameInvalid},
		{"GET", "/v2/a%zz/tags/list", registry.ErrNameInvalid},
		{"GET", "/v2/" + strings.Repeat("a", 256) + "/tags/list", registry.ErrNameInvalid},

		{"GET", "/v2/_berth/", errNotFound},
		{"GET", "/v2/_berth/manifests/a", errNotFound},
		{"GET", "/v2/_berth/repositories/a", registry.ErrUnsupported},
		{"DELETE", "/v2/_berth/repositories/", registry.ErrNameInvalid},
		{"DELETE", "/v2/_berth/repositories/a/", registry.ErrNameInvalid},
		{"DELETE", "/v2/_berth/tags/a/b", registry.ErrUnsupported},
		{"GET", "/v2/_berth/tags/a", registry.ErrNameInvalid},
		{"GET", "/v2/_berth/tags/a/%", registry.ErrTagInvalid},
		{"POST", "/v2/_berth/tags/a/.x", registry.ErrTagInvalid},

		{"PUT", "/v2/a/manifests/", registry.ErrTagInvalid},
		{"PUT", "/v2/a/manifests/..", registry.ErrTagInvalid},
		{"PUT", "/v2/a/manifests/a%2Fb", registry.ErrTagInvalid},
		{"PUT", "/v2/a/manifests/%", registry.ErrTagInvalid},
		{"DELETE", "/v2/a/manifests/.x", registry.ErrTagInvalid},
		{"GET", "/v2/a/manifests/.INVALID_MANIFEST_NAME", registry.ErrManifestUnknown},
		{"HEAD", "/v2/a/manifests/" + strings.Repeat("a", 129), registry.ErrManifestUnknown},

		{"GET", "/v2/a/manifests/sha256:baddigeststring", registry.ErrDigestInvalid},
		{"PUT", "/v2/a/manifests/sha256:baddigeststring", registry.ErrDigestInvalid},
		{"GET", "/v2/a/manifests/md5:d41d8cd98f00b204e9800998ecf8427e", registry.ErrDigestInvalid},
		{"GET", "/v2/a/blobs/latest", registry.ErrDigestInvalid},
		{"GET", "/v2/a/blobs/%", registry.ErrDigestInvalid},
		{"GET", "/v2/a/blobs/" + strings.ToUpper(sum256), registry.ErrDigestInvalid},
		{"GET", "/v2/a/referrers/..", registry.ErrDigestInvalid},

		{"GET", "/v2/a/blobs/uploads/..", registry.ErrUploadUnknown},
		{"GET", "/v2/a/blobs/uploads/%2e", registry.ErrUploadUnknown},
		{"GET", "/v2/a/blobs/uploads/%", registry.ErrUploadUnknown},
		{"GET", "/v2/a/blobs/uploads/" + strings.Repeat("a", 129), registry.ErrUploadUnknown},
	}
	for _, tt := range tests {
		t.Run(tt.method+" "+tt.path, func(t *testing.T) {
			if got, err := parse(tt.method, tt.path); !errors.Is(err, tt.want) {
				t.Errorf("got %+v, %v; want %v", got, err, tt.want)
			}
		})
	}
}

// grammar is the spec's, one expression for each endpoint, tried one after the other.
var grammar = func() map[kind]*regexp.Regexp {
	const (
		part   = `[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*`
		name   = `(` + part + `(?:/` + part + `)*)`
		tag    = `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`
		digest = `sha256:[a-f0-9]{64}|sha512:[a-f0-9]{128}`
	)
	return map[kind]*regexp.Regexp{
		kindBase:      regexp.MustCompile(`^/v2/()()$`),
		kindCatalog:   regexp.MustCompile(`^/v2/_catalog()()$`),
		kindTags:      regexp.MustCompile(`^/v2/` + name + `/tags/list()$`),
		kindManifest:  regexp.MustCompile(`^/v2/` + name + `/manifests/(` + tag + `|` + digest + `)$`),
		kindBlob:      regexp.MustCompile(`^/v2/` + name + `/blobs/(` + digest + `)$`),
		kindReferrers: regexp.MustCompile(`^/v2/` + name + `/referrers/(` + digest + `)$`),
		kindUploads:   regexp.MustCompile(`^/v2/` + name + `/blobs/uploads/?()$`),
		kindUpload:    regexp.MustCompile(`^/v2/` + name + `/blobs/uploads/([a-zA-Z0-9-]{1,128})$`),
	}
}()

// naive parses a path as the spec describes it. A tag may look like the end of another endpoint, never the other way
// round, so that at most one expression matches.
func naive(path string) (kind, string, string, bool) {
	for kind, expression := range grammar {
		if m := expression.FindStringSubmatch(path); m != nil {
			return kind, m[1], m[2], len(m[1]) <= registry.MaxNameLength
		}
	}
	return kindNone, "", "", false
}

func FuzzParse(f *testing.F) {
	for _, path := range []string{
		"/v2/", "/v2", "/v2/_catalog", "/v2/a/tags/list", "/v2/a/b/manifests/latest", "/v2/a/manifests/" + sum512,
		"/v2/a/blobs/" + sum256, "/v2/a/blobs/uploads/", "/v2/a/blobs/uploads", "/v2/a/blobs/uploads/x-1",
		"/v2/a/referrers/" + sum256, "/v2/a%2Fb/tags/list", "/v2/%61/tags/list", "/v2/../a/tags/list", "/v2/a__b.c--d/tags/list",
		"/v2/blobs/uploads/blobs/uploads/", "/v2/a/manifests/%2e%2e", "/v2/a\x00/tags/list", "/v2/a/blobs/uploads/uploads",
	} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		got, err := parse(http.MethodOptions, path)
		if strings.Contains(path, "%") {
			checkEscaped(t, path, got, err)
			return
		}
		kind, name, last, ok := naive(path)
		if ok != (err == nil) {
			t.Fatalf("parse(%q) = %+v, %v; the grammar says %v", path, got, err, ok)
		}
		if ok && (got.kind != kind || got.repository != name || got.String() != last) {
			t.Fatalf("parse(%q) = %+v; the grammar says %s %q %q", path, got, kind, name, last)
		}
	})
}

// checkEscaped checks that an escaped path means what it means without its escapes, or nothing.
func checkEscaped(t *testing.T, path string, got target, err error) {
	t.Helper()
	if err != nil {
		return
	}
	plain, unescapeErr := url.PathUnescape(path)
	if unescapeErr != nil || strings.Count(plain, "/") != strings.Count(path, "/") {
		t.Fatalf("parse(%q) = %+v, though it hides a slash or can't be decoded", path, got)
	}
	if want, err := parse(http.MethodOptions, plain); err != nil || want != got {
		t.Fatalf("parse(%q) = %+v, but its plain form is %+v, %v", path, got, want, err)
	}
}
