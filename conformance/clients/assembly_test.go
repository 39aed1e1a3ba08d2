package clients

import (
	"runtime"
	"strings"
	"testing"
)

// TestAssembly is for those who build natively on each node: docker builds and pushes an image for one platform under a
// tag of its own, twice, and the tag for both is there. A file in the image says which one it is.
func TestAssembly(t *testing.T) {
	t.Parallel()
	need(t, "dockerd", "docker", "runc")
	server, node := network(t)
	server.env = append(server.env, `REGISTRY_INDEXES=[{repositories: ["**"]}]`)
	registry := serve(server)
	node.start(clients()["docker"].daemon, clients()["docker"].ready)
	node.do(trustLine(server, registry))
	node = installBuildx(node) // docker build wants it
	app := host + "/app"
	for tag, platform := range map[string]string{"1.2-amd64": "linux/amd64", "1.2-arm": "linux/arm/v7"} {
		node.write("/run/app/platform", platform)
		node.write("/run/app/Dockerfile", "FROM scratch\nCOPY platform /platform\n")
		node.do("docker build --platform " + platform + " --tag " + app + ":" + tag + " /run/app")
		node.do("docker push " + app + ":" + tag)
	}
	if tags := node.do("curl --silent --cacert /etc/docker/certs.d/" + host + "/ca.crt https://" + host + "/v2/app/tags/list"); !strings.Contains(tags, `["1.2","1.2-amd64","1.2-arm"]`) {
		t.Errorf("the registry has %s", tags)
	}
	for _, pull := range [][2]string{{"", "linux/amd64"}, {"--platform linux/arm/v7 ", "linux/arm/v7"}} {
		flags, want := pull[0], pull[1]
		node.do("docker image rm --force $(docker image ls --quiet) && docker pull " + flags + app + ":1.2")
		got := node.do("docker image inspect --format '{{.Os}}/{{.Architecture}}/{{.Variant}}' " + app + ":1.2")
		if strings.TrimSuffix(strings.TrimSpace(got), "/") != want {
			t.Errorf("docker pull %s%s:1.2 got %s", flags, app, got)
		}
		// What is in the image says so too.
		content := node.do("id=$(docker create " + flags + app + ":1.2 none) && docker cp $id:/platform - | tar -xO && docker rm $id >/dev/null")
		if content != want {
			t.Errorf("docker pull %s%s:1.2 got the content of %q", flags, app, content)
		}
	}
	if out, err := node.try("docker pull --platform linux/s390x " + app + ":1.2"); err == nil || !strings.Contains(out, "no matching manifest for linux/s390x") {
		t.Errorf("for a platform that is not there: %v\n%s", err, out)
	}

	// A node for which there is nothing says so to whoever sits there, and the registry to its log.
	node.do("docker tag " + app + ":1.2 " + app + ":2-arm && docker push " + app + ":2-arm") // what was pulled last is for arm
	if out, err := node.try("docker pull " + app + ":2"); err == nil || !strings.Contains(out, "no matching manifest for linux/"+runtime.GOARCH) {
		t.Errorf("an index without the node's platform: %v\n%s", err, out)
	}
	want := `level=WARN msg="platform missing" repository=app tags=2 digest=`
	if log := server.daemons[0].Printed(); strings.Count(log, "platform missing") != 1 || !strings.Contains(log, want) {
		t.Errorf("the log should have one line with %s:\n%s", want, log)
	}
}
