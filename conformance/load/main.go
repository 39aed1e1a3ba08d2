// Command load measures how fast registries do what clients ask of them, and what it costs them: the rate, the median and
// the 99th percentile of the time that an operation takes, the server's processor time for it, and the most memory that
// the server ever held.
//
// It starts the registries that it is told to start, with the same configuration file, on a data directory of their own,
// and takes turns with them, so that whatever else happens on the machine happens to each. Or it measures one that runs
// already. Everything goes over TLS 1.3, each connection with one request at a time. The client's own work, above all its
// share of TLS, runs on the same processors: rates compare registries with each other, not with another machine's.
//
// It prints a table in Markdown. Any answer that is not the expected one ends it with an error.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "load:", err)
		cancel()
		os.Exit(1)
	}
}

// settings are the command's flags.
type settings struct {
	connections int
	duration    time.Duration
	tags        int
	large       int64 // bytes
	only        *regexp.Regexp
	start       []string
	gate        string // a program
	s3          string // a program
	collect     string // a program
	blobs       int
	tools       string // a folder
	rounds      int
	running     target
}

func parse(args []string, stderr io.Writer) (settings, error) {
	var s settings
	f := flag.NewFlagSet("load", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.IntVar(&s.connections, "connections", 8, "connections that are busy at the same time")
	f.DurationVar(&s.duration, "duration", 3*time.Second, "how long to measure each row")
	f.IntVar(&s.tags, "tags", 4000, "tags in the repository of the rows about tags")
	f.Int64Var(&s.large, "large", 256, "size of a large blob in MiB")
	only := f.String("only", "", "measure only rows that match this regular expression")
	f.Func("start", "start a registry: NAME=PROGRAM[,VARIABLE=VALUE]...; may be repeated", func(v string) error {
		s.start = append(s.start, v)
		return nil
	})
	f.StringVar(&s.gate, "gate", "", "measure what passwords, rules and tokens cost this Berth, against itself without")
	f.StringVar(&s.s3, "s3", "", "measure this Berth on S3, with SQLite and with PostgreSQL, against distribution and the gateway itself")
	f.StringVar(&s.collect, "collect", "", "measure how long pulls take of this Berth while it collects garbage, against itself while it does not")
	f.IntVar(&s.blobs, "blobs", 100_000, "how many blobs of garbage there are, for -collect")
	f.StringVar(&s.tools, "tools", ".cache/bin", "the folder with distribution and versitygw, for -s3")
	f.IntVar(&s.rounds, "rounds", 5, "how often all take turns, for -s3 and -collect")
	f.StringVar(&s.running.url, "url", "", "measure a registry that runs already at this URL")
	f.IntVar(&s.running.pid, "pid", 0, "the process id of that registry, if it runs here")
	f.StringVar(&s.running.ca, "ca", "", "PEM file with that registry's certificate")
	f.StringVar(&s.running.user, "user", "", "user to log in as; the password comes from LOAD_PASSWORD")
	if err := f.Parse(args); err != nil {
		return s, err
	}
	s.large <<= 20
	s.running.name, s.running.password = "registry", os.Getenv("LOAD_PASSWORD")
	given := 0
	for _, is := range []bool{len(s.start) > 0, s.running.url != "", s.gate != "", s.s3 != "", s.collect != ""} {
		if is {
			given++
		}
	}
	if given != 1 || f.NArg() > 0 {
		return s, errors.New("say which registry to measure: one of -start, -url, -gate, -s3 and -collect")
	}
	if s.rounds < 1 {
		return s, errors.New("-rounds: at least one")
	}
	var err error
	s.only, err = regexp.Compile(*only)
	return s, err
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	s, err := parse(args, stderr)
	if err != nil {
		return err
	}
	switch {
	case s.gate != "":
		return measureGate(ctx, s, stdout, stderr)
	case s.collect != "":
		return measureCollect(ctx, s, stdout, stderr)
	case s.s3 != "":
		return measureS3(ctx, s, stdout, stderr)
	}
	targets := []*target{&s.running}
	if s.running.url == "" {
		started, stop, err := startAll(ctx, s.start)
		if err != nil {
			return err
		}
		defer stop()
		targets = started
	}
	return measureAll(ctx, s, targets, stdout, stderr)
}

// measureAll measures every row with each target in turn and prints the table.
func measureAll(ctx context.Context, s settings, targets []*target, stdout, stderr io.Writer) error {
	table := newTable(targets)
	for _, t := range targets {
		fmt.Fprintf(stderr, "preparing %s\n", t.name)
		if err := prepare(ctx, t, s); err != nil {
			return fmt.Errorf("prepare %s: %w", t.name, err)
		}
	}
	for _, r := range rows(s) {
		if !s.only.MatchString(r.name) {
			continue
		}
		var results []result
		for _, t := range targets {
			fmt.Fprintf(stderr, "%s: %s\n", r.name, t.name)
			result, err := measure(ctx, t, r, s)
			if err != nil {
				return fmt.Errorf("%s: %s: %w", r.name, t.name, err)
			}
			results = append(results, result)
		}
		table.add(r, results)
	}
	if err := table.addMemory(targets); err != nil {
		return err
	}
	_, err := io.WriteString(stdout, strings.Join(table.lines, "\n")+"\n")
	return err
}
