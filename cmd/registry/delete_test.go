package main

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"berth/client"
)

// TestDeleteAndRestore deletes over the API with the program's commands, and brings back what was deleted.
func TestDeleteAndRestore(t *testing.T) {
	r := serve(t, t.TempDir(), "REGISTRY_HTTP_TLS_MODE=off", "REGISTRY_AUTH=none", "REGISTRY_GC_INTERVAL=50ms", "REGISTRY_GC_LEASE=3s",
		"REGISTRY_GC_GRACE=1ms", "REGISTRY_IMMUTABILITY=[{repositories: [app], tags: ['v*'], except: ['*-rc*']}]")
	defer r.end(t)
	v := visitor{t: t, url: r.url()}
	host := strings.TrimPrefix(r.url(), "http://")
	run := func(args ...string) (string, error) {
		t.Helper()
		if args[0] == "delete" || args[0] == "tag" {
			args = append(args, "--plain-http")
		}
		out, errOut, err := command(t, r.environ, args...)
		if err != nil && errOut != "" {
			t.Log(errOut)
		}
		return out, err
	}
	do := func(args ...string) string {
		t.Helper()
		out, err := run(args...)
		if err != nil {
			t.Fatalf("%s: %v", strings.Join(args, " "), err)
		}
		return out
	}
	wantDenied := func(what string, err error, parts ...string) {
		t.Helper()
		for _, part := range parts {
			if err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("%s: got %v, want %q", what, err, part)
			}
		}
	}
	wantStatus := func(tag string, want int) {
		t.Helper()
		if status, _, _ := v.do(http.MethodGet, "/v2/app/manifests/"+tag, "", ""); status != want {
			t.Errorf("%s: %d, want %d", tag, status, want)
		}
	}
	first := v.pushImage("app", "x", "amd64").Get("Docker-Content-Digest")
	second := v.pushImage("app", "x", "arm64").Get("Docker-Content-Digest")

	// A tag: moved, deleted, set back by digest and by time.
	if out := do("delete", host+"/app:x"); !strings.Contains(out, "deleted "+host+"/app:x\n  it can be restored until ") || strings.Contains(out, "free") {
		t.Error(out)
	}
	wantStatus("x", http.StatusNotFound)
	history := do("tag", "history", host+"/app:x")
	if lines := strings.Split(strings.TrimSpace(history), "\n"); len(lines) != 3 || !strings.HasPrefix(lines[1], second) || !strings.Contains(lines[1], "deleted") || !strings.HasPrefix(lines[2], first) {
		t.Error(history)
	}
	if out := do("tag", "restore", host+"/app:x", "--to", first); !strings.Contains(out, host+"/app:x points to "+first) {
		t.Error(out)
	}
	var states []client.TagState
	if err := json.Unmarshal([]byte(do("tag", "history", host+"/app:x", "--json")), &states); err != nil || len(states) != 3 || states[0].Ended != nil {
		t.Fatalf("%+v, %v", states, err)
	}
	between := states[1].Set.Add(states[1].Ended.Sub(states[1].Set) / 2)
	if out := do("tag", "restore", host+"/app:x", "--before", between.Format(time.RFC3339Nano)); !strings.Contains(out, second) {
		t.Error(out)
	}
	_, err := run("tag", "restore", host+"/app:x", "--before", "9000h")
	wantDenied("a time before all", err, "pointed to nothing at")

	_, err = run("tag", "history", host+"/app:none")
	wantDenied("a tag that never was", err, "app has no tag none, and had none as far as its history is kept")
	_, err = run("delete", "--repository", host+"/none")
	wantDenied("a repository that never was", err, "there is no repository none")

	// A manifest, whose blob only the trash keeps.
	if out := do("delete", host+"/app@"+first); !strings.Contains(out, "what nothing else needs is free by ") {
		t.Error(out)
	}
	wantStatus(first, http.StatusNotFound)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) { // until the collector hides the blob
		var status gcStatus
		if err := json.Unmarshal([]byte(do("gc", "status", "--json")), &status); err != nil || time.Now().After(deadline) {
			t.Fatalf("%+v, %v", status, err)
		}
		if status.Queue == 0 && status.Trash == 1 && status.TrashBytes > 0 {
			break
		}
	}
	if out := do("gc", "status"); !strings.Contains(out, "1 manifests, ") {
		t.Error(out)
	}
	do("tag", "restore", host+"/app:old", "--to", first)
	wantStatus("old", http.StatusOK)
	do("fsck", "--rehash")

	// The whole repository.
	_, err = run("delete", host+"/app")
	wantDenied("a repository by mistake", err, "names no tag", "--repository")
	_, err = run("delete", "--repository", host+"/app:x")
	wantDenied("a tag by mistake", err, "without a tag")
	if out := do("delete", "--repository", host+"/app"); !strings.Contains(out, ": 2 tags, 2 manifests\n") {
		t.Error(out)
	}
	if status, body, _ := v.do(http.MethodGet, "/v2/app/tags/list", "", ""); status != http.StatusNotFound {
		t.Errorf("tags of a deleted repository: %d %s", status, body)
	}
	do("tag", "restore", host+"/app:x", "--to", second)
	wantStatus("x", http.StatusOK)
	do("delete", host+"/app@"+second, "--now")
	_, err = run("tag", "restore", host+"/app:x", "--to", second)
	wantDenied("restore what was deleted now", err, "neither in app nor in its trash")

	// A tag that may not move.
	held := v.pushImage("app", "v1", "amd64").Get("Docker-Content-Digest")
	v.pushImage("app", "v1", "amd64") // the same again
	v.pushImage("app", "v1-rc", "amd64")
	other := v.pushImage("app", "v1-rc", "arm64").Get("Docker-Content-Digest")
	_, body, head := v.do(http.MethodGet, "/v2/app/manifests/"+other, "", "")
	status, answer, _ := v.do(http.MethodPut, "/v2/app/manifests/v1", head.Get("Content-Type"), body)
	if status != http.StatusForbidden || !strings.Contains(answer, `"DENIED"`) || !strings.Contains(answer, "app:v1 is immutable and points to "+held) {
		t.Errorf("%d %s", status, answer)
	}
	_, err = run("tag", "restore", host+"/app:v1", "--to", other)
	wantDenied("move an immutable tag", err, "is immutable")
}

