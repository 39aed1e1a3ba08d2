package clients

import (
	"strings"
	"testing"
)

// TestImage builds the image and starts it in every way that the project offers, and as registry:2 is started. A node pushes to
// each and pulls.
func TestImage(t *testing.T) {
	t.Parallel()
	need(t, "dockerd", "docker", "runc", "iptables", "busybox", "haproxy", "nginx", "openssl", "qemu-arm-static", "setpriv", "xargs")
	amd64, arm := images(t)
	buildImages(t, amd64, arm)
	dockerHost, node := network(t)
	startDocker(dockerHost)
	node.start(dockerd+"--bridge none --iptables=false", "docker info")
	node.write(helloTar, string(archive(t, file{"hello", 0o644, []byte("hello\n")})))
	for _, i := range []berthImage{amd64, arm} {
		dockerHost.do("docker load --input " + i.archive)
	}
	on := func(name string, test func(dockerHost, node *machine)) {
		t.Run(name, func(t *testing.T) { test(dockerHost.during(t), node.during(t)) })
	}

	on("footprint", func(dockerHost, _ *machine) {
		if f := amd64.measure(dockerHost, resident); f.idle > mostIdle {
			dockerHost.t.Errorf("after the start it holds %d bytes, more than %d", f.idle, mostIdle)
		}
		arm.measure(dockerHost, guestResident, "qemu-arm-static", "-B", "0x100000000")
	})
	on("arm", runsOnARM)
	on("health", isHealthy)

	certificate := writeRecipeFiles(dockerHost)
	dockerHost.start(nginx, nginxReady)
	for _, r := range recipes() {
		node.write("/etc/docker/certs.d/"+r.address+"/ca.crt", certificate)
		on("registry:2/"+r.name, r.dropIn)
	}
	node.do("rm -r /etc/docker/certs.d")

	composePlugin := tool(t, "docker-compose", "../../tools/compose", "github.com/docker/compose/v5/cmd")
	dockerHost.env = append(dockerHost.env, "DOCKER_CONFIG=/run/docker")
	dockerHost.do("mkdir -p /run/docker/cli-plugins && ln -s " + composePlugin + " /run/docker/cli-plugins/docker-compose")
	on("compose", compose().deploy)
	on("compose with two servers", composeHA)
	on("guide from registry:2", moveFromRegistry2)
	on("swarm", stack().deploy)
}

// runsOnARM runs the image for linux/arm/v7 as it is, except that qemu runs its program.
func runsOnARM(dockerHost, node *machine) {
	qemu := lastLine(dockerHost.do("command -v qemu-arm-static"))
	dockerHost.do("docker run --detach --name arm --platform linux/arm/v7 --publish 5000:5000 --no-healthcheck --volume " + qemu + ":/qemu:ro " +
		"--entrypoint /qemu berth-arm /bin/registry serve")
	defer dockerHost.do("docker rm --force --volumes arm")
	dockerHost.await(answers, func() bool { return true })
	node.do(lastLine(dockerHost.do("docker exec arm /qemu /bin/registry cert show --address " + host + " 2>/dev/null")))
	dockerHost.do("docker cp arm:/var/lib/registry/initial-admin-password /run/arm-password")
	user := node.during(node.t, "NAME="+host+"/arm:v1", "PASSWORD="+lastLine(dockerHost.do("cat /run/arm-password")))
	user.do("printf %s \"$PASSWORD\" | docker login --username admin --password-stdin " + host)
	pushAndPull(user)
}

// isHealthy starts the image as it is, and stops it. Docker knows that it works, that it ended well, and its version.
func isHealthy(dockerHost, _ *machine) {
	dockerHost.do("docker run --detach --name healthy --health-interval 1s berth")
	defer dockerHost.do("docker rm --force --volumes healthy")
	dockerHost.await("docker inspect --format {{.State.Health.Status}} healthy | grep --line-regexp healthy", func() bool { return true })
	if got := lastLine(dockerHost.do("docker exec healthy registry version")); got != "berth "+imageVersion {
		dockerHost.t.Errorf("the version is %q", got)
	}
	const next = "docker login HOST:PORT -u admin" // and not the name that docker gave to the container
	if log := dockerHost.do("docker logs healthy"); !strings.Contains(log, next) || !strings.Contains(log, "REGISTRY_HTTP_TLS_HOSTS_0") {
		dockerHost.t.Errorf("%q is not in the log:\n%s", next, log)
	}
	dockerHost.do("docker stop healthy")
	if got := lastLine(dockerHost.do("docker inspect --format {{.State.ExitCode}} healthy")); got != "0" {
		dockerHost.t.Errorf("after docker stop its exit code is %s", got)
	}
}
