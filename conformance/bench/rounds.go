package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"syscall"
	"time"
)

// rounds are what was measured of one row with one target, round by round. There is nothing when the target can't do it.
type rounds []result

func (r rounds) median(of func(result) float64) float64 {
	values := make([]float64, len(r))
	for i := range r {
		values[i] = of(r[i])
	}
	return median(values)
}

func (r rounds) perSecond() float64 { return r.median(result.perSecond) }

func (r rounds) percentile(p int) time.Duration {
	return time.Duration(r.median(func(one result) float64 { return float64(one.percentile(p)) }))
}

func (r rounds) cpu() time.Duration { return time.Duration(r.median(result.cpuPerOperation)) }

// ratio returns the median of the ratios within a round: the machine is not the same from one to the next.
func ratio(a, b rounds, of func(result) float64) float64 {
	ratios := make([]float64, len(a))
	for i := range a {
		ratios[i] = of(a[i]) / of(b[i])
	}
	return median(ratios)
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 0 {
		return (sorted[middle-1] + sorted[middle]) / 2
	}
	return sorted[middle]
}

// turns is who takes turns.
type turns struct {
	settings settings
	targets  []*target
	stderr   io.Writer
	// after is called after each measurement, unless it is nil.
	after func(context.Context, *target, row) error
}

// measure measures rows that are to be compared with each other: in each round each target does all of them, one after the other, and
// each round begins with another target. It returns the results by row and target.
func (t turns) measure(ctx context.Context, rows []row) ([][]rounds, error) {
	results := make([][]rounds, len(rows))
	for i := range rows {
		results[i] = make([]rounds, len(t.targets))
	}
	for round := range t.settings.rounds {
		for turn := range t.targets {
			at := (round + turn) % len(t.targets)
			for i, r := range rows {
				target := t.targets[at].doing(r)
				if target == nil {
					continue
				}
				got, err := t.measureOne(ctx, target, r, round)
				if err != nil {
					return nil, fmt.Errorf("%s: %s: %w", r.name, target.name, err)
				}
				results[i][at] = append(results[i][at], got)
			}
		}
	}
	return results, nil
}

// doing returns the target that does a row, if there is one.
func (t *target) doing(r row) *target {
	if r.password {
		return t.locked
	}
	return t
}

func (t turns) measureOne(ctx context.Context, one *target, r row, round int) (result, error) {
	if one.gateway {
		r.do = r.direct
	}
	syscall.Sync() // what one leaves to be written is not to be the next one's
	got, err := measure(ctx, one, r, t.settings)
	if err != nil {
		return got, err
	}
	fmt.Fprintf(t.stderr, "%s: round %d: %s: %s, %s of CPU\n", r.name, round+1, one.name, rate(r, rounds{got}), cpu(r, rounds{got}))
	if t.after != nil {
		err = t.after(ctx, one, r)
	}
	return got, err
}
