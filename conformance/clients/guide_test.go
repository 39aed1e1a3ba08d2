package clients

import (
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// A guide is a page of docs/guides that a test follows on the machines that the page speaks of.
type guide struct {
	t        *testing.T
	page     string
	machines map[string]*machine
	sections []section
}

type section struct {
	title    string
	blocks   []block
	followed bool
}

// A block stands between ```LANGUAGE MACHINE [FILE] and ```. It is what that file holds, or, without a file, for the shell.
type block struct{ machine, file, text string }

// workDirectory is where the reader of a guide works on each machine.
const workDirectory = "/run/home/guide"

// readGuide returns a page. In the end everything in it must have been followed.
func readGuide(t *testing.T, page string, machines map[string]*machine) *guide {
	t.Helper()
	content, err := os.ReadFile(path.Join("../../docs/guides", page))
	if err != nil {
		t.Fatal(err)
	}
	g := &guide{t: t, page: page, machines: machines}
	blocks := regexp.MustCompile("(?ms)^```[a-z]+ (\\w+)(?: (\\S+))?\n(.*?)^```$")
	for _, part := range strings.Split("\n"+string(content), "\n## ")[1:] {
		title, body, _ := strings.Cut(part, "\n")
		s := section{title: title}
		for _, b := range blocks.FindAllStringSubmatch(body, -1) {
			s.blocks = append(s.blocks, block{machine: b[1], file: b[2], text: b[3]})
		}
		g.sections = append(g.sections, s)
	}
	for _, m := range machines {
		m.do("mkdir -p " + workDirectory)
	}
	return g
}

// follow does what a section says and returns what was printed. Lines that begin as instead does are left out: the test has
// done that in another way.
func (g *guide) follow(title string, instead ...string) string {
	g.t.Helper()
	s := g.section(title)
	s.followed = true
	var out strings.Builder
	for _, b := range s.blocks {
		m := g.machines[b.machine]
		switch {
		case m == nil:
			g.t.Fatalf("%s: %s: there is no machine %q", g.page, title, b.machine)
		case b.file != "":
			m.write(path.Join(workDirectory, b.file), b.text)
		default:
			out.WriteString(m.do("set -eu; cd " + workDirectory + "\n" + without(b.text, instead)))
		}
	}
	g.t.Logf("%s: %s", title, lastLine(out.String()))
	return out.String()
}

// without returns the lines of a command that don't begin with one of the prefixes.
func without(command string, prefixes []string) string {
	var kept strings.Builder
	for line := range strings.Lines(command) {
		if !slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(line, p) }) {
			kept.WriteString(line)
		}
	}
	return kept.String()
}

func (g *guide) section(title string) *section {
	g.t.Helper()
	for i := range g.sections {
		if g.sections[i].title == title {
			return &g.sections[i]
		}
	}
	g.t.Fatalf("%s has no section %q", g.page, title)
	return nil
}

// file returns what a file holds that the guide has the reader write.
func (g *guide) file(name string) string {
	g.t.Helper()
	for _, s := range g.sections {
		for _, b := range s.blocks {
			if b.file == name {
				return b.text
			}
		}
	}
	g.t.Fatalf("%s has no file %s", g.page, name)
	return ""
}

// finish fails the test if the guide has something to do that was not done.
func (g *guide) finish() {
	g.t.Helper()
	for _, s := range g.sections {
		if len(s.blocks) > 0 && !s.followed {
			g.t.Errorf("%s: %q was not followed", g.page, s.title)
		}
	}
}
