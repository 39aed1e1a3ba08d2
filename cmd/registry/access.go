package main

import (
	"errors"
	"fmt"

	"berth/auth/access"
	"berth/config"
	"berth/registry"

	"github.com/spf13/cobra"
)

func accessCommand(s streams) *cobra.Command {
	command := &cobra.Command{
		Use:   "access",
		Short: "Look at the access rules",
		Args:  cobra.NoArgs,
		RunE:  func(command *cobra.Command, _ []string) error { return command.Help() },
	}
	command.AddCommand(accessCheckCommand(s))
	return command
}

func accessCheckCommand(s streams) *cobra.Command {
	var user, repository, action string
	var anonymous, asJSON bool
	command := &cobra.Command{
		Use:   "check [CONFIG] --user NAME --repository NAME --action ACTION",
		Short: "Say whether a user may do something, and which rule decides",
		Long: `Say whether the access rules of CONFIG let a user, or with --anonymous a client that is not logged in, take an action on
a repository, and which rule decides. Nothing is asked of a running server, and neither user nor repository need to exist.

The exit code is 0 when it is allowed and 1 when not.`,
		Example: "  registry access check --user ann --repository team/app --action push",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if (user == "") != anonymous {
				return errors.New("say who: --user NAME, or --anonymous")
			}
			e, err := s.explainAccess(args, user, repository, action)
			if err != nil {
				return err
			}
			return s.printExplanation(e, asJSON)
		},
	}
	flags := command.Flags()
	flags.StringVar(&user, "user", "", "the user's name")
	flags.BoolVar(&anonymous, "anonymous", false, "a client that is not logged in")
	flags.StringVar(&repository, "repository", "", "the repository's name, such as team/app")
	flags.StringVar(&action, "action", "pull", "pull, push or delete")
	flags.BoolVar(&asJSON, "json", false, "print the answer as JSON")
	_ = command.MarkFlagRequired("repository") // it fails for flags that do not exist
	return command
}

func (s streams) explainAccess(args []string, user, repository, action string) (access.Explanation, error) {
	if err := registry.CheckName(repository); err != nil {
		return access.Explanation{}, fmt.Errorf("--repository: %w", err)
	}
	actions := map[string]access.Actions{"pull": access.Pull, "push": access.Push, "delete": access.Delete}
	wanted, ok := actions[action]
	if !ok {
		return access.Explanation{}, fmt.Errorf("--action: %q is none of pull, push and delete", action)
	}
	c, _, err := s.loadConfig(args)
	if err != nil {
		return access.Explanation{}, err
	}
	switch c.Auth.Method {
	case config.AuthNone:
		return access.Explanation{Allowed: true, Because: "auth is none: everybody may do everything"}, nil
	case config.AuthToken:
		return access.Explanation{}, errors.New("auth is token: the scopes in that server's tokens decide, not rules")
	}
	rules, err := compileRules(c)
	if err != nil {
		return access.Explanation{}, err
	}
	return rules.Explain(user, repository, wanted), nil
}

func (s streams) printExplanation(e access.Explanation, asJSON bool) error {
	if asJSON {
		if err := s.printJSON(e); err != nil {
			return err
		}
	} else {
		verdict := "denied"
		if e.Allowed {
			verdict = "allowed"
		}
		fmt.Fprintf(s.out, "%s: %s\n", verdict, e.Because)
	}
	if !e.Allowed {
		return errReported
	}
	return nil
}
