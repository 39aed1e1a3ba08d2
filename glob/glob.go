// Package glob matches names of repositories and tags with patterns, as the rules of a configuration have them. A pattern that
// Parse accepted costs little to match, whatever the name: * goes back to the last one only, and ** is bounded.
package glob

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
	// Deep is the segment that stands for whole segments.
	Deep = "**"
)

// Pattern matches names of repositories. In it, * stands for any characters within a segment, and ** for whole segments: at
// the end one or more (team/** is everything below team/, but not team), elsewhere none or more (**/app is app anywhere).
type Pattern struct{ segments []string }

// ParseRepository reads a pattern for repositories. It fails when no repository could have such a name.
func ParseRepository(s string) (Pattern, error) {
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
		case segment == Deep:
			stars++
		case segment == "":
			return Pattern{}, fmt.Errorf("%q has a slash too many", s)
		case strings.Contains(segment, Deep):
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

// Segments returns what stands between the slashes.
func (p Pattern) Segments() []string { return p.segments }

// Match reports whether a repository's name is one of the pattern's.
func (p Pattern) Match(name string) bool { return matchSegments(p.segments, strings.Split(name, "/")) }

func matchSegments(pattern, name []string) bool {
	switch {
	case len(pattern) == 0:
		return len(name) == 0
	case pattern[0] == Deep && len(pattern) == 1:
		return len(name) > 0
	case pattern[0] == Deep:
		for i := range len(name) {
			if matchSegments(pattern[1:], name[i:]) {
				return true
			}
		}
		return false
	}
	return len(name) > 0 && MatchSegment(pattern[0], name[0]) && matchSegments(pattern[1:], name[1:])
}

// MatchSegment reports whether s, which has no slash, matches a segment in which each * stands for any characters. It goes
// back to the last star only: an earlier one could take nothing that the last one can't.
func MatchSegment(pattern, s string) bool {
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

// Tag is a pattern of tags, in which each * stands for any characters.
type Tag string

// ParseTag reads a pattern for tags. It fails when no tag could match.
func ParseTag(s string) (Tag, error) {
	if s == "" || len(s) > 128 || strings.ContainsFunc(s, notInTagPattern) {
		return "", fmt.Errorf("%q: tags have up to 128 letters, digits and . _ -, and patterns * besides", s[:min(len(s), 128)])
	}
	return Tag(s), nil
}

func notInTagPattern(r rune) bool { return notInPattern(r) && (r < 'A' || r > 'Z') }

// Match reports whether a tag is one of the pattern's.
func (p Tag) Match(tag string) bool { return MatchSegment(string(p), tag) }
