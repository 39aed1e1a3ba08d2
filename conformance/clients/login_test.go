package clients

import (
	"regexp"
	"strings"
	"testing"
)

// visitor is a client that can log in. $LOGIN and $PASSWORD are who it is, $NAME what the image is called.
type visitor struct {
	programs []string // Debian's
	daemon   string
	ready    string
	login    string
	// keeps says that login asks nobody whether the password is right.
	keeps  bool
	logout string
	create string // makes what is pushed
	push   string
	forget string
	pull   string
}

// visitors are the clients that people log in with. Those that were built are in $TOOLS.
func visitors() map[string]visitor {
	stdin := func(command string) string { return "printf %s \"$PASSWORD\" | " + command }
	debian := clients()
	docker, podmanClient, skopeo := debian["docker"], debian["podman"], debian["skopeo"]
	return map[string]visitor{
		"docker": {
			programs: docker.programs, daemon: docker.daemon, ready: docker.ready,
			login:  stdin("docker login --username $LOGIN --password-stdin " + host),
			logout: "docker logout " + host,
			create: docker.create, push: docker.push, forget: docker.forget, pull: docker.pull,
		},
		"podman": {
			programs: podmanClient.programs,
			login:    stdin(podman + "login --username $LOGIN --password-stdin " + host),
			logout:   podman + "logout " + host,
			create:   podmanClient.create, push: podmanClient.push, forget: podmanClient.forget, pull: podmanClient.pull,
		},
		"skopeo": {
			programs: skopeo.programs,
			login:    stdin("skopeo login --username $LOGIN --password-stdin " + host),
			logout:   "skopeo logout " + host,
			create:   "rm -rf /run/skopeo && " + skopeo.create, push: skopeo.push, forget: skopeo.forget, pull: skopeo.pull,
		},
		"crane": {
			login:  stdin("$TOOLS/crane auth login " + host + " --username $LOGIN --password-stdin"),
			keeps:  true,
			logout: "$TOOLS/crane auth logout " + host,
			create: "mkdir -p /run/crane && tar -xf " + layout + " -C /run/crane",
			push:   "$TOOLS/crane push /run/crane $NAME",
			forget: "rm -f /run/crane.tar",
			pull:   "$TOOLS/crane pull $NAME /run/crane.tar && test -s /run/crane.tar",
		},
		"oras": {
			login:  stdin("$TOOLS/oras login --username $LOGIN --password-stdin " + host),
			logout: "$TOOLS/oras logout " + host,
			create: "mkdir -p /run/oras && echo hello >/run/oras/hello",
			push:   "cd /run/oras && $TOOLS/oras push $NAME hello:text/plain",
			forget: "rm -rf /run/oras-pulled",
			pull:   "$TOOLS/oras pull --output /run/oras-pulled $NAME && cmp /run/oras/hello /run/oras-pulled/hello",
		},
		"helm": {
			login:  stdin("$TOOLS/helm registry login --username $LOGIN --password-stdin " + host),
			logout: "$TOOLS/helm registry logout " + host,
			create: "$TOOLS/helm package /run/chart --destination /run/helm",
			push:   "$TOOLS/helm push /run/helm/chart-1.0.0.tgz oci://${NAME%:*}",
			forget: "rm -rf /run/helm-pulled",
			pull: "mkdir -p /run/helm-pulled && $TOOLS/helm pull oci://${NAME%:*}/chart --version 1.0.0 --destination /run/helm-pulled && " +
				"cmp /run/helm/chart-1.0.0.tgz /run/helm-pulled/chart-1.0.0.tgz",
		},
		"buildx": {
			programs: []string{"docker", "runc"},
			login:    stdin("docker login --username $LOGIN --password-stdin " + host),
			logout:   "docker logout " + host,
			create:   "true",
			push:     "docker buildx build --progress plain --platform " + platforms + " --push --tag $NAME /run/push",
			forget:   "rm -rf " + pulled,
			pull: "docker buildx build --progress plain --no-cache --pull --build-arg FROM=$NAME --output type=local,dest=" + pulled +
				" /run/from && cmp /run/push/greeting " + pulled + "/greeting",
		},
	}
}

// accessRules let everybody pull below public/, and make a difference between ann and bob below team/.
const accessRules = `[
  {repositories: [public/**], anonymous: [pull]},
  {repositories: [public/**, team/**], users: [ann], actions: [pull, push]},
  {repositories: [team/**], users: [bob], actions: [pull]}]`

