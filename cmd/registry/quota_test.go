package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// TestQuota has the program refuse what its quotas have no room for, say why, and show what is used; also after a restart with another
// quota, which counts what is there.
func TestQuota(t *testing.T) {
	directory := t.TempDir()
	start := func(quota string) (*running, visitor, func(args ...string) string) {
		r := serve(t, directory, "REGISTRY_HTTP_TLS_MODE=off", "REGISTRY_AUTH=none", "REGISTRY_QUOTA=["+quota+"]")
		return r, visitor{t: t, url: r.url()}, func(args ...string) string {
			t.Helper()
			out, errOut, err := command(t, r.environ, args...)
			if err != nil {
				t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, errOut)
			}
			return out
		}
	}
	refused := func(what string, status int, body, want string) {
		t.Helper()
		var answer struct {
			Errors []struct {
				Code, Message string
				Detail        quotaUsage
			}
		}
		err := json.Unmarshal([]byte(body), &answer)
		if status != http.StatusForbidden || err != nil || len(answer.Errors) != 1 || answer.Errors[0].Code != "DENIED" ||
			!strings.Contains(answer.Errors[0].Message, want) || len(answer.Errors[0].Detail.Repositories) == 0 {
			t.Errorf("%s: %d %s", what, status, body)
		}
	}
	r, v, do := start("{repositories: [team/**], bytes: 1000, tags: 2}")
	v.push("team/app", strings.Repeat("a", 598)) // and a config of two
	post := func(repository, content string) (int, string) {
		status, body, _ := v.do(http.MethodPost, "/v2/"+repository+"/blobs/uploads/?digest="+digestOf(content), "", content)
		return status, body
	}
	status, body := post("team/app", strings.Repeat("b", 600))
	refused("a blob of 600 bytes", status, body, "the quota for team/** is 1000 B, and 600 B are used, too many to add 600 B: delete images")
	if status, body := post("team/other", strings.Repeat("a", 598)); status != http.StatusCreated {
		t.Errorf("what is there already: %d %s", status, body)
	}
	v.pushImage("team/app", "two", "amd64")
	image := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.example","digest":%q,"size":2},"layers":[]}`, imageType, digestOf("{}"))
	status, body, _ = v.do(http.MethodPut, "/v2/team/app/manifests/three", imageType, image)
	refused("a third tag", status, body, "the quota for team/** is 2 tags, and 2 are used: delete tags")
	v.push("elsewhere", strings.Repeat("c", 1998))
	if out := do("usage"); !strings.Contains(out, "QUOTA     BYTES") || !strings.Contains(out, "team/**") || !strings.Contains(out, "1000 B") {
		t.Error(out)
	}
	if out := do("usage", "elsewhere"); strings.Contains(out, "QUOTA") {
		t.Error(out)
	}
	r.end(t)
	r, v, do = start("{repositories: [elsewhere, nowhere/*], bytes: 1KiB}")
	defer r.end(t)
	status, body, _ = v.do(http.MethodPost, "/v2/elsewhere/blobs/uploads/", "", "")
	refused("an upload where there is no room", status, body, "the quota for elsewhere, nowhere/* is 1.0 KiB, and 2.0 KiB are used: delete images")
	if status, body := post("team/app", strings.Repeat("b", 600)); status != http.StatusCreated {
		t.Errorf("what has no quota any more: %d %s", status, body)
	}
	var u usage
	if err := json.Unmarshal([]byte(do("usage", "--json")), &u); err != nil || len(u.Quotas) != 1 || u.Quotas[0].UsedBytes != 2000 || u.Quotas[0].Bytes != 1024 {
		t.Errorf("%+v, %v", u, err)
	}
	do("fsck") // which counts too
}

func TestQuotaRefused(t *testing.T) {
	for quota, want := range map[string]string{
		"{bytes: 1}":                       "quota.0: it needs repositories",
		"{repositories: [A], bytes: 1}":    "quota.0: repositories: ",
		"{repositories: [a]}":              "quota.0: it limits nothing: set bytes, such as 100GiB, or tags",
		"{repositories: [a], tags: -1}":    "quota.0: bytes and tags have to be more than zero",
		"{repositories: [a], bytes: much}": "bytes",
		"{repositories: [a], size: 1GB}":   "unknown key",
		"{repositories: [a, b], tags: 1}, {repositories: [b, a], bytes: 1}": "quota.1: a quota before it has the same repositories",
	} {
		_, _, err := command(t, []string{"REGISTRY_QUOTA=[" + quota + "]"}, "config", "check")
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", quota, err)
		}
	}
}
