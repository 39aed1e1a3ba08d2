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
	"slices"
	"strings"
	"time"

	"berth/conformance/server"

	"golang.org/x/crypto/bcrypt"
)

const (
	// gateRounds is how often all take turns, each time another first. Rates are compared within a round, because the machine
	// is not the same from one to the next; what counts is the median.
	gateRounds = 15
	gateUser   = "someone"
	gateCost   = 10
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
	s.tags, s.large = 0, small
	dir, err := os.MkdirTemp("", "load")
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
	s.duration = min(s.duration, time.Second)
	rates, costs := make([][]float64, len(targets)), make([][]float64, len(targets))
	get := row{name: "manifest GET by tag", do: getManifest}
	for round := range gateRounds {
		for turn := range targets {
			i := (round + turn) % len(targets)
			t := targets[i]
			fmt.Fprintf(stderr, "round %d: %s\n", round+1, t.name)
			r, err := measure(ctx, t, get, s)
			if err != nil {
				return fmt.Errorf("%s: %w", t.name, err)
			}
			rates[i] = append(rates[i], r.perSecond())
			costs[i] = append(costs[i], r.cpuPerOperation().Seconds()*1000)
		}
	}
	fmt.Fprintf(stdout, "| manifest GET by tag | rate | CPU | rate, to that without |\n|---|---:|---:|---:|\n")
	for i, t := range targets {
		fmt.Fprintf(stdout, "| %s | %.0f/s | %.3f ms | %.2f× |\n", t.name, median(rates[i]), median(costs[i]), median(ratios(rates[i], rates[0])))
	}
	return nil
}

func ratios(a, b []float64) []float64 {
	r := make([]float64, len(a))
	for i := range a {
		r[i] = a[i] / b[i]
	}
	return r
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 0 {
		return (sorted[middle-1] + sorted[middle]) / 2
	}
	return sorted[middle]
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
		t.user, t.password = gateUser, "a password"
		hash, err := bcrypt.GenerateFromPassword([]byte(t.password), gateCost)
		if err != nil {
			return nil, nil, err
		}
		users := filepath.Join(dir, "htpasswd")
		if err := os.WriteFile(users, fmt.Appendf(nil, "%s:%s\n", gateUser, hash), 0o600); err != nil {
			return nil, nil, err
		}
		settings = fmt.Sprintf("auth: {htpasswd: {realm: load, path: %q}}\n", users) + c.settings
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
		fmt.Fprintf(&b, "  g%d: [user%d, user%d, %s]\n", g, g, g+1, gateUser)
	}
	b.WriteString("access:\n")
	for i := range gateRules {
		pattern := fmt.Sprintf("team%d/**", i)
		if i%100 == 99 {
			pattern = "lo*/**"
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
