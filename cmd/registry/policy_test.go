package main

import (
	"net/http"
	"strings"
	"testing"
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
