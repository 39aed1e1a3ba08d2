package access

import (
	"strings"

	"berth/glob"
)

// node is a place in the tree of all patterns, which branches at their segments: one walk along a name finds every pattern
// that matches it.
type node struct {
	literal map[string]*node
	stars   []star
	deep    *node  // after **: none or more segments
	here    grants // of patterns that end here
	rest    grants // of patterns that end with ** here: one or more segments
}

type star struct {
	pattern string
	node    *node
}

// grants are what patterns that end at the same place allow.
type grants struct {
	everybody, loggedIn Actions
	users               map[string]Actions
}

// insert returns the grants of the place where a pattern ends, made if missing.
func (n *node) insert(segments []string) *grants {
	for len(segments) > 0 {
		if segments[0] == glob.Deep && len(segments) == 1 {
			return &n.rest
		}
		n = n.child(segments[0])
		segments = segments[1:]
	}
	return &n.here
}

func (n *node) child(segment string) *node {
	switch {
	case segment == glob.Deep:
		if n.deep == nil {
			n.deep = &node{}
		}
		return n.deep
	case strings.Contains(segment, "*"):
		for _, g := range n.stars {
			if g.pattern == segment {
				return g.node
			}
		}
		n.stars = append(n.stars, star{segment, &node{}})
		return n.stars[len(n.stars)-1].node
	}
	if n.literal == nil {
		n.literal = make(map[string]*node)
	}
	if n.literal[segment] == nil {
		n.literal[segment] = &node{}
	}
	return n.literal[segment]
}

func (g *grants) add(c compiled) {
	g.everybody |= c.anonymous
	for user := range c.members {
		if user == Everybody {
			g.loggedIn |= c.actions
			continue
		}
		if g.users == nil {
			g.users = make(map[string]Actions)
		}
		g.users[user] |= c.actions
	}
}

func (g *grants) of(user string) Actions {
	if user == "" {
		return g.everybody
	}
	return g.everybody | g.loggedIn | g.users[user]
}

// allowed collects what all patterns below n that match name allow. It stops when nothing is left to allow.
func (n *node) allowed(user, name string) Actions {
	set := n.rest.of(user)
	segment, tail, more := strings.Cut(name, "/")
	if next := n.literal[segment]; next != nil {
		set |= next.after(user, tail, more)
	}
	for i := 0; i < len(n.stars) && set != All; i++ {
		if g := n.stars[i]; glob.MatchSegment(g.pattern, segment) {
			set |= g.node.after(user, tail, more)
		}
	}
	for n.deep != nil && set != All {
		set |= n.deep.allowed(user, name)
		if !more {
			break
		}
		name = tail
		_, tail, more = strings.Cut(name, "/")
	}
	return set
}

// after is what the patterns allow of which the segments up to n matched, when tail is left of the name.
func (n *node) after(user, tail string, more bool) Actions {
	if !more {
		return n.here.of(user)
	}
	return n.allowed(user, tail)
}
