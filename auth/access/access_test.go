package access

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestAllowed(t *testing.T) {
	rules := []Rule{
		{Repositories: []string{"public/**", "hello"}, Anonymous: []string{"pull"}},
		{Repositories: []string{"team/**"}, Users: []string{"ann", "ci"}, Groups: []string{"devs"}, Actions: []string{"pull", "push"}},
		{Repositories: []string{"team/*/cache"}, Users: []string{"ci"}, Actions: []string{"delete"}},
		{Repositories: []string{"**/tools", "a/**/z"}, Users: []string{Everybody}, Actions: []string{"pull"}},
		{Repositories: []string{"home/*-x/app*"}, Users: []string{"eve"}, Actions: []string{"*"}},
	}
	r, err := Compile(rules, map[string][]string{"devs": {"bob", "eve"}})
	if err != nil {
		t.Fatal(err)
	}
	if !r.Anonymous() {
		t.Error("anonymous rules went unseen")
	}
	for _, test := range []struct {
		user, repository string
		want             Actions
	}{
		{"", "public/x", Pull}, {"", "public/x/y", Pull}, {"", "public", None}, {"", "hello", Pull}, {"", "hello/x", None},
		{"zoe", "public/x", Pull}, {"", "team/x", None}, {"zoe", "team/x", None},
		{"ann", "team/x", Pull | Push}, {"bob", "team/x/y/z", Pull | Push}, {"ann", "team", None}, {"ann", "teams/x", None},
		{"ci", "team/x/cache", All}, {"ann", "team/x/cache", Pull | Push}, {"ci", "team/cache", Pull | Push},
		{"zoe", "tools", Pull}, {"zoe", "x/y/tools", Pull}, {"", "tools", None}, {"zoe", "tools/x", None},
		{"zoe", "a/z", Pull}, {"zoe", "a/b/c/z", Pull}, {"zoe", "a", None}, {"zoe", "a/b", None},
		{"eve", "home/a-x/app1", All}, {"eve", "home/-x/app", All}, {"eve", "home/a/app", None}, {"bob", "home/a-x/app", None},
		{"*", "tools", Pull},
	} {
		if got := r.Allowed(test.user, test.repository); got != test.want {
			t.Errorf("%q may %q to %s, want %q", test.user, got, test.repository, test.want)
		}
		for _, one := range []Actions{Pull, Push, Delete} {
			if e := r.Explain(test.user, test.repository, one); e.Allowed != test.want.Has(one) || e.Because == "" || e.Allowed != (e.Rule > 0) {
				t.Errorf("%q, %s, %s: the explanation is %+v", test.user, test.repository, one, e)
			}
		}
	}
}

func TestWithoutRules(t *testing.T) {
	var r *Rules
	if r.Allowed("ann", "x") != All || r.Allowed("", "x") != None || r.Anonymous() {
		t.Error("without rules, who is logged in may do everything, and nobody else anything")
	}
	if !r.Explain("ann", "x", Push).Allowed || r.Explain("", "x", Pull).Allowed {
		t.Error("the explanation says otherwise")
	}
	empty, err := Compile(nil, nil)
	if err != nil || empty.Allowed("ann", "x") != None {
		t.Errorf("no rule allows %v, %v", empty.Allowed("ann", "x"), err)
	}
}

func TestCompileRefuses(t *testing.T) {
	all := []string{"**"}
	for _, test := range []struct {
		rule Rule
		want string
	}{
		{Rule{Repositories: all}, "for nobody"},
		{Rule{Users: []string{"a"}, Actions: []string{"pull"}}, "repositories are missing"},
		{Rule{Repositories: all, Users: []string{"a"}}, "actions are missing"},
		{Rule{Repositories: all, Actions: []string{"pull"}, Anonymous: []string{"pull"}}, "actions are for users"},
		{Rule{Repositories: all, Users: []string{"a"}, Actions: []string{"write"}}, `actions: the action "write" is unknown`},
		{Rule{Repositories: all, Anonymous: []string{"read"}}, `anonymous: the action "read" is unknown`},
		{Rule{Repositories: all, Groups: []string{"ops"}, Actions: []string{"pull"}}, `no group "ops"`},
		{Rule{Repositories: all, Users: []string{""}, Actions: []string{"pull"}}, "name is empty"},
		{Rule{Repositories: []string{""}, Anonymous: []string{"pull"}}, "pattern is empty"},
		{Rule{Repositories: []string{"team**"}, Anonymous: []string{"pull"}}, "stands alone"},
		{Rule{Repositories: []string{"Team/*"}, Anonymous: []string{"pull"}}, "lower-case"},
		{Rule{Repositories: []string{"/a"}, Anonymous: []string{"pull"}}, "a slash too many"},
		{Rule{Repositories: []string{"**/a/**/b/**"}, Anonymous: []string{"pull"}}, "more than 2 times"},
		{Rule{Repositories: []string{strings.Repeat("a", 256)}, Anonymous: []string{"pull"}}, "256 characters"},
	} {
		r, err := Compile([]Rule{{Repositories: all, Anonymous: []string{"pull"}}, test.rule}, nil)
		if r != nil || err == nil || !strings.Contains(err.Error(), test.want) || !strings.HasPrefix(err.Error(), "access: rule 2: ") {
			t.Errorf("%+v: got %v", test.rule, err)
		}
	}
	_, err := Compile([]Rule{{}, {Repositories: all, Anonymous: []string{"pull"}}, {Repositories: all}}, nil)
	if err == nil || !strings.Contains(err.Error(), "rule 1: ") || !strings.Contains(err.Error(), "rule 3: ") || strings.Contains(err.Error(), "rule 2: ") {
		t.Errorf("of two bad rules: %v", err)
	}
	for _, member := range []string{"", Everybody} {
		if _, err := Compile(nil, map[string][]string{"devs": {member}}); err == nil {
			t.Errorf("the member %q was taken", member)
		}
	}
}

