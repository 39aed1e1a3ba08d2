package clients

import (
	"regexp"
	"strings"
)

// accessRules let everybody pull below public/, and make a difference between ann and bob below team/.
const accessRules = `[
  {repositories: [public/**], anonymous: [pull]},
  {repositories: [public/**, team/**], users: [ann], actions: [pull, push, delete]},
  {repositories: [team/**], users: [bob], actions: [pull]}]`

// accessLog is where the registry of serveRules writes what it logs, on its machine.
const accessLog = "/run/registry.log"

// serveRules runs the real program with users whose passwords are their names and a bang, and with those rules.
func serveRules(m *machine) string {
	m.t.Helper()
	command := withRules(m, "REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY="+dataDirectory)
	m.start(command+" serve >"+accessLog+" 2>&1", answers)
	return command
}

// withRules returns the command of such a program with more environment.
func withRules(m *machine, env ...string) string {
	m.t.Helper()
	executable, err := program()
	if err != nil {
		m.t.Fatal(err)
	}
	for _, user := range []string{"ann", "bob"} {
		m.do("echo '" + user + "!' | " + executable + " user add " + user + " --file /run/htpasswd --password-stdin")
	}
	m.write("/run/access", accessRules)
	m.t.Cleanup(func() {
		if m.t.Failed() {
			m.t.Logf("the end of the registry's log:\n%s", m.do("tail -n 50 "+accessLog))
		}
	})
	return "env REGISTRY_AUTH=htpasswd REGISTRY_AUTH_HTPASSWD_PATH=/run/htpasswd REGISTRY_ACCESS=\"$(cat /run/access)\" " +
		"REGISTRY_LOG_FORMATTER=json " + strings.Join(env, " ") + " " + executable
}

// refused is what clients say of a 401 or a 403.
var refused = regexp.MustCompile(`(?i)unauthori[sz]ed|authentication required|denied|insufficient.scope|not authorized|` +
	`invalid username/password|authorization failed|forbidden|may not (push|pull)`)

// logIn has the client log in, push, pull and log out; pull what is for everybody without logging in, and be asked to log in
// for a push there; and be told what is missing when it may not push. Then it logs in for the steps that follow.
func (r *row) logIn() string {
	public, team := r.image("public"), r.image("team")
	as := func(user, image string) *machine {
		return r.during(r.t, "LOGIN="+user, "PASSWORD="+user+"!", "NAME="+image)
	}
	ann, bob, nobody := as("ann", public), as("bob", team), as("", public)
	ann.do(r.create)
	as("ann", team).do(r.create)

	ann.tryTo(r.login)
	ann.do(r.push)
	ann.tryTo(r.logout)
	nobody.do(r.forget)
	nobody.do(r.pull)

	nobody = as("", r.image("public/other"))
	nobody.do(r.create)
	nobody.refused(r.push, "")
	r.logInWrong(team)

	bob.do(r.create)
	bob.tryTo(r.login)
	bob.refused(r.push, r.told("bob may not push to "+r.repository("team")))
	bob.tryTo(r.logout)

	ann = as("ann", team)
	ann.do(r.create)
	ann.tryTo(r.login)
	ann.do(r.push)
	ann.tryTo(r.logout)
	nobody = as("", team)
	nobody.do(r.forget)
	nobody.refused(r.pull, "")
	bob.tryTo(r.login)
	bob.do(r.pull)
	bob.tryTo(r.logout)
	robot := r.during(r.t, "LOGIN=whoever", "PASSWORD="+r.robot, "NAME="+team)
	robot.do(r.forget)
	robot.tryTo(r.login)
	robot.do(r.pull)
	robot.tryTo(r.logout)
	ann.tryTo(r.login)
	if r.login == "" {
		return "with each command"
	}
	return "yes"
}

// logInWrong has it log in with a wrong password, or use one.
func (r *row) logInWrong(image string) {
	wrong := r.during(r.t, "LOGIN=bob", "PASSWORD=ann!", "NAME="+image)
	if r.login != "" && !r.keeps {
		wrong.refused(r.login, "")
		return
	}
	wrong.tryTo(r.login)
	wrong.refused(r.pull, r.told("wrong user name or password"))
	wrong.tryTo(r.logout)
}

// told returns what a client shows of what the registry says.
func (c client) told(message string) string {
	if c.mute {
		return ""
	}
	return message
}

// tryTo is do, of a command that a client may not have.
func (m *machine) tryTo(command string) {
	m.t.Helper()
	if command != "" {
		m.do(command)
	}
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
