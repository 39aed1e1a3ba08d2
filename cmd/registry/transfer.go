package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"berth/client"
	"berth/glob"
	"berth/transfer"

	"github.com/spf13/cobra"
)

// copyFlags are those of the commands that copy repositories.
type copyFlags struct {
	remoteFlags
	jobs           int
	dryRun, asJSON bool
}

func (f *copyFlags) addFor(command *cobra.Command, target string) {
	f.remoteFlags.addFor(command, target)
	flags := command.Flags()
	flags.IntVar(&f.jobs, "jobs", 4, "how many tags and how many blobs are copied at the same time")
	flags.BoolVar(&f.dryRun, "dry-run", false, "say which tags would be copied, and change nothing")
	flags.BoolVar(&f.asJSON, "json", false, "print one line of JSON for each tag")
}

// maxJobs is more than any network or disk gains from.
const maxJobs = 64

// copyAll copies repositories, and prints what became of their tags. It fails with errReported when some failed.
func (s streams) copyAll(ctx context.Context, f copyFlags, repositories iter.Seq2[transfer.Repository, error]) error {
	if f.jobs < 1 || f.jobs > maxJobs {
		return fmt.Errorf("--jobs %d: it is between 1 and %d", f.jobs, maxJobs)
	}
	t := &tally{streams: s, asJSON: f.asJSON, counts: map[string]int{}}
	t.copier = &transfer.Copier{Jobs: f.jobs, DryRun: f.dryRun, Report: t.add}
	stop := t.showProgress()
	err := t.copier.Copy(ctx, repositories)
	stop()
	if errors.Is(err, context.Canceled) {
		err = errors.New("interrupted: give the same command again")
	}
	if err == nil || len(t.counts) > 0 {
		t.summarize(f.dryRun)
	}
	if err == nil {
		err = t.err
	}
	if err == nil && t.counts[transfer.Failed] > 0 {
		err = errReported
	}
	return err
}

// tally prints results and counts them.
type tally struct {
	streams
	asJSON bool
	copier *transfer.Copier

	mu     sync.Mutex
	counts map[string]int // by status
	err    error          // of printing
	shown  bool           // there is a line of progress
}

func (t *tally) add(r transfer.Result) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.counts[r.Status]++
	t.clear()
	if t.asJSON {
		t.err = errors.Join(t.err, json.NewEncoder(t.out).Encode(r))
		return
	}
	name := r.Repository
	if r.Tag != "" {
		name += ":" + r.Tag
	}
	switch r.Status {
	case transfer.Present:
	case transfer.Copied:
		fmt.Fprintf(t.out, "%-7s  %s  %s  %s\n", r.Status, name, r.Digest, bytesString(r.Bytes))
	case transfer.Planned:
		fmt.Fprintf(t.out, "%-7s  %s  %s\n", r.Status, name, r.Digest)
	default:
		fmt.Fprintf(t.out, "%-7s  %s  %s\n", r.Status, name, printable(r.Reason))
	}
	for _, d := range r.Missing {
		fmt.Fprintf(t.out, "%-7s  %s  %s\n", "missing", name, d)
	}
}

// showProgress keeps a line on a terminal up to date until the returned function is called.
func (t *tally) showProgress() (stop func()) {
	if !isTerminal(t.errOut) {
		return func() {}
	}
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(500 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				t.mu.Lock()
				fmt.Fprintf(t.errOut, "\r\x1b[K%s", t.counted())
				t.shown = true
				t.mu.Unlock()
			case <-end:
				return
			}
		}
	}()
	return func() {
		close(end)
		<-ended
		t.clear()
	}
}

// clear removes the line of progress.
func (t *tally) clear() {
	if t.shown {
		fmt.Fprint(t.errOut, "\r\x1b[K")
		t.shown = false
	}
}

