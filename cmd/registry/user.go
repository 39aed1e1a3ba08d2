package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"berth/auth"
	"berth/config"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// userFlags say where users are, and how a password comes in.
type userFlags struct {
	file     string
	cost     int
	stdin    bool
	generate bool
}

func userCommand(s streams) *cobra.Command {
	command := &cobra.Command{
		Use:   "user",
		Short: "Add, change, remove and list users",
		Long: `Work on the users in the htpasswd file of auth.htpasswd.path, or of --file. A running server takes notice within a second.

Without an htpasswd file there is one user, admin, whose password registry user passwd admin changes.`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error { return command.Help() },
	}
	var f userFlags
	command.PersistentFlags().StringVar(&f.file, "file", "", "the htpasswd file, in place of the configuration's")
	command.AddCommand(userAddCommand(s, &f), userPasswdCommand(s, &f), userRemoveCommand(s, &f), userListCommand(s, &f))
	return command
}

func (f *userFlags) addPassword(command *cobra.Command) {
	command.Flags().BoolVar(&f.stdin, "password-stdin", false, "read the password from standard input")
	command.Flags().BoolVar(&f.generate, "generate", false, "make a password, and print it")
	command.Flags().IntVar(&f.cost, "cost", auth.DefaultCost, "bcrypt's cost: each step doubles the time of a login that is not remembered")
	command.MarkFlagsMutuallyExclusive("password-stdin", "generate")
}

func userAddCommand(s streams, f *userFlags) *cobra.Command {
	command := &cobra.Command{
		Use:   "add NAME [CONFIG]",
		Short: "Add a user",
		Example: `  registry user add ann
  registry user add ann --file ./htpasswd --password-stdin < password`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(command *cobra.Command, args []string) error {
			path, c, err := s.userFile(f, args[1:])
			if err != nil {
				return err
			}
			err = s.setPassword(f, args[0], "added to "+path, func(hash string) error { return auth.AddUser(path, args[0], hash) })
			if err == nil {
				s.recordOffline(command.Context(), c, "user added", args[0])
			}
			return err
		},
	}
	f.addPassword(command)
	return command
}

func userPasswdCommand(s streams, f *userFlags) *cobra.Command {
	command := &cobra.Command{
		Use:   "passwd NAME [CONFIG]",
		Short: "Change a user's password",
		Long:  "Change a user's password. Who used the old one, or a token that it was exchanged for, is out at once.",
		Args:  cobra.RangeArgs(1, 2),
		RunE: func(command *cobra.Command, args []string) error {
			path, c, err := s.userFile(f, args[1:])
			if errors.Is(err, errNoUserFile) && args[0] == initialUser {
				return s.setPassword(f, initialUser, "changed", func(hash string) error {
					return s.steward(command, args[1:], func(st steward) error { return st.setInitialPassword(command.Context(), hash) })
				})
			}
			if err != nil {
				return err
			}
			err = s.setPassword(f, args[0], "changed in "+path, func(hash string) error { return auth.SetPassword(path, args[0], hash) })
			if err == nil {
				s.recordOffline(command.Context(), c, "user changed", args[0])
			}
			return err
		},
	}
	f.addPassword(command)
	return command
}

func userRemoveCommand(s streams, f *userFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "remove NAME [CONFIG]",
		Short: "Remove a user, who is out at once",
		Args:  cobra.RangeArgs(1, 2),
		RunE: func(command *cobra.Command, args []string) error {
			path, c, err := s.userFile(f, args[1:])
			if err != nil {
				return err
			}
			if err := auth.RemoveUser(path, args[0]); err != nil {
				return err
			}
			s.recordOffline(command.Context(), c, "user removed", args[0])
			_, err = fmt.Fprintf(s.out, "user %s is removed from %s\n", args[0], path)
			return err
		},
	}
}

func userListCommand(s streams, f *userFlags) *cobra.Command {
	var asJSON bool
	command := &cobra.Command{
		Use:   "list [CONFIG]",
		Short: "List the users",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			names := []string{initialUser}
			path, _, err := s.userFile(f, args)
			if err == nil {
				var users *auth.Users
				if users, err = auth.OpenHtpasswd(path); err == nil {
					names = append([]string{}, users.Names()...)
				}
			}
			if err != nil && !errors.Is(err, errNoUserFile) {
				return err
			}
			if asJSON {
				return s.printJSON(names)
			}
			for _, name := range names {
				fmt.Fprintln(s.out, name)
			}
			return nil
		},
	}
	command.Flags().BoolVar(&asJSON, "json", false, "print the list as JSON")
	return command
}

