package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

const (
	maxNodes = 50_000 // of a document whose aliases are expanded
	maxDepth = 64
)

// parseFile sets the root from a file. It reports whether the file could be read as YAML.
func (l *loader) parseFile(data []byte) bool {
	n, err := l.parse(data, "", "")
	switch {
	case err != nil:
		line, text := splitLine(err)
		l.fail(&yaml.Node{Line: line}, "", "%s", text)
	case isNull(n):
	case n.Kind != yaml.MappingNode:
		l.fail(n, "", "must be a YAML mapping of sections such as http and storage")
	default:
		l.root = n
	}
	return err == nil
}

// parse reads one YAML document, the value of a key, and returns it without aliases and merge keys. The error is about
// syntax; a key that is there twice is reported as a problem. A document without content is nil.
func (l *loader) parse(data []byte, variable, key string) (*yaml.Node, error) {
	var doc, next yaml.Node
	d := yaml.NewDecoder(bytes.NewReader(data))
	err := d.Decode(&doc)
	if errors.Is(err, io.EOF) || err == nil && len(doc.Content) == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if err := d.Decode(&next); !errors.Is(err, io.EOF) {
		return nil, errors.New("must be a single YAML document")
	}
	e := expander{loader: l, variable: variable, left: maxNodes}
	n := e.expand(doc.Content[0], key, 0)
	if e.left < 0 {
		return nil, errors.New("too large or too deeply nested for a configuration")
	}
	return n, nil
}

// splitLine separates the line from the text of the YAML parser's error. An unknown anchor's name is left out: it may
// be a part of a secret that should have been quoted.
func splitLine(err error) (line int, text string) {
	text = strings.TrimPrefix(err.Error(), "yaml: ")
	if rest, ok := strings.CutPrefix(text, "line "); ok {
		if number, message, ok := strings.Cut(rest, ": "); ok {
			if n, err := strconv.Atoi(number); err == nil {
				line, text = n, message
			}
		}
	}
	if strings.HasPrefix(text, "unknown anchor") {
		text = "a value that begins with * refers to an anchor that does not exist; quote it if it is text"
	}
	return line, "not valid YAML: " + text
}

// expander copies a tree, putting content in the place of aliases and merge keys, within a budget.
type expander struct {
	*loader
	variable string
	left     int
}

func (e *expander) expand(n *yaml.Node, key string, depth int) *yaml.Node {
	e.left--
	if depth > maxDepth {
		e.left = -1
	}
	if e.left < 0 {
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null"}
	}
	if n.Kind == yaml.AliasNode {
		return e.expand(n.Alias, key, depth+1)
	}
	out := &yaml.Node{Kind: n.Kind, Tag: n.Tag, Value: n.Value, Line: n.Line}
	if e.variable != "" {
		e.variables[out] = e.variable
	}
	if n.Style&yaml.TaggedStyle != 0 && !plainTag(n.ShortTag()) {
		e.fail(out, key, "has the YAML tag %s, which means nothing here", clip(n.ShortTag()))
	}
	switch n.Kind {
	case yaml.SequenceNode:
		for i, item := range n.Content {
			out.Content = append(out.Content, e.expand(item, join(key, strconv.Itoa(i)), depth+1))
		}
	case yaml.MappingNode:
		e.expandMapping(n, out, key, depth)
	}
	return out
}

func plainTag(tag string) bool {
	switch tag {
	case "!!str", "!!int", "!!float", "!!bool", "!!null", "!!map", "!!seq":
		return true
	}
	return false
}

// expandMapping copies the keys of n to out, first its own, then those that it merges and does not have.
func (e *expander) expandMapping(n, out *yaml.Node, key string, depth int) {
	lines := make(map[string]int)
	var merged []*yaml.Node
	for k, v := range pairs(n) {
		if k.Kind == yaml.AliasNode {
			k = k.Alias
		}
		switch first, twice := lines[k.Value]; {
		case k.Kind != yaml.ScalarNode:
			e.fail(e.expand(k, key, depth+1), key, "has a key that is not a plain name")
		case k.ShortTag() == "!!merge":
			merged = append(merged, e.expand(v, key, depth+1))
		case twice:
			e.fail(e.expand(k, key, depth+1), join(key, k.Value), "is there twice, first in line %d", first)
		default:
			lines[k.Value] = k.Line
			out.Content = append(out.Content, e.expand(k, key, depth+1), e.expand(v, join(key, k.Value), depth+1))
		}
	}
	for _, m := range merged {
		e.merge(out, m, key, lines)
	}
}

// merge adds to out what m, a mapping or a list of mappings, has and out has not.
func (e *expander) merge(out, m *yaml.Node, key string, lines map[string]int) {
	if m.Kind == yaml.SequenceNode {
		for _, item := range m.Content {
			e.merge(out, item, key, lines)
		}
		return
	}
	if m.Kind != yaml.MappingNode {
		e.fail(m, key, "a merge key (<<) needs an alias of a mapping")
		return
	}
	for k, v := range pairs(m) {
		if _, ok := lines[k.Value]; !ok {
			lines[k.Value] = k.Line
			out.Content = append(out.Content, k, v)
		}
	}
}

// pairs iterates over the keys and values of a mapping.
func pairs(n *yaml.Node) iter.Seq2[*yaml.Node, *yaml.Node] {
	return func(yield func(*yaml.Node, *yaml.Node) bool) {
		for i := 0; i+1 < len(n.Content); i += 2 {
			if !yield(n.Content[i], n.Content[i+1]) {
				return
			}
		}
	}
}

// child returns the value of a mapping's key, or nil.
func child(n *yaml.Node, name string) *yaml.Node {
	if n.Kind != yaml.MappingNode {
		return nil
	}
	for k, v := range pairs(n) {
		if k.Value == name {
			return v
		}
	}
	return nil
}

// remove takes a key out of a mapping.
func remove(n *yaml.Node, name string) {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == name {
			n.Content = append(n.Content[:i], n.Content[i+2:]...)
			return
		}
	}
}

// find returns the node of a dotted key, or nil.
func (l *loader) find(key string) *yaml.Node {
	n := l.root
	for name := range strings.SplitSeq(key, ".") {
		if n = child(n, name); n == nil {
			return nil
		}
	}
	return n
}

func isNull(n *yaml.Node) bool {
	return n == nil || n.Kind == 0 || n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null"
}

// isEmpty reports whether a node is null or a container of nothing.
func isEmpty(n *yaml.Node) bool {
	return isNull(n) || n.Kind != yaml.ScalarNode && len(n.Content) == 0
}

// describe names what a node is, for a person.
func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a section"
	case yaml.SequenceNode:
		return "a list"
	}
	return "a single value"
}

func join(key, name string) string {
	if key == "" {
		return name
	}
	return fmt.Sprintf("%s.%s", key, name)
}
