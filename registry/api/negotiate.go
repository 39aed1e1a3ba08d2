package api

import (
	"net/http"
	"strconv"
	"strings"

	"berth/registry/manifest"
)

// acceptsIndex reports whether a client understands an index, by the values of its Accept headers (RFC 9110, section
// 12.5.1). No list and a wildcard mean everything; an index type of either family means both, since clients that know
// one of them look at the Content-Type.
func acceptsIndex(accept []string) bool {
	listed := false
	for _, value := range accept {
		for element := range strings.SplitSeq(value, ",") {
			mediaRange, params, _ := strings.Cut(element, ";")
			mediaRange = strings.ToLower(strings.TrimSpace(mediaRange))
			if mediaRange == "" {
				continue
			}
			listed = true
			if coversIndex(mediaRange) && !refused(params) {
				return true
			}
		}
	}
	return !listed
}

func coversIndex(mediaRange string) bool {
	return mediaRange == "*/*" || mediaRange == "application/*" || manifest.IsIndex(mediaRange)
}

// refused reports whether the parameters of a media range give it a quality of zero.
func refused(params string) bool {
	for param := range strings.SplitSeq(params, ";") {
		name, value, _ := strings.Cut(param, "=")
		if strings.EqualFold(strings.TrimSpace(name), "q") {
			q, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			return err == nil && q == 0
		}
	}
	return false
}

// etag is the entity tag of content with a digest.
func etag(digest string) string { return `"` + digest + `"` }

// notModified reports whether a client has the content with this entity tag already (RFC 9110, section 13.1.2). Tags
// without quotes count too: clients of distribution send them.
func notModified(r *http.Request, tag string) bool {
	for _, value := range r.Header["If-None-Match"] {
		for element := range strings.SplitSeq(value, ",") {
			element = strings.TrimPrefix(strings.TrimSpace(element), "W/")
			if element == "*" || element == tag || `"`+element+`"` == tag {
				return true
			}
		}
	}
	return false
}
