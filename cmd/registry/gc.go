package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"berth/config"
	"berth/registry/gc"
	"berth/storage/metadata"

	"github.com/spf13/cobra"
)

func gcCommand(s streams) *cobra.Command {
	command := &cobra.Command{
		Use:   "gc",
		Short: "Watch, pause and resume the garbage collector",
		Long: `The collector works while the registry serves: a blob that no manifest of a repository references leaves the repository once
its lease is over (gc.lease), and its bytes are deleted after gc.grace.`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error { return command.Help() },
	}
	command.AddCommand(gcStatusCommand(s), gcPauseCommand(s, "pause", "Collect and delete nothing until gc resume, also after a restart", true),
		gcPauseCommand(s, "resume", "Collect and delete again", false))
	return command
}

// collector is the one of a running server, or one of this process where there is none.
type collector interface {
	status(ctx context.Context) (gcStatus, error)
	pause(ctx context.Context, paused bool) error
	// collect runs a round, after deleting untagged manifests where that is asked for.
	collect(ctx context.Context, o collectOptions) (collectResult, error)
	// retention says what rules, which need not be those that count yet, let go now.
	retention(ctx context.Context, rules []config.RetentionRule) ([]retentionPlan, error)
	// usage says what repositories hold whose name begins with a prefix.
	usage(ctx context.Context, prefix string) (usage, error)
}

// gcStatus is what `gc status --json` prints.
type gcStatus struct {
	Paused bool `json:"paused"`
	// What waits.
	Queue       int64      `json:"queue"`       // links of blobs
	Due         int64      `json:"due"`         // of them, those to be reviewed now
	Oldest      *time.Time `json:"oldest"`      // since when the first of those is
	Unused      int64      `json:"unused"`      // blobs that the next round removes
	UnusedBytes int64      `json:"unusedBytes"` // of them
	Trash       int64      `json:"trash"`       // deleted manifests that can be restored
	TrashBytes  int64      `json:"trashBytes"`  // of blobs that are kept for them alone
	NextPurge   *time.Time `json:"nextPurge"`   // when the first of them leaves the trash
	DeadKeys    int64      `json:"deadKeys"`    // whose bytes wait for the end of gc.grace
	NextDelete  *time.Time `json:"nextDelete"`  // of the first of those
	// What the server that was asked did since it started; nothing without a server.
	Round          *time.Time `json:"round"` // when the last one ended
	Error          string     `json:"error,omitempty"`
	CollectedBlobs int        `json:"collectedBlobs"`
	CollectedBytes int64      `json:"collectedBytes"`
	DeletedKeys    int        `json:"deletedKeys"`
}

type collectOptions struct {
	DryRun         bool `json:"dryRun"`
	DeleteUntagged bool `json:"deleteUntagged"`
	Now            bool `json:"now"`
}

// collectResult is what `garbage-collect --json` prints.
type collectResult struct {
	DryRun bool `json:"dryRun"`
	// Manifests are those without a tag that were deleted, as REPOSITORY@DIGEST.
	Manifests []string `json:"manifests"`
	Blobs     int64    `json:"blobs"`
	Bytes     int64    `json:"bytes"`
	// Deleted is of how many blobs the bytes were deleted, whose grace was over.
	Deleted int `json:"deleted"`
	// Waiting is of how many they are not deleted yet, and Next when the first of them are.
	Waiting int64      `json:"waiting"`
	Next    *time.Time `json:"next"`
	Paused  bool       `json:"paused"`
}

func gcStatusCommand(s streams) *cobra.Command {
	var asJSON bool
	command := &cobra.Command{
		Use:   "status [CONFIG]",
		Short: "Print what waits and what was collected",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			return s.withCollector(command.Context(), args, func(c collector, _ *config.Config) error {
				status, err := c.status(command.Context())
				if err != nil {
					return err
				}
				if asJSON {
					return printJSON(s.out, status)
				}
				return printStatus(s.out, status)
			})
		},
	}
	command.Flags().BoolVar(&asJSON, "json", false, "print it as JSON")
	return command
}

