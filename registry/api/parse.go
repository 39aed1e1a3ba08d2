package api

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"berth/registry"
)

// kind says what a path of the API names. Its text goes into the access line.
type kind string

const (
	kindNone      kind = "none"
	kindBase      kind = "base"
	kindCatalog   kind = "catalog"
	kindTags      kind = "tags"
	kindManifest  kind = "manifest"
	kindBlob      kind = "blob"
	kindUploads   kind = "uploads"
	kindUpload    kind = "upload"
	kindReferrers kind = "referrers"
	// Berth's own, below /v2/_berth/.
	kindRepository kind = "repository"
	kindTag        kind = "tag"

	kindToken kind = "token" // no part of the API, but in the access line
)

// methods returns the methods that k answers, as the Allow header wants them.
func (k kind) methods() string {
	switch k {
	case kindManifest:
		return "GET, HEAD, PUT, DELETE, OPTIONS"
	case kindBlob:
		return "GET, HEAD, DELETE, OPTIONS"
	case kindUploads:
		return "POST, OPTIONS"
	case kindUpload:
		return "GET, HEAD, PATCH, PUT, DELETE, OPTIONS"
	case kindRepository:
		return "DELETE, OPTIONS"
	case kindTag:
		return "GET, HEAD, POST, OPTIONS"
	}
	return "GET, HEAD, OPTIONS"
}

func (k kind) allows(method string) bool {
	for m := range strings.SplitSeq(k.methods(), ", ") {
		if m == method {
			return true
		}
	}
	return false
}

// target is what a request is about.
type target struct {
	kind kind
	// repository is a valid name, or empty where the kind has none.
	repository string
	// reference names a manifest, a blob (by digest) or a subject (by digest).
	reference registry.Reference
	// upload is the ID of a session.
	upload string
}

// String returns what the target names within its repository.
func (t target) String() string {
	if t.upload != "" {
		return t.upload
	}
	return t.reference.String()
}

// parse reads the method and the escaped path of a request (OCI distribution spec, "Endpoints"). Beside an error it
// returns as much of the target as it could read. It fails with errNotFound when the path belongs to no endpoint, with
// registry.ErrUnsupported when the endpoint does not know the method, and as the checks of package registry do.
//
// Names have slashes, so a path is read from its end. Each segment is unescaped by itself after the path was split: an
// escaped slash never separates anything, and no path is ever cleaned.
func parse(method, path string) (target, error) {
	kind, name, last := split(path)
	t := target{kind: kind}
	switch {
	case kind == kindNone:
		return t, errNotFound
	case !kind.allows(method):
		return t, registry.ErrUnsupported.Withf("method not allowed here: use one of %s", kind.methods())
	case kind == kindBase || kind == kindCatalog:
		return t, nil
	}
	name, err := parseName(name)
	if err != nil {
		return t, err
	}
	t.repository = name
	return t, t.parseLast(method, last)
}

// checkQuery fails when a query can't be read. Reading it later would leave out what is wrong with it.
func checkQuery(raw string) error {
	if raw == "" {
		return nil
	}
	query, err := url.ParseQuery(raw)
	if err != nil {
		return errQuery.Withf("malformed query: %v", err)
	}
	for name, values := range query {
		if slices.ContainsFunc(values, notText) {
			return errQuery.Withf("malformed query: the parameter %q is no UTF-8 text", name)
		}
	}
	return nil
}

// notText reports whether a database can't look for s.
func notText(s string) bool { return !utf8.ValidString(s) || strings.ContainsRune(s, 0) }

// split cuts the path of an endpoint into the repository's name and the last segment, both escaped.
func split(path string) (k kind, name, last string) {
	rest, ok := strings.CutPrefix(path, "/v2/")
	switch {
	case !ok:
		return kindNone, "", ""
	case rest == "":
		return kindBase, "", ""
	case rest == "_catalog":
		return kindCatalog, "", ""
	case strings.HasPrefix(rest, "_berth/"):
		return splitOwn(rest[len("_berth/"):])
	}
	rest, last = cutLast(rest)
	rest, noun := cutLast(rest)
	return classify(rest, noun, last)
}

// splitOwn is split below /v2/_berth/.
func splitOwn(rest string) (k kind, name, last string) {
	noun, rest, _ := strings.Cut(rest, "/")
	switch noun {
	case "repositories":
		return kindRepository, rest, ""
	case "tags":
		name, last = cutLast(rest)
		return kindTag, name, last
	}
	return kindNone, "", ""
}

// classify tells the kinds apart by the last but one segment, the noun.
func classify(rest, noun, last string) (kind, string, string) {
	switch {
	case noun == "manifests":
		return kindManifest, rest, last
	case noun == "referrers":
		return kindReferrers, rest, last
	case noun == "tags" && last == "list":
		return kindTags, rest, ""
	case noun == "blobs" && last == "uploads":
		return kindUploads, rest, ""
	case noun == "blobs":
		return kindBlob, rest, last
	}
	name, parent := cutLast(rest)
	switch {
	case noun != "uploads" || parent != "blobs":
		return kindNone, "", ""
	case last == "":
		return kindUploads, name, ""
	}
	return kindUpload, name, last
}

// cutLast cuts s before its last segment.
func cutLast(s string) (before, last string) {
	i := strings.LastIndexByte(s, '/')
	if i < 0 {
		return "", s
	}
	return s[:i], s[i+1:]
}

func parseName(escaped string) (string, error) {
	name, ok := unescape(escaped)
	if !ok {
		return "", registry.ErrNameInvalid.Withf("invalid percent-encoding in the repository name")
	}
	return name, registry.CheckName(name)
}

func (t *target) parseLast(method, escaped string) (err error) {
	last, ok := unescape(escaped)
	switch t.kind {
	case kindManifest:
		t.reference, err = parseReference(method, last, ok)
	case kindBlob, kindReferrers:
		if !ok {
			return registry.ErrDigestInvalid.Withf("invalid percent-encoding in the digest")
		}
		t.reference.Digest, err = registry.ParseDigest(last)
	case kindTag:
		if !ok {
			return registry.ErrTagInvalid.Withf("invalid percent-encoding in the tag")
		}
		t.reference.Tag = last
		return registry.CheckTag(last)
	case kindUpload:
		if !ok || !validUpload(last) {
			return registry.ErrUploadUnknown
		}
		t.upload = last
	}
	return err
}

// parseReference reads the reference of a manifest. Reading under a name that can't be a tag finds nothing, so that is
// what it says: version 1.1 of the official suite insists on it.
func parseReference(method, s string, ok bool) (registry.Reference, error) {
	if !ok {
		return registry.Reference{}, registry.ErrTagInvalid.Withf("invalid percent-encoding in the reference")
	}
	ref, err := registry.ParseReference(s)
	switch {
	case err == nil:
		return ref, nil
	case strings.Contains(s, ":") || method != http.MethodGet && method != http.MethodHead:
		return registry.Reference{}, err
	}
	return registry.Reference{}, registry.ErrManifestUnknown.Withf("manifest unknown: the reference is no valid tag")
}

// validUpload reports whether s has the form of a session's ID.
func validUpload(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return s != "" && len(s) <= 128
}

// unescape decodes percent-encodings, and fails when they hide a slash.
func unescape(s string) (string, bool) {
	if !strings.Contains(s, "%") {
		return s, true
	}
	decoded, err := url.PathUnescape(s)
	return decoded, err == nil && strings.Count(decoded, "/") == strings.Count(s, "/")
}
