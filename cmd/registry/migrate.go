package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"berth/filelock"
	"berth/storage/metadata"

	"github.com/spf13/cobra"
)

func metadataCommand(s streams) *cobra.Command {
	command := &cobra.Command{
		Use:   "metadata",
		Short: "Move the registry's database",
		Args:  cobra.NoArgs,
		RunE:  func(command *cobra.Command, _ []string) error { return command.Help() },
	}
	command.AddCommand(migrateCommand(s))
	return command
}

func migrateCommand(s streams) *cobra.Command {
	return &cobra.Command{
		Use:   "migrate [CONFIG]",
		Short: "Move the facts from SQLite to PostgreSQL",
		Long: `Copy the facts of the registry, which repository has what, from its SQLite database to the PostgreSQL database that
metadata.postgres.dsn of CONFIG names (or REGISTRY_METADATA_POSTGRES_DSN_FILE, a file with the DSN in it). The bytes of the blobs stay
where they are. Stop the registry first, and start it with the same CONFIG afterwards.

The PostgreSQL database has to be there, and empty. It is filled in one transaction and checked before that is committed: after a
failure nothing has changed, and the command can be repeated. Afterwards the SQLite database is marked, so that no registry starts
on it by mistake; remove it when you are sure that you need it no more.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			c, _, err := s.loadConfig(args)
			if err != nil {
				return err
			}
			dsn := string(c.Metadata.Postgres.DSN)
			if dsn == "" {
				return errors.New("there is nowhere to move to: set metadata.postgres.dsn, or REGISTRY_METADATA_POSTGRES_DSN_FILE to a file with the DSN in it")
			}
			directory, err := dataDirectory(c, s.environ)
			if err != nil {
				return err
			}
			path := metadataPath(c, directory)
			if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("there is no database at %s: set metadata.sqlite.path to where it is", path)
			}
			rows, err := metadata.Move(command.Context(), path, dsn, s.moveProgress)
			if isTerminal(s.errOut) {
				fmt.Fprintln(s.errOut)
			}
			switch {
			case errors.Is(err, filelock.ErrHeld):
				return fmt.Errorf("a registry is using %s: stop it first", path)
			case errors.Is(err, metadata.ErrMoved):
				return fmt.Errorf("%s was moved before: the facts are in PostgreSQL", path)
			case err != nil:
				return err
			}
			_, err = fmt.Fprintf(s.out, "moved %d rows from %s to PostgreSQL, and checked them; start the registry with this configuration\n", rows, path)
			return err
		},
	}
}

// moveProgress shows on a terminal how far a move is.
func (s streams) moveProgress(p metadata.MoveProgress) {
	if isTerminal(s.errOut) {
		const width = 30
		done := int(width * p.Rows / max(p.Total, 1))
		fmt.Fprintf(s.errOut, "\r[%-*s] %d of %d rows, %-20s", width, "##############################"[:min(done, width)], p.Rows, p.Total, p.Table)
	}
}