func TestTrashRefused(t *testing.T) {
	for rule, want := range map[string]string{
		"{tags: ['*']}":                      "immutability.0: it needs repositories",
		"{repositories: [A]}":                "immutability.0: repositories: ",
		"{repositories: [a], except: ['/']}": "immutability.0: except: ",
		"{repositories: [a], keep: 1}":       "unknown key",
	} {
		_, _, err := command(t, []string{"REGISTRY_IMMUTABILITY=[" + rule + "]"}, "config", "check")
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", rule, err)
		}
	}
	if _, _, err := command(t, []string{"REGISTRY_STORAGE_DELETE_CHILDREN=maybe"}, "config", "check"); err == nil || !strings.Contains(err.Error(), "refuse") {
		t.Errorf("children: %v", err)
	}
	for text, good := range map[string]bool{"3h": true, "-3h": false, "2026-01-31": true, "2026-01-31 12:00": true, "2026-01-31T12:00:00Z": true, "yesterday": false} {
		if _, err := parseTime(text, time.Now()); (err == nil) != good {
			t.Errorf("%s: %v", text, err)
		}
	}
	if _, _, err := command(t, nil, "tag", "restore", "app:x", "--to", "sha256:12"); err == nil || !strings.Contains(err.Error(), "--to sha256:12") {
		t.Errorf("a digest that is none: %v", err)
	}
	if _, _, err := command(t, nil, "tag", "history", "app@sha256:"+strings.Repeat("0", 64)); err == nil || !strings.Contains(err.Error(), "leave out the digest") {
		t.Errorf("the history of a digest: %v", err)
	}
}
