package s3

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"berth/storage/s3/s3test"
	"berth/storage/storagetest"
)

// testLink reads by the link alone, through the endpoint for clients.
func testLink(t *testing.T, b bench) {
	config := b.config()
	config.RedirectEndpoint = s3test.NewProxy(t, b.server).URL
	s := b.open(t, config)
	content := storagetest.Content(1, 5000)
	_, err := storagetest.Put(t.Context(), s, key, content)
	must(t, err)
	b.proxy.Calls()
	link, err := s.Link(t.Context(), key, "application/vnd.example")
	must(t, err)
	b.wantCalls(t, "link", map[string]int{})
	if !strings.HasPrefix(link, config.RedirectEndpoint+"/") || strings.Contains(link, s3test.SecretKey) {
		t.Errorf("link: %s", link)
	}
	resp, err := http.Get(link)
	must(t, err)
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	must(t, err)
	if resp.StatusCode != http.StatusOK || string(got) != string(content) || resp.Header.Get("Content-Type") != "application/vnd.example" {
		t.Errorf("%s, %d bytes of type %q", resp.Status, len(got), resp.Header.Get("Content-Type"))
	}
	if resp, err := http.Get(strings.Replace(link, key, key+"0", 1)); err != nil || resp.StatusCode != http.StatusForbidden {
		t.Errorf("link to another object: %v, %v", resp, err)
	}
}