func printStatus(out io.Writer, g gcStatus) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	state := "working"
	if g.Paused {
		state = "paused: registry gc resume"
	}
	fmt.Fprintf(w, "collector\t%s\n", state)
	fmt.Fprintf(w, "last round\t%s\n", timeString(g.Round, "none of this server"))
	if g.Error != "" {
		fmt.Fprintf(w, "last error\t%s\n", g.Error)
	}
	fmt.Fprintf(w, "queue\t%d links, %d due\n", g.Queue, g.Due)
	fmt.Fprintf(w, "oldest due\t%s\n", timeString(g.Oldest, "none"))
	fmt.Fprintf(w, "unused\t%d blobs, %s\n", g.Unused, bytesString(g.UnusedBytes))
	fmt.Fprintf(w, "trash\t%d manifests, %s, the first leaves it at %s\n", g.Trash, bytesString(g.TrashBytes), timeString(g.NextPurge, "no time"))
	fmt.Fprintf(w, "to be deleted\t%d blobs, the first at %s\n", g.DeadKeys, timeString(g.NextDelete, "no time"))
	fmt.Fprintf(w, "since its start\t%d blobs collected, %s; the bytes of %d deleted\n", g.CollectedBlobs, bytesString(g.CollectedBytes), g.DeletedKeys)
	return w.Flush()
}

func timeString(t *time.Time, none string) string {
	if t == nil {
		return none
	}
	return t.Local().Format(time.DateTime)
}

func gcPauseCommand(s streams, name, short string, paused bool) *cobra.Command {
	return &cobra.Command{
		Use:   name + " [CONFIG]",
		Short: short,
		Args:  cobra.MaximumNArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			return s.withCollector(command.Context(), args, func(c collector, _ *config.Config) error {
				return c.pause(command.Context(), paused)
			})
		},
	}
}

