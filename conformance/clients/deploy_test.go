package clients

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"berth/conformance/server"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// chosenPassword is what the test chooses for the user admin.
	chosenPassword = "correct horse battery"
	// mostExposed is how exposed the service may be, in the tenths of systemd-analyze.
	mostExposed = "20"
)

// deployment is a file of the project that starts the image.
type deployment struct {
	file string
	// up and down start and end it in /run/deployed, where file is.
	up, down string
	// container prints the name of the container when it is healthy.
	container string
	// hardened prints hardening, or what is missing of it.
	hardened, hardening string
}

func compose() deployment {
	return deployment{
		file: "docker-compose.yml",
		up: "mkdir --mode 700 secrets && printf %s \"$PASSWORD\" >secrets/admin_password && chmod 644 secrets/admin_password && " +
			"docker compose up --detach --no-build",
		down:      "docker compose down --volumes",
		container: "docker ps --quiet --filter health=healthy --filter label=com.docker.compose.service=registry",
		hardened:  "docker inspect --format '{{.Config.User}} {{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapDrop}} {{.HostConfig.SecurityOpt}}' $CONTAINER",
		hardening: "65532:65532 true [ALL] [no-new-privileges:true]\n",
	}
}

func stack() deployment {
	return deployment{
		file: "deploy/swarm-stack.yml",
		up: "docker swarm init --advertise-addr " + hostAddress + " && docker node update --label-add registry=true $(docker node ls --quiet) && " +
			"printf %s \"$PASSWORD\" | docker secret create registry_admin_password - && " +
			"docker stack deploy --compose-file swarm-stack.yml --resolve-image never registry",
		down:      "docker stack rm registry && docker swarm leave --force",
		container: "docker ps --quiet --filter health=healthy --filter label=com.docker.swarm.service.name=registry_registry",
		hardened:  "docker inspect --format '{{.Config.User}} {{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapDrop}}' $CONTAINER",
		hardening: "65532:65532 true [ALL]\n",
	}
}

// deploy starts the image with the project's file, and has a node that trusts it push and pull as admin.
func (d deployment) deploy(dockerHost, node *machine) {
	t := dockerHost.t
	content, err := os.ReadFile(filepath.Join("../..", d.file))
	if err != nil {
		t.Fatal(err)
	}
	dockerHost.write("/run/deployed/"+filepath.Base(d.file), string(content))
	at := dockerHost.during(t, "PASSWORD="+chosenPassword)
	at.do("cd /run/deployed && " + d.up)
	defer at.do("cd /run/deployed && " + d.down)
	at.await("test -n \"$("+d.container+")\"", func() bool { return true })
	at.env = append(at.env, "CONTAINER="+strings.TrimSpace(at.do(d.container)))
	if got := at.do(d.hardened); got != d.hardening {
		t.Errorf("%s prints %q, not %q", d.hardened, got, d.hardening)
	}
	node.do(lastLine(at.do("docker exec $CONTAINER registry cert show --address " + host + " 2>/dev/null")))
	user := node.during(t, "NAME="+host+"/deployed:v1", "PASSWORD="+chosenPassword)
	user.do("printf %s \"$PASSWORD\" | docker login --username admin --password-stdin " + host)
	pushAndPull(user)
	pushLarge(user)
	if log := at.do("docker logs $CONTAINER 2>&1"); strings.Contains(log, chosenPassword) {
		t.Errorf("the password is in the log:\n%s", log)
	}
}

// pushLarge pushes a manifest in a transaction that SQLite would use a temporary file for. A read-only container has no place for
// one.
func pushLarge(m *machine) {
	m.t.Helper()
	config := []byte("{}")
	manifest := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest,
		Config: v1.Descriptor{MediaType: "application/vnd.oci.empty.v1+json", Digest: digest.FromBytes(config), Size: int64(len(config))}}
	for i := range 9900 { // kept elsewhere, so that they need not be here
		manifest.Layers = append(manifest.Layers, v1.Descriptor{MediaType: "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
			Digest: digest.FromString(strconv.Itoa(i)), Size: 1, URLs: []string{"https://example.com/layer"}})
	}
	m.write("/run/large/config", string(config))
	m.write("/run/large/manifest", string(encode(m.t, manifest)))
	curl := "printf 'user = \"admin:%s\"' \"$PASSWORD\" | curl --silent --show-error --fail-with-body --config - --cacert /etc/docker/certs.d/" + host + "/ca.crt "
	m.do(curl + "--data-binary @/run/large/config 'https://" + host + "/v2/large/blobs/uploads/?digest=" + manifest.Config.Digest.String() + "'")
	m.do(curl + "--request PUT --header 'Content-Type: " + manifest.MediaType + "' --data-binary @/run/large/manifest https://" + host + "/v2/large/manifests/v1")
}

// TestSystemdUnit has systemd check the unit, and starts what it starts as systemd would: without any right, and waiting to be
// told that it is ready.
func TestSystemdUnit(t *testing.T) {
	t.Parallel()
	need(t, "systemd-analyze", "setpriv")
	executable, err := program()
	if err != nil {
		t.Fatal(err)
	}
	unit, err := filepath.Abs("../../deploy/systemd/registry.service")
	if err != nil {
		t.Fatal(err)
	}
	m := newMachine(t)
	m.do("mount -t tmpfs tmpfs /usr/local/bin && cp " + executable + " /usr/local/bin/registry && install --directory --owner 65534 --group 65534 " + dataDirectory)
	if out := m.do("systemd-analyze verify --man=no " + unit); out != "" {
		t.Errorf("systemd-analyze verify:\n%s", out)
	}
	t.Log(lastLine(m.do("systemd-analyze security --no-pager --offline=true --threshold=" + mostExposed + " " + unit)))
	content, err := os.ReadFile(unit)
	if err != nil {
		t.Fatal(err)
	}
	_, command, _ := strings.Cut(string(content), "\nExecStart=")
	command, _, _ = strings.Cut(command, "\n")
	manager := listenNotify(t)
	s, err := server.Launch(server.Config{Program: "nsenter", Dir: t.TempDir(), Args: m.enter(
		"umask 077 && exec setpriv --reuid 65534 --regid 65534 --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all " + command),
		Env: append(m.env, "NOTIFY_SOCKET="+manager.LocalAddr().String(), "REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY="+dataDirectory)})
	if err != nil {
		t.Fatal(err)
	}
	m.daemons = append(m.daemons, s)
	if state := told(t, manager); state != "READY=1" {
		t.Errorf("told %q", state)
	}
	m.do(answers)
}
