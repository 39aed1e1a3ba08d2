package clients

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const (
	// greeting is what the Dockerfile puts into the image, and pulled is where it is found after a pull.
	greeting = "hello from BuildKit\n"
	pulled   = "/run/pulled"

	platforms = "linux/amd64,linux/arm/v7"

	// buildxConfig is where docker has buildx as a plugin.
	buildxConfig = "/run/docker"

	buildAndPush = "docker buildx build --progress plain --platform " + platforms + " --push --tag " + host + "/buildx:v1 /run/push"
	// buildFrom builds an image from the one that was pushed, which makes BuildKit pull it.
	buildFrom = "docker buildx build --progress plain --platform " + platforms + " --output type=local,dest=" + pulled + " /run/pull"
	inspect   = "docker buildx imagetools inspect " + host + "/buildx:v1"
)

// TestBuildx builds for two platforms with a BuildKit that runs as in a builder's container, which is to say that it knows
// of the registry's CA only what its buildkitd.toml says. It gets the stanza that the installer prints. What buildx asks
// the registry itself needs the variable that the installer prints.
func TestBuildx(t *testing.T) {
	t.Parallel()
	need(t, "docker", "runc")
	server, node := network(t)
	registry := serve(server)
	docker := installBuildx(node)
	printed := docker.do(trustLine(server, registry))
	docker.useBuilder("distrusting", "")
	docker.distrusts(buildAndPush, unknownAuthority)
	docker.distrusts(buildFrom, unknownAuthority)

	docker.useBuilder("trusting", stanza(t, printed))
	docker.do(buildAndPush)
	docker.do(buildFrom)
	for _, platform := range strings.Split(platforms, ",") {
		file := filepath.Join(pulled, strings.ReplaceAll(platform, "/", "_"), "greeting")
		if got := docker.do("cat " + file); got != greeting {
			t.Errorf("the image for %s has the greeting %q", platform, got)
		}
	}
	docker.distrusts(inspect, unknownAuthority)
	out := docker.do(systemCertificates(t, printed) + " " + inspect)
	for _, platform := range strings.Split(platforms, ",") {
		if !strings.Contains(out, platform) {
			t.Errorf("imagetools does not see %s:\n%s", platform, out)
		}
	}
}

// installBuildx makes buildx a plugin of docker, and writes what is built with it.
func installBuildx(m *machine) *machine {
	m.t.Helper()
	dir, err := builders()
	if err != nil {
		m.t.Fatal(err)
	}
	m.env = append(m.env, "DOCKER_CONFIG="+buildxConfig, "BUILDKITD="+filepath.Join(dir, "buildkitd"))
	m.do("mkdir -p " + buildxConfig + "/cli-plugins && ln -s " + filepath.Join(dir, "buildx") + " " +
		buildxConfig + "/cli-plugins/docker-buildx")
	m.write("/run/push/Dockerfile", "FROM scratch\nCOPY greeting /greeting\n")
	m.write("/run/push/greeting", greeting)
	m.write("/run/pull/Dockerfile", "FROM "+host+"/buildx:v1\n")
	return m
}

// useBuilder starts a BuildKit that has nothing cached, and has buildx build with it.
func (m *machine) useBuilder(name, config string) {
	m.t.Helper()
	root := "/run/" + name
	m.write(root+"/buildkitd.toml", config)
	m.start("$BUILDKITD --config "+root+"/buildkitd.toml --root "+root+" --addr unix://"+root+"/buildkitd.sock "+
		"--oci-worker-snapshotter native --containerd-worker=false", "test -S "+root+"/buildkitd.sock")
	m.do("docker buildx create --name " + name + " --driver remote unix://" + root + "/buildkitd.sock --bootstrap --use")
}

// stanza returns the part of what the installer printed that goes into buildkitd.toml.
func stanza(t *testing.T, printed string) string {
	t.Helper()
	found := regexp.MustCompile(`(?m)^\[registry\..*\n(?:[ \t].*\n)+`).FindString(printed)
	if found == "" {
		t.Fatalf("there is nothing for buildkitd.toml in\n%s", printed)
	}
	return found
}

// systemCertificates returns the assignment that the installer names for programs with the certificates of the system.
func systemCertificates(t *testing.T, printed string) string {
	t.Helper()
	found := regexp.MustCompile(`\bSSL_CERT_FILE=\S+`).FindString(printed)
	if found == "" {
		t.Fatalf("there is no SSL_CERT_FILE in\n%s", printed)
	}
	return found
}
