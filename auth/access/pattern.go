package access

import (
	"errors"
	"fmt"
	"strings"
)

const (
	// maxPattern is the length of a repository's name, and so of what can match one.
	maxPattern = 255
	// maxDeep bounds the work of matching, which grows with the length of a name to this power.
	maxDeep = 2
	deep    = "**"
)

// Pattern matches names of repositories. In it, * stands for any characters within a segment, and ** for whole segments: at
// the end one or more (team/** is everything below team/, but not team), elsewhere none or more (**/app is app anywhere).
type Pattern struct{ segments []string }

// ParsePattern reads a pattern. It fails when no repository could have such a name.
func ParsePattern(s string) (Pattern, error) {
	switch {
	case s == "":
		return Pattern{}, errors.New("the pattern is empty: use ** for every repository")
	case len(s) > maxPattern:
		return Pattern{}, fmt.Errorf("the pattern has %d characters, more than a repository's name", len(s))
	}
	p := Pattern{strings.Split(s, "/")}
	stars := 0
	for _, segment := range p.segments {
		switch {
		case segment == deep:
			stars++
		case segment == "":
			return Pattern{}, fmt.Errorf("%q has a slash too many", s)
		case strings.Contains(segment, deep):
			return Pattern{}, fmt.Errorf("%q: ** stands alone between slashes, as in team/**", s)
		case strings.ContainsFunc(segment, notInPattern):
			return Pattern{}, fmt.Errorf("%q: names of repositories have lower-case letters, digits and . _ - only, and patterns * and ** besides", s)
		}
	}
	if stars > maxDeep {
		return Pattern{}, fmt.Errorf("%q has more than %d times **", s, maxDeep)
	}
	return p, nil
}

func notInPattern(r rune) bool {
	switch {
	case 'a' <= r && r <= 'z', '0' <= r && r <= '9', r == '.', r == '_', r == '-', r == '*':
		return false
	}
	return true
}

// String returns the pattern as it was written.
func (p Pattern) String() string { return strings.Join(p.segments, "/") }

// Match reports whether a repository's name is one of the pattern's.
func (p Pattern) Match(name string) bool { return matchSegments(p.segments, strings.Split(name, "/")) }

func matchSegments(pattern, name []string) bool {
	switch {
	case len(pattern) == 0:
		return len(name) == 0
	case pattern[0] == deep && len(pattern) == 1:
		return len(name) > 0
	case pattern[0] == deep:
		for i := range len(name) {
			if matchSegments(pattern[1:], name[i:]) {
				return true
			}
		}
		return false
	}
	return len(name) > 0 && matchSegment(pattern[0], name[0]) && matchSegments(pattern[1:], name[1:])
}

// matchSegment goes back to the last star only: an earlier one could take nothing that the last one can't.
func matchSegment(pattern, s string) bool {
	star, resume := -1, 0
	p, i := 0, 0
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, resume = p, i
			p++
		case p < len(pattern) && pattern[p] == s[i]:
			p++
			i++
		case star >= 0:
			resume++
			p, i = star+1, resume
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}
