package config

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

const (
	maxFile     = 1 << 20 // bytes of a configuration file
	maxSecret   = 1 << 16 // bytes of a file that holds a secret
	maxProblems = 50      // beyond this only the number of problems is kept
)

// Problem is one thing that is wrong with a configuration.
type Problem struct {
	// File and Line say where, unless Variable does. All are empty for what is missing.
	File     string
	Line     int
	Variable string
	// Key is the key in dotted form, empty when there is none.
	Key string
	// Message says what is wrong and what to do.
	Message string
}

// String returns the problem in one line.
func (p Problem) String() string {
	parts := make([]string, 0, 3)
	if p.Variable != "" {
		parts = append(parts, p.Variable)
	} else if p.Line > 0 {
		parts = append(parts, fmt.Sprintf("%s:%d", p.File, p.Line))
	} else if p.File != "" {
		parts = append(parts, p.File)
	}
	if p.Key != "" {
		parts = append(parts, p.Key)
	}
	return strings.Join(append(parts, p.Message), ": ")
}

// Error is everything that is wrong with a configuration, in the order of the file's lines, then the variables'.
type Error struct {
	Problems []Problem
	// More is the number of problems that were left out because there are too many.
	More int
}

// Error returns one problem a line.
func (e *Error) Error() string {
	lines := make([]string, 0, len(e.Problems)+1)
	for _, p := range e.Problems {
		lines = append(lines, p.String())
	}
	if e.More > 0 {
		lines = append(lines, fmt.Sprintf("and %d more problems", e.More))
	}
	return strings.Join(lines, "\n")
}

// Load reads the file at path, if path is not empty, and the variables of environ, in the form of os.Environ. It
// returns the configuration and warnings for a person to read, or an *Error; only a file that can't be read is an
// error of another type.
func Load(path string, environ []string) (*Config, []string, error) {
	if path == "" {
		return Parse("", nil, environ)
	}
	data, err := readFile(path, maxFile)
	if err != nil {
		return nil, nil, fmt.Errorf("read configuration: %w", err)
	}
	return Parse(path, data, environ)
}

// Parse does what Load does with the content of a file that is called name in messages. A nil data means that there
// is no file.
func Parse(name string, data []byte, environ []string) (*Config, []string, error) {
	l := newLoader(name, readFile)
	return l.load(data, environ)
}

// readFile reads at most limit bytes. A longer file is an error.
func readFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s: larger than %s", path, Size(limit))
	}
	return data, nil
}

// loader turns one document and one environment into a Config. The document is a tree of YAML nodes without aliases
// and merges; the environment is laid over it; the result is decoded once, so that both are judged by the same rules.
type loader struct {
	file string
	read func(path string, limit int64) ([]byte, error)
	root *yaml.Node
	rows []row
	// known are the dotted keys that exist, for the sake of the nearest one.
	known []string
	// variables says which nodes come from the environment.
	variables map[*yaml.Node]string
	// chosen says which sections' choice was made by the environment.
	chosen map[string]string

	problems []Problem
	more     int
	notes    []string // warnings of their own
	ignored  []string // settings without effect
	foreign  []string // variables that set nothing
}

func newLoader(file string, read func(string, int64) ([]byte, error)) *loader {
	l := &loader{
		file:      file,
		read:      read,
		rows:      unsupported(),
		variables: make(map[*yaml.Node]string),
		chosen:    make(map[string]string),
	}
	l.known = knownKeys(reflect.TypeFor[Config](), "", l.rows)
	return l
}

func (l *loader) load(data []byte, environ []string) (*Config, []string, error) {
	l.root = &yaml.Node{Kind: yaml.MappingNode}
	if data != nil && l.parseFile(data) {
		l.checkVersion()
	}
	l.expandChoices()
	l.overlay(environ)
	c := defaults()
	l.section(l.root, reflect.ValueOf(c).Elem(), "")
	if l.find("log.level") == nil && c.LogLevel != "" {
		c.Log.Level = c.LogLevel
	}
	c.LogLevel = ""
	c.settle()
	l.check(c)
	if err := l.err(); err != nil {
		return nil, nil, err
	}
	return c, l.warnings(), nil
}

// fail reports a problem with a node.
func (l *loader) fail(n *yaml.Node, key, format string, args ...any) {
	if l.full() {
		l.more++
		return
	}
	p := Problem{Key: clip(key), Message: fmt.Sprintf(format, args...)}
	if n != nil {
		p.File, p.Line, p.Variable = l.file, n.Line, l.variables[n]
	}
	l.problems = append(l.problems, p)
}

func (l *loader) full() bool { return len(l.problems) >= maxProblems }

// ignore notes that a setting has no effect.
func (l *loader) ignore(n *yaml.Node, key string) {
	l.ignored = append(l.ignored, fmt.Sprintf("%s (%s)", key, l.origin(n)))
}

// warn makes a warning of its own about a setting.
func (l *loader) warn(n *yaml.Node, key, text string) {
	l.notes = append(l.notes, fmt.Sprintf("%s (%s) %s", key, l.origin(n), text))
}

func (l *loader) origin(n *yaml.Node) string {
	if name, ok := l.variables[n]; ok {
		return name
	}
	return fmt.Sprintf("%s:%d", l.file, n.Line)
}

func (l *loader) err() error {
	if len(l.problems) == 0 {
		return nil
	}
	slices.SortStableFunc(l.problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Variable, b.Variable), cmp.Compare(a.Line, b.Line))
	})
	return &Error{Problems: l.problems, More: l.more}
}

func (l *loader) warnings() []string {
	w := l.notes
	if len(l.ignored) > 0 {
		w = append(w, "these settings have no effect here: "+strings.Join(l.ignored, ", "))
	}
	if len(l.foreign) > 0 {
		w = append(w, "these variables begin with "+prefix+" but set nothing here: "+strings.Join(l.foreign, ", "))
	}
	return w
}
