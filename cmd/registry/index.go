package main

import (
	"context"
	"fmt"
	"io"

	"berth/client"

	"github.com/spf13/cobra"
)

func indexCommand(s streams) *cobra.Command {
	command := &cobra.Command{
		Use:   "index",
		Short: "Make one tag of the images for several platforms, and look at it",
		Args:  cobra.NoArgs,
		RunE:  func(command *cobra.Command, _ []string) error { return command.Help() },
	}
	command.AddCommand(indexCreateCommand(s), indexShowCommand(s))
	return command
}

func indexShowCommand(s streams) *cobra.Command {
	var f remoteFlags
	var asJSON bool
	command := &cobra.Command{
		Use:   "show [HOST:PORT/]REPO[:TAG][@DIGEST]",
		Short: "Show what an index lists",
		Long: `Show what an index, or a Docker manifest list, says of what it lists, without looking whether that is there: registry
inspect does. Sizes are those of the manifests alone.

` + remoteHelp,
		Example: "  registry index show app:1.2",
		Args:    cobra.ExactArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			ref, err := client.ParseReference(args[0])
			if err != nil {
				return err
			}
			c, err := s.client(&f, ref)
			if err != nil {
				return err
			}
			index, err := c.Index(command.Context(), ref)
			if err != nil {
				return err
			}
			return s.printIndex(index, asJSON)
		},
	}
	f.add(command)
	command.Flags().BoolVar(&asJSON, "json", false, "print it as JSON")
	return command
}

// creation is what is asked of `index create`.
type creation struct {
	remoteFlags
	replace, dryRun, asJSON bool
}

func indexCreateCommand(s streams) *cobra.Command {
	var f creation
	command := &cobra.Command{
		Use:   "create [HOST:PORT/]REPO:TAG FROM...",
		Short: "Make an index of images, and put it under a tag",
		Long: `Make an index of the images FROM, and put it under REPO:TAG. A FROM is a tag or digest in the same repository, in another
one, or in another registry: what the repository lacks is mounted, or else copied. A FROM that is an index itself brings all its
images, with what BuildKit attests about them. What refers to an image, such as a signature, is not copied.

For which platform an image is, its own config says. Two images for the same platform are an error, unless --replace is given:
the one that is named last then stays. So this brings a tag up to date for one platform:

  registry index create app:1.2 app:1.2 app:1.2-arm --replace

What is listed is sorted by operating system, architecture and variant, so that the same images give the same digest. When all
of it is Docker's own, the index is a Docker manifest list, and otherwise an OCI index. The tag moves last: a command that failed
has changed no tag.

` + remoteHelp + ` --username is for the registry of REPO:TAG.`,
		Example: `  registry index create app:1.2 app:1.2-amd64 app:1.2-arm
  registry index create registry.lan:5000/app:1.2 build.lan:5000/app:1.2 registry.lan:5000/app@sha256:… --dry-run`,
		Args: cobra.MinimumNArgs(2),
		RunE: func(command *cobra.Command, args []string) error { return s.createIndex(command.Context(), f, args) },
	}
	f.add(command)
	flags := command.Flags()
	flags.BoolVar(&f.fromPlainHTTP, "from-plain-http", false, "ask other registries than that of REPO:TAG without TLS")
	flags.BoolVar(&f.replace, "replace", false, "of two images for the same platform, take the one that is named last")
	flags.BoolVar(&f.dryRun, "dry-run", false, "say what would be made, and change nothing")
	flags.BoolVar(&f.asJSON, "json", false, "print what was made as JSON")
	return command
}

func (s streams) createIndex(ctx context.Context, f creation, args []string) error {
	target, err := client.ParseReference(args[0])
	if err == nil && target.Digest != "" {
		err = fmt.Errorf("%s: an index is put under a tag; its digest follows from what it lists", args[0])
	}
	if err != nil {
		return err
	}
	c, err := s.client(&f.remoteFlags, target)
	if err != nil {
		return err
	}
	draft := c.Draft()
	for _, arg := range args[1:] {
		from, err := client.ParseReference(arg)
		if err == nil {
			err = draft.Add(ctx, from, f.replace)
		}
		if err != nil {
			return err
		}
	}
	index, err := draft.Report(target)
	if err == nil && !f.dryRun {
		err = draft.Push(ctx, target)
	}
	if err != nil {
		return err
	}
	if f.dryRun {
		fmt.Fprintln(s.errOut, "dry run: nothing was changed; it would be")
	}
	return s.printIndex(index, f.asJSON)
}

// printIndex prints what an index lists, and where it was taken from where that is known.
func (s streams) printIndex(index *client.Manifest, asJSON bool) error {
	if asJSON {
		return s.printJSON(index)
	}
	s.printHead(index)
	if len(index.Manifests) == 0 {
		return nil
	}
	heads, created := "PLATFORM\tDIGEST\tSIZE", index.Manifests[0].From != ""
	if created {
		heads += "\tFROM"
	}
	table := s.table(heads)
	for _, m := range index.Manifests {
		printEntry(table, m, "", created)
	}
	return table.Flush()
}

func printEntry(w io.Writer, m client.Manifest, indent string, created bool) {
	line := fmt.Sprintf("%s%s\t%s\t%s", indent, title(m), m.Digest, bytesString(m.Size))
	if created {
		line += "\t" + m.From
	}
	fmt.Fprintln(w, line)
	for _, a := range m.Attestations {
		printEntry(w, a, indent+"  ", created)
	}
}
