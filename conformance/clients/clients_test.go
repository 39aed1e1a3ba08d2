package clients

import (
	"regexp"
	"testing"
)

// A client is a program that pushes and pulls, as shell commands in which $NAME is what the image is called there.
type client struct {
	programs []string
	daemon   string // empty when the client has none
	ready    string // succeeds when the daemon answers
	create   string // makes the image
	identify string // prints the digest that the client knows the image by
	push     string
	forget   string // removes the image from the client
	pull     string
}

const (
	// rootfs and layout are an image on the node, for those who import a file system and for the others.
	rootfs, layout = "/run/image/rootfs.tar", "/run/image/layout.tar"

	unknownAuthority = "x509: certificate signed by unknown authority"

	podman = "podman --root /run/podman/root --runroot /run/podman/run --tmpdir /run/podman/tmp --storage-driver vfs " +
		"--cgroup-manager cgroupfs --events-backend file "
	ctr = "ctr --address /run/ctr/containerd.sock "
)

func clients() map[string]client {
	return map[string]client{
		"docker": {
			programs: []string{"dockerd", "docker"},
			daemon:   dockerd + "--bridge none --iptables=false",
			ready:    "docker info",
			create:   "docker import " + rootfs + " $NAME",
			identify: "docker image inspect --format {{.Id}} $NAME",
			push:     "docker push $NAME",
			forget:   "docker image rm $NAME",
			pull:     "docker pull $NAME",
		},
		"podman": {
			programs: []string{"podman"},
			create:   podman + "import " + rootfs + " $NAME",
			identify: podman + "image inspect --format {{.Id}} $NAME",
			push:     podman + "push $NAME",
			forget:   podman + "image rm $NAME",
			pull:     podman + "pull $NAME",
		},
		"skopeo": {
			programs: []string{"skopeo"},
			create:   "skopeo copy oci-archive:" + layout + " oci:/run/skopeo",
			identify: "skopeo inspect --format {{.Digest}} oci:/run/skopeo",
			push:     "skopeo copy oci:/run/skopeo docker://$NAME",
			forget:   "rm -r /run/skopeo",
			pull:     "skopeo copy docker://$NAME oci:/run/skopeo",
		},
		"ctr": {
			programs: []string{"containerd", "ctr"},
			daemon:   "containerd --config /run/ctr/config.toml",
			ready:    ctr + "version",
			create:   ctr + "images import --snapshotter native --index-name $NAME " + layout,
			identify: ctr + "images list name==$NAME",
			push:     ctr + "images push --hosts-dir /etc/containerd/certs.d $NAME",
			forget:   ctr + "images rm --sync $NAME",
			pull:     ctr + "images pull --hosts-dir /etc/containerd/certs.d --snapshotter native $NAME",
		},
	}
}

// dockerd is the daemon, with all its state in /run.
const dockerd = "dockerd --data-root /run/docker-data --storage-driver vfs "

// containerdConfig is for a containerd that serves ctr and nobody else.
const containerdConfig = `
version = 2
root = "/run/ctr/root"
state = "/run/ctr/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "/run/ctr/containerd.sock"
`

// TestClients has clients push and pull on a machine that knows nothing of the registry's CA, which fails, and again after
// the line that makes it trust the registry, with nothing else done and no daemon restarted.
func TestClients(t *testing.T) {
	t.Parallel()
	all := clients()
	for _, c := range all {
		need(t, c.programs...)
	}
	server, node := network(t)
	registry := serve(server)
	layer := archive(t, file{"hello", 0o644, []byte("hello\n")})
	node.write(rootfs, string(layer))
	node.write(layout, string(imageArchive(t, layer)))
	node.write("/run/ctr/config.toml", containerdConfig)
	for name, c := range all {
		if c.daemon != "" {
			node.start(c.daemon, c.ready)
		}
		t.Run("without trust/"+name, func(t *testing.T) { c.distrusts(node.during(t, "NAME="+host+"/"+name+":v1")) })
	}
	node.do(trustLine(server, registry))
	for name, c := range all {
		t.Run(name, func(t *testing.T) { c.roundTrip(node.during(t, "NAME="+host+"/"+name+":v1")) })
	}
}

// distrusts makes the image, and can neither push nor pull it.
func (c client) distrusts(m *machine) {
	m.do(c.create)
	m.distrusts(c.push, unknownAuthority)
	m.distrusts(c.pull, unknownAuthority)
}

// roundTrip pushes the image, forgets it, and pulls the same one.
func (c client) roundTrip(m *machine) {
	pushed := identity(m, c)
	m.do(c.push)
	m.do(c.forget)
	if out, err := m.try(c.identify); err == nil && digests().MatchString(out) {
		m.t.Errorf("%s still knows the image:\n%s", c.identify, out)
	}
	m.do(c.pull)
	if pulled := identity(m, c); pulled != pushed {
		m.t.Errorf("pushed %s and pulled %s", pushed, pulled)
	}
}

func identity(m *machine, c client) string {
	m.t.Helper()
	out := m.do(c.identify)
	found := digests().FindString(out)
	if found == "" {
		m.t.Fatalf("%s prints no digest:\n%s", c.identify, out)
	}
	return found
}

func digests() *regexp.Regexp { return regexp.MustCompile(`[0-9a-f]{64}`) }
