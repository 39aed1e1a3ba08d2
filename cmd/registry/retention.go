package main

import (
	"fmt"

	"berth/config"
	"berth/registry/gc"

	"github.com/spf13/cobra"
)

// retentionPlan is what the rules let go of a repository, as `retention plan --json` prints it.
type retentionPlan struct {
	Repository string      `json:"repository"`
	Manifests  int         `json:"manifests"`
	Bytes      int64       `json:"bytes"` // that only they need
	Goes       []gc.Doomed `json:"goes"`
}

func retentionCommand(s streams) *cobra.Command {
	command := &cobra.Command{
		Use:   "retention",
		Short: "See what the retention rules let go",
		Args:  cobra.NoArgs,
		RunE:  func(command *cobra.Command, _ []string) error { return command.Help() },
	}
	command.AddCommand(retentionPlanCommand(s))
	return command
}

func retentionPlanCommand(s streams) *cobra.Command {
	var asJSON bool
	command := &cobra.Command{
		Use:   "plan [CONFIG]",
		Short: "Print what would go now, why, and how many bytes that is",
		Long: `Print which tags and manifests the rules of retention.rules in CONFIG let go now, and why, and change nothing. A running server
plans by them too, whatever rules it goes by itself: so you see what edited rules will do, which count once it is restarted. What
goes is in the trash for trash.retain.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			return s.withCollector(command.Context(), args, func(c collector, settings *config.Config) error {
				all, err := c.retention(command.Context(), settings.Retention.Rules)
				switch {
				case err != nil:
					return err
				case asJSON:
					return s.printJSON(all)
				case len(settings.Retention.Rules) == 0:
					fmt.Fprintln(s.errOut, "the configuration has no retention.rules: everything stays")
				}
				return s.printPlan(all)
			})
		},
	}
	command.Flags().BoolVar(&asJSON, "json", false, "print it as JSON")
	return command
}

func (s streams) printPlan(all []retentionPlan) error {
	if len(all) == 0 {
		_, err := fmt.Fprintln(s.out, "nothing would go")
		return err
	}
	table := s.table("REPOSITORY\tTAG\tDIGEST\tWHY")
	manifests, bytes := 0, int64(0)
	for _, p := range all {
		for _, d := range p.Goes {
			tag := d.Tag
			if tag == "" {
				tag = "-"
			}
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", d.Repository, tag, d.Digest, d.Reason)
		}
		manifests, bytes = manifests+p.Manifests, bytes+p.Bytes
	}
	if err := table.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(s.out, "\n%d manifests would go, and with them %s that nothing else needs\n", manifests, bytesString(bytes))
	return err
}
