package config

import (
	"encoding"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// decode sets v, which must be settable, from a node. What is null or wrong leaves v as it is.
func (l *loader) decode(n *yaml.Node, v reflect.Value, key string) {
	switch {
	case isNull(n):
	case v.Kind() == reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		l.decode(n, v.Elem(), key)
	case !container(v.Type()):
		l.scalar(n, v, key)
	case v.Kind() == reflect.Struct:
		l.section(n, v, key)
	case v.Kind() == reflect.Slice:
		l.list(n, v, key)
	case v.Kind() == reflect.Map:
		l.table(n, v, key)
	}
}

// container reports whether a type is written as a mapping or a list in YAML.
func container(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Struct, reflect.Slice, reflect.Map:
		return !reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
	}
	return false
}

func (l *loader) scalar(n *yaml.Node, v reflect.Value, key string) {
	if n.Kind != yaml.ScalarNode {
		l.fail(n, key, "must be a single value, not %s", describe(n))
		return
	}
	if err := setText(v, n.Value); err != nil {
		l.fail(n, key, "%s", err)
	}
}

// setText sets a value that is written as one word.
func setText(v reflect.Value, text string) error {
	switch p := v.Addr().Interface().(type) {
	case encoding.TextUnmarshaler:
		return p.UnmarshalText([]byte(text))
	case *time.Duration:
		return set(p, text, parseDuration)
	case *bool:
		return set(p, text, parseBool)
	case *int:
		return set(p, text, parseInt)
	}
	v.SetString(text)
	return nil
}

// set leaves p as it is when the text can't be read.
func set[T any](p *T, text string, parse func(string) (T, error)) error {
	value, err := parse(text)
	if err == nil {
		*p = value
	}
	return err
}

func (l *loader) list(n *yaml.Node, v reflect.Value, key string) {
	if n.Kind != yaml.SequenceNode {
		l.fail(n, key, "must be a list such as [a, b], not %s", describe(n))
		return
	}
	items := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
	for i, item := range n.Content {
		if at := join(key, strconv.Itoa(i)); isNull(item) {
			l.fail(item, at, "must not be empty")
		} else {
			l.decode(item, items.Index(i), at)
		}
	}
	v.Set(items)
}

// table decodes a mapping whose keys are the user's.
func (l *loader) table(n *yaml.Node, v reflect.Value, key string) {
	if n.Kind != yaml.MappingNode {
		l.fail(n, key, "must be a section, not %s", describe(n))
		return
	}
	entries := reflect.MakeMap(v.Type())
	for k, item := range pairs(n) {
		value := reflect.New(v.Type().Elem()).Elem()
		l.decode(item, value, join(key, k.Value))
		entries.SetMapIndex(reflect.ValueOf(k.Value), value)
	}
	v.Set(entries)
}

// section decodes a mapping whose keys are the fields of a struct and the rows of the table of unsupported keys.
func (l *loader) section(n *yaml.Node, v reflect.Value, key string) {
	if n.Kind != yaml.MappingNode {
		l.fail(n, key, "must be a section, not %s", describe(n))
		return
	}
	l.choose(n, v, key)
	for name, value := range pairs(n) {
		l.member(name, value, v, join(key, name.Value))
	}
}

// member decodes one key of a section.
func (l *loader) member(name, n *yaml.Node, v reflect.Value, key string) {
	if r, ok := l.rowAt(key); ok {
		l.apply(r, n)
		return
	}
	if f, ok := field(v.Type(), name.Value); ok {
		l.decodeField(n, v.FieldByIndex(f.Index), f, key)
		return
	}
	_, kinds := l.choice(v.Type(), "")
	switch {
	case slices.Contains(kinds, name.Value):
		if !isEmpty(n) {
			l.fail(n, key, "takes no settings")
		}
	case !l.leadsToRow(key):
		l.unknown(name, key)
	case !isNull(n):
		l.section(n, reflect.ValueOf(&struct{}{}).Elem(), key)
	}
}

func (l *loader) unknown(name *yaml.Node, key string) {
	if l.full() {
		l.more++
		return
	}
	l.fail(name, key, "unknown key; the nearest known one is %s", nearest(key, l.known))
}

