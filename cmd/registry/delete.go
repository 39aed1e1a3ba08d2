package main

import (
	"errors"
	"fmt"
	"time"

	"berth/client"

	"github.com/opencontainers/go-digest"

	"github.com/spf13/cobra"
)

func deleteCommand(s streams) *cobra.Command {
	var f remoteFlags
	var now, whole, asJSON bool
	command := &cobra.Command{
		Use:   "delete [HOST:PORT/]REPO:TAG|REPO@DIGEST...",
		Short: "Delete tags, manifests or a whole repository",
		Long: `Delete what is named: with a tag, the tag and nothing else; with a digest, the manifest and all tags that point to it, which is
refused while an index lists it; with --repository, all that the repository has.

Berth keeps what is deleted in its trash for trash.retain (7 days, unless the configuration says otherwise): registry tag restore brings
it back, and so does pushing it again. Its space is free after that, and gc.grace. With --now nothing stays in the trash.

` + remoteHelp,
		Example: `  registry delete app:1.2
  registry delete registry.lan:5000/app@sha256:… --now
  registry delete --repository old/app`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			for _, arg := range args {
				done, err := s.delete(command, &f, arg, whole, now)
				if err != nil {
					return err
				}
				if asJSON {
					err = s.printJSON(done)
				} else {
					err = s.printDeleted(done)
				}
				if err != nil {
					return err
				}
			}
			return nil
		},
	}
	f.add(command)
	command.Flags().BoolVar(&now, "now", false, "keep nothing in the trash")
	command.Flags().BoolVar(&whole, "repository", false, "delete all that the repository has")
	command.Flags().BoolVar(&asJSON, "json", false, "print what was deleted as JSON")
	return command
}

func (s streams) delete(command *cobra.Command, f *remoteFlags, arg string, whole, now bool) (client.Deleted, error) {
	ref, err := client.ParseReference(arg)
	if err != nil {
		return client.Deleted{}, err
	}
	named := ref.Digest != "" || !client.IsRepository(arg)
	switch {
	case whole && named:
		return client.Deleted{}, fmt.Errorf("%s: --repository is for a repository without a tag or digest", arg)
	case !whole && !named:
		return client.Deleted{}, fmt.Errorf("%s names no tag: did you mean %s:latest, or --repository for all that it has?", arg, arg)
	}
	c, err := s.client(f, ref)
	if err != nil {
		return client.Deleted{}, err
	}
	if whole {
		return c.DeleteRepository(command.Context(), ref, now)
	}
	return c.Delete(command.Context(), ref, now)
}

func (s streams) printDeleted(d client.Deleted) error {
	fmt.Fprintf(s.out, "deleted %s", d.Reference)
	if d.Tags+d.Manifests > 0 {
		fmt.Fprintf(s.out, ": %d tags, %d manifests", d.Tags, d.Manifests)
	}
	fmt.Fprintln(s.out)
	if d.Restorable != nil {
		fmt.Fprintf(s.out, "  it can be restored until %s: registry tag restore\n", timeString(d.Restorable, ""))
	}
	var err error
	if d.SpaceFree != nil {
		_, err = fmt.Fprintf(s.out, "  what nothing else needs is free by %s\n", timeString(d.SpaceFree, ""))
	}
	return err
}

func tagCommand(s streams) *cobra.Command {
	command := &cobra.Command{
		Use:   "tag",
		Short: "See what a tag pointed to, and set it back",
		Args:  cobra.NoArgs,
		RunE:  func(command *cobra.Command, _ []string) error { return command.Help() },
	}
	command.AddCommand(tagHistoryCommand(s), tagRestoreCommand(s))
	return command
}

// parseTag reads a reference with a tag and no digest.
func parseTag(arg string) (client.Reference, error) {
	ref, err := client.ParseReference(arg)
	if err == nil && ref.Digest != "" {
		err = fmt.Errorf("%s: this is about a tag: leave out the digest", arg)
	}
	return ref, err
}

