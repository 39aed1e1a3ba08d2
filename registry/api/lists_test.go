package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"berth/registry"
)

var linkForm = regexp.MustCompile(`^<(/[^<>"]*)>; rel="next"$`)

// pages follows the links of a list from its first page and returns what decode finds on each.
func (s *server) pages(path string, decode func(answer) []string) [][]string {
	s.t.Helper()
	var pages [][]string
	for path != "" {
		a := s.get(path).want(http.StatusOK)
		pages = append(pages, decode(a))
		link := a.header.Get("Link")
		if link == "" {
			return pages
		}
		m := linkForm.FindStringSubmatch(link)
		if m == nil || len(pages) > 20 {
			s.t.Fatalf("Link %q after %d pages", link, len(pages))
		}
		path = m[1]
	}
	return pages
}

func decodeTags(a answer) []string {
	var list struct {
		Name string
		Tags []string
	}
	if err := json.Unmarshal([]byte(a.body), &list); err != nil || list.Tags == nil {
		a.t.Fatalf("%v in %s", err, a.body)
	}
	return list.Tags
}

func decodeRepositories(a answer) []string {
	var list struct{ Repositories []string }
	if err := json.Unmarshal([]byte(a.body), &list); err != nil || list.Repositories == nil {
		a.t.Fatalf("%v in %s", err, a.body)
	}
	return list.Repositories
}

