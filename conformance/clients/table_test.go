package clients

import (
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// imageName is the last part of all repositories of images: it is that of charts, which push by their name.
const imageName = "image"

// step is a column of the table: what a client does, and how it went.
type step struct {
	title   string
	command func(client) string // which the client has, or can't do the step
	run     func(*row) string
}

func steps() []step {
	return []step{
		{"login", func(c client) string { return c.pull }, (*row).logIn},
		{"push and pull", func(c client) string { return c.pull }, (*row).pushAndPull},
		{"pull by digest", func(c client) string { return c.pull }, (*row).pullByDigest},
		{"both platforms", func(c client) string { return c.both }, (*row).pushBoth},
		{"copy", func(c client) string { return c.copy }, (*row).copyAndMount},
		{"delete", func(c client) string { return c.remove }, (*row).deleteImage},
		{"pull, cut in a layer", func(c client) string { return c.cutPull }, (*row).pullCut},
		{"push, cut in a layer", func(c client) string { return c.cutPush }, (*row).pushCut},
		{"sign and verify", func(c client) string { return c.sign }, (*row).signAndVerify},
	}
}

// A row is a client on its machine, which reaches the registry by a wire of its own.
type row struct {
	client
	*machine
	server *machine
	wire   *wire
	host   string // the registry, by the wire
	robot  string // the secret of one that may pull from the team
	images []image
	fresh  image // nobody has its layer
	cells  []string
}

// TestClients has each client do all that people do with a registry and that it can: first without the registry's CA, which
// fails, and then after the line that makes a machine trust it, with nothing else done and no daemon restarted. What came of
// it is docs/clients.md: with CLIENTS_TABLE set it is written to the file of that name, else it has to be what is there.
func TestClients(t *testing.T) {
	t.Parallel()
	checkPage(t, doAll(t, clients(), serveRules))
}

// doAll has clients do that with a registry as serve runs it on a machine, and returns what came of it.
func doAll(t *testing.T, all map[string]client, serve func(*machine) (command string)) []*row {
	t.Helper()
	tools, err := builders()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range all {
		need(t, c.needs...)
	}
	server, node := network(t)
	registry := serve(server)
	installBuildx(node)
	node.env = append(node.env, "TOOLS="+tools)
	images := imagesOfPlatforms()
	for _, i := range images {
		i.writeTo(node)
	}
	writeSources(node, path.Base(both), images...)
	node.write("/run/from/Dockerfile", "ARG FROM\nFROM $FROM\n")
	node.write("/run/ctr/config.toml", ctrConfig)
	robot := lastLine(server.do(registry + " token create --name robot --repositories 'team/**' --actions pull"))
	var rows []*row
	for i, name := range slices.Sorted(maps.Keys(all)) {
		c := all[name]
		r := &row{client: c, server: server, host: fmt.Sprintf("%s:%d", hostAddress, 5001+i), robot: robot, images: images}
		r.fresh = newImage("fresh-"+c.slug(), images[0].Platform, byte(len(images)+i+1))
		r.wire = newWire(t, server, r.host, host)
		r.machine = node.during(t, r.home()...)
		if c.daemon != "" {
			node.start(c.daemon, c.ready)
		}
		rows = append(rows, r)
	}
	t.Run("without trust", func(t *testing.T) { inParallel(t, rows, (*row).distrust) })
	for _, r := range rows {
		r.trust(node, registry)
	}
	t.Run("with trust", func(t *testing.T) { inParallel(t, rows, (*row).fill) })
	return rows
}

func inParallel(t *testing.T, rows []*row, do func(*row, *testing.T)) {
	for _, r := range rows {
		t.Run(r.client.name, func(t *testing.T) {
			t.Parallel()
			do(r, t)
		})
	}
}

// slug is the client's name in paths and repositories.
func (c client) slug() string { return strings.ReplaceAll(c.name, " ", "-") }

// home is the environment of the client, without which it would share logins with the others.
func (r *row) home() []string {
	home := "/run/home-" + r.slug()
	return append([]string{
		"HOME=" + home, "DOCKER_CONFIG=" + home + "/.docker", "REGISTRY_AUTH_FILE=" + home + "/auth.json", "HOST=" + r.host,
	}, append(r.images[0].env(), r.client.env...)...)
}

// in returns the row as a subtest uses it, with more environment.
func (r *row) in(t *testing.T, env ...string) *row {
	c := *r
	c.machine = r.during(t, env...)
	return &c
}

// repository is where the images of a step are.
func (r *row) repository(step string) string {
	if step == "public" || strings.HasPrefix(step, "public/") {
		return step + "/" + r.slug() + "/" + imageName
	}
	return "team/" + r.slug() + "/" + step + "/" + imageName
}

// image is what the client calls the image of a step.
func (r *row) image(step string) string { return r.host + "/" + r.repository(step) + ":" + tag }

// distrust makes the image, and can neither push nor pull it. Of a BuildKit without the CA, TestBuildx knows.
func (r *row) distrust(t *testing.T) {
	r.during(t).do("mkdir -p $HOME && echo {} >$REGISTRY_AUTH_FILE") // which podman wants to be there
	if r.builder {
		return
	}
	m := r.during(t, "NAME="+r.image("distrust"))
	m.do(r.create)
	m.distrusts(r.push, unknownAuthority)
	m.distrusts(r.pull, unknownAuthority)
}

// trust runs the line that the registry prints, as people do for each machine.
func (r *row) trust(node *machine, registry string) {
	printed := r.do(trustLineFor(r.server, registry, r.host))
	r.machine.env = append(r.machine.env, systemCertificates(r.t, printed))
	if r.builder {
		node.useBuilder("builder", stanza(r.t, printed))
	}
}

// fill does the steps and fills the row's cells.
func (r *row) fill(t *testing.T) {
	for _, s := range steps() {
		cell := "–"
		if can := s.command(r.client) != ""; can == (r.cannot[s.title] != "") {
			t.Fatalf("%s: there has to be a command or a reason why there is none, and not both", s.title)
		} else if can {
			t.Run(s.title, func(t *testing.T) { cell = s.run(r.in(t, "LOGIN=ann", "PASSWORD=ann!")) })
		}
		r.cells = append(r.cells, cell)
		if t.Failed() {
			return
		}
	}
}

// has fails the test unless what the client has is the image for a platform, untouched.
func (m *machine) has(c client, i image) {
	m.t.Helper()
	if got, want := m.do("{ "+c.read+"; } | sha256sum"), i.sum(); !strings.Contains(got, want) {
		m.t.Errorf("%s: %s has the SHA-256 %s, not %s", c.pull, i.file(), strings.TrimSpace(got), want)
	}
}

// roundTrip pushes an image that was made, forgets it, and pulls the same one.
func (c client) roundTrip(m *machine, i image) {
	m.t.Helper()
	m.do(c.push)
	m.do(c.forget)
	if out, err := m.try(c.read); err == nil && out != "" {
		m.t.Errorf("after %s the image is still there", c.forget)
	}
	m.do(c.pull)
	m.has(c, i)
}

func (r *row) pushAndPull() string {
	m := r.during(r.t, "NAME="+r.image("push"))
	m.do(r.create)
	r.roundTrip(m, r.images[0])
	return "yes"
}

func (r *row) pullByDigest() string {
	d := r.digest("push")
	m := r.during(r.t, "NAME="+strings.TrimSuffix(r.image("push"), ":"+tag)+"@"+d)
	m.do(r.forget)
	m.do(r.pull)
	m.has(r.client, r.images[0])
	return "yes"
}

func (r *row) pushBoth() string {
	name := "NAME=" + r.image("both")
	r.do(r.forget)
	r.during(r.t, name).do(r.both)
	for _, i := range r.images {
		m := r.during(r.t, append(i.asked(), name)...)
		m.do(r.forget)
		m.do(r.pull)
		m.has(r.client, i)
	}
	return "yes"
}

// copyAndMount copies the image to another repository. It was mounted when the registry says so, and the wire that nobody
// sent the layer.
func (r *row) copyAndMount() string {
	m := r.during(r.t, "NAME="+r.image("push"), "TO="+r.image("copy"))
	m.do(r.forget)
	m.do(r.pull)
	before := r.wire.up.total()
	m.do(r.copy)
	sent := r.wire.up.total() - before
	if from, to := r.digest("push"), r.digest("copy"); from != to {
		r.t.Errorf("%s: %s became %s", r.copy, from, to)
	}
	mounted := r.count("copy", func(a access) bool {
		return a.Method == "POST" && a.Endpoint == "uploads" && a.Status == 201
	})
	if mounted > 0 && sent < dataSize/4 {
		return r.expect("copy", mounts, r.copies)
	}
	return r.expect("copy", sends, r.copies)
}

func (r *row) deleteImage() string {
	m := r.during(r.t, "NAME="+r.image("delete"))
	m.do(r.create)
	m.do(r.push)
	r.digest("delete")
	m.do(r.remove)
	if status, _ := r.ask("delete", "manifests/"+tag); status != "404" {
		r.t.Errorf("%s: it is still there, with status %s", r.remove, status)
	}
	return "yes"
}

// pullCut cuts the connection when half of the layer was pulled.
func (r *row) pullCut() string {
	m := r.during(r.t, "NAME="+r.image("pull-cut"))
	m.do(r.create)
	m.do(r.push)
	m.do(r.forget)
	how := r.cut(m, r.pull, &r.wire.down)
	m.has(r.client, r.images[0])
	return r.expect("pull-cut", how, r.cutPull)
}

// pushCut cuts the connection when half of a layer was pushed that nobody has: clients would mount it.
func (r *row) pushCut() string {
	m := r.during(r.t, append(r.fresh.env(), "NAME="+r.image("push-cut"))...)
	r.fresh.writeTo(m)
	m.do(r.create)
	how := r.cut(m, r.push, &r.wire.up)
	m.do(r.forget)
	m.do(r.pull)
	m.has(r.client, r.fresh)
	return r.expect("push-cut", how, r.cutPush)
}

// cut runs a command whose connection is cut in the middle of the layer, and once more when that is the command's end. What it
// returns is known by the bytes: who starts anew needs half a layer more than who goes on.
func (r *row) cut(m *machine, command string, f *flow) string {
	m.t.Helper()
	before := f.total()
	f.cutAfter(dataSize / 2)
	out, err := m.try(command)
	if !f.wasCut() {
		r.t.Fatalf("%s: the connection was not cut; it printed:\n%s", command, out)
	}
	again := ""
	if err != nil {
		r.t.Logf("%s: %s", command, lastLine(out))
		m.do(command)
		again = repeat
	}
	if f.total()-before < dataSize*5/4 {
		return resumes + again
	}
	return restart + again
}

// expect fails the test unless the client did in a step what clients like it do, and returns that.
func (r *row) expect(step, got, want string) string {
	r.t.Helper()
	fits := got == want
	if how, may := strings.CutSuffix(want, perhaps); may {
		fits = got == how || got == how+repeat
	}
	if !fits {
		r.t.Errorf("it %s, and should be one that %s; the registry says:\n%+v", got, want, r.requests(step))
	}
	return want
}

// signAndVerify signs the image in both forms that there are. Before, nothing is verified.
func (r *row) signAndVerify() string {
	r.do("mkdir -p /run/cosign")
	d := digest.Digest(r.digest("push"))
	name := "NAME=" + strings.TrimSuffix(r.image("push"), ":"+tag) + "@" + d.String()
	for _, form := range []struct{ format, path string }{ // and where the signature is; the newer one finds both
		{"--new-bundle-format=true", "referrers/" + d.String()},
		{"--new-bundle-format=false", "manifests/sha256-" + d.Encoded() + ".sig"},
	} {
		format, path := form.format, form.path
		m := r.during(r.t, name, "FORMAT="+format)
		if out, err := m.try(r.verify); err == nil {
			r.t.Errorf("%s %s: verified without a signature:\n%s", r.verify, format, out)
		}
		m.do(r.sign)
		m.do(r.verify)
		status, body := r.ask("push", path)
		if status != "200" || !strings.Contains(body, `"digest"`) {
			r.t.Errorf("%s: the signature is not at %s: %s %s", format, path, status, body)
		}
	}
	return "as a referrer, and as a tag"
}

// ask gets something of a step's repository from the registry, as ann, and returns the status and the body.
func (r *row) ask(step, path string) (status, body string) {
	r.t.Helper()
	out := r.server.during(r.t).do("printf 'user = \"ann:ann!\"' | curl --silent --insecure --config - --header 'Accept: */*' " +
		"--write-out '\n%{http_code}' https://" + host + "/v2/" + r.repository(step) + "/" + path)
	end := strings.LastIndexByte(out, '\n')
	return out[end+1:], out[:end]
}

// digest returns that of a step's image.
func (r *row) digest(step string) string {
	r.t.Helper()
	status, body := r.ask(step, "manifests/"+tag)
	if status != "200" {
		r.t.Fatalf("%s has no image: %s %s", r.repository(step), status, body)
	}
	return digest.FromString(body).String()
}

// access is a line of the registry's log.
type access struct {
	Method, Endpoint, Repository, Error string
	Status, Bytes                       int
}

// requests returns those to a step's repository.
func (r *row) requests(step string) []access {
	r.t.Helper()
	var all []access
	for line := range strings.Lines(r.server.during(r.t).do("cat " + accessLog)) {
		var a access
		if json.Unmarshal([]byte(line), &a) == nil && a.Repository == r.repository(step) {
			all = append(all, a)
		}
	}
	return all
}

// count returns how many of the requests to a step's repository are as asked for.
func (r *row) count(step string, is func(access) bool) int {
	r.t.Helper()
	n := 0
	for _, a := range r.requests(step) {
		if is(a) {
			n++
		}
	}
	return n
}