func tagHistoryCommand(s streams) *cobra.Command {
	var f remoteFlags
	var asJSON bool
	command := &cobra.Command{
		Use:   "history [HOST:PORT/]REPO:TAG",
		Short: "Show what a tag points to and pointed to, the newest first",
		Long: `Show what a tag points to, and what it pointed to in the time that the trash keeps (trash.retain). Who moved it is told to those who
may push there.

` + remoteHelp,
		Example: "  registry tag history app:latest",
		Args:    cobra.ExactArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			ref, err := parseTag(args[0])
			if err != nil {
				return err
			}
			c, err := s.client(&f, ref)
			if err != nil {
				return err
			}
			states, err := c.TagHistory(command.Context(), ref)
			if err != nil {
				return err
			}
			if asJSON {
				return s.printJSON(states)
			}
			return s.printHistory(states)
		},
	}
	f.add(command)
	command.Flags().BoolVar(&asJSON, "json", false, "print it as JSON")
	return command
}

func (s streams) printHistory(states []client.TagState) error {
	table := s.table("DIGEST\tSET\tBY\tUNTIL\tBY\t")
	for _, state := range states {
		ended, note := "now", ""
		switch {
		case state.Ended == nil:
		case state.Deleted:
			ended, note = timeString(state.Ended, ""), "deleted"
		default:
			ended = timeString(state.Ended, "")
		}
		if !state.Kept {
			note = "gone"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", state.Digest, timeString(&state.Set, ""), printable(state.SetBy), ended, printable(state.EndedBy), note)
	}
	return table.Flush()
}

func tagRestoreCommand(s streams) *cobra.Command {
	var f remoteFlags
	var to, before string
	command := &cobra.Command{
		Use:   "restore [HOST:PORT/]REPO:TAG --to DIGEST|--before TIME",
		Short: "Set a tag back to what it pointed to",
		Long: `Point a tag at a manifest again: the one that --to names, or what the tag pointed to at a TIME. What was deleted of it within
trash.retain comes back: its images, its blobs, its signatures. What the tag points to now goes into its history, so that this can be
undone too. --to takes any manifest that the repository has or has in its trash.

TIME is such as 2026-01-31T12:00:00Z, "2026-01-31 12:00" of this machine's zone, or 3h, which is three hours ago.

` + remoteHelp,
		Example: `  registry tag restore app:latest --before 2h
  registry tag restore app:1.2 --to sha256:…`,
		Args: cobra.ExactArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			ref, err := parseTag(args[0])
			if err != nil {
				return err
			}
			digest, at, err := restorePoint(to, before, time.Now())
			if err != nil {
				return err
			}
			c, err := s.client(&f, ref)
			if err != nil {
				return err
			}
			restored, err := c.RestoreTag(command.Context(), ref, digest, at)
			if err == nil {
				_, err = fmt.Fprintf(s.out, "%s points to %s\n", ref, restored)
			}
			return err
		},
	}
	f.add(command)
	command.Flags().StringVar(&to, "to", "", "the digest of the manifest")
	command.Flags().StringVar(&before, "before", "", "the time at which the tag pointed to it")
	command.MarkFlagsMutuallyExclusive("to", "before")
	command.MarkFlagsOneRequired("to", "before")
	return command
}

// parseTime reads a time, or how long ago it was.
func parseTime(text string, now time.Time) (time.Time, error) {
	if ago, err := time.ParseDuration(text); err == nil && ago > 0 {
		return now.Add(-ago), nil
	}
	for _, layout := range []string{time.RFC3339, time.DateTime, "2006-01-02 15:04", time.DateOnly} {
		if t, err := time.ParseInLocation(layout, text, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, errors.New(`it is such as 2026-01-31T12:00:00Z, "2026-01-31 12:00", or 3h for three hours ago`)
}

// restorePoint reads what to restore.
func restorePoint(to, before string, now time.Time) (d digest.Digest, at time.Time, err error) {
	if to != "" {
		d = digest.Digest(to)
		if err := d.Validate(); err != nil {
			return "", at, fmt.Errorf("--to %s: %w: it is such as sha256: and 64 hex digits, from registry tag history", to, err)
		}
		return d, at, nil
	}
	if at, err = parseTime(before, now); err != nil {
		return "", at, fmt.Errorf("--before %s: %w", before, err)
	}
	return "", at, nil
}