func garbageCollectCommand(s streams) *cobra.Command {
	var o collectOptions
	var quiet, asJSON bool
	command := &cobra.Command{
		Use:   "garbage-collect [CONFIG]",
		Short: "Collect what nothing references now, also while the registry serves",
		Long: `Run a round of the garbage collector now instead of at its next time: remove the blobs that no manifest references from their
repositories, once their lease is over (gc.lease), and delete bytes whose grace is over (gc.grace). A running server does it itself,
and goes on serving.

--delete-untagged deletes manifests first that have no tag, unless an index lists them, they are a signature or the like of something that is
there, a tag pointed to them within trash.retain, or they were pushed within gc.lease. They stay in the trash for trash.retain. Nodes that know an image by its digest alone, as those of a swarm do, can't pull it any more.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			return s.withCollector(command.Context(), args, func(c collector, settings *config.Config) error {
				result, err := c.collect(command.Context(), o)
				switch {
				case err != nil:
					return err
				case asJSON:
					return printJSON(s.out, result)
				}
				return printCollected(s.out, result, quiet, settings.GC.Grace)
			})
		},
	}
	command.Flags().BoolVarP(&o.DryRun, "dry-run", "d", false, "only say what would be removed")
	command.Flags().BoolVarP(&o.DeleteUntagged, "delete-untagged", "m", false, "delete manifests without a tag first")
	command.Flags().BoolVar(&o.Now, "now", false, "with -m, don't keep them in the trash for trash.retain")
	command.Flags().BoolVarP(&quiet, "quiet", "q", false, "don't list the manifests")
	command.Flags().BoolVar(&asJSON, "json", false, "print what was done as JSON")
	return command
}

func printCollected(out io.Writer, r collectResult, quiet bool, grace time.Duration) error {
	verb := "deleted"
	if r.DryRun {
		verb = "would delete"
	}
	if !quiet {
		for _, m := range r.Manifests {
			fmt.Fprintf(out, "%s %s\n", verb, m)
		}
	}
	switch {
	case r.Paused && !r.DryRun:
		_, err := fmt.Fprintln(out, "the collector is paused, so that no blobs were collected: registry gc resume")
		return err
	case r.DryRun:
		more := ""
		if len(r.Manifests) > 0 {
			more = ", besides those of the manifests above"
		}
		_, err := fmt.Fprintf(out, "would collect %d blobs, %s%s\n", r.Blobs, bytesString(r.Bytes), more)
		return err
	}
	_, err := fmt.Fprintf(out, "collected %d blobs, %s; deleted the bytes of %d\n", r.Blobs, bytesString(r.Bytes), r.Deleted)
	if r.Waiting > 0 {
		_, err = fmt.Fprintf(out, "the bytes of %d blobs are deleted after gc.grace (%s), the first at %s\n", r.Waiting, grace, timeString(r.Next, "once"))
	}
	return err
}

func printJSON(out io.Writer, value any) error {
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(value)
}

// withCollector calls fn with the collector of the running server, or with one of its own where there is none.
func (s streams) withCollector(ctx context.Context, args []string, fn func(collector, *config.Config) error) error {
	c, _, err := s.loadConfig(args)
	if err != nil {
		return err
	}
	directory, err := dataDirectory(c, s.environ)
	if err != nil {
		return err
	}
	response, err := adminRequest(ctx, adminSocket(c, directory), http.MethodGet, "/health", nil)
	if err == nil {
		response.Body.Close()
		return fn(remoteCollector{adminSocket(c, directory)}, c)
	}
	if !errors.Is(err, errNoServer) {
		return err
	}
	if _, err := os.Stat(metadataPath(c, directory)); err != nil && c.Metadata.Postgres.DSN == "" {
		return fmt.Errorf("there is no registry in %s: name its configuration: %w", directory, err)
	}
	stores, err := openStores(ctx, c, s.environ)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stores.close()) }()
	return fn(localCollector{stores.facts, newReaper(c, stores, slog.New(slog.DiscardHandler))}, c)
}

// localCollector works on open stores, those of a server among them.
type localCollector struct {
	facts  *metadata.Store
	reaper *gc.Reaper
}

func (l localCollector) pause(ctx context.Context, paused bool) error {
	return l.facts.Pause(ctx, paused)
}

func (l localCollector) status(ctx context.Context) (gcStatus, error) {
	q, err := l.facts.Queue(ctx)
	if err != nil {
		return gcStatus{}, err
	}
	trash, err := l.facts.Trash(ctx)
	if err != nil {
		return gcStatus{}, err
	}
	paused, err := l.facts.Paused(ctx)
	did := l.reaper.Status()
	return gcStatus{
		Paused: paused, Queue: q.Links, Due: q.Due, Oldest: optional(q.Oldest), Unused: q.Unused, UnusedBytes: q.UnusedBytes,
		Trash: trash.Manifests, TrashBytes: trash.Bytes, NextPurge: optional(trash.Next), DeadKeys: q.DeadKeys, NextDelete: optional(q.Next), Round: optional(did.Last), Error: did.Error,
		CollectedBlobs: did.Total.Collected.Blobs, CollectedBytes: did.Total.Collected.Bytes, DeletedKeys: did.Total.Keys,
	}, err
}

func optional(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func (l localCollector) collect(ctx context.Context, o collectOptions) (r collectResult, err error) {
	r.DryRun = o.DryRun
	if o.DeleteUntagged {
		err := l.reaper.DeleteUntagged(ctx, o.DryRun, metadata.Deletion{Now: o.Now}, func(m metadata.UntaggedManifest) {
			r.Manifests = append(r.Manifests, m.Repository+"@"+m.Digest.String())
		})
		if err != nil {
			return r, err
		}
	}
	if !o.DryRun {
		done, err := l.reaper.Round(ctx)
		if err != nil {
			return r, err
		}
		r.Blobs, r.Bytes, r.Deleted = int64(done.Collected.Blobs), done.Collected.Bytes, done.Keys
	}
	q, err := l.facts.Queue(ctx)
	if err != nil {
		return r, err
	}
	if o.DryRun {
		r.Blobs, r.Bytes = q.Unused, q.UnusedBytes
	}
	r.Waiting, r.Next = q.DeadKeys, optional(q.Next)
	r.Paused, err = l.facts.Paused(ctx)
	return r, err
}

func (l localCollector) retention(ctx context.Context, rules []config.RetentionRule) (all []retentionPlan, err error) {
	compiled, err := retentionRules(rules)
	if err != nil {
		return nil, err
	}
	err = l.reaper.PlanRetention(ctx, compiled, func(repository string, p gc.RetentionPlan) error {
		all = append(all, retentionPlan{Repository: repository, Manifests: p.Manifests, Bytes: p.Bytes, Goes: p.Doomed})
		return nil
	})
	return all, err
}

func (l localCollector) usage(ctx context.Context, prefix string) (u usage, err error) {
	const page = 1000
	u.Repositories = []repositoryUsage{}
	for last := ""; ; {
		some, err := l.facts.Usage(ctx, prefix, last, page)
		if err != nil {
			return u, err
		}
		for _, r := range some {
			u.Repositories = append(u.Repositories, repositoryUsage(r))
			last = r.Repository
		}
		if len(some) < page {
			break
		}
	}
	if u.Stored, err = l.facts.StoredBytes(ctx, prefix); err != nil {
		return u, err
	}
	limited, err := l.facts.Quotas(ctx, prefix)
	for _, q := range limited {
		u.Quotas = append(u.Quotas, quotaUsage(q))
	}
	return u, err
}

// serve is the collector's part of the API on the socket.
func (l localCollector) serve(mux *http.ServeMux) {
	answer := func(w http.ResponseWriter, value any, err error) {
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		_ = json.NewEncoder(w).Encode(value) // whoever asked may be gone
	}
	mux.HandleFunc("GET /gc", func(w http.ResponseWriter, r *http.Request) {
		status, err := l.status(r.Context())
		answer(w, status, err)
	})
	mux.HandleFunc("POST /retention/plan", func(w http.ResponseWriter, r *http.Request) {
		var rules []config.RetentionRule
		if err := json.NewDecoder(r.Body).Decode(&rules); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		all, err := l.retention(r.Context(), rules)
		answer(w, all, err)
	})
	mux.HandleFunc("GET /usage", func(w http.ResponseWriter, r *http.Request) {
		u, err := l.usage(r.Context(), r.URL.Query().Get("prefix"))
		answer(w, u, err)
	})
	mux.HandleFunc("POST /gc", func(w http.ResponseWriter, r *http.Request) {
		var o collectOptions
		if err := json.NewDecoder(r.Body).Decode(&o); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		result, err := l.collect(r.Context(), o)
		answer(w, result, err)
	})
	mux.HandleFunc("PUT /gc/paused", func(w http.ResponseWriter, r *http.Request) {
		var paused bool
		if err := json.NewDecoder(r.Body).Decode(&paused); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		answer(w, paused, l.pause(r.Context(), paused))
	})
}

// remoteCollector asks a running server.
type remoteCollector struct{ socket string }

func (c remoteCollector) status(ctx context.Context) (status gcStatus, err error) {
	return status, c.ask(ctx, http.MethodGet, "/gc", nil, &status)
}

func (c remoteCollector) pause(ctx context.Context, paused bool) error {
	return c.ask(ctx, http.MethodPut, "/gc/paused", paused, &paused)
}

func (c remoteCollector) collect(ctx context.Context, o collectOptions) (result collectResult, err error) {
	return result, c.ask(ctx, http.MethodPost, "/gc", o, &result)
}

func (c remoteCollector) retention(ctx context.Context, rules []config.RetentionRule) (all []retentionPlan, err error) {
	return all, c.ask(ctx, http.MethodPost, "/retention/plan", rules, &all)
}

func (c remoteCollector) usage(ctx context.Context, prefix string) (u usage, err error) {
	return u, c.ask(ctx, http.MethodGet, "/usage?prefix="+url.QueryEscape(prefix), nil, &u)
}

func (c remoteCollector) ask(ctx context.Context, method, path string, question, answer any) error {
	body, err := json.Marshal(question)
	if err != nil {
		return err
	}
	response, err := adminRequest(ctx, c.socket, method, path, strings.NewReader(string(body)))
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		why, _ := io.ReadAll(io.LimitReader(response.Body, 4<<10)) // the status says enough
		return fmt.Errorf("the running registry: %s", strings.TrimSpace(string(why)))
	}
	return json.NewDecoder(response.Body).Decode(answer)
}