// decodeField decodes a key whose values may be limited to a few words.
func (l *loader) decodeField(n *yaml.Node, v reflect.Value, f reflect.StructField, key string) {
	words := strings.Fields(f.Tag.Get("oneof"))
	if len(words) == 0 || isNull(n) || n.Kind != yaml.ScalarNode {
		l.decode(n, v, key)
		return
	}
	switch word := strings.ToLower(n.Value); {
	case slices.Contains(words, word):
		v.SetString(word)
	case word != "":
		l.fail(n, key, "must be one of %s, not %q", strings.Join(words, ", "), clip(n.Value))
	}
}

// field finds a struct's field by its key.
func field(t reflect.Type, key string) (reflect.StructField, bool) {
	for i := range t.NumField() {
		if f := t.Field(i); keyOf(f) == key && key != "-" {
			return f, true
		}
	}
	return reflect.StructField{}, false
}

// keyOf returns the key of a field, "-" when it has none.
func keyOf(f reflect.StructField) string {
	key, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
	return key
}

// choice returns the index of the field that says which of a section's keys is chosen, and these keys: those that
// Berth has and, where key is the section's, those that are in the table of unsupported keys. The index is nil for an
// ordinary section.
func (l *loader) choice(t reflect.Type, key string) (index []int, kinds []string) {
	if t.Kind() != reflect.Struct {
		return nil, nil
	}
	for i := range t.NumField() {
		if words := t.Field(i).Tag.Get("choice"); words != "" {
			index, kinds = t.Field(i).Index, strings.Fields(words)
		}
	}
	if index == nil || key == "" {
		return index, kinds
	}
	for _, r := range l.rows {
		if name, ok := strings.CutPrefix(r.key, key+"."); ok && r.kind {
			kinds = append(kinds, name)
		}
	}
	return index, kinds
}

// choose sets the field that says which of a section's keys is chosen.
func (l *loader) choose(n *yaml.Node, v reflect.Value, key string) {
	index, kinds := l.choice(v.Type(), key)
	var chosen, origins []string
	var last *yaml.Node
	for k, value := range pairs(n) {
		if slices.Contains(kinds, k.Value) {
			last = value
			chosen = append(chosen, k.Value)
			origins = append(origins, fmt.Sprintf("%s (%s)", k.Value, l.origin(value)))
		}
	}
	if len(chosen) > 1 {
		l.fail(last, key, "only one of %s can be used; remove the others or set %s to the one that you want",
			strings.Join(origins, ", "), prefix+strings.ToUpper(key))
	}
	if len(chosen) == 1 {
		v.FieldByIndex(index).SetString(chosen[0])
	}
}

// expandChoices writes a section whose only value is a choice, such as "auth: none", in the long form.
func (l *loader) expandChoices() {
	for i := range reflect.TypeFor[Config]().NumField() {
		f := reflect.TypeFor[Config]().Field(i)
		n := child(l.root, keyOf(f))
		index, _ := l.choice(f.Type, keyOf(f))
		if index == nil || isNull(n) || n.Kind != yaml.ScalarNode {
			continue
		}
		kind := *n
		*n = yaml.Node{Kind: yaml.MappingNode, Line: n.Line}
		l.selectKind(n, &kind, f.Type, keyOf(f))
	}
}

// selectKind leaves one of a section's choices, the one that a node names. The message keeps the value to itself: who
// mistakes the key may have put a password there.
func (l *loader) selectKind(section, kind *yaml.Node, t reflect.Type, key string) bool {
	_, kinds := l.choice(t, key)
	if !slices.Contains(kinds, kind.Value) {
		_, supported := l.choice(t, "")
		l.fail(kind, key, "must be one of %s", strings.Join(supported, ", "))
		return false
	}
	for _, other := range kinds {
		if other != kind.Value {
			remove(section, other)
		}
	}
	if child(section, kind.Value) == nil {
		value := &yaml.Node{Kind: yaml.MappingNode, Line: kind.Line}
		if name, ok := l.variables[kind]; ok {
			l.variables[value] = name
		}
		section.Content = append(section.Content, kind, value)
	}
	return true
}