// serveRules runs the real program with users whose passwords are their names and a bang, and with those rules.
func serveRules(m *machine) string {
	m.t.Helper()
	executable, err := program()
	if err != nil {
		m.t.Fatal(err)
	}
	for _, user := range []string{"ann", "bob"} {
		m.do("echo '" + user + "!' | " + executable + " user add " + user + " --file /run/htpasswd --password-stdin")
	}
	m.write("/run/access", accessRules)
	command := "env REGISTRY_AUTH=htpasswd REGISTRY_AUTH_HTPASSWD_PATH=/run/htpasswd REGISTRY_ACCESS=\"$(cat /run/access)\" " +
		"REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY=" + dataDirectory + " " + executable
	m.start(command+" serve", answers)
	return command
}

// TestLogin has every client log in, push, pull and log out; pull what is for everybody without logging in, and be asked to
// log in for a push there; and be told what is missing when it may not push.
func TestLogin(t *testing.T) {
	t.Parallel()
	tools, err := builders()
	if err != nil {
		t.Fatal(err)
	}
	all := visitors()
	for _, v := range all {
		need(t, v.programs...)
	}
	server, node := network(t)
	registry := serveRules(server)
	secret := lastLine(server.do(registry + " token create --name robot --repositories 'team/**' --actions pull"))
	node.env = append(node.env, "TOOLS="+tools)
	layer := archive(t, file{"hello", 0o644, []byte("hello\n")})
	node.write(rootfs, string(layer))
	node.write(layout, string(imageArchive(t, layer)))
	node.write("/run/chart/Chart.yaml", "apiVersion: v2\nname: chart\nversion: 1.0.0\n")
	node.write("/run/from/Dockerfile", "ARG FROM\nFROM $FROM\n")
	installBuildx(node)
	printed := node.do(trustLine(server, registry))
	node.useBuilder("builder", stanza(t, printed))
	certificates := systemCertificates(t, printed)
	for name, v := range all {
		if v.daemon != "" {
			node.start(v.daemon, v.ready)
		}
		t.Run(name, func(t *testing.T) {
			m := node.during(t, certificates, "HOME=/run/home-"+name, "REGISTRY_AUTH_FILE=/run/home-"+name+"/auth.json")
			m.do("mkdir -p $HOME")
			v.visit(m, name, secret)
		})
	}
}

// refused is what clients say of a 401 or a 403.
var refused = regexp.MustCompile(`(?i)unauthori[sz]ed|authentication required|denied|insufficient.scope|not authorized|invalid username/password`)

// visit does all that on a machine, where secret is the token of a robot that may pull from the team.
func (v visitor) visit(m *machine, name, secret string) {
	public, team := host+"/public/"+name+":v1", host+"/team/"+name+":v1"
	as := func(user, image string) *machine {
		return m.during(m.t, "LOGIN="+user, "PASSWORD="+user+"!", "NAME="+image)
	}
	ann, bob := as("ann", public), as("bob", team)
	ann.do(v.create)
	as("ann", team).do(v.create)

	ann.do(v.login)
	ann.do(v.push)
	ann.do(v.logout)
	ann.do(v.forget)
	ann.do(v.pull) // without a login

	as("ann", host+"/public/other-"+name+":v1").pushRefused(v, "")
	wrong := m.during(m.t, "LOGIN=bob", "PASSWORD=ann!", "NAME="+public)
	if v.keeps {
		wrong.do(v.login)
		wrong.refused(v.pull, "wrong user name or password")
		wrong.do(v.logout)
	} else {
		wrong.refused(v.login, "")
	}

	bob.do(v.login)
	bob.pushRefused(v, "bob may not push to team/"+name)
	bob.do(v.logout)

	ann = as("ann", team)
	ann.do(v.login)
	ann.do(v.push)
	ann.do(v.logout)
	ann.do(v.forget)
	ann.refused(v.pull, "")
	bob.do(v.login)
	bob.do(v.pull)
	bob.do(v.logout)
	robot := m.during(m.t, "LOGIN=whoever", "PASSWORD="+secret, "NAME="+team)
	robot.do(v.forget)
	robot.do(v.login)
	robot.do(v.pull)
	robot.do(v.logout)
}

// pushRefused makes what is pushed and fails the test unless the push fails for want of a right.
func (m *machine) pushRefused(v visitor, why string) {
	m.t.Helper()
	m.do(v.create)
	m.refused(v.push, why)
}

// refused fails the test unless a command fails for want of a right, and says why where that is given.
func (m *machine) refused(command, why string) {
	m.t.Helper()
	out, err := m.try(command)
	if err == nil || !refused.MatchString(out) || !strings.Contains(out, why) {
		m.t.Errorf("%s: %v; it should be refused, with %q, and printed:\n%s", command, err, why, out)
		return
	}
	m.t.Logf("%s: %s", command, lastLine(out))
}
