package clients

import (
	"regexp"
	"testing"
)

// lacks is how a client is asked for a platform, and what it says of an index without it.
type lacks struct{ pull, message string }

func lacking() map[string]lacks {
	return map[string]lacks{
		"docker": {"docker pull --platform $PLATFORM $NAME", "no matching manifest for linux/amd64"},
		"podman": {
			podman + "pull --platform $PLATFORM $NAME",
			`no image found in (?:manifest list|image index) for architecture amd64, variant "", OS linux`,
		},
		"ctr": {
			ctr + "images pull --hosts-dir /etc/containerd/certs.d --snapshotter native --platform $PLATFORM $NAME",
			"no match for platform in manifest sha256:",
		},
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
		need(t, all[name].programs...)
	}
	server, node := network(t)
	server.env = append(server.env, "REGISTRY_HTTP_DEBUG_ADDR=127.0.0.1:5001", "REGISTRY_HTTP_DEBUG_PROMETHEUS_ENABLED=true")
	registry := serve(server)
	node.do(trustLine(server, registry))
	node.write("/run/ctr/config.toml", containerdConfig)
	node.write(layout, string(imageArchive(t, archive(t, file{"hello", 0o644, []byte("hello\n")}))))
	node.do("mkdir -p /run/layout && tar -xf " + layout + " -C /run/layout")
	node.env = append(node.env, "CRANE=env SSL_CERT_FILE=/etc/docker/certs.d/"+host+"/ca.crt "+tools+"/crane")
	for name, l := range lacking() {
		if c := all[name]; c.daemon != "" {
			node.start(c.daemon, c.ready)
		}
		t.Run(name, func(t *testing.T) {
			image := host + "/missing/" + name
			m := node.during(t, "NAME="+image+":v1", "ARM="+image+":arm", "PLATFORM=linux/amd64")
			m.do("$CRANE push /run/layout $ARM && $CRANE mutate --set-platform linux/arm/v7 --tag $ARM $ARM && " +
				"$CRANE index append --manifest $ARM --tag $NAME")
			out, err := m.try(l.pull)
			t.Logf("%s", lastLine(out))
			if err == nil || !regexp.MustCompile(l.message).MatchString(out) {
				t.Errorf("%s: %v; it should say %q, and printed:\n%s", l.pull, err, l.message, out)
			}
			m.do("PLATFORM=linux/arm/v7; " + l.pull)
		})
	}
	mention(t, server.do("curl -fsS http://127.0.0.1:5001/metrics"), `registry_platform_missing_total{repository="missing/docker",platform="linux/amd64"} `)
}
