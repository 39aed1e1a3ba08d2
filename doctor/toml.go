package doctor

import (
	"regexp"
	"strings"
)

// setting is a line of TOML: a key, under the name of its table as it is written.
type setting struct {
	table, key string
	raw        string   // the value
	strings    []string // the strings in it
}

var (
	// uncommented is a line up to a comment that is not inside a string.
	uncommented = regexp.MustCompile(`^(?:[^#"']|"(?:[^"\\]|\\.)*"|'[^']*')*`)
	header      = regexp.MustCompile(`^\[\s*([^\[\]].*?)\s*\]$`)
	assignment  = regexp.MustCompile(`^([A-Za-z0-9_-]+)\s*=\s*(.*)$`)
	quoted      = regexp.MustCompile(`"((?:[^"\\]|\\.)*)"|'([^']*)'`)
)

// settings reads TOML line by line, an array over several lines as one. What it does not know, such as dotted keys and
// inline tables, it leaves out: nobody writes these files so, and a finding that is missing does no harm.
func settings(text string) []setting {
	var all []setting
	table := ""
	lines := strings.Split(text, "\n")
	for i := 0; i < len(lines); i++ {
		line := bare(lines[i])
		if m := header.FindStringSubmatch(line); m != nil {
			table = m[1]
			continue
		}
		m := assignment.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		value := m[2]
		for strings.HasPrefix(value, "[") && !strings.HasSuffix(value, "]") && i+1 < len(lines) {
			i++
			value += " " + bare(lines[i])
		}
		all = append(all, setting{table, m[1], value, stringsIn(value)})
	}
	return all
}

// tables returns the names of the tables, as they are written.
func tables(text string) []string {
	var all []string
	for line := range strings.SplitSeq(text, "\n") {
		if m := header.FindStringSubmatch(bare(line)); m != nil {
			all = append(all, m[1])
		}
	}
	return all
}

func bare(line string) string { return strings.TrimSpace(uncommented.FindString(line)) }

func stringsIn(value string) []string {
	var found []string
	for _, m := range quoted.FindAllStringSubmatch(value, -1) {
		found = append(found, m[1]+m[2])
	}
	return found
}
