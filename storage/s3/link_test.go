package s3

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"berth/storage/s3/s3test"
	"berth/storage/storagetest"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
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

// TestEndpoints sees which of AWS's endpoints requests go to, by links, which need no server.
func TestEndpoints(t *testing.T) {
	for want, c := range map[string]Config{
		"https://images.s3.us-west-1.amazonaws.com/":                {},
		"https://images.s3-fips.us-west-1.amazonaws.com/":           {UseFIPSEndpoint: true},
		"https://images.s3.dualstack.us-west-1.amazonaws.com/":      {UseDualStack: true},
		"https://images.s3-fips.dualstack.us-west-1.amazonaws.com/": {UseFIPSEndpoint: true, UseDualStack: true},
		"https://images.s3.lan/":                                    {RedirectEndpoint: "https://s3.lan"},
		"https://s3.lan/images/":                                    {RedirectEndpoint: "https://s3.lan", ForcePathStyle: true},
	} {
		c.Region, c.AccessKey, c.SecretKey = "us-west-1", s3test.AccessKey, s3test.SecretKey
		_, links, err := connect(t.Context(), c)
		must(t, err)
		request, err := links.PresignGetObject(t.Context(), &s3.GetObjectInput{Bucket: aws.String("images"), Key: aws.String("key")})
		must(t, err)
		if !strings.HasPrefix(request.URL, want+"key?") {
			t.Errorf("got %s, want %s", request.URL, want)
		}
	}
}
