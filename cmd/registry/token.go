package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"berth/auth"
	"berth/config"
	"berth/storage/metadata"

	"github.com/spf13/cobra"
)

func tokenCommand(s streams) *cobra.Command {
	command := &cobra.Command{
		Use:   "token",
		Short: "Make, list and revoke access tokens for machines",
		Long: `An access token is the password of a machine: a build server, a node of a swarm. What it may do is said when it is made,
whatever the access rules say. It is used as the password of docker login, with any user name.`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error { return command.Help() },
	}
	command.AddCommand(tokenCreateCommand(s), tokenListCommand(s), tokenRevokeCommand(s), tokenRotateCommand(s))
	return command
}

func tokenCreateCommand(s streams) *cobra.Command {
	var request robotRequest
	var expires string
	var asJSON bool
	command := &cobra.Command{
		Use:   "create [CONFIG] --name NAME --repositories PATTERNS --actions ACTIONS",
		Short: "Make a token, and print it this once",
		Long: `Make an access token and print it. It is not kept, only its hash: whoever loses it makes another.

PATTERNS have commas between them; * stands for anything within a segment of a name, ** for whole segments. A running server
knows the token at once.`,
		Example: `  registry token create --name ci --repositories 'team/**' --actions pull,push --expires 90d
  registry token create --name nodes --repositories '**' --actions pull | ssh node docker login -u nodes --password-stdin HOST:5000`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			lifetime, err := parseLifetime(expires)
			if err != nil {
				return err
			}
			request.Lifetime = lifetime
			return s.steward(command, args, func(st steward) error {
				made, err := st.makeRobot(command.Context(), request)
				if err != nil {
					return err
				}
				return s.printToken(made, asJSON)
			})
		},
	}
	flags := command.Flags()
	flags.StringVar(&request.Name, "name", "", "what lists and logs call it")
	flags.StringSliceVar(&request.Repositories, "repositories", nil, "the repositories that it is for, such as 'team/**' or '**'")
	flags.StringSliceVar(&request.Actions, "actions", nil, "what it may do there: pull, push, delete or '*'")
	flags.StringVar(&expires, "expires", "never", "how long it is good for, such as 90d or 12h, or never")
	flags.BoolVar(&asJSON, "json", false, "print the token with what is known of it as JSON")
	for _, name := range []string{"name", "repositories", "actions"} {
		_ = command.MarkFlagRequired(name) // it fails for flags that do not exist
	}
	return command
}

// parseLifetime reads a duration, in which days are d, or never, which is zero.
func parseLifetime(s string) (time.Duration, error) {
	if s == "never" {
		return 0, nil
	}
	d, err := time.ParseDuration(s)
	if days, ok := strings.CutSuffix(s, "d"); ok {
		var n uint64
		if n, err = strconv.ParseUint(days, 10, 16); n > 36500 {
			n = 0
		}
		d = time.Duration(n) * 24 * time.Hour
	}
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("--expires: %q is no time from now, such as 90d or 12h, up to 36500d: use never for one that does not end", s)
	}
	return d, nil
}

// printToken prints the token alone on standard output, so that it can be piped.
func (s streams) printToken(made robotMade, asJSON bool) error {
	if asJSON {
		return s.printJSON(made)
	}
	fmt.Fprintf(s.errOut, "token %s: may %s in %s, expires %s; it is shown this once\n",
		made.Name, made.Actions, strings.Join(made.Repositories, ", "), day(made.ExpiresAt))
	_, err := fmt.Fprintln(s.out, made.Token)
	return err
}

// day is a time for people who look at lists.
func day(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.Local().Format("2006-01-02 15:04")
}

func tokenListCommand(s streams) *cobra.Command {
	var asJSON bool
	command := &cobra.Command{
		Use:   "list [CONFIG]",
		Short: "List the tokens that there are, without their secrets",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			return s.steward(command, args, func(st steward) error {
				all, err := st.robots(command.Context())
				if err != nil {
					return err
				}
				if asJSON {
					return s.printJSON(append([]metadata.Robot{}, all...))
				}
				return s.printRobots(all)
			})
		},
	}
	command.Flags().BoolVar(&asJSON, "json", false, "print the list as JSON")
	return command
}

func (s streams) printRobots(all []metadata.Robot) error {
	table := tabwriter.NewWriter(s.out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "NAME\tREPOSITORIES\tACTIONS\tCREATED\tEXPIRES\tLAST USED")
	for _, r := range all {
		expires := day(r.ExpiresAt)
		if !r.ExpiresAt.IsZero() && time.Now().After(r.ExpiresAt) {
			expires = "expired"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n",
			r.Name, strings.Join(r.Repositories, ","), r.Actions, day(r.CreatedAt), expires, day(r.LastUsedAt))
	}
	return table.Flush()
}

func tokenRevokeCommand(s streams) *cobra.Command {
	return &cobra.Command{
		Use:   "revoke NAME [CONFIG]",
		Short: "End a token, at once",
		Args:  cobra.RangeArgs(1, 2),
		RunE: func(command *cobra.Command, args []string) error {
			return s.steward(command, args[1:], func(st steward) error {
				if err := st.revokeRobot(command.Context(), args[0]); err != nil {
					return err
				}
				_, err := fmt.Fprintf(s.out, "token %s is revoked\n", args[0])
				return err
			})
		},
	}
}

func tokenRotateCommand(s streams) *cobra.Command {
	return &cobra.Command{
		Use:   "rotate-key [CONFIG]",
		Short: "Sign the tokens of logins with a new key",
		Long: `Put a new key in front of those that sign the short-lived tokens which docker login and other clients fetch, and keep the
newest of the old ones, so that tokens that are out are good until they end. The access tokens of registry token create are
not signed, and stay. A running server takes notice within a second. Refresh tokens that the dropped keys signed end.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			c, _, err := s.loadConfig(args)
			if err != nil {
				return err
			}
			directory, err := dataDirectory(c, s.environ)
			if err != nil {
				return err
			}
			if c.Auth.Method == config.AuthToken || c.Auth.Method == config.AuthNone {
				return errors.New("with this auth section the registry signs no tokens")
			}
			path := tokenKeyFile(c, directory)
			if err := auth.RotateKeyFile(path); err != nil {
				return err
			}
			s.recordOffline(command.Context(), c, "token keys changed", path)
			_, err = fmt.Fprintf(s.out, "there is a new key in %s; the one before stays good until the next rotation: after a leak, rotate twice\n", path)
			return err
		},
	}
}

// steward loads the configuration and runs fn with whoever changes things.
func (s streams) steward(command *cobra.Command, args []string, fn func(steward) error) error {
	c, _, err := s.loadConfig(args)
	if err != nil {
		return err
	}
	return s.withSteward(command.Context(), c, fn)
}
