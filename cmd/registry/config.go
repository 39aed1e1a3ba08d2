package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"berth/config"

	"github.com/spf13/cobra"
)

// defaultConfigs are where the images of registry:2 and registry:3 have their configuration. The image of Berth has one at
// the second place, so that what is mounted at the first counts.
var defaultConfigs = []string{"/etc/docker/registry/config.yml", "/etc/distribution/config.yml"}

// configPath returns the configuration file to read: that of the command line, else that of the environment, else the
// first of the usual ones that is there, else none.
func configPath(args, environ []string) string {
	if len(args) > 0 {
		return standIn(args[0], defaultConfigs)
	}
	for _, variable := range environ {
		if path, ok := strings.CutPrefix(variable, config.PathVariable+"="); ok && path != "" {
			return path
		}
	}
	if i := slices.IndexFunc(defaultConfigs, present); i >= 0 {
		return defaultConfigs[i]
	}
	return ""
}

// standIn returns a path, but where it is one of the usual ones and not there, the first of those that is: commands written for
// registry:2, such as garbage-collect /etc/docker/registry/config.yml, name a file that the image of registry:3, and of Berth, has elsewhere.
func standIn(path string, usual []string) string {
	if !slices.Contains(usual, path) || present(path) {
		return path
	}
	if i := slices.IndexFunc(usual, present); i >= 0 {
		return usual[i]
	}
	return path
}

func present(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// loadConfig reads the configuration. Its warnings are for a person.
func (s streams) loadConfig(args []string) (*config.Config, []string, error) {
	c, warnings, err := config.Load(configPath(args, s.environ), s.environ)
	if err != nil {
		return nil, nil, fmt.Errorf("the configuration has problems:\n%w", err)
	}
	_, rulesErr := compileRules(c)
	_, policyErr := coverage(c.Policy)
	_, indexErr := indexRules(c.Indexes)
	_, immutableErr := immutableTags(c.Immutability)
	_, retentionErr := retentionRules(c.Retention.Rules)
	_, quotaErr := quotas(c.Quota)
	if err := errors.Join(rulesErr, policyErr, indexErr, immutableErr, retentionErr, quotaErr); err != nil {
		return nil, nil, fmt.Errorf("the configuration has problems:\n%w", err)
	}
	return c, warnings, nil
}

func configCommand(s streams) *cobra.Command {
	command := &cobra.Command{
		Use:   "config",
		Short: "Look at the configuration",
		Args:  cobra.NoArgs,
		RunE:  func(command *cobra.Command, _ []string) error { return command.Help() },
	}
	command.AddCommand(&cobra.Command{
		Use:   "check [CONFIG]",
		Short: "Print the effective configuration, or everything that is wrong with it",
		Long: `Read CONFIG and the REGISTRY_* variables as serve does, and print the configuration that they amount to, with
secrets masked. Every problem is printed with its line, and the exit code is 1 when there is one.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			c, warnings, err := s.loadConfig(args)
			if err != nil {
				return err
			}
			for _, w := range warnings {
				fmt.Fprintln(s.errOut, "warning:", w)
			}
			return c.Write(s.out)
		},
	})
	return command
}
