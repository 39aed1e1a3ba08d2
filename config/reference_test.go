package config

import (
	"bytes"
	"cmp"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// referencePath is of the page that is made of what this package says about itself.
const referencePath = "../docs/configuration.md"

// TestReference holds docs/configuration.md to the code. CONFIGURATION_TABLE is where to write it anew (make configuration-table).
func TestReference(t *testing.T) {
	r := newReference(t)
	page := r.page()
	if path := os.Getenv("CONFIGURATION_TABLE"); path != "" {
		if err := os.WriteFile(path, page, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	kept, err := os.ReadFile(referencePath)
	if err != nil || !bytes.Equal(kept, page) {
		t.Errorf("%s is not what the code says: make configuration-table (%v)", referencePath, err)
	}
}

// own are the keys that distribution's registry does not have, with all that is below them.
func own() []string {
	return strings.Fields(`http.tls.mode http.tls.hosts http.tls.learn http.tls.auto http.trustedproxies storage.directory storage.filesystem.minfree
		storage.s3.sessiontoken storage.s3.memory storage.s3.checksum storage.delete.children storage.redirect.endpoint storage.cache.disk metadata 
		auth.initialpassword auth.tokens access groups audit gc policy indexes immutability quota trash retention admin`)
}

// reference makes the page.
type reference struct {
	t     *testing.T
	docs  map[string]string // of TYPE and TYPE.FIELD
	names map[string]string // keys by the names of their fields
	out   bytes.Buffer
}

func newReference(t *testing.T) *reference {
	r := &reference{t: t, docs: make(map[string]string), names: make(map[string]string)}
	paths, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, declaration := range file.Decls {
			if general, ok := declaration.(*ast.GenDecl); ok {
				r.readAll(general)
			}
		}
	}
	return r
}

// readAll takes the comments of the types of a declaration.
func (r *reference) readAll(d *ast.GenDecl) {
	for _, spec := range d.Specs {
		if s, ok := spec.(*ast.TypeSpec); ok {
			r.read(s, cmp.Or(s.Doc, d.Doc))
		}
	}
}

// read takes the comments of a type and its fields.
func (r *reference) read(s *ast.TypeSpec, doc *ast.CommentGroup) {
	r.docs[s.Name.Name] = doc.Text()
	fields, ok := s.Type.(*ast.StructType)
	if !ok {
		return
	}
	for _, f := range fields.Fields.List {
		for _, name := range f.Names {
			if f.Tag == nil { // which is in no Config
				continue
			}
			r.docs[s.Name.Name+"."+name.Name] = f.Doc.Text()
			if key, _, _ := strings.Cut(reflect.StructTag(strings.Trim(f.Tag.Value, "`")).Get("yaml"), ","); key != "-" {
				r.names[name.Name] = key
			}
		}
	}
}

func (r *reference) printf(format string, args ...any) { fmt.Fprintf(&r.out, format, args...) }

func (r *reference) page() []byte {
	r.printf("%s", `# Configuration

<!-- Made from the code of package config by `+"`make configuration-table`"+`: change the comments there. -->

The file is that of distribution's registry (`+"`registry:2`, `registry:3`"+`), with keys of Berth's own. `+"`registry config check FILE`"+` says what
counts, or all that is wrong. A key that nobody knows is an error.

Each key can be given, or overridden, by the environment variable below it. Where a key holds several values the variable has them as YAML.
A number in a key is a place in a list, from 0: `+"`access.0.users` is `users` of the first item of `access`"+`, and in the file a line that begins
with `+"`-`. `REGISTRY_HTTP_TRUSTEDPROXIES=[10.0.0.0/8]` is the same as `REGISTRY_HTTP_TRUSTEDPROXIES_0=10.0.0.0/8`"+`. A file begins with
`+"`version: 0.1`"+`. A variable that ends in `+"`_FILE`"+` names a file with the secret. Durations have a unit (`+"`90s`, `45m`, `24h`"+`), and sizes may have one (`+"`256MiB`, `1GB`"+`).

"Also in distribution" says whether distribution's registry has the key, too. Its keys that are not here are at the [end](#distributions-other-keys).
`)
	root := reflect.TypeFor[Config]()
	defaults := reflect.ValueOf(Default()).Elem()
	r.heading("General")
	for i := range root.NumField() {
		if f := root.Field(i); !r.isSection(f.Type) {
			r.field(root, f, "", defaults.Field(i))
		}
	}
	for i := range root.NumField() {
		f := root.Field(i)
		if !r.isSection(f.Type) {
			continue
		}
		r.printf("\n## %s\n\n%s\n\n", keyOf(f), r.meaning(root, f))
		r.table()
		r.section(f.Type, keyOf(f), defaults.Field(i))
	}
	r.unsupported()
	return r.out.Bytes()
}

func (r *reference) heading(title string) {
	r.printf("\n## %s\n\n", title)
	r.table()
}

func (r *reference) table() {
	r.printf("| key | value | default | also in distribution | meaning |\n|---|---|---|---|---|\n")
}

// isSection reports whether a type has keys of its own, or is a list of what has.
func (r *reference) isSection(t reflect.Type) bool {
	if t.Kind() == reflect.Slice || t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t.Kind() == reflect.Struct && container(t)
}

// section writes the keys of a section. Those of a list's have no value, and no defaults.
func (r *reference) section(t reflect.Type, key string, value reflect.Value) {
	switch t.Kind() {
	case reflect.Slice:
		t, key, value = t.Elem(), key+".0", reflect.Value{}
	case reflect.Pointer:
		t, value = t.Elem(), reflect.Value{}
	}
	for i := range t.NumField() {
		var at reflect.Value
		if value.IsValid() {
			at = value.Field(i)
		}
		r.field(t, t.Field(i), key, at)
	}
}

// field writes the row of a field, and those below it.
func (r *reference) field(t reflect.Type, f reflect.StructField, section string, value reflect.Value) {
	if keyOf(f) == "-" {
		r.choices(f, section)
		return
	}
	key := keyOf(f)
	if section != "" {
		key = section + "." + key
	}
	r.row(key, f.Type, r.kind(f), r.standard(f.Type, value), r.meaning(t, f))
	if r.isSection(f.Type) {
		r.section(f.Type, key, value)
	}
}

// choices writes the rows of choices that have no keys below them.
func (r *reference) choices(f reflect.StructField, section string) {
	for choice := range strings.FieldsSeq(f.Tag.Get("choice")) {
		if choice == AuthNone {
			r.row(section+"."+choice, reflect.TypeFor[struct{}](), "", "", "everybody may do everything. It is written `"+section+": "+choice+"`, or `REGISTRY_AUTH=none`.")
		}
	}
}

func (r *reference) row(key string, t reflect.Type, kind, standard, meaning string) {
	if meaning == "" {
		r.t.Errorf("%s: its field needs a comment", key)
	}
	variable := strings.ToUpper(prefix + strings.ReplaceAll(key, ".", "_"))
	_, _, ok := resolve(reflect.TypeFor[Config](), strings.Split(key, "."))
	names := "`" + key + "`"
	if ok {
		names += "<br>`" + variable + "`"
	}
	if t == reflect.TypeFor[Secret]() {
		names += "<br>`" + variable + "_FILE`"
	}
	also := "yes"
	if slices.ContainsFunc(own(), func(k string) bool { return k == key || strings.HasPrefix(key, k+".") }) {
		also = "no"
	}
	r.printf("| %s | %s | %s | %s | %s |\n", names, kind, standard, also, strings.ReplaceAll(meaning, "|", `\|`))
}

// kind says what the value of a key is.
func (r *reference) kind(f reflect.StructField) string {
	if words := f.Tag.Get("oneof"); words != "" {
		return "`" + strings.Join(strings.Fields(words), "`, `") + "`"
	}
	return kindOf(f.Type)
}

func kindOf(t reflect.Type) string {
	named := map[reflect.Type]string{
		reflect.TypeFor[time.Duration](): "duration", reflect.TypeFor[Size](): "size", reflect.TypeFor[Secret](): "secret",
		reflect.TypeFor[Network](): "network", reflect.TypeFor[*regexp.Regexp](): "regular expression", reflect.TypeFor[Headers](): "list of strings, by names",
	}
	if name := named[t]; name != "" {
		return name
	}
	switch t.Kind() {
	case reflect.Pointer:
		return kindOf(t.Elem())
	case reflect.Slice:
		return "list of " + kindOf(t.Elem()) + "s"
	case reflect.Map:
		return kindOf(t.Elem()) + ", by names"
	case reflect.Struct:
		return "section"
	case reflect.Bool:
		return "`true`, `false`"
	case reflect.Int:
		return "number"
	}
	return t.Kind().String()
}

// standard is the default of a key.
func (r *reference) standard(t reflect.Type, value reflect.Value) string {
	if !value.IsValid() || r.isSection(t) || value.Kind() != reflect.Bool && value.IsZero() {
		return ""
	}
	text := fmt.Sprint(value.Interface())
	if t == reflect.TypeFor[time.Duration]() {
		text = regexp.MustCompile(`([hm])0[ms](0s)?$`).ReplaceAllString(text, "$1")
	}
	return "`" + text + "`"
}

// meaning is the comment of a field, else of its type, with keys in place of the names of fields.
func (r *reference) meaning(t reflect.Type, f reflect.StructField) string {
	text := r.docs[t.Name()+"."+f.Name]
	if of := f.Type; text == "" {
		if of.Kind() == reflect.Slice {
			of = of.Elem()
		}
		text = strings.TrimPrefix(r.docs[of.Name()], of.Name())
		text = "`" + keyOf(f) + "`" + text
	}
	text = strings.Join(strings.Fields(text), " ")
	return regexp.MustCompile(`\b[A-Z]\w+(\.[A-Z]\w+)*\b`).ReplaceAllStringFunc(text, func(word string) string {
		if slices.Contains([]string{"HTTP", "JWKS", "S3", "SQLite", "TLS", "URLs"}, word) { // which are words, too
			return word
		}
		var keys []string
		for name := range strings.SplitSeq(word, ".") {
			key, ok := r.names[name]
			if !ok {
				return word
			}
			keys = append(keys, key)
		}
		return "`" + strings.Join(keys, ".") + "`"
	})
}

// unsupported writes the keys of distribution that this version does not have.
func (r *reference) unsupported() {
	rows := slices.SortedFunc(slices.Values(unsupported()), func(a, b row) int { return cmp.Compare(a.key, b.key) })
	r.printf("\n## Distribution's other keys\n\nThese would change what is stored, served or allowed. A start fails where one of them asks for something, and says what to do:\n\n| key | instead |\n|---|---|\n")
	for _, row := range rows {
		if row.refused {
			r.printf("| `%s` | %s |\n", row.key, row.note)
		}
	}
	r.printf("\nThese have no effect, and a warning says so:\n\n")
	for _, row := range rows {
		if !row.refused {
			r.printf("- `%s`%s\n", row.key, strings.TrimSuffix(": "+row.note, ": "))
		}
	}
}
