package main

import (
	"fmt"
	"strings"

	"berth/config"

	"github.com/spf13/cobra"
)

// usage is what `usage --json` prints.
type usage struct {
	Repositories []repositoryUsage `json:"repositories"`
	// Stored is how many bytes their blobs have, each counted once.
	Stored int64 `json:"stored"`
	// Quotas are those that count one of them.
	Quotas []quotaUsage `json:"quotas,omitempty"`
}

// quotaUsage is metadata.QuotaUse as JSON.
type quotaUsage struct {
	Repositories []string `json:"repositories"`
	Bytes        int64    `json:"bytes,omitempty"`
	Tags         int64    `json:"tags,omitempty"`
	UsedBytes    int64    `json:"usedBytes"`
	UsedTags     int64    `json:"usedTags"`
}

// repositoryUsage is metadata.Usage as JSON.
type repositoryUsage struct {
	Repository string `json:"repository"`
	Tags       int64  `json:"tags"`
	Manifests  int64  `json:"manifests"`
	Blobs      int64  `json:"blobs"`
	Bytes      int64  `json:"bytes"`
	Unique     int64  `json:"unique"`
	Trash      int64  `json:"trash"`
}

func usageCommand(s streams) *cobra.Command {
	var file string
	var asJSON bool
	command := &cobra.Command{
		Use:   "usage [PREFIX]",
		Short: "Print how many bytes the repositories hold",
		Long: `Print for each repository, of those whose name begins with PREFIX, how many bytes its blobs have. Repositories share blobs: UNIQUE is
of those that no other one has, and what deleting the repository would give back. TRASH is what is kept for the trash alone. The line below
counts each blob once. Where quotas are configured that count one of these repositories, they follow, with what is used of them by all that
they count.`,
		Example: "  registry usage team/",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			var configuration []string
			if file != "" {
				configuration = []string{file}
			}
			prefix := ""
			if len(args) > 0 {
				prefix = args[0]
			}
			return s.withCollector(command.Context(), configuration, func(c collector, _ *config.Config) error {
				u, err := c.usage(command.Context(), prefix)
				switch {
				case err != nil:
					return err
				case asJSON:
					return s.printJSON(u)
				}
				return s.printUsage(u)
			})
		},
	}
	command.Flags().StringVar(&file, "config", "", "the configuration of the registry")
	command.Flags().BoolVar(&asJSON, "json", false, "print it as JSON")
	return command
}

func (s streams) printUsage(u usage) error {
	table := s.table("REPOSITORY\tTAGS\tMANIFESTS\tBLOBS\tBYTES\tUNIQUE\tTRASH")
	for _, r := range u.Repositories {
		fmt.Fprintf(table, "%s\t%d\t%d\t%d\t%s\t%s\t%s\n", r.Repository, r.Tags, r.Manifests, r.Blobs, bytesString(r.Bytes), bytesString(r.Unique), bytesString(r.Trash))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(s.out, "\n%d repositories, %s stored\n", len(u.Repositories), bytesString(u.Stored)); err != nil || len(u.Quotas) == 0 {
		return err
	}
	table = s.table("QUOTA\tBYTES\tOF\tTAGS\tOF")
	for _, q := range u.Quotas {
		bytes, tags := "-", "-"
		if q.Bytes > 0 {
			bytes = bytesString(q.Bytes)
		}
		if q.Tags > 0 {
			tags = fmt.Sprint(q.Tags)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%d\t%s\n", strings.Join(q.Repositories, " "), bytesString(q.UsedBytes), bytes, q.UsedTags, tags)
	}
	return table.Flush()
}
