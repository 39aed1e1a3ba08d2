package main

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"berth/storage/small"
)

// users writes an htpasswd file of users whose passwords are their names.
func users(t *testing.T, names ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "htpasswd")
	for _, name := range names {
		addUser(t, path, name)
	}
	return path
}

func addUser(t *testing.T, path, name string) {
	t.Helper()
	var out output
	err := run(t.Context(), []string{"user", "add", name, "--file", path, "--cost", "4", "--password-stdin"}, nil, strings.NewReader(name+"\n"), &out, &out)
	if err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
}

// visitor asks a registry as somebody.
type visitor struct {
	t             *testing.T
	url           string
	authorization string // the header, empty for strangers
}

func (v visitor) as(user, password string) visitor {
	v.authorization = ""
	if user != "" {
		r := &http.Request{Header: http.Header{}}
		r.SetBasicAuth(user, password)
		v.authorization = r.Header.Get("Authorization")
	}
	return v
}

// withToken fetches a token for scopes.
func (v visitor) withToken(scopes ...string) visitor {
	v.t.Helper()
	status, body, _ := v.do(http.MethodGet, "/auth/token?"+url.Values{"service": {"berth"}, "scope": scopes}.Encode(), "", "")
	var answer struct{ Token string }
	if err := json.Unmarshal([]byte(body), &answer); status != http.StatusOK || err != nil {
		v.t.Fatalf("no token: %d %s", status, body)
	}
	v.authorization = "Bearer " + answer.Token
	return v
}

func (v visitor) do(method, path, mediaType, body string) (int, string, http.Header) {
	v.t.Helper()
	r, err := http.NewRequestWithContext(v.t.Context(), method, v.url+path, strings.NewReader(body))
	if err != nil {
		v.t.Fatal(err)
	}
	if v.authorization != "" {
		r.Header.Set("Authorization", v.authorization)
	}
	if mediaType != "" {
		r.Header.Set("Content-Type", mediaType)
	}
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	response, err := client.Do(r)
	if err != nil {
		v.t.Fatal(err)
	}
	defer response.Body.Close()
	all, err := io.ReadAll(response.Body)
	if err != nil {
		v.t.Fatal(err)
	}
	return response.StatusCode, string(all), response.Header
}

func digestOf(content string) string {
	return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(content)))
}

const imageType = "application/vnd.oci.image.manifest.v1+json"

// push pushes an image of one layer.
func (v visitor) push(repository, layer string) {
	v.t.Helper()
	for _, content := range []string{"{}", layer} {
		if status, body, _ := v.do(http.MethodPost, "/v2/"+repository+"/blobs/uploads/?digest="+digestOf(content), "", content); status != http.StatusCreated {
			v.t.Fatalf("%d %s", status, body)
		}
	}
	image := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.example","digest":%q,"size":2},`+
		`"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":%q,"size":%d}]}`, imageType, digestOf("{}"), digestOf(layer), len(layer))
	if status, body, _ := v.do(http.MethodPut, "/v2/"+repository+"/manifests/latest", imageType, image); status != http.StatusCreated {
		v.t.Fatalf("%d %s", status, body)
	}
}

// pushImage pushes an image for linux and an architecture, without layers, and returns the headers of the answer.
func (v visitor) pushImage(repository, tag, architecture string) http.Header {
	v.t.Helper()
	return v.pushConfig(repository, tag, `{"os":"linux","architecture":"`+architecture+`","rootfs":{"type":"layers","diff_ids":[]}}`)
}

// pushLarge is pushImage with a config that is too large to be kept in the metadata.
func (v visitor) pushLarge(repository, tag, architecture string) {
	v.t.Helper()
	v.pushConfig(repository, tag, `{"os":"linux","architecture":"`+architecture+`"}`+strings.Repeat(" ", small.Limit))
}

// pushConfig pushes an image without layers.
func (v visitor) pushConfig(repository, tag, config string) http.Header {
	v.t.Helper()
	if status, body, _ := v.do(http.MethodPost, "/v2/"+repository+"/blobs/uploads/?digest="+digestOf(config), "", config); status != http.StatusCreated {
		v.t.Fatalf("%d %s", status, body)
	}
	image := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":%d},"layers":[]}`,
		imageType, digestOf(config), len(config))
	status, body, header := v.do(http.MethodPut, "/v2/"+repository+"/manifests/"+tag, imageType, image)
	if status != http.StatusCreated {
		v.t.Fatalf("%d %s", status, body)
	}
	return header
}

// endpoint is a route of the API with what it takes to use it. NAME stands for the repository, which is in front without it.
type endpoint struct{ method, path, action string }

