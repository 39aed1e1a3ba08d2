package main

import (
	"encoding/json"
	"strings"
	"testing"
)

// TestUsage asks a running registry, and then its data.
func TestUsage(t *testing.T) {
	r := serve(t, t.TempDir(), "REGISTRY_HTTP_TLS_MODE=off", "REGISTRY_AUTH=none")
	v := visitor{t: t, url: r.url()}
	v.pushImage("team/a", "x", "amd64")
	v.pushImage("team/a", "y", "arm64")
	v.pushImage("other", "x", "amd64")
	look := func() usage {
		t.Helper()
		var u usage
		out, errOut, err := command(t, r.environ, "usage", "team/", "--json")
		if err == nil {
			err = json.Unmarshal([]byte(out), &u)
		}
		if err != nil || len(u.Repositories) != 1 {
			t.Fatalf("%v\n%s%s", err, out, errOut)
		}
		return u
	}
	running := look()
	a := running.Repositories[0]
	if a.Repository != "team/a" || a.Tags != 2 || a.Manifests != 2 || a.Blobs != 2 || a.Bytes != running.Stored || a.Unique <= 0 || a.Unique >= a.Bytes || a.Trash != 0 {
		t.Errorf("%+v", running)
	}
	out, _, err := command(t, r.environ, "usage")
	if err != nil || !strings.Contains(out, "\nother        1      1           1") || !strings.Contains(out, "\n2 repositories, ") {
		t.Errorf("%v\n%s", err, out)
	}
	r.end(t)
	if stopped := look(); stopped.Stored != running.Stored || stopped.Repositories[0] != a {
		t.Errorf("%+v after %+v", stopped, running)
	}
}
