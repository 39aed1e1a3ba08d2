package glob

import (
	"regexp"
	"strings"
	"testing"
)

func TestRepositories(t *testing.T) {
	for _, test := range []struct {
		pattern string
		yes, no string
	}{
		{"team/app", "team/app", "team team/app/x team/apps"},
		{"team/*", "team/app team/x", "team team/app/x"},
		{"team/**", "team/app team/app/x", "team teams/x"},
		{"**", "a a/b/c", ""},
		{"**/app", "app a/app a/b/app", "apps app/x"},
		{"a/**/z", "a/z a/b/z a/b/c/z", "a z a/z/x"},
		{"a*b*c", "abc axbyc aabbcc abcbc", "ab acb abcd"},
	} {
		p, err := ParseRepository(test.pattern)
		if err != nil {
			t.Fatal(err)
		}
		for want, names := range map[bool]string{true: test.yes, false: test.no} {
			for name := range strings.FieldsSeq(names) {
				if p.Match(name) != want {
					t.Errorf("%s matches %s: %t", test.pattern, name, !want)
				}
			}
		}
	}
}

func TestTags(t *testing.T) {
	for _, test := range []struct{ pattern, yes, no string }{
		{"latest", "latest", "latest2 Latest"}, {"v*", "v1 v", "1v"}, {"*-rc*", "1-rc 1-rc2", "rc"}, {"*", "a B", ""},
	} {
		p, err := ParseTag(test.pattern)
		if err != nil {
			t.Fatal(err)
		}
		for want, tags := range map[bool]string{true: test.yes, false: test.no} {
			for tag := range strings.FieldsSeq(tags) {
				if p.Match(tag) != want {
					t.Errorf("%s matches %s: %t", test.pattern, tag, !want)
				}
			}
		}
	}
	for _, bad := range []string{"", "a/b", "a b", strings.Repeat("a", 129)} {
		if _, err := ParseTag(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
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

func FuzzParseRepository(f *testing.F) {
	for _, seed := range []string{"**", "team/**", "a*b/**/c", "", "/", "***", "a//b", "ä", "A", "**/**/**"} {
		f.Add(seed, "team/app")
	}
	f.Fuzz(func(t *testing.T, s, name string) {
		p, err := ParseRepository(s)
		if err != nil {
			return
		}
		if p.String() != s {
			t.Errorf("%q became %q", s, p)
		}
		if got, want := p.Match(name), expression(s).MatchString(name); got != want && !strings.Contains(name, "//") &&
			strings.Trim(name, "/") == name && !strings.ContainsAny(name, "\n") && name != "" {
			t.Errorf("%s matches %q: %t", s, name, got)
		}
	})
}
