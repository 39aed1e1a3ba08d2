// Command bench measures how fast registries do what clients ask of them, and what it costs them: the rate, the median and
// the 99th percentile of the time that an operation takes, the server's processor time for it, and the most memory that
// the server ever held.
//
// It starts the registries that it is told to start, with the same certificate, each on a data directory of its own on the same
// disk, or measures some that run already. They take turns in several rounds, so that whatever else happens on the machine happens
// to each; what counts is the median of the rounds, and of ratios the median of those within a round. Everything goes over
// TLS 1.3, each connection with one request at a time. The client's own work, above all its share of TLS, runs on the same
// processors: rates compare registries with each other, not with another machine's.
//
// It prints tables in Markdown. Any answer that is not the expected one ends it with an error.
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
	"syscall"
	"time"
)

func main() {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		cancel()
		os.Exit(1)
	}
}

// settings are the command's flags.
type settings struct {
	connections  int
	duration     time.Duration
	rounds       int
	tags         int
	repositories int
	large        int64 // bytes
	only         *regexp.Regexp
	registries   []launcher
	gate         string // a program
	s3           string // a program
	collect      string // a program
	blobs        int
	tools        string // a folder
}

func parse(args []string, stderr io.Writer) (settings, error) {
	var s settings
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.IntVar(&s.connections, "connections", 8, "connections that are busy at the same time")
	f.DurationVar(&s.duration, "duration", 3*time.Second, "how long to measure each row in each round")
	f.IntVar(&s.rounds, "rounds", 3, "how often all take turns")
	f.IntVar(&s.tags, "tags", 100_000, "tags in the large repository")
	f.IntVar(&s.repositories, "repositories", 100_000, "repositories in the catalog")
	f.Int64Var(&s.large, "large", 256, "size of a large blob in MiB")
	only := f.String("only", "", "measure only rows that match this regular expression, and prepare only what they need")
	add := func(parse func(string) (launcher, error)) func(string) error {
		return func(value string) error {
			l, err := parse(value)
			s.registries = append(s.registries, l)
			return err
		}
	}
	f.Func("start", "start a registry with a configuration file of distribution's format: NAME=PROGRAM[,VARIABLE=VALUE]...; may be repeated",
		add(parseProgram))
	f.Func("run", "start any registry: NAME=COMMAND, for a shell that knows ADDRESS, CERTIFICATE, KEY and DATA; may be repeated",
		add(parseCommand))
	f.Func("url", "measure a registry that runs already: NAME=URL[,ca=FILE][,pid=ID][,user=NAME], the password in BENCH_PASSWORD; may be repeated",
		add(parseURL))
	f.StringVar(&s.gate, "gate", "", "measure what passwords, rules and tokens cost this Berth, against itself without")
	f.StringVar(&s.s3, "s3", "", "measure this Berth on S3, with SQLite and with PostgreSQL, against distribution and the gateway itself")
	f.StringVar(&s.collect, "collect", "", "measure how long pulls take of this Berth while it collects garbage, against itself while it does not")
	f.IntVar(&s.blobs, "blobs", 100_000, "how many blobs of garbage there are, for -collect")
	f.StringVar(&s.tools, "tools", ".cache/bin", "the folder with distribution and versitygw, for -s3")
	if err := f.Parse(args); err != nil {
		return s, err
	}
	s.large <<= 20
	given := 0
	for _, is := range []bool{len(s.registries) > 0, s.gate != "", s.s3 != "", s.collect != ""} {
		if is {
			given++
		}
	}
	if given != 1 || f.NArg() > 0 {
		return s, errors.New("say what to measure: registries with -start, -run and -url, or one of -gate, -s3 and -collect")
	}
	if s.rounds < 1 || s.connections < 1 {
		return s, errors.New("-rounds, -connections: at least one")
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
	return measureAll(ctx, s, stdout, stderr)
}