// counted says how many tags there were.
func (t *tally) counted() string {
	text := fmt.Sprintf("%s copied (%s), %d there already",
		count(t.counts[transfer.Copied], "tag"), bytesString(t.copier.Bytes()), t.counts[transfer.Present])
	for _, status := range []string{transfer.Skipped, transfer.Failed} {
		if n := t.counts[status]; n > 0 {
			text += fmt.Sprintf(", %d %s", n, status)
		}
	}
	return text
}

// summarize prints the last line, which is for people.
func (t *tally) summarize(dryRun bool) {
	text := t.counted()
	if dryRun {
		text = fmt.Sprintf("dry run: nothing was changed; %s would be copied, %d are there already",
			count(t.counts[transfer.Planned], "tag"), t.counts[transfer.Present])
	}
	if t.asJSON {
		fmt.Fprintln(t.errOut, text)
		return
	}
	fmt.Fprintln(t.out, text)
}

// selection is which repositories are meant: all where none is named.
type selection struct {
	names    []string // without patterns, in order
	tags     map[string][]string
	patterns []glob.Pattern
}

// parseSelection reads REPO and REPO:TAG, where REPO without a tag may be a pattern.
func parseSelection(args []string) (selection, error) {
	s := selection{tags: map[string][]string{}}
	for _, arg := range args {
		if strings.Contains(arg, "*") {
			p, err := glob.ParseRepository(arg)
			if err != nil {
				return s, err
			}
			s.patterns = append(s.patterns, p)
			continue
		}
		ref, err := client.ParseReference(arg)
		switch {
		case err != nil:
			return s, err
		case ref.Host != "":
			return s, fmt.Errorf("%s: leave out %s/: all repositories are in the same registry", arg, ref.Host)
		case ref.Digest != "":
			return s, fmt.Errorf("%s: repositories and tags are copied: leave out the digest", arg)
		}
		tags, named := s.tags[ref.Repository]
		if !named {
			s.names = append(s.names, ref.Repository)
		}
		switch {
		case client.IsRepository(arg):
			s.tags[ref.Repository] = nil // all
		case !named || tags != nil:
			s.tags[ref.Repository] = append(tags, ref.Tag)
		}
	}
	return s, nil
}

// lists reports whether the names of all repositories are needed.
func (s selection) lists() bool { return len(s.patterns) > 0 || len(s.names) == 0 }

// matches reports whether a repository is one of the patterns', or all are meant, and it was not named.
func (s selection) matches(name string) bool {
	if _, named := s.tags[name]; named {
		return false
	}
	for _, p := range s.patterns {
		if p.Match(name) {
			return true
		}
	}
	return len(s.patterns) == 0 && len(s.names) == 0
}

// has reports whether a tag of a repository is meant.
func (s selection) has(repository, tag string) bool {
	tags, named := s.tags[repository]
	return named && (tags == nil || slices.Contains(tags, tag)) || s.matches(repository)
}

// opener makes of the name of a repository what is copied.
type opener func(name string, tags []string) (transfer.Repository, error)

// lister calls page with the names of all repositories, some at a time.
type lister func(ctx context.Context, page func(names []string) error) error

// catalog is the lister of a registry.
func catalog(c *client.Client, host string) lister {
	return func(ctx context.Context, page func([]string) error) error { return c.Repositories(ctx, host, page) }
}

// each returns the repositories of a source that are meant, and fails where patterns match none.
func (s selection) each(ctx context.Context, list lister, open opener) iter.Seq2[transfer.Repository, error] {
	return func(yield func(transfer.Repository, error) bool) {
		for _, name := range s.names {
			if !yield(open(name, s.tags[name])) {
				return
			}
		}
		if !s.lists() {
			return
		}
		found, stopped := false, errors.New("stopped")
		err := list(ctx, func(names []string) error {
			for _, name := range names {
				if !s.matches(name) {
					continue
				}
				found = true
				if !yield(open(name, nil)) {
					return stopped
				}
			}
			return nil
		})
		if err == nil && !found && len(s.patterns) > 0 {
			err = errors.New("no repository matches: patterns are such as 'team/**', in quotes")
		}
		if err != nil && err != stopped {
			yield(transfer.Repository{}, err)
		}
	}
}
