package config

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// prefix begins the names of the variables that override keys. The rest is the key, in any case, with underscores for
// dots: no key has an underscore.
const prefix = "REGISTRY_"

type variable struct {
	name  string
	path  []string
	value string
}

// step is one part of a key's way through the tree: a name in a section, or a place in a list.
type step struct {
	name  string
	index int
	list  bool
}

// overlay lays the environment over the document, sections before their keys.
func (l *loader) overlay(environ []string) {
	for _, v := range variables(environ) {
		l.override(v)
	}
}

// variables returns those that begin with the prefix, sorted by key, places in a list by number.
func variables(environ []string) []variable {
	var vs []variable
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		rest, ok := strings.CutPrefix(name, prefix)
		if ok && name != PathVariable {
			vs = append(vs, variable{name, strings.Split(strings.ToLower(rest), "_"), value})
		}
	}
	slices.SortStableFunc(vs, func(a, b variable) int {
		return cmp.Or(slices.CompareFunc(a.path, b.path, compareSegments), cmp.Compare(a.name, b.name))
	})
	return vs
}

// compareSegments puts numbers first, in their order: 2 before 10.
func compareSegments(a, b string) int {
	m, errA := strconv.ParseUint(a, 10, 31)
	n, errB := strconv.ParseUint(b, 10, 31)
	switch {
	case errA == nil && errB == nil:
		return cmp.Compare(m, n)
	case errA == nil:
		return -1
	case errB == nil:
		return 1
	}
	return cmp.Compare(a, b)
}

func (l *loader) override(v variable) {
	if l.unchosen(v.path) {
		l.ignored = append(l.ignored, v.name)
		return
	}
	if steps, t, ok := resolve(reflect.TypeFor[Config](), v.path); ok {
		l.overrideKey(v, steps, t)
		return
	}
	if steps, ok := resolveSecretFile(v.path); ok {
		l.overrideSecret(v, steps)
		return
	}
	if r, ok := l.rowOf(v.path); ok {
		l.overrideRow(v, r)
		return
	}
	l.addForeign(v)
}

// unchosen reports whether a key belongs to a choice that another variable ruled out.
func (l *loader) unchosen(path []string) bool {
	kind, ok := l.chosen[path[0]]
	if !ok || len(path) == 1 || path[1] == kind {
		return false
	}
	f, _ := field(reflect.TypeFor[Config](), path[0])
	_, kinds := l.choice(f.Type, path[0])
	return slices.Contains(kinds, path[1])
}

// resolve finds the way to a key of the schema, and its type.
func resolve(t reflect.Type, path []string) ([]step, reflect.Type, bool) {
	for t.Kind() == reflect.Pointer && container(t.Elem()) {
		t = t.Elem()
	}
	if len(path) == 0 {
		return nil, t, true
	}
	next, rest, s := t, path[1:], step{name: path[0]}
	switch {
	case !container(t):
		return nil, nil, false
	case t.Kind() == reflect.Struct:
		f, ok := field(t, path[0])
		// Many programs use REGISTRY_VERSION for their own ends, and the format of the file is the file's to say.
		if !ok || path[0] == "version" {
			return nil, nil, false
		}
		next = f.Type
	case t.Kind() == reflect.Slice:
		index, err := strconv.ParseUint(path[0], 10, 31)
		if err != nil {
			return nil, nil, false
		}
		next, s = t.Elem(), step{name: path[0], index: int(index), list: true}
	case t.Kind() == reflect.Map:
		s.name, rest = mapKey(t, path)
		next = t.Elem()
	}
	steps, leaf, ok := resolve(next, rest)
	return append([]step{s}, steps...), leaf, ok && s.name != ""
}

// mapKey returns the key that a variable names in a map, and what follows it. The underscores of a header's name stand
// for its dashes, which the shell does not allow in a variable.
func mapKey(t reflect.Type, path []string) (key string, rest []string) {
	if t != reflect.TypeFor[Headers]() {
		return strings.Join(path, "_"), nil
	}
	last := len(path) - 1
	if _, err := strconv.ParseUint(path[last], 10, 31); err == nil && last > 0 {
		path, rest = path[:last], path[last:]
	}
	return strings.Join(path, "-"), rest
}

// resolveSecretFile finds the way to a secret whose key is followed by "file".
func resolveSecretFile(path []string) ([]step, bool) {
	last := len(path) - 1
	if path[last] != "file" {
		return nil, false
	}
	steps, t, ok := resolve(reflect.TypeFor[Config](), path[:last])
	return steps, ok && t == reflect.TypeFor[Secret]()
}

// overrideKey sets a key of the schema. An empty variable empties a string and otherwise sets nothing.
func (l *loader) overrideKey(v variable, steps []step, t reflect.Type) {
	switch blank := strings.TrimSpace(v.value) == ""; {
	case t == reflect.TypeFor[Secret]():
		if v.value != "" {
			l.put(l.root, steps, l.text(v, v.value))
		}
	case t.Kind() == reflect.String:
		l.put(l.root, steps, l.text(v, unquote(v.value)))
	case blank:
	case container(t):
		l.overrideContainer(v, steps, t)
	default:
		l.put(l.root, steps, l.text(v, unquote(strings.TrimSpace(v.value))))
	}
}

// unquote takes off the quotes around a whole value: distribution reads values as YAML, and in the list form of a
// compose file the quotes of REGISTRY_X="y" are part of the value.
func unquote(s string) string {
	if n := len(s); n >= 2 && s[0] == s[n-1] && (s[0] == '"' || s[0] == '\'') {
		return s[1 : n-1]
	}
	return s
}