// of is the path for a repository.
func (e endpoint) of(repository string) string {
	if strings.Contains(e.path, "NAME") {
		return strings.Replace(e.path, "NAME", repository, 1)
	}
	return "/v2/" + repository + e.path
}

func endpoints() []endpoint {
	d := digestOf("nothing of this")
	return []endpoint{
		{"GET", "/manifests/latest", "pull"}, {"HEAD", "/manifests/latest", "pull"}, {"GET", "/manifests/" + d, "pull"},
		{"PUT", "/manifests/x", "push"}, {"DELETE", "/manifests/none", "delete"}, {"DELETE", "/manifests/" + d, "delete"},
		{"GET", "/blobs/" + d, "pull"}, {"HEAD", "/blobs/" + d, "pull"}, {"DELETE", "/blobs/" + d, "delete"},
		{"POST", "/blobs/uploads/", "push"}, {"POST", "/blobs/uploads/?digest=" + digestOf(""), "push"},
		{"POST", "/blobs/uploads/?mount=" + d + "&from=secret/x", "push"},
		{"GET", "/blobs/uploads/none", "push"}, {"PATCH", "/blobs/uploads/none", "push"},
		{"PUT", "/blobs/uploads/none?digest=" + d, "push"}, {"DELETE", "/blobs/uploads/none", "push"},
		{"GET", "/tags/list", "pull"}, {"GET", "/tags/list?n=1", "pull"}, {"GET", "/referrers/" + d, "pull"},
		{"DELETE", "/v2/_berth/repositories/NAME?now=what", "delete"},
		{"GET", "/v2/_berth/tags/NAME/none", "pull"}, {"POST", "/v2/_berth/tags/NAME/none", "push"},
	}
}

const tableRules = `[
  {repositories: [public/**], anonymous: [pull]},
  {repositories: [team/**], users: [ann], groups: [devs], actions: [pull, push]},
  {repositories: [team/**], users: [bob], actions: [pull]},
  {repositories: ["**"], users: [root], actions: ["*"]}]`

// allowed is what those rules and the robot's say, written down once more.
func allowed(user, repository, action string) bool {
	team := strings.HasPrefix(repository, "team/")
	switch {
	case user == "root":
		return true
	case strings.HasPrefix(repository, "public/") && action == "pull":
		return true
	case user == "ann" || user == "dev":
		return team && action != "delete"
	case user == "bob" || user == "robot":
		return team && action == "pull"
	}
	return false
}

// TestAccessTable asks every route as everybody, with a password and with a token for all that there is.
func TestAccessTable(t *testing.T) {
	r := serve(t, t.TempDir(), "REGISTRY_HTTP_TLS_MODE=off", "REGISTRY_AUTH=htpasswd", "REGISTRY_ACCESS="+tableRules, "REGISTRY_GROUPS={devs: [dev]}",
		"REGISTRY_AUTH_HTPASSWD_PATH="+users(t, "root", "ann", "bob", "dev", "eve"))
	defer r.end(t)
	stranger := visitor{t: t, url: r.url()}
	root := stranger.as("root", "root")
	for _, repository := range []string{"public/x", "team/x", "secret/x"} {
		root.push(repository, "layer of "+repository)
	}
	secret, _, err := command(t, r.environ, "token", "create", "--name", "robot", "--repositories", "team/**", "--actions", "pull")
	if err != nil {
		t.Fatal(err)
	}
	visitors := map[string]visitor{"": stranger, "robot": stranger.as("anybody", strings.TrimSpace(secret))}
	for _, name := range []string{"root", "ann", "bob", "dev", "eve"} {
		visitors[name] = stranger.as(name, name)
	}
	asked := 0
	for _, repository := range []string{"public/x", "public/none", "team/x", "team/none", "secret/x", "secret/none"} {
		all := fmt.Sprintf("repository:%s:pull,push,delete", repository)
		for name, v := range visitors {
			for kind, v := range map[string]visitor{"password": v, "token": v.withToken(all)} {
				for _, e := range endpoints() {
					asked++
					status, body, header := v.do(e.method, e.of(repository), imageType, "")
					want := 0
					if !allowed(name, repository, e.action) {
						if want = http.StatusForbidden; name == "" {
							want = http.StatusUnauthorized
						}
					}
					refused := status == http.StatusUnauthorized || status == http.StatusForbidden || status >= 429
					if refused && status != want || !refused && want != 0 {
						t.Errorf("%q by %s, %s %s%s: %d, want %d: %s", name, kind, e.method, repository, e.path, status, want, body)
					}
					if challenges := header.Values("WWW-Authenticate"); (status == http.StatusUnauthorized) != (len(challenges) == 1) {
						t.Errorf("%q by %s, %s %s%s: %d with the challenges %q", name, kind, e.method, repository, e.path, status, challenges)
					}
				}
			}
		}
	}
	t.Logf("%d requests", asked)
	testCatalog(t, visitors)
	testMounts(t, visitors)
	testSilence(t, visitors)
}

