package clients

import (
	"regexp"
	"strings"
	"testing"
)

// TestSwarm follows docs/guides/swarm.md: two dockerds become a swarm, BuildKit builds for amd64 and ARMv7 and pushes to a
// registry that is reached by its address, and the swarm runs that image on both nodes. Both nodes are amd64 here; the
// image for ARMv7 runs under qemu.
func TestSwarm(t *testing.T) {
	t.Parallel()
	need(t, "dockerd", "docker", "runc", "iptables", "qemu-arm-static")
	alfred, rpi1 := home(t)
	installBuildx(alfred)
	guide := readGuide(t, "swarm.md", map[string]*machine{"alfred": alfred, "rpi1": rpi1})

	guide.follow("Start the registry")
	alfred.await(answers, func() bool { return true })

	line := lastLine(guide.follow("Trust it"))
	alfred.do(line)
	rpi1.do(line)

	join := regexp.MustCompile(`docker swarm join --token \S+ \S+`).FindString(guide.follow("Make the swarm"))
	t.Cleanup(func() { leaveSwarm(rpi1, alfred) })
	rpi1.do(join)

	alfred.useBuilder("berth", guide.file("buildkitd.toml")) // BuildKit's own image can't be pulled here
	guide.follow("Build for both", "docker buildx create")

	runARM(t, alfred)
	mention(t, guide.follow("Try the ARM image"), "hello from", ", arm\n")

	guide.follow("Deploy")
	for address, name := range map[string]string{alfredAddress: "alfred", rpi1Address: "rpi1"} {
		alfred.await("curl -fsS http://"+address+":8080 | grep 'hello from "+name+", amd64'", func() bool { return true })
	}
	mention(t, guide.follow("See it run"), "hello from alfred", "hello from rpi1", "simple-rest-app:latest@sha256:",
		`{"Architecture":"amd64","OS":"linux"}`, alfredHost+"/simple-rest-app ")

	// What the guide says of nodes that run nothing. Docker tells Swarm that an image for 32-bit ARM runs anywhere.
	alfred.expectComplaint("linux/s390x", "unsupported platform")
	alfred.expectComplaint("linux/arm/v7", "No such image")
	mention(t, rpi1.daemons[0].Printed(), "no matching manifest for linux/amd64")
	mention(t, guide.follow("When a node runs nothing"), "repository=only ", "tags=armv7 ", "platform=linux/amd64 ", "remote="+rpi1Address)
	guide.finish()

	log := alfred.do("cat " + workDirectory + "/registry.log")
	byNode := regexp.MustCompile(`endpoint=blob repository=simple-rest-app .* status=200 .* user=robot:nodes .* remote=` + rpi1Address)
	if !byNode.MatchString(log) {
		t.Errorf("rpi1 did not pull with the token of the nodes:\n%s", log)
	}
}

// expectComplaint has the swarm run an image for one platform only, which rpi1 is not of, and waits for it to complain.
func (m *machine) expectComplaint(platform, complaint string) {
	m.t.Helper()
	name := strings.ReplaceAll(strings.TrimPrefix(platform, "linux/"), "/", "")
	image := alfredHost + "/only:" + name
	m.write(workDirectory+"/"+name+"/Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")
	m.do("cd " + workDirectory + " && docker buildx build --platform " + platform + " --tag " + image + " --push " + name)
	m.do("docker service create --detach --with-registry-auth --mode global --name " + name + " " + image + " run")
	m.await("docker service ps --no-trunc --filter node=rpi1 "+name+" | grep '"+complaint+"'", func() bool { return true })
	m.do("docker service rm " + name)
}

// leaveSwarm ends the tasks of a swarm.
func leaveSwarm(nodes ...*machine) {
	for _, m := range nodes {
		m.do("docker swarm leave --force")
	}
}