// overrideContainer sets a whole section or list, written as YAML. What another program keeps under the name of a
// plain section is none of ours.
func (l *loader) overrideContainer(v variable, steps []step, t reflect.Type) {
	key := dotted(steps)
	n, err := l.parse([]byte(v.value), v.name, key)
	index, kinds := l.choice(t, key)
	switch {
	case t.Kind() == reflect.Struct && index == nil && (err != nil || isNull(n) || n.Kind != yaml.MappingNode):
		l.addForeign(v)
	case err != nil:
		_, text := splitLine(err)
		l.fail(l.text(v, ""), key, "%s", text)
	case isNull(n):
	case index != nil:
		l.overrideChoice(steps, n, t, kinds)
	default:
		l.put(l.root, steps, n)
	}
}

// overrideChoice makes the choice of a section without dropping the section's other keys.
func (l *loader) overrideChoice(steps []step, n *yaml.Node, t reflect.Type, kinds []string) {
	key := dotted(steps)
	section := l.find(key)
	if isNull(section) {
		l.put(l.root, steps, &yaml.Node{Kind: yaml.MappingNode})
		section = l.find(key)
	}
	if section.Kind != yaml.MappingNode || n.Kind == yaml.SequenceNode {
		l.fail(n, key, "must be one of %s, or a section", strings.Join(kinds, ", "))
		return
	}
	if n.Kind == yaml.ScalarNode {
		if l.selectKind(section, n, t, key) {
			l.chosen[key] = n.Value
		}
		return
	}
	for k := range pairs(n) {
		if slices.Contains(kinds, k.Value) {
			l.chosen[key] = k.Value
		}
	}
	for _, kind := range kinds {
		if l.chosen[key] != "" {
			remove(section, kind)
		}
	}
	for k, value := range pairs(n) {
		remove(section, k.Value)
		section.Content = append(section.Content, k, value)
	}
}

// overrideSecret sets a secret to the content of a file, without one trailing newline.
func (l *loader) overrideSecret(v variable, steps []step) {
	key := dotted(steps)
	if v.value == "" {
		return
	}
	if other, ok := l.variables[l.find(key)]; ok {
		l.fail(l.text(v, ""), key, "%s sets it too; keep one of the two", other)
		return
	}
	data, err := l.read(v.value, maxSecret)
	if err != nil {
		l.fail(l.text(v, ""), key, "can't read the file that holds it: %s", err)
		return
	}
	text, _ := strings.CutSuffix(string(data), "\n")
	text, _ = strings.CutSuffix(text, "\r")
	l.put(l.root, steps, l.text(v, text))
}

// overrideRow notes that a key which Berth does not have is set. Only that it is set matters, not its value.
func (l *loader) overrideRow(v variable, r row) {
	if strings.TrimSpace(v.value) == "" {
		return
	}
	if depth := strings.Count(r.key, ".") + 1; r.counts != "" && len(v.path) > depth && v.path[depth] != r.counts {
		l.ignored = append(l.ignored, v.name)
		return
	}
	if n := l.find(r.key); n != nil && (r.kind || r.asks(n)) {
		return
	}
	var steps []step
	for name := range strings.SplitSeq(r.key, ".") {
		steps = append(steps, step{name: name})
	}
	l.put(l.root, steps, l.text(v, v.value))
}

// addForeign notes that a variable sets nothing, and what it may have been meant to set.
func (l *loader) addForeign(v variable) {
	name := v.name
	if key, ok := nearestVariable(v.path, l.known); ok {
		name += fmt.Sprintf(" (did you mean %s?)", prefix+strings.ToUpper(strings.ReplaceAll(key, ".", "_")))
	}
	l.foreign = append(l.foreign, name)
}

// text makes a node of a variable's value that is text, whatever it looks like.
func (l *loader) text(v variable, value string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: value}
	l.variables[n] = v.name
	return n
}

// put replaces the node at the end of steps, making what is missing on the way. Where the file has something of
// another form, that is what will be reported.
func (l *loader) put(n *yaml.Node, steps []step, leaf *yaml.Node) {
	name := l.variables[leaf]
	for i, s := range steps {
		if isNull(n) {
			*n = yaml.Node{Kind: yaml.MappingNode, Line: n.Line}
			if s.list {
				n.Kind = yaml.SequenceNode
			}
		}
		next := l.at(n, s)
		if next == nil && s.list && n.Kind == yaml.SequenceNode {
			l.fail(leaf, dotted(steps[:i]), "has %d items: the next index is %d, not %d",
				len(n.Content), len(n.Content), s.index)
		}
		if next == nil {
			return
		}
		if next.Kind == 0 {
			l.variables[next] = name
		}
		n = next
	}
	*n = *leaf
	l.variables[n] = name
}

// at returns the node one step below a section or a list, a new one where there is none yet. It returns nil when n has
// another form or the place is beyond the end of the list.
func (l *loader) at(n *yaml.Node, s step) *yaml.Node {
	switch {
	case s.list && n.Kind == yaml.SequenceNode && s.index <= len(n.Content):
		if s.index == len(n.Content) {
			n.Content = append(n.Content, &yaml.Node{})
		}
		return n.Content[s.index]
	case !s.list && n.Kind == yaml.MappingNode:
		for k, value := range pairs(n) {
			if strings.EqualFold(k.Value, s.name) {
				return value
			}
		}
		value := &yaml.Node{}
		n.Content = append(n.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: s.name}, value)
		return value
	}
	return nil
}

func dotted(steps []step) string {
	names := make([]string, len(steps))
	for i, s := range steps {
		names[i] = s.name
	}
	return strings.Join(names, ".")
}