// testCatalog looks who sees which repositories.
func testCatalog(t *testing.T, visitors map[string]visitor) {
	for name, want := range map[string]string{
		"": "public/x", "root": "public/x secret/x team/x", "ann": "public/x team/x", "dev": "public/x team/x",
		"bob": "public/x team/x", "eve": "public/x", "robot": "public/x team/x",
	} {
		for kind, v := range map[string]visitor{"password": visitors[name], "token": visitors[name].withToken("registry:catalog:*")} {
			status, body, _ := v.do(http.MethodGet, "/v2/_catalog", "", "")
			var answer struct{ Repositories []string }
			if err := json.Unmarshal([]byte(body), &answer); err != nil || status != http.StatusOK || strings.Join(answer.Repositories, " ") != want {
				t.Errorf("%q by %s sees %d %s", name, kind, status, body)
			}
		}
	}
	if status, _, header := visitors[""].do(http.MethodGet, "/v2/", "", ""); status != http.StatusUnauthorized ||
		!strings.HasPrefix(header.Get("WWW-Authenticate"), `Bearer realm="http://127.0.0.1:`) {
		t.Errorf("a stranger at the door: %d %v", status, header)
	}
}

// testMounts has ann take blobs from where she may pull, and from where she may not.
func testMounts(t *testing.T, visitors map[string]visitor) {
	mount := func(v visitor, layer, from string) int {
		t.Helper()
		status, _, _ := v.do(http.MethodPost, "/v2/team/mounted/blobs/uploads/?mount="+digestOf("layer of "+layer)+from, "", "")
		return status
	}
	narrow := visitors["ann"].withToken("repository:team/mounted:pull,push")
	wide := visitors["ann"].withToken("repository:team/mounted:pull,push repository:public/x:pull")
	for _, test := range []struct {
		name  string
		v     visitor
		layer string
		from  string
		want  int
	}{
		{"readable", visitors["ann"], "public/x", "&from=public/x", http.StatusCreated},
		{"hidden", visitors["ann"], "secret/x", "&from=secret/x", http.StatusAccepted},
		{"absent", visitors["ann"], "secret/x", "&from=secret/none", http.StatusAccepted},
		{"anywhere, readable", visitors["ann"], "team/x", "", http.StatusCreated},
		{"anywhere, hidden", visitors["ann"], "secret/x", "", http.StatusAccepted},
		{"token without the source", narrow, "public/x", "&from=public/x", http.StatusAccepted},
		{"token with the source", wide, "public/x", "&from=public/x", http.StatusCreated},
		{"root", visitors["root"], "secret/x", "&from=secret/x", http.StatusCreated},
	} {
		if got := mount(test.v, test.layer, test.from); got != test.want {
			t.Errorf("%s: %d, want %d", test.name, got, test.want)
		}
	}
}

// testSilence compares what eve hears of a repository that there is with what she hears of one that there is not.
func testSilence(t *testing.T, visitors map[string]visitor) {
	for _, name := range []string{"", "eve", "ann", "robot"} {
		for _, e := range endpoints() {
			status, body, header := visitors[name].do(e.method, e.of("secret/x"), imageType, "")
			other, otherBody, otherHeader := visitors[name].do(e.method, e.of("secret/none"), imageType, "")
			for _, h := range []http.Header{header, otherHeader} {
				h.Del("Date")
				h.Del("X-Request-Id")
				h.Del("Content-Length")
			}
			same := strings.ReplaceAll(otherBody, "secret/none", "secret/x") == body &&
				strings.ReplaceAll(fmt.Sprint(otherHeader), "secret/none", "secret/x") == fmt.Sprint(header)
			if status != other || !same {
				t.Errorf("%q, %s %s: %d %s %v against %d %s %v", name, e.method, e.path, status, body, header, other, otherBody, otherHeader)
			}
		}
	}
}

