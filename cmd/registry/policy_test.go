package main

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"berth/config"
)

// TestPlatformPolicy pushes an image for no platform under tags that have to be for one: refused, accepted with a warning,
// and under a tag that no policy is about.
func TestPlatformPolicy(t *testing.T) {
	r := serve(t, t.TempDir(), "REGISTRY_HTTP_TLS_MODE=off", "REGISTRY_AUTH=none", `REGISTRY_POLICY_PLATFORMS=[
		{repositories: [team/**], tags: [latest, "v*"], require: [linux/amd64, linux/arm/v7], on: reject},
		{repositories: ["**"], tags: [stable], require: [linux/arm]}]`)
	defer r.end(t)
	v := visitor{t: t, url: r.url()}
	v.push("team/app", "layer") // its config is none of an image: it passes
	image := `{"schemaVersion":2,"mediaType":"` + imageType + `","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"` +
		digestOf("{}") + `","size":2},"layers":[]}`
	for tag, want := range map[string]int{"latest": http.StatusForbidden, "v1.2": http.StatusForbidden, "stable": http.StatusCreated, "other": http.StatusCreated} {
		status, body, header := v.do(http.MethodPut, "/v2/team/app/manifests/"+tag, imageType, image)
		if status != want || status == http.StatusForbidden && !strings.Contains(body, "lacks linux/amd64 and linux/arm/v7") {
			t.Errorf("%s: %d %s", tag, status, body)
		}
		warning := ""
		if tag == "stable" {
			warning = `299 - "team/app:stable lacks linux/arm/v7: it is for no platform that is known; build it with --platform linux/arm/v7, or push an index of all"`
		}
		if got := header.Get("Warning"); got != warning {
			t.Errorf("%s: the warning is %s", tag, got)
		}
	}
}

func TestPlatformPolicyRefused(t *testing.T) {
	for policy, want := range map[string]string{
		"{repositories: [a]}":                                             "policy.platforms.0: it needs repositories",
		"{require: [linux/amd64]}":                                        "policy.platforms.0: it needs repositories",
		"{repositories: [a], require: [amd64]}":                           `policy.platforms.0: require: "amd64" is no platform`,
		"{repositories: [A], require: [linux/amd64]}":                     "policy.platforms.0: repositories: ",
		"{repositories: [a], tags: [a/b], require: [linux/amd64]}":        "policy.platforms.0: tags: ",
		"{repositories: [a], require: [linux/amd64], on: explode}":        "must be one of warn, reject",
		"{repositories: [a], require: [linux/amd64], 'unless': [latest]}": "unknown key",
	} {
		_, _, err := command(t, []string{"REGISTRY_POLICY_PLATFORMS=[" + policy + "]"}, "config", "check")
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", policy, err)
		}
	}
}

// TestIndexRules has the program assemble an index, and say so in its answer and in the audit log.
func TestIndexRules(t *testing.T) {
	log := filepath.Join(t.TempDir(), "audit.log")
	r := serve(t, t.TempDir(), "REGISTRY_HTTP_TLS_MODE=off", "REGISTRY_AUTH=none", "REGISTRY_AUDIT_OUTPUT="+log,
		"REGISTRY_INDEXES=[{repositories: [team/**], require: [linux/amd64, linux/arm]}]")
	defer r.end(t)
	v := visitor{t: t, url: r.url()}
	if got, want := v.pushImage("team/app", "1.2-amd64", "amd64").Get("Warning"), `299 - "team/app:1.2 is not moved yet, it waits for linux/arm/v7"`; got != want {
		t.Errorf("the warning is %s, want %s", got, want)
	}
	if got := v.pushImage("team/app", "1.2-arm", "arm").Get("Warning"); got != "" {
		t.Errorf("the warning is %s", got)
	}
	v.pushImage("other", "1.2-arm", "arm")
	v.pushImage("team/tool", "linux-amd64", "amd64")
	v.pushImage("team/tool", "linux-arm", "arm")
	status, body, _ := v.do(http.MethodGet, "/v2/team/app/manifests/1.2", "", "")
	if status != http.StatusOK || !strings.Contains(body, `"architecture":"amd64"`) {
		t.Errorf("the index: %d %s", status, body)
	}
	if _, body, _ := v.do(http.MethodGet, "/v2/team/app/tags/list", "", ""); !strings.Contains(body, `["1.2","1.2-amd64","1.2-arm"]`) {
		t.Errorf("tags: %s", body)
	}
	if _, body, _ := v.do(http.MethodGet, "/v2/other/tags/list", "", ""); !strings.Contains(body, `["1.2-arm"]`) {
		t.Errorf("tags of a repository without a rule: %s", body)
	}
	if _, body, _ := v.do(http.MethodGet, "/v2/team/tool/tags/list", "", ""); !strings.Contains(body, `["latest","linux-amd64","linux-arm"]`) {
		t.Errorf("tags of architectures alone: %s", body)
	}
	audited, err := os.ReadFile(log)
	if err != nil || strings.Count(string(audited), "assemble") != 2 || !strings.Contains(string(audited), `"reference":"1.2","manifest":"sha256:`) {
		t.Errorf("audit log: %v\n%s", err, audited)
	}
}

func TestIndexRulesRefused(t *testing.T) {
	for rule, want := range map[string]string{
		"{from: ['{arch}']}":                    "indexes.0: it needs repositories",
		"{repositories: [A]}":                   "indexes.0: repositories: ",
		"{repositories: [a], from: ['{tag}']}":  `indexes.0: from: "{tag}": a pattern has {arch}`,
		"{repositories: [a], require: [amd64]}": `indexes.0: require: "amd64" is no platform`,
		"{repositories: [a], within: soon}":     "within",
		"{repositories: [a], within: -1m}":      "within",
		"{repositories: [a], tags: ['*']}":      "unknown key",
	} {
		_, _, err := command(t, []string{"REGISTRY_INDEXES=[" + rule + "]"}, "config", "check")
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", rule, err)
		}
	}
}

// TestURLAllowed takes the section as distribution does: without the lists it allows nothing, and only without the section everything.
func TestURLAllowed(t *testing.T) {
	const here, there = "https://a.example.com/layer", "https://b.example.com/layer"
	for section, want := range map[string][2]bool{
		"{}":                                                    {true, true},
		"{manifests: {urls: }}":                                 {true, true},
		"{manifests: {urls: {}}}":                               {false, false},
		"{manifests: {urls: {allow: []}}}":                      {false, false},
		"{disabled: true, manifests: {urls: {}}}":               {true, true},
		"{manifests: {urls: {allow: ['^https://a']}}}":          {true, false},
		"{manifests: {urls: {deny: ['^https://a']}}}":           {false, true},
		"{manifests: {urls: {allow: ['^https'], deny: [//b]}}}": {true, false},
	} {
		c, _, err := config.Parse("r.yml", []byte("{version: 0.1, validation: "+section+"}"), nil)
		if err != nil {
			t.Fatal(err)
		}
		allowed := urlAllowed(c.Validation)
		if allowed == nil {
			allowed = func(string) bool { return true }
		}
		if got := [2]bool{allowed(here), allowed(there)}; got != want {
			t.Errorf("%s: got %v, want %v", section, got, want)
		}
	}
}
