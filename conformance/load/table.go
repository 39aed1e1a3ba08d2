package main

import (
	"fmt"
	"time"

	"berth/conformance/server"
)

// table is the report in Markdown.
type table struct{ lines []string }

func newTable(targets []*target) *table {
	header, rule := "| work |", "|---|"
	for i, t := range targets {
		header += fmt.Sprintf(" %s | p50 | p99 | CPU |", t.name)
		rule += "---:|---:|---:|---:|"
		if i > 0 {
			header += " rate | CPU |"
			rule += "---:|---:|"
		}
	}
	return &table{lines: []string{header, rule}}
}

// add adds a row, with the ratios of the first registry to each of the others.
func (t *table) add(r row, results []result) {
	line := "| " + r.name + " |"
	for i, result := range results {
		line += fmt.Sprintf(" %s | %s | %s | %s |", rate(r, result), milliseconds(result.percentile(50)),
			milliseconds(result.percentile(99)), cpu(r, result))
		if i > 0 {
			line += fmt.Sprintf(" %.2f× | %s |", results[0].perSecond()/result.perSecond(), cpuRatio(results[0], result))
		}
	}
	t.lines = append(t.lines, line)
}

// addMemory adds a row with the registries' peak memory.
func (t *table) addMemory(targets []*target) error {
	line := "| peak memory |"
	for i, target := range targets {
		if target.pid == 0 {
			line += " | | | |"
			continue
		}
		peak, err := server.PeakMemory(target.pid)
		if err != nil {
			return err
		}
		line += fmt.Sprintf(" %d MiB | | | |", peak>>20)
		if i > 0 {
			line += " | |"
		}
	}
	t.lines = append(t.lines, line)
	return nil
}

func rate(r row, result result) string { return formatRate(r, result.perSecond()) }

func formatRate(r row, perSecond float64) string {
	if r.bytes > 0 {
		return fmt.Sprintf("%.0f MiB/s", perSecond*float64(r.bytes)/(1<<20))
	}
	return fmt.Sprintf("%.0f/s", perSecond)
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

func cpu(r row, result result) string {
	switch per := result.cpuPerOperation(); {
	case result.cpu == 0:
		return ""
	case r.bytes > 0:
		return fmt.Sprintf("%.2f s/GiB", per.Seconds()*float64(1<<30)/float64(r.bytes))
	default:
		return fmt.Sprintf("%.3f ms", float64(per)/float64(time.Millisecond))
	}
}

func cpuRatio(a, b result) string {
	if a.cpu == 0 || b.cpu == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f×", float64(a.cpuPerOperation())/float64(b.cpuPerOperation()))
}
