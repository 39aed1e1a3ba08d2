package clients

import (
	"regexp"
	"testing"
)

// lacking is what clients say of an index without their platform, by name.
func lacking() map[string]string {
	return map[string]string{
		"docker": "no matching manifest for linux/amd64",
		"podman": `no image found in (?:manifest list|image index) for architecture amd64, variant "", OS linux`,
		"ctr":    "no match for platform in manifest sha256:",
	}
}

// TestPlatformMissing has clients pull a tag for their own platform, amd64, whose index has nothing but an image for ARMv7.
// Each says just that, in its own words: the registry served what it was asked for, and the client chose. Where the client
// tells the registry what it runs on, the registry counts it.
func TestPlatformMissing(t *testing.T) {
	t.Parallel()
	tools, err := builders()
	if err != nil {
		t.Fatal(err)
	}
	all := clients()
	for name := range lacking() {
		need(t, all[name].needs...)
	}
	server, node := network(t)
	server.env = append(server.env, "REGISTRY_HTTP_DEBUG_ADDR=127.0.0.1:5001", "REGISTRY_HTTP_DEBUG_PROMETHEUS_ENABLED=true")
	registry := serve(server)
	node.do(trustLine(server, registry))
	node.write("/run/ctr/config.toml", ctrConfig)
	images := imagesOfPlatforms()
	amd64, arm := images[0], images[1]
	arm.writeTo(node)
	node.env = append(node.env, "CRANE=env SSL_CERT_FILE=/etc/docker/certs.d/"+host+"/ca.crt "+tools+"/crane")
	for name, message := range lacking() {
		c := all[name]
		if c.daemon != "" {
			node.start(c.daemon, c.ready)
		}
		t.Run(name, func(t *testing.T) {
			image := host + "/missing/" + name
			node.during(t, append(arm.env(), "NAME="+image+":v1", "ARM="+image+":arm")...).
				do("$CRANE push $SOURCE $ARM && $CRANE index append --manifest $ARM --tag $NAME")
			out, err := node.during(t, append(amd64.asked(), "NAME="+image+":v1")...).try(c.pull)
			t.Logf("%s", lastLine(out))
			if err == nil || !regexp.MustCompile(message).MatchString(out) {
				t.Errorf("%s: %v; it should say %q, and printed:\n%s", c.pull, err, message, out)
			}
			node.during(t, append(arm.asked(), "NAME="+image+":v1")...).do(c.pull)
		})
	}
	mention(t, server.do("curl -fsS http://127.0.0.1:5001/metrics"), `registry_platform_missing_total{repository="missing/docker",platform="linux/amd64"} `)
}
