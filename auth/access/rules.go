// Package access decides what a client may do to a repository, by rules.
//
// It guarantees that nothing is allowed unless some rule allows it, that the order of the rules does not matter, and that a
// decision depends on nothing but the client's name, its groups and the repository's name: it tells nothing of what exists.
// Rules that were compiled never change; a new configuration makes new ones. A decision costs about the length of the
// repository's name, however many rules there are.
//
// It does not know who a client is, and does not check that the users of a rule exist.
//
// It fails in Compile only, with the numbers of the rules.
package access

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"berth/glob"
)

// Everybody as a user of a rule means whoever is logged in.
const Everybody = "*"

// Rule allows actions on repositories. To be in Users or in one of Groups is enough.
type Rule struct {
	// Repositories are patterns, of which one has to match.
	Repositories []string
	// Users and Groups may take Actions. The user Everybody is everyone who is logged in.
	Users, Groups []string
	Actions       []string
	// Anonymous are actions that everybody may take, logged in or not.
	Anonymous []string
}

// Rules are compiled: make them with Compile. Nil is a registry without rules: whoever is logged in may do everything.
type Rules struct {
	root      *node
	rules     []compiled
	anonymous bool
}

// compiled is a rule as Explain reads it.
type compiled struct {
	Rule
	patterns           []glob.Pattern
	members            map[string]bool // the users, with those of the groups
	actions, anonymous Actions
}

// Compile checks rules and the groups that they name, and makes them quick to decide by. Its error has a line for each rule
// with a mistake.
func Compile(rules []Rule, groups map[string][]string) (*Rules, error) {
	r := &Rules{root: &node{}}
	var problems []error
	for _, name := range slices.Sorted(maps.Keys(groups)) {
		if slices.Contains(groups[name], "") || slices.Contains(groups[name], Everybody) {
			problems = append(problems, fmt.Errorf("groups: %s: a member is a user's name, not %q", name, Everybody))
		}
	}
	for i, rule := range rules {
		c, err := compile(rule, groups)
		if err != nil {
			problems = append(problems, fmt.Errorf("access: rule %d: %w", i+1, err))
			continue
		}
		r.rules = append(r.rules, c)
		r.anonymous = r.anonymous || c.anonymous != None
		for _, p := range c.patterns {
			r.root.insert(p.Segments()).add(c)
		}
	}
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	return r, nil
}

func compile(rule Rule, groups map[string][]string) (c compiled, err error) {
	c = compiled{Rule: rule, members: make(map[string]bool)}
	if c.actions, err = ParseActions(rule.Actions); err != nil {
		return c, fmt.Errorf("actions: %w", err)
	}
	if c.anonymous, err = ParseActions(rule.Anonymous); err != nil {
		return c, fmt.Errorf("anonymous: %w", err)
	}
	for _, s := range rule.Repositories {
		p, err := glob.ParseRepository(s)
		if err != nil {
			return c, fmt.Errorf("repositories: %w", err)
		}
		c.patterns = append(c.patterns, p)
	}
	for _, user := range rule.Users {
		c.members[user] = true
	}
	for _, group := range rule.Groups {
		members, ok := groups[group]
		if !ok {
			return c, fmt.Errorf("groups: there is no group %q in the section groups", group)
		}
		for _, user := range members {
			c.members[user] = true
		}
	}
	return c, c.check()
}

// check refuses rules that allow nothing: whoever wrote them expected them to.
func (c compiled) check() error {
	somebody := len(c.Users)+len(c.Groups) > 0
	switch {
	case len(c.patterns) == 0:
		return errors.New(`repositories are missing: use ["**"] for all`)
	case !somebody && c.anonymous == None:
		return errors.New("it is for nobody: add users, groups or anonymous")
	case somebody && c.actions == None:
		return errors.New("actions are missing: pull, push, delete or *")
	case !somebody && c.actions != None:
		return errors.New("actions are for users and groups, of which it has none: what everybody may do is anonymous")
	case c.members[""]:
		return errors.New("users: a name is empty")
	}
	return nil
}

// Anonymous reports whether anything is allowed to clients that are not logged in.
func (r *Rules) Anonymous() bool { return r != nil && r.anonymous }

// Allowed returns what a user may do to a repository. The user "" is one that is not logged in.
func (r *Rules) Allowed(user, repository string) Actions {
	switch {
	case r != nil:
		return r.root.allowed(user, repository)
	case user != "":
		return All
	}
	return None
}

// Explanation says how a decision came about.
type Explanation struct {
	Allowed bool `json:"allowed"`
	// Rule is the number of the first rule that allows it, from 1. It is 0 when none does, and when there are no rules.
	Rule int `json:"rule,omitempty"`
	// Because says it in words.
	Because string `json:"because"`
}

// Explain decides as Allowed does, but by looking at one rule after another. The action is a single one.
func (r *Rules) Explain(user, repository string, action Actions) Explanation {
	switch {
	case r == nil && user != "":
		return Explanation{Allowed: true, Because: "there are no access rules: whoever is logged in may do everything"}
	case r == nil:
		return Explanation{Because: "there are no access rules: only who is logged in may do anything"}
	}
	var near []string
	for i, c := range r.rules {
		why, allowed := c.explain(user, repository, action)
		if allowed {
			return Explanation{true, i + 1, fmt.Sprintf("rule %d allows it: %s", i+1, why)}
		}
		if why != "" {
			near = append(near, fmt.Sprintf("rule %d: %s", i+1, why))
		}
	}
	if len(near) == 0 {
		return Explanation{Because: fmt.Sprintf("no rule is for %s in the repository %s", describe(user), repository)}
	}
	return Explanation{Because: "no rule allows it; " + strings.Join(near, "; ")}
}

// explain says why a rule allows an action, or, of a rule that is about this user in this repository, why it does not.
func (c compiled) explain(user, repository string, action Actions) (string, bool) {
	i := slices.IndexFunc(c.patterns, func(p glob.Pattern) bool { return p.Match(repository) })
	if i < 0 {
		return "", false
	}
	member := user != "" && (c.members[user] || c.members[Everybody])
	switch {
	case c.anonymous.Has(action):
		return fmt.Sprintf("%s matches %s, and everybody may %s", c.patterns[i], repository, c.anonymous), true
	case member && c.actions.Has(action):
		return fmt.Sprintf("%s matches %s, and %s may %s", c.patterns[i], repository, user, c.actions), true
	case member:
		return fmt.Sprintf("%s matches, but allows %s only %s", c.patterns[i], user, c.actions), false
	case c.anonymous != None:
		return fmt.Sprintf("%s matches, but allows everybody only %s", c.patterns[i], c.anonymous), false
	}
	return "", false
}

func describe(user string) string {
	if user == "" {
		return "clients that are not logged in"
	}
	return user
}