func TestTags(t *testing.T) {
	s := newServer(t, options{})
	_, body := s.pushImage("a/b", "v1", "layer")
	for _, tag := range []string{"V1", "v10", "v2", "_x"} {
		s.pushManifest("a/b", tag, ociManifest, body)
	}
	tests := []struct {
		query string
		want  string
	}{
		{"", "[[V1 _x v1 v10 v2]]"},
		{"?n=2", "[[V1 _x] [v1 v10] [v2]]"},
		{"?n=5", "[[V1 _x v1 v10 v2]]"},
		{"?n=99999999", "[[V1 _x v1 v10 v2]]"},
		{"?n=0", "[[]]"},
		{"?last=v1", "[[v10 v2]]"},
		{"?n=1&last=v1", "[[v10] [v2]]"},
		{"?last=not%20a%01tag%3C%3E", "[[v1 v10 v2]]"},
		{"?last=zzz", "[[]]"},
	}
	for _, tt := range tests {
		t.Run(tt.query, func(t *testing.T) {
			if got := fmt.Sprint(s.pages("/v2/a/b/tags/list"+tt.query, decodeTags)); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
	s.get("/v2/a/b/tags/list?n=1").wantBody(`{"name":"a/b","tags":["V1"]}`).
		wantHeaders("Content-Type", "application/json", "Link", `</v2/a/b/tags/list?last=V1&n=1>; rel="next"`)
	s.do(http.MethodHead, "/v2/a/b/tags/list", nil).want(http.StatusOK).wantBody("")
	for _, n := range []string{"-1", "x", "1.5", "", "99999999999999999999"} {
		s.get("/v2/a/b/tags/list?n="+n).wantError(http.StatusBadRequest, "PAGINATION_NUMBER_INVALID")
	}
	for _, path := range []string{"tags/list?last=a%00b", "tags/list?last=%ff", "referrers/" + sum256 + "?artifactType=a/%00"} {
		s.get("/v2/a/b/"+path).wantError(http.StatusBadRequest, "QUERY_INVALID")
	}
	s.get("/v2/a/tags/list").wantError(http.StatusNotFound, "NAME_UNKNOWN")
	s.get("/v2/a/tags/list?n=0").wantError(http.StatusNotFound, "NAME_UNKNOWN")
}

func TestTagsOfNone(t *testing.T) {
	s := newServer(t, options{})
	s.pushImage("a", "", "layer")
	s.get("/v2/a/tags/list").want(http.StatusOK).wantBody(`{"name":"a","tags":[]}`)
}

func TestCatalog(t *testing.T) {
	s := newServer(t, options{config: Config{CatalogMax: 3}})
	s.get("/v2/_catalog").want(http.StatusOK).wantBody(`{"repositories":[]}`)
	for _, name := range []string{"b", "a/c", "a-b", "a"} {
		s.pushImage(name, "v1", "layer")
	}
	for query, want := range map[string]string{
		"": "[[a a-b a/c] [b]]", "?n=2": "[[a a-b] [a/c b]]", "?n=1000": "[[a a-b a/c] [b]]", "?n=0": "[[]]", "?last=a-b": "[[a/c b]]",
	} {
		if got := fmt.Sprint(s.pages("/v2/_catalog"+query, decodeRepositories)); got != want {
			t.Errorf("%q: got %s, want %s", query, got, want)
		}
	}
	s.get("/v2/_catalog?n=-1").wantError(http.StatusBadRequest, "PAGINATION_NUMBER_INVALID")
}

// decodeReferrers returns the digests of an index.
func decodeReferrers(a answer) []string {
	var index v1.Index
	if err := json.Unmarshal([]byte(a.body), &index); err != nil || index.SchemaVersion != 2 || index.MediaType != ociIndex || index.Manifests == nil {
		a.t.Fatalf("%v in %s", err, a.body)
	}
	digests := []string{}
	for _, d := range index.Manifests {
		digests = append(digests, d.Digest.String())
	}
	return digests
}

// pushReferrer stores an artifact about a subject and returns its digest.
func (s *server) pushReferrer(repository, subject, artifactType, annotation string) string {
	s.t.Helper()
	blob := s.pushBlob(repository, "{}")
	extra := `,"artifactType":"` + artifactType + `","annotations":{"note":"` + annotation + `"},"subject":{"mediaType":"` + ociManifest + `","digest":"` + subject + `","size":9}`
	return s.pushManifest(repository, "", ociManifest, imageManifest(blob, blob, extra))
}

func TestReferrers(t *testing.T) {
	s := newServer(t, options{})
	subject := digest.FromString("never pushed").String()
	path := "/v2/a/referrers/" + subject
	s.get(path).want(http.StatusOK).wantBody(`{"schemaVersion":2,"mediaType":"`+ociIndex+`","manifests":[]}`).
		wantHeaders("Content-Type", ociIndex, "OCI-Filters-Applied", "", "Link", "")

	sbom := s.pushReferrer("a", subject, "application/sbom", "one")
	signature := s.pushReferrer("a", subject, "application/signature", "two")
	all := []string{sbom, signature}
	slices.Sort(all)
	a := s.get(path).want(http.StatusOK)
	if got := decodeReferrers(a); !slices.Equal(got, all) {
		t.Errorf("referrers %v, want %v", got, all)
	}
	if !strings.Contains(a.body, `"artifactType":"application/sbom"`) || !strings.Contains(a.body, `"note":"one"`) {
		t.Errorf("the list lacks type or annotations: %s", a.body)
	}
	filtered := s.get(path+"?artifactType=application/sbom").want(http.StatusOK).wantHeaders("OCI-Filters-Applied", "artifactType")
	if got := decodeReferrers(filtered); !slices.Equal(got, []string{sbom}) {
		t.Errorf("filtered referrers %v, want %v", got, sbom)
	}
	s.get(path+"?last=nonsense").wantError(http.StatusBadRequest, "DIGEST_INVALID")
	s.get("/v2/elsewhere/referrers/"+subject).want(http.StatusOK).wantHeaders("Content-Type", ociIndex)
}

// TestReferrersPages pushes more than an answer may hold: each page is one that clients read, and together they are all.
func TestReferrersPages(t *testing.T) {
	s := newServer(t, options{})
	var want []string
	for i := range 6 {
		want = append(want, s.pushReferrer("a", sum256, "application/x+y", strings.Repeat("x", 900<<10)+strconv.Itoa(i)))
	}
	slices.Sort(want)
	decode := func(a answer) []string {
		if len(a.body) > registry.MaxManifestSize {
			t.Errorf("a page of %d bytes", len(a.body))
		}
		return decodeReferrers(a)
	}
	pages := s.pages("/v2/a/referrers/"+sum256+"?artifactType="+url.QueryEscape("application/x+y"), decode)
	if got := slices.Concat(pages...); !slices.Equal(got, want) || len(pages) < 2 {
		t.Errorf("%d pages with %v, want %v", len(pages), got, want)
	}
}

func FuzzRequestedPage(f *testing.F) {
	for _, query := range []string{"", "n=1", "n=0&last=a", "n=-1", "n=x", "n=1&n=2", "n=99999999999999999999", "last=%00", "n=+1", "%zz"} {
		f.Add(query)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		query, _ := url.ParseQuery(raw)
		page, empty, err := requestedPage(query, 50)
		n, numberErr := strconv.Atoi(query.Get("n"))
		bad := query.Has("n") && (numberErr != nil || n < 0)
		switch {
		case bad != (err != nil) || err != nil && !errors.Is(err, errPageSize):
			t.Fatalf("%q: %v", raw, err)
		case err == nil && (page.N < 1 || page.N > 50 || page.Last != query.Get("last")):
			t.Fatalf("%q: %+v", raw, page)
		case err == nil && empty != (query.Has("n") && n == 0):
			t.Fatalf("%q: empty is %v", raw, empty)
		}
	})
}
