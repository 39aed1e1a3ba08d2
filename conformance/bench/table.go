package main

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// table is the report in Markdown: the registries against each other, and rows against each other in the same registry.
type table struct {
	targets   []*target
	lines     []string
	own       []string
	hasOwnRow bool
}

func newTable(targets []*target) *table {
	t := &table{targets: targets}
	header, rule := "| work |", "|---|"
	own, ownRule := "| rate of | to |", "|---|---|"
	for i, target := range targets {
		header += fmt.Sprintf(" %s | p50 | p99 | CPU |", target.name)
		rule += "---:|---:|---:|---:|"
		if i > 0 {
			header += " rate | CPU |"
			rule += "---:|---:|"
		}
		own, ownRule = own+" "+target.name+" |", ownRule+"---:|"
	}
	t.lines, t.own = []string{header, rule}, []string{own, ownRule}
	return t
}

// add adds a group of rows, with the ratios of the first registry to each of the others.
func (t *table) add(rows []row, results [][]rounds) {
	for at, r := range rows {
		line := "| " + r.name + " |"
		for i, result := range results[at] {
			line += t.cells(r, result)
			if i > 0 {
				line += t.ratios(results[at][0], result)
			}
		}
		t.lines = append(t.lines, line)
		for base, other := range rows {
			if r.to != "" && r.to == other.name {
				t.addOwn(r, other, results[at], results[base])
			}
		}
	}
}

func (t *table) cells(r row, result rounds) string {
	if len(result) == 0 {
		return " | | | |"
	}
	return fmt.Sprintf(" %s | %s | %s | %s |", rate(r, result), milliseconds(result.percentile(50)), milliseconds(result.percentile(99)), cpu(r, result))
}

func (t *table) ratios(first, other rounds) string {
	if len(first) == 0 || len(other) == 0 {
		return " | |"
	}
	line := fmt.Sprintf(" %s |", times(ratio(first, other, result.perSecond)))
	if first.cpu() == 0 || other.cpu() == 0 {
		return line + " |"
	}
	return line + fmt.Sprintf(" %s |", times(ratio(first, other, result.cpuPerOperation)))
}

func (t *table) addOwn(r, other row, results, bases []rounds) {
	line := fmt.Sprintf("| %s | %s |", r.name, other.name)
	for i := range results {
		cell := " |"
		if len(results[i]) > 0 && len(bases[i]) > 0 {
			cell = " " + times(ratio(results[i], bases[i], result.perSecond)) + " |"
		}
		line += cell
	}
	t.own, t.hasOwnRow = append(t.own, line), true
}

// addValues adds a row with one value for each registry, and the ratios of the first to the others. Zero is a value that is not known.
func (t *table) addValues(name string, of func(*target) (float64, error), format func(float64) string) error {
	line, first := "| "+name+" |", 0.0
	for i, target := range t.targets {
		value, err := of(target)
		if err != nil {
			return err
		}
		cell := ""
		if value > 0 {
			cell = format(value)
		}
		line += fmt.Sprintf(" %s | | | |", cell)
		switch {
		case i == 0:
			first = value
		case first > 0 && value > 0:
			line += fmt.Sprintf(" %s | |", times(first/value))
		default:
			line += " | |"
		}
	}
	t.lines = append(t.lines, line)
	return nil
}

func (t *table) print(w io.Writer) error {
	lines := t.lines
	if t.hasOwnRow {
		lines = append(append(lines, ""), t.own...)
	}
	_, err := io.WriteString(w, strings.Join(lines, "\n")+"\n")
	return err
}

func rate(r row, result rounds) string {
	if r.bytes > 0 {
		return fmt.Sprintf("%.0f MiB/s", result.perSecond()*float64(r.bytes)/(1<<20))
	}
	return fmt.Sprintf("%.0f/s", result.perSecond())
}

// times writes a ratio with the digits that say something.
func times(ratio float64) string {
	switch {
	case ratio >= 100:
		return fmt.Sprintf("%.0f×", ratio)
	case ratio >= 10:
		return fmt.Sprintf("%.1f×", ratio)
	}
	return fmt.Sprintf("%.2f×", ratio)
}

func milliseconds(d time.Duration) string {
	return fmt.Sprintf("%.*f ms", decimals(d), float64(d)/float64(time.Millisecond))
}

// decimals is how many say something about a duration in milliseconds.
func decimals(d time.Duration) int {
	if d < 10*time.Millisecond {
		return 2
	}
	return 0
}

func cpu(r row, result rounds) string {
	switch per := result.cpu(); {
	case per == 0:
		return ""
	case r.bytes > 0:
		return fmt.Sprintf("%.2f s/GiB", per.Seconds()*float64(1<<30)/float64(r.bytes))
	default:
		return fmt.Sprintf("%.3f ms", float64(per)/float64(time.Millisecond))
	}
}
