package clients

import (
	"fmt"
	"os"
	"testing"
)

// TestContainer runs the registry as people do, in a container on a port of its host, whose address it can't see. The node
// pulls by that address: the line that makes it trust the registry is also the first that says the address, in a Host
// header, and the certificate has it from then on.
func TestContainer(t *testing.T) {
	t.Parallel()
	dockerHost, node := containerNetwork(t, "")
	docker, image := docker(), imagesOfPlatforms()[0]
	image.writeTo(node)
	node.start(docker.daemon, docker.ready)
	node.env = append(node.env, image.env()...)
	node.env = append(node.env, "NAME="+host+"/container:v1")
	node.do(docker.create)
	node.distrusts(docker.push, notForHost)
	node.distrusts(docker.pull, notForHost)
	node.do(trustLine(dockerHost, "docker exec registry /registry"))
	docker.roundTrip(node, image)
}

// TestContainerWithoutLearning is the same with http.tls.learn off: the line itself does not get beyond the certificate.
func TestContainerWithoutLearning(t *testing.T) {
	t.Parallel()
	dockerHost, node := containerNetwork(t, "--env REGISTRY_HTTP_TLS_LEARN=false")
	line := trustLine(dockerHost, "docker exec registry /registry")
	for range 2 {
		node.distrusts(line, "certificate subject name")
	}
}

// notForHost ends the message of a program that got a certificate for other addresses.
const notForHost = ", not " + hostAddress

// containerNetwork is network with a registry that runs in a container.
func containerNetwork(t *testing.T, flags string) (dockerHost, node *machine) {
	t.Helper()
	need(t, "dockerd", "docker", "runc", "iptables")
	dockerHost, node = network(t)
	group := fmt.Sprintf("berth-%d-%s", os.Getpid(), t.Name())
	dockerHost.start(dockerd+"--exec-opt native.cgroupdriver=cgroupfs --cgroup-parent /"+group, "docker info")
	t.Cleanup(func() { // control groups are in no namespace
		dockerHost.do("docker rm --force registry; find /sys/fs/cgroup -depth -type d -name " + group + " -exec rmdir {} +")
	})
	dockerHost.write("/run/image.tar", string(archive(t, file{"registry", 0o755, executable(t)})))
	dockerHost.do(`docker import --change 'ENTRYPOINT ["/registry"]' --change 'CMD ["serve"]' /run/image.tar berth`)
	dockerHost.do("docker run --detach --name registry --publish 5000:5000 --env REGISTRY_AUTH=none " +
		"--volume " + dataDirectory + ":/var/lib/registry " + flags + " berth")
	dockerHost.await(answers, func() bool { return true })
	return dockerHost, node
}

// executable returns the bytes of the program.
func executable(t *testing.T) []byte {
	t.Helper()
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}