// errNoUserFile says that the users are not in a file.
var errNoUserFile = errors.New("the configuration has no htpasswd file, only the user admin: set auth.htpasswd.path " +
	"(REGISTRY_AUTH_HTPASSWD_PATH), or name a file with --file")

// userFile returns the file to work on, and the configuration that names it, nil where --file does. It fails with
// errNoUserFile.
func (s streams) userFile(f *userFlags, args []string) (string, *config.Config, error) {
	if f.file != "" && len(args) > 0 {
		return "", nil, fmt.Errorf("%q is too much: CONFIG and --file can't be used together", args[0])
	}
	if f.file != "" {
		return f.file, nil, nil
	}
	c, _, err := s.loadConfig(args)
	if err != nil {
		return "", nil, err
	}
	switch c.Auth.Method {
	case config.AuthHTPasswd:
		return c.Auth.HTPasswd.Path, c, nil
	case config.AuthInitial:
		return "", c, errNoUserFile
	}
	return "", c, fmt.Errorf("the configuration has no users: auth is %s; name an htpasswd file with --file", c.Auth.Method)
}

// recordOffline records a change of a file, unless a server runs, which notices and records it.
func (s streams) recordOffline(ctx context.Context, c *config.Config, event, subject string) {
	if c == nil || c.Audit.Output == "" || s.serverRuns(ctx, c) {
		return
	}
	audit := s.openCommandAudit(c.Audit)
	audit.Info(event, "subject", subject)
	_ = audit.close() // what it wrote is written
}

// serverRuns reports whether a server answers on the admin socket, and serves.
func (s streams) serverRuns(ctx context.Context, c *config.Config) bool {
	directory, err := dataDirectory(c, s.environ)
	if err != nil {
		return false
	}
	response, err := adminRequest(ctx, adminSocket(c, directory), http.MethodGet, "/health", nil)
	if err != nil {
		return false
	}
	return response.Body.Close() == nil && response.StatusCode != http.StatusAccepted // which is starting
}

// setPassword gets a password and hands its hash to set.
func (s streams) setPassword(f *userFlags, name, done string, set func(hash string) error) error {
	if strings.ContainsAny(name, ":\n") {
		return fmt.Errorf("%q can't be a user's name: it may not have a colon or a line break", name)
	}
	password, err := s.password(f, name)
	if err != nil {
		return err
	}
	hash, err := auth.HashPassword(password, f.cost)
	if err != nil {
		return err
	}
	if err := set(hash); err != nil {
		return err
	}
	if f.generate {
		fmt.Fprintf(s.errOut, "user %s is %s, with the password\n", name, done)
		_, err = fmt.Fprintf(s.out, "%s\n", password)
		return err
	}
	_, err = fmt.Fprintf(s.out, "user %s is %s\n", name, done)
	return err
}

func (s streams) password(f *userFlags, name string) ([]byte, error) {
	switch {
	case f.generate:
		return []byte(auth.GeneratePassword()), nil
	case f.stdin:
		line, err := bufio.NewReader(io.LimitReader(s.in, 1<<16)).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("read the password: %w", err)
		}
		return []byte(strings.TrimRight(line, "\r\n")), nil
	}
	return s.askPassword(name)
}

// askPassword asks twice, without showing what is typed.
func (s streams) askPassword(name string) ([]byte, error) {
	in, ok := s.in.(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return nil, errors.New("there is no terminal to ask for the password: use --password-stdin or --generate")
	}
	var typed [2][]byte
	for i, prompt := range []string{"password of " + name + ": ", "once more: "} {
		fmt.Fprint(s.errOut, prompt)
		var err error
		typed[i], err = term.ReadPassword(int(in.Fd()))
		fmt.Fprintln(s.errOut)
		if err != nil {
			return nil, fmt.Errorf("read the password: %w", err)
		}
	}
	if string(typed[0]) != string(typed[1]) {
		return nil, errors.New("the two are not the same: nothing was changed")
	}
	return typed[0], nil
}
