package api

import (
	"net/http"
	"strings"
	"testing"
)

// TestRestoreNeedsJSON refuses what a page of another site can have a browser send without asking first: the tag stays.
func TestRestoreNeedsJSON(t *testing.T) {
	s := newServer(t, options{})
	first, _ := s.pushImage("app", "x", "first")
	second, _ := s.pushImage("app", "x", "other")
	const path = "/v2/_berth/tags/app/x"
	restore := func(headers ...string) answer {
		t.Helper()
		return s.do(http.MethodPost, path, strings.NewReader(`{"digest":"`+first+`"}`), headers...)
	}
	restore().wantError(http.StatusUnsupportedMediaType, "CONTENT_TYPE_INVALID")
	for _, kind := range []string{"", "text/plain", "text/plain;application/json", "text/plain; charset=application/json",
		"application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/json, text/plain", "json"} {
		restore("Content-Type", kind).wantError(http.StatusUnsupportedMediaType, "CONTENT_TYPE_INVALID")
	}
	s.get("/v2/app/manifests/x").want(http.StatusOK).wantHeaders("Docker-Content-Digest", second)
	restore("Content-Type", "text/plain", "Content-Type", "application/json").want(http.StatusUnsupportedMediaType)
	restore("Content-Type", "Application/JSON; charset=utf-8").want(http.StatusCreated).wantHeaders("Docker-Content-Digest", first)
	s.get("/v2/app/manifests/x").want(http.StatusOK).wantHeaders("Docker-Content-Digest", first)
	s.do(http.MethodOptions, path, nil, "Origin", "https://elsewhere", "Access-Control-Request-Method", "POST").
		want(http.StatusNoContent).wantHeaders("Access-Control-Allow-Origin", "")
}
