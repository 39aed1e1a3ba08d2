package main

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestRetention has the program plan, and then do, what its rules say.
func TestRetention(t *testing.T) {
	rules := "REGISTRY_RETENTION_RULES=[{repositories: [team/**], keep: {newest: 1, tags: [stable]}}]"
	r := serve(t, t.TempDir(), "REGISTRY_HTTP_TLS_MODE=off", "REGISTRY_AUTH=none", "REGISTRY_GC_INTERVAL=50ms",
		"REGISTRY_RETENTION_INTERVAL=1ms", rules)
	defer r.end(t)
	v := visitor{t: t, url: r.url()}
	do := func(args ...string) string {
		t.Helper()
		out, errOut, err := command(t, r.environ, args...)
		if err != nil {
			t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, errOut)
		}
		return out
	}
	if out := do("retention", "plan"); out != "nothing would go\n" {
		t.Error(out)
	}
	do("gc", "pause")
	for _, image := range [][2]string{{"stable", "amd64"}, {"old", "arm64"}, {"new", "s390x"}} {
		v.pushImage("team/app", image[0], image[1])
		v.pushImage("other", image[0], image[1])
		time.Sleep(2 * time.Millisecond) // times are of milliseconds
	}
	out := do("retention", "plan")
	if !strings.Contains(out, "team/app     old   sha256:") || !strings.Contains(out, "rule 1: number 2 of the newest, 1 stay") ||
		!strings.Contains(out, "1 manifests would go, and with them 0 B that nothing else needs") { // the other repository has the same
		t.Error(out)
	}
	edited := "REGISTRY_RETENTION_RULES=[{repositories: [other], keep: {tags: [new]}}]"
	out, _, err := command(t, append(slices.Clone(r.environ[:len(r.environ)-1]), edited), "retention", "plan")
	if err != nil || strings.Contains(out, "team/app") || !strings.Contains(out, "2 manifests would go") {
		t.Errorf("rules that the server does not have yet: %v\n%s", err, out)
	}
	var plans []retentionPlan
	if err := json.Unmarshal([]byte(do("retention", "plan", "--json")), &plans); err != nil || len(plans) != 1 || plans[0].Manifests != 1 || len(plans[0].Goes) != 1 {
		t.Errorf("%+v, %v", plans, err)
	}
	do("gc", "resume")
	old := func(repository string) int {
		status, _, _ := v.do(http.MethodGet, "/v2/"+repository+"/manifests/old", "", "")
		return status
	}
	for deadline := time.Now().Add(time.Minute); old("team/app") != http.StatusNotFound; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("a minute later the tag is still there")
		}
	}
	if old("other") != http.StatusOK {
		t.Error("a repository without a rule lost a tag")
	}
	if _, body, _ := v.do(http.MethodGet, "/v2/team/app/tags/list", "", ""); !strings.Contains(body, `["new","stable"]`) {
		t.Error(body)
	}
	if out := do("tag", "history", strings.TrimPrefix(r.url(), "http://")+"/team/app:old", "--plain-http"); !strings.Contains(out, "retention") {
		t.Error(out)
	}
}

func TestRetentionRefused(t *testing.T) {
	for rule, want := range map[string]string{
		"{keep: {newest: 1}}":                       "retention.rules.0: it needs repositories",
		"{repositories: [A]}":                       "retention.rules.0: repositories: ",
		"{repositories: [a], tags: ['/']}":          "retention.rules.0: tags: ",
		"{repositories: [a], keep: {tags: ['/']}}":  "retention.rules.0: keep.tags: ",
		"{repositories: [a], keep: {newest: -1}}":   "keep.newest is -1",
		"{repositories: [a], keep: {pushed: soon}}": "pushed",
		"{repositories: [a], keep: {pulled: -1h}}":  "pulled",
		"{repositories: [a], untagged: never}":      "untagged",
		"{repositories: [a], keep: {oldest: 1}}":    "unknown key",
	} {
		_, _, err := command(t, []string{"REGISTRY_RETENTION_RULES=[" + rule + "]"}, "config", "check")
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", rule, err)
		}
	}
}
