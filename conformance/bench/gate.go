package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"berth/conformance/server"
)

const (
	// gateRounds is how often all take turns: the differences are small.
	gateRounds = 15
	gateRules  = 1000
	gateGroups = 100
)

// gateCase is a way to run one Berth.
type gateCase struct {
	name     string
	password bool
	settings string // added to the configuration
	token    bool
}

// measureGate compares the rate of manifest GETs of a Berth that lets everybody in with those of the same program that looks
// at who asks.
func measureGate(ctx context.Context, s settings, stdout, stderr io.Writer) error {
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	rules := manyRules()
	var targets []*target
	for _, c := range []gateCase{
		{name: "no authentication"},
		{name: "htpasswd (bcrypt 10), Basic", password: true},
		{name: "htpasswd, a Bearer token", password: true, token: true},
		{name: fmt.Sprintf("htpasswd, Basic, %d rules and %d groups", gateRules, gateGroups), password: true, settings: rules},
		{name: "the same rules, a Bearer token", password: true, settings: rules, token: true},
	} {
		fmt.Fprintf(stderr, "preparing: %s\n", c.name)
		t, running, err := c.start(ctx, dir, s)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		defer running.Kill()
		targets = append(targets, t)
	}
	s.duration, s.rounds = min(s.duration, time.Second), gateRounds
	results, err := turns{settings: s, targets: targets, stderr: stderr}.measure(ctx, []row{{name: byTag, do: getManifest}})
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "| %s | rate | CPU | rate, to that without |\n|---|---:|---:|---:|\n", byTag)
	for i, got := range results[0] {
		fmt.Fprintf(stdout, "| %s | %s | %s | %s |\n", targets[i].name, rate(row{}, got), cpu(row{}, got),
			times(ratio(got, results[0][0], result.perSecond)))
	}
	return nil
}

// start runs the program as the case says, with what is to be pulled.
func (c gateCase) start(ctx context.Context, dir string, s settings) (*target, *server.Server, error) {
	dir, err := os.MkdirTemp(dir, "berth")
	if err != nil {
		return nil, nil, err
	}
	config, err := configure(dir, fmt.Sprintf(filesystem, filepath.Join(dir, "data")))
	if err != nil {
		return nil, nil, err
	}
	if config.Program, err = filepath.Abs(s.gate); err != nil {
		return nil, nil, err
	}
	t := &target{name: c.name, url: config.URL, ca: config.CA}
	settings := "auth: none\n"
	if c.password {
		users := filepath.Join(dir, "htpasswd")
		if t.password, err = writeUsers(users); err != nil {
			return nil, nil, err
		}
		t.user = userName
		settings = fmt.Sprintf("auth: {htpasswd: {realm: bench, path: %q}}\n", users) + c.settings
	}
	if err := appendTo(config.Args[1], settings); err != nil {
		return nil, nil, err
	}
	running, err := server.Start(ctx, config)
	if err != nil {
		return nil, nil, err
	}
	t.pid = running.PID()
	err = prepare(ctx, t, s)
	if err == nil && c.token {
		t.token, err = t.fetchToken(ctx)
	}
	if err != nil {
		running.Kill()
	}
	return t, running, err
}

func appendTo(path, text string) error {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	if _, err := f.WriteString(text); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// manyRules are rules of which a few match what is pulled, by way of groups, and most don't.
func manyRules() string {
	var b strings.Builder
	b.WriteString("groups:\n")
	for g := range gateGroups {
		fmt.Fprintf(&b, "  g%d: [user%d, user%d, %s]\n", g, g, g+1, userName)
	}
	b.WriteString("access:\n")
	for i := range gateRules {
		pattern := fmt.Sprintf("team%d/**", i)
		if i%100 == 99 {
			pattern = "be*/**"
		}
		fmt.Fprintf(&b, "  - {repositories: [%q, \"*/app%d\"], groups: [g%d], actions: [pull, push]}\n", pattern, i, i%gateGroups)
	}
	return b.String()
}

// fetchToken gets a token to pull with.
func (t *target) fetchToken(ctx context.Context) (string, error) {
	c, err := t.client(false)
	if err != nil {
		return "", err
	}
	defer c.HTTP.CloseIdleConnections()
	query := url.Values{"service": {"berth"}, "scope": {"repository:" + imageRepo + ":pull"}}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, t.url+"/auth/token?"+query.Encode(), nil)
	if err != nil {
		return "", err
	}
	r.SetBasicAuth(t.user, t.password)
	response, err := c.HTTP.Do(r)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	var body struct{ Token string }
	if err := json.NewDecoder(response.Body).Decode(&body); err != nil || body.Token == "" {
		return "", fmt.Errorf("no token: %s, %v", response.Status, err)
	}
	return body.Token, nil
}
