package config

import (
	"reflect"
	"slices"
	"strings"
)

// knownKeys returns every dotted key of the schema, then of the table of unsupported keys: the nearest key is the first
// of several. An item of a list stands under 0.
func knownKeys(t reflect.Type, key string, rows []row) []string {
	var keys []string
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case !container(t):
	case t.Kind() == reflect.Slice:
		keys = append(keys, knownKeys(t.Elem(), join(key, "0"), nil)...)
	case t.Kind() == reflect.Struct:
		for i := range t.NumField() {
			f := t.Field(i)
			for name := range strings.FieldsSeq(f.Tag.Get("choice")) {
				keys = append(keys, join(key, name))
			}
			if name := keyOf(f); name != "-" {
				keys = append(keys, join(key, name))
				keys = append(keys, knownKeys(f.Type, join(key, name), nil)...)
			}
		}
	}
	for _, r := range rows {
		keys = append(keys, r.keys()...)
	}
	return keys
}

// keys returns a row's key, the sections that lead to it and the keys below it.
func (r row) keys() []string {
	var keys []string
	for i, c := range r.key {
		if c == '.' {
			keys = append(keys, r.key[:i])
		}
	}
	keys = append(keys, r.key)
	for name := range strings.FieldsSeq(r.below) {
		keys = append(keys, join(r.key, name))
	}
	return keys
}

// nearest returns the known key that takes the fewest edits of the last name and, dearer, insertions, deletions
// and replacements of whole names before it: both http.adr and http.tls.addr are one edit away from http.addr.
func nearest(key string, known []string) string {
	const most = 100 // bytes: comparing what nobody typed by mistake is a waste of time
	parents, name := split(key[:min(len(key), most)])
	best, found := 0, ""
	for _, k := range known {
		otherParents, other := split(k)
		d := 2*edits([]rune(name), []rune(other)) + 5*edits(parents, otherParents)
		if found == "" || d < best {
			best, found = d, k
		}
	}
	return found
}

func split(key string) (parents []string, name string) {
	names := strings.Split(key, ".")
	last := len(names) - 1
	return names[:last], names[last]
}

// nearestVariable returns the key that a variable was probably meant to set: one or two letters differ, or one name in
// the middle or at the end is missing or too much. Most variables that set nothing belong to other programs and are
// near to no key.
func nearestVariable(path, known []string) (string, bool) {
	name := strings.Join(path, "_")
	best, found := 3, ""
	for _, key := range known {
		other := strings.Split(key, ".")
		if d := distance(name, strings.Join(other, "_")); 0 < d && d < best && 4*d <= len(name) {
			best, found = d, key
		}
		if best > 1 && oneName(path, other) && !hasBelow(key, known) {
			best, found = 1, key
		}
	}
	return found, found != ""
}

// distance returns the number of edits between two names, or a large number when they differ in length by more than 2.
func distance(a, b string) int {
	if d := len(a) - len(b); d < -2 || d > 2 {
		return max(len(a), len(b))
	}
	return edits([]rune(a), []rune(b))
}

func hasBelow(key string, known []string) bool {
	return slices.ContainsFunc(known, func(k string) bool { return strings.HasPrefix(k, key+".") })
}

// oneName reports whether a name in the middle of a key is missing, or one too many follows the key.
func oneName(path, key []string) bool {
	missing := lacksOne(path, key) && path[len(path)-1] == key[len(key)-1]
	return missing || len(key) > 1 && lacksOne(key, path)
}

// lacksOne reports whether short is long without one name that is not the first.
func lacksOne(short, long []string) bool {
	if len(short)+1 != len(long) {
		return false
	}
	i := 0
	for i < len(short) && short[i] == long[i] {
		i++
	}
	return i > 0 && slices.Equal(short[i:], long[i+1:])
}

// edits returns the Levenshtein distance of two sequences.
func edits[T comparable](a, b []T) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range a {
		diagonal := row[0]
		row[0] = i + 1
		for j := range b {
			replace := diagonal
			if a[i] != b[j] {
				replace++
			}
			diagonal = row[j+1]
			row[j+1] = min(replace, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
