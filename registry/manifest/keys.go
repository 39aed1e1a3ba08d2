package manifest

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
)

// level says what the keys of a JSON object mean.
type level int

const (
	atFree level = iota // annotations, and fields that the specification does not know
	atDocument
	atDescriptor
	atPlatform
)

// fields returns the keys that mean something at a level.
func (l level) fields() []string {
	switch l {
	case atDocument:
		return documentFields[:]
	case atDescriptor:
		return descriptorFields[:]
	case atPlatform:
		return platformFields[:]
	}
	return nil
}

var (
	documentFields = [...]string{"schemaVersion", "mediaType", "artifactType", "subject", "config", "layers", "manifests",
		"annotations", "fsLayers"}
	descriptorFields = [...]string{"mediaType", "digest", "size", "urls", "annotations", "data", "platform", "artifactType"}
	platformFields   = [...]string{"architecture", "os", "os.version", "os.features", "variant"}
)

// under returns the level of the objects that a key holds.
func (l level) under(key string) level {
	switch l {
	case atDocument:
		switch key {
		case "subject", "config", "layers", "manifests":
			return atDescriptor
		}
	case atDescriptor:
		if key == "platform" {
			return atPlatform
		}
	}
	return atFree
}

// checkKeys fails when two parsers may take different fields from body, which is valid JSON: when a key is twice in an
// object (which one counts?) or differs from a field's name only in case (does it count? To encoding/json it does). It fails, too, for
// lists that are too long: a few bytes of them would become fifty times as many.
func checkKeys(body []byte) error {
	w := walker{next: atDocument}
	for i := 0; i < len(body); i++ {
		switch body[i] {
		case '{', '[':
			w.open(body[i] == '{')
		case '}', ']':
			if err := w.close(); err != nil {
				return err
			}
		case ',':
			if err := w.separate(); err != nil {
				return err
			}
		case '"':
			end := stringEnd(body, i)
			if err := w.str(body[i:end]); err != nil {
				return err
			}
			i = end - 1
		}
	}
	return nil
}

// stringEnd returns where the string ends that begins at i, behind its closing quote.
func stringEnd(body []byte, i int) int {
	for i++; body[i] != '"'; i++ {
		if body[i] == '\\' {
			i++
		}
	}
	return i + 1
}

// walker follows a JSON document. It does not recurse: documents may be deeply nested.
type walker struct {
	stack []scope
	keys  []string // those of every open object
	next  level    // of the object that may begin next
	atKey bool     // whether a string would be a key
	more  int      // elements of lists of descriptors behind their first
}

// scope is an open object, or an open array whose objects are of its level.
type scope struct {
	level  level
	object bool
	keys   int // where the object's begin in walker.keys
}

func (w *walker) open(object bool) {
	w.stack = append(w.stack, scope{level: w.next, object: object, keys: len(w.keys)})
	w.atKey = object
}

// separate goes on to the next member or element.
func (w *walker) separate() error {
	top := w.stack[len(w.stack)-1]
	w.next = top.level
	w.atKey = top.object
	if top.level == atDescriptor && !top.object {
		w.more++
	}
	if w.more > MaxReferences {
		return invalid("the manifest references more than %d blobs and manifests", MaxReferences)
	}
	return nil
}

// close ends the innermost object or array. It sorts the keys to find a duplicate: an object may have very many.
func (w *walker) close() error {
	top := w.stack[len(w.stack)-1]
	w.stack = w.stack[:len(w.stack)-1]
	w.atKey = false
	keys := w.keys[top.keys:]
	w.keys = w.keys[:top.keys]
	slices.Sort(keys)
	for i := 1; i < len(keys); i++ {
		if keys[i] == keys[i-1] {
			return invalid("the manifest has the key %q twice in one object", clip(keys[i]))
		}
	}
	return nil
}

// str takes a string, which is a key or a value.
func (w *walker) str(quoted []byte) error {
	if !w.atKey {
		return nil
	}
	w.atKey = false
	l := w.stack[len(w.stack)-1].level
	key, err := l.key(quoted)
	if err != nil {
		return err
	}
	w.keys = append(w.keys, key)
	w.next = l.under(key)
	return nil
}

// key returns the key that quoted stands for, and fails when it nearly is a field of the level.
func (l level) key(quoted []byte) (string, error) {
	raw := quoted[1 : len(quoted)-1]
	for _, field := range l.fields() {
		if string(raw) == field {
			return field, nil
		}
	}
	key := string(raw)
	if bytes.IndexByte(raw, '\\') >= 0 {
		if err := json.Unmarshal(quoted, &key); err != nil {
			return "", describe(err)
		}
	}
	for _, field := range l.fields() {
		if key != field && strings.EqualFold(key, field) {
			return "", invalid("the manifest has a key %q, which has to be spelled %q", clip(key), field)
		}
	}
	return key, nil
}