// within fails unless something becomes so soon, and says how soon. A second is what is promised; a busy machine gets more.
func within(t *testing.T, what string, so func() bool) {
	t.Helper()
	began := time.Now()
	for !so() {
		if time.Since(began) > 30*time.Second {
			t.Fatalf("%s: not within 30 s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("%s: it took %v", what, took)
	} else {
		t.Logf("%s: after %v", what, took.Round(time.Millisecond))
	}
}

// TestChangesCountWithinASecond changes users, tokens and rules while requests go on.
func TestChangesCountWithinASecond(t *testing.T) {
	path, config := users(t, "ann", "bob"), filepath.Join(t.TempDir(), "config.yml")
	writeConfig := func(rules string) {
		t.Helper()
		text := "version: 0.1\nhttp: {tls: {mode: off}}\nauth: {htpasswd: {realm: r, path: " + path + "}, tokens: {refresh: true}}\naccess: [" + rules + "]\n"
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const teamRule = "{repositories: [team/**], users: [ann, bob], actions: [push]}"
	writeConfig(teamRule)
	audit := filepath.Join(t.TempDir(), "audit.log")
	r := serve(t, t.TempDir(), "REGISTRY_CONFIGURATION_PATH="+config, "REGISTRY_AUDIT_OUTPUT="+audit)
	defer r.end(t)
	stranger := visitor{t: t, url: r.url()}
	ann, bob := stranger.as("ann", "ann"), stranger.as("bob", "bob")
	status := func(v visitor, repository string) int {
		status, _, _ := v.do(http.MethodGet, "/v2/"+repository+"/tags/list", "", "")
		return status
	}
	scope := "repository:team/x:pull,push"
	annToken, bobToken := ann.withToken(scope), bob.withToken(scope)
	for _, v := range []visitor{ann, bob, annToken, bobToken} {
		if got := status(v, "team/x"); got != http.StatusNotFound {
			t.Fatalf("before: %d", got)
		}
	}

	var out output
	if err := run(t.Context(), []string{"user", "passwd", "ann", "--file", path, "--cost", "4", "--password-stdin"}, nil, strings.NewReader("other"), &out, &out); err != nil {
		t.Fatal(err)
	}
	within(t, "ann's old password", func() bool { return status(ann, "team/x") == 401 })
	within(t, "ann's old token", func() bool { return status(annToken, "team/x") == 401 })
	within(t, "ann's new password", func() bool { return status(stranger.as("ann", "other"), "team/x") == 404 })

	if _, _, err := command(t, r.environ, "user", "remove", "bob"); err != nil {
		t.Fatal(err)
	}
	within(t, "bob", func() bool { return status(bob, "team/x") == 401 })
	within(t, "bob's token", func() bool { return status(bobToken, "team/x") == 401 })

	secret, _, err := command(t, r.environ, "token", "create", "--name", "ci", "--repositories", "**", "--actions", "pull", "--expires", "1d")
	if err != nil {
		t.Fatal(err)
	}
	ci := stranger.as("ci", strings.TrimSpace(secret))
	ciToken := ci.withToken(scope)
	within(t, "a new token", func() bool { return status(ci, "team/x") == 404 && status(ciToken, "team/x") == 404 })
	if _, _, err := command(t, r.environ, "token", "revoke", "ci"); err != nil {
		t.Fatal(err)
	}
	within(t, "the revoked token", func() bool { return status(ci, "team/x") == 401 && status(ciToken, "team/x") == 401 })

	ann = stranger.as("ann", "other")
	writeConfig(teamRule + ", {repositories: [more], users: [ann], actions: [pull]}")
	within(t, "a new rule", func() bool { return status(ann, "more") == 404 })
	writeConfig(teamRule + ", {repositories: [more], users: [ann], actions: [fly]}")
	for !strings.Contains(r.errOut.String(), `the action \"fly\" is unknown`) {
		time.Sleep(10 * time.Millisecond)
	}
	if got := status(ann, "more"); got != 404 {
		t.Errorf("after broken rules: %d", got)
	}
	if err := os.WriteFile(config, []byte("version: 0.1\nhttp: {tls: {mode: off}}\nauth: {htpasswd: {realm: r, path: "+path+"}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for !strings.Contains(r.errOut.String(), "has no access rules any more") { // as if the file were written half
		time.Sleep(10 * time.Millisecond)
	}
	if got := status(ann, "whatever"); got != 403 {
		t.Errorf("after the rules went: %d", got)
	}
	writeConfig("{repositories: [other], users: [ann], actions: [pull]}")
	within(t, "no rule", func() bool { return status(ann, "more") == 403 })

	records, err := os.ReadFile(audit)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"event":"login failed","user":"ann","remote":"127.0.0.1"`, `"event":"user changed","subject":"ann","by":"` + path, `"event":"user removed","subject":"bob"`,
		`"event":"token created","by":"admin socket","subject":"robot:ci"`, `"event":"token revoked","by":"admin socket","subject":"robot:ci"`, `"event":"access rules changed"`,
		`"event":"denied","user":"ann","remote":"127.0.0.1"`,
	} {
		if !strings.Contains(string(records), want) {
			t.Errorf("the audit log lacks %s", want)
		}
	}
	if strings.Contains(string(records), strings.TrimSpace(secret)) || strings.Contains(string(records), `"level"`) {
		t.Errorf("the audit log is\n%s", records)
	}
}

// TestHangUp moves the audit log away and has the registry go on in a new one.
func TestHangUp(t *testing.T) {
	audit := filepath.Join(t.TempDir(), "audit.log")
	r := serve(t, t.TempDir(), "REGISTRY_HTTP_TLS_MODE=off", "REGISTRY_AUTH_INITIALPASSWORD=pass", "REGISTRY_AUDIT_OUTPUT="+audit)
	defer r.end(t)
	admin := visitor{t: t, url: r.url()}.as("admin", "pass")
	admin.push("a", "layer")
	if err := os.Rename(audit, audit+".1"); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	within(t, "a new file", func() bool { _, err := os.Stat(audit); return err == nil })
	admin.do(http.MethodDelete, "/v2/a/manifests/latest", "", "")
	before, err := os.ReadFile(audit + ".1")
	if err != nil {
		t.Fatal(err)
	}
	after, err := os.ReadFile(audit)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"event":"push","user":"admin","remote":"127.0.0.1","request":"`, `"repository":"a","blob":"` + digestOf("layer"), `"repository":"a","reference":"latest","manifest":"sha256:`,
	} {
		if !strings.Contains(string(before), want) {
			t.Errorf("the old file lacks %s:\n%s", want, before)
		}
	}
	if !strings.Contains(string(after), `"event":"delete","user":"admin"`) || strings.Contains(string(after), "push") {
		t.Errorf("the new file is\n%s", after)
	}
}

func TestAccessCheck(t *testing.T) {
	environ := []string{"REGISTRY_AUTH=htpasswd", "REGISTRY_AUTH_HTPASSWD_PATH=x", "REGISTRY_ACCESS=" + tableRules, "REGISTRY_GROUPS={devs: [dev]}"}
	for _, test := range []struct {
		args []string
		want string
		fail bool
	}{
		{[]string{"--user", "ann", "--repository", "team/x", "--action", "push"}, "allowed: rule 2 allows it: team/** matches team/x, and ann may pull,push\n", false},
		{[]string{"--user", "bob", "--repository", "team/x", "--action", "push"}, "denied: no rule allows it; rule 3: team/** matches, but allows bob only pull\n", true},
		{[]string{"--anonymous", "--repository", "public/x"}, "allowed: rule 1 allows it: public/** matches public/x, and everybody may pull\n", false},
		{[]string{"--user", "eve", "--repository", "other"}, "denied: no rule is for eve in the repository other\n", true},
		{[]string{"--user", "root", "--repository", "other", "--json"}, "{\n  \"allowed\": true,\n  \"rule\": 4,\n  \"because\": \"rule 4 allows it: ** matches other, and root may pull,push,delete\"\n}\n", false},
	} {
		out, _, err := command(t, environ, append([]string{"access", "check"}, test.args...)...)
		if out != test.want || (err != nil) != test.fail {
			t.Errorf("%v: got %q, %v", test.args, out, err)
		}
	}
	for _, test := range []struct{ args, want string }{
		{"--repository a", "say who"}, {"--user a --anonymous --repository a", "say who"}, {"--user a", "repository"},
		{"--user a --repository A", "invalid repository name"}, {"--user a --repository a --action fly", "none of pull, push and delete"},
	} {
		if _, _, err := command(t, environ, append([]string{"access", "check"}, strings.Fields(test.args)...)...); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v", test.args, err)
		}
	}
	if out, _, err := command(t, []string{"REGISTRY_AUTH=none"}, "access", "check", "--anonymous", "--repository", "a", "--action", "delete"); err != nil || !strings.HasPrefix(out, "allowed: auth is none") {
		t.Errorf("without authentication: %q, %v", out, err)
	}
	token := []string{"REGISTRY_AUTH={token: {realm: 'https://a', service: s, issuer: i, jwks: j}}"}
	if _, _, err := command(t, token, "access", "check", "--user", "ann", "--repository", "a"); err == nil || !strings.Contains(err.Error(), "the scopes in that server's tokens decide") {
		t.Errorf("with another server's tokens: %v", err)
	}
	if _, _, err := command(t, append(environ, "REGISTRY_ACCESS=[{repositories: [a], users: [b]}]"), "config", "check"); err == nil || !strings.Contains(err.Error(), "access: rule 1: actions are missing") {
		t.Errorf("a rule without actions: %v", err)
	}
}
