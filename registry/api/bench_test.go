package api

import (
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
)

// BenchmarkHandler measures what the handler and the service cost for small requests, without a connection.
func BenchmarkHandler(b *testing.B) {
	s := newServer(b, options{})
	d, body := s.pushImage("library/app", "latest", "layer")
	for i := range 100 {
		s.pushManifest("library/app", "v"+strconv.Itoa(i), ociManifest, body)
	}
	requests := map[string]*http.Request{
		"base":               httptest.NewRequest(http.MethodGet, "/v2/", nil),
		"manifest by tag":    httptest.NewRequest(http.MethodGet, "/v2/library/app/manifests/latest", nil),
		"manifest by digest": httptest.NewRequest(http.MethodGet, "/v2/library/app/manifests/"+d, nil),
		"blob":               httptest.NewRequest(http.MethodGet, "/v2/library/app/blobs/"+s.pushBlob("library/app", "layer"), nil),
		"tags":               httptest.NewRequest(http.MethodGet, "/v2/library/app/tags/list?n=100", nil),
	}
	for name, r := range requests {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				w := httptest.NewRecorder()
				s.Config.Handler.ServeHTTP(w, r)
				if w.Code != http.StatusOK {
					b.Fatal(w.Code)
				}
			}
		})
	}
}