func TestActions(t *testing.T) {
	if a, err := ParseActions([]string{"push"}); err != nil || a.String() != "pull,push" {
		t.Errorf("got %s, %v", a, err)
	}
	if a, err := ParseActions([]string{"*"}); err != nil || a != All {
		t.Errorf("got %s, %v", a, err)
	}
	if a, err := ParseActions(nil); err != nil || a != None || a.String() != "" {
		t.Errorf("got %s, %v", a, err)
	}
}

// naive decides with one regular expression for each pattern.
func naive(rules []Rule, groups map[string][]string, user, repository string) Actions {
	set := None
	for _, rule := range rules {
		if !slices.ContainsFunc(rule.Repositories, func(p string) bool { return expression(p).MatchString(repository) }) {
			continue
		}
		anonymous, _ := ParseActions(rule.Anonymous)
		set |= anonymous
		member := slices.Contains(rule.Users, user) || slices.Contains(rule.Users, Everybody)
		for _, g := range rule.Groups {
			member = member || slices.Contains(groups[g], user)
		}
		if user != "" && member {
			actions, _ := ParseActions(rule.Actions)
			set |= actions
		}
	}
	return set
}

func expression(pattern string) *regexp.Regexp {
	e := regexp.QuoteMeta(pattern)
	if e == `\*\*` {
		return regexp.MustCompile(`^.+$`)
	}
	if before, ok := strings.CutSuffix(e, `/\*\*`); ok {
		e = before + `/.+`
	}
	e = strings.ReplaceAll(e, `\*\*/`, `([^/]+/)*`)
	return regexp.MustCompile("^" + strings.ReplaceAll(e, `\*`, `[^/]*`) + "$")
}

// FuzzAllowed makes rules and names of few letters from a seed, so that they meet, and compares the ways to decide.
func FuzzAllowed(f *testing.F) {
	for seed := range uint64(50) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		random := rand.New(rand.NewPCG(seed, 1))
		pick := func(from ...string) string { return from[random.IntN(len(from))] }
		path := func(segment func() string) string {
			segments := make([]string, 1+random.IntN(4))
			for i := range segments {
				segments[i] = segment()
			}
			return strings.Join(segments, "/")
		}
		pattern := func() string {
			return path(func() string { return pick("a", "b", "ab", "*", "a*", "*b", "*a*b", "**") })
		}
		groups := map[string][]string{"g": {"ann", "bob"}, "h": {"eve"}}
		var rules []Rule
		for range 1 + random.IntN(6) {
			rule := Rule{Repositories: []string{pattern(), pattern()}}
			if random.IntN(3) == 0 {
				rule.Anonymous = []string{pick("pull", "push", "delete")}
			} else {
				rule.Users, rule.Actions = []string{pick("ann", "bob", "*")}, []string{pick("pull", "push", "delete", "*")}
				if random.IntN(2) == 0 {
					rule.Groups = []string{pick("g", "h")}
				}
			}
			rules = append(rules, rule)
		}
		r, err := Compile(rules, groups)
		if err != nil {
			if !strings.Contains(err.Error(), "more than 2 times") {
				t.Fatal(err)
			}
			return
		}
		for range 20 {
			user, repository := pick("ann", "bob", "eve", "zoe", ""), path(func() string { return pick("a", "b", "ab", "aab", "ba") })
			want := naive(rules, groups, user, repository)
			if got := r.Allowed(user, repository); got != want {
				t.Fatalf("%+v: %q may %q to %s, want %q", rules, user, got, repository, want)
			}
			for _, one := range []Actions{Pull, Push, Delete} {
				if e := r.Explain(user, repository, one); e.Allowed != want.Has(one) {
					t.Fatalf("%+v: %q, %s, %s: %+v", rules, user, repository, one, e)
				}
			}
		}
	})
}

func BenchmarkAllowed(b *testing.B) {
	groups := make(map[string][]string)
	for g := range 100 {
		for u := range 20 {
			groups[fmt.Sprint("g", g)] = append(groups[fmt.Sprint("g", g)], fmt.Sprint("user", (g*7+u)%500))
		}
	}
	var rules []Rule
	for i := range 1000 {
		rules = append(rules, Rule{Repositories: []string{fmt.Sprintf("team%d/**", i%300), fmt.Sprintf("*/app%d", i)},
			Groups: []string{fmt.Sprint("g", i%100)}, Actions: []string{"pull"}})
	}
	r, err := Compile(rules, groups)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		r.Allowed("user3", "team7/backend/app")
	}
}
