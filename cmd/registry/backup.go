package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"

	"berth/config"
	"berth/registry/backup"
	"berth/storage/metadata"

	"github.com/spf13/cobra"
)

// keeper takes the snapshots of a registry.
type keeper struct {
	*backup.Keeper
	periodic bool
}

func newKeeper(c *config.Config, s *stores, log *slog.Logger) keeper {
	settings := c.Metadata.SQLite.Backup
	return keeper{backup.New(backup.Config{
		Metadata:  s.facts,
		Blobs:     s.blobs,
		Directory: filepath.Dir(metadataPath(c, s.directory)),
		Interval:  settings.Interval,
		Keep:      settings.Keep,
		Log:       log,
	}), settings.Interval > 0}
}

// tasks are what serve has to run.
func (k keeper) tasks() []func(context.Context) {
	if !k.periodic {
		return nil
	}
	return []func(context.Context){k.Run}
}

// serve is the part of the API on the socket.
func (k keeper) serve(mux *http.ServeMux) {
	mux.HandleFunc("POST /backup", func(w http.ResponseWriter, r *http.Request) {
		b, err := k.Take(r.Context())
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		_ = json.NewEncoder(w).Encode(b) // whoever asked may be gone
	})
}

func backupCommand(s streams) *cobra.Command {
	return &cobra.Command{
		Use:   "backup [CONFIG]",
		Short: "Take a snapshot of the facts now",
		Long: `Store a snapshot of the SQLite database beside the blobs now, instead of at the next time that metadata.sqlite.backup.interval
says. A running server does it itself. The bytes of all blobs that it names are kept as long as it is; when there are more than
metadata.sqlite.backup.keep, the oldest goes. registry restore brings one back.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			c, _, err := s.loadConfig(args)
			if err != nil {
				return err
			}
			if c.Metadata.Postgres.DSN != "" {
				return errPostgresBackup
			}
			b, err := s.backup(command.Context(), c)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(s.out, "%s (%s)\n", filepath.Base(b.Name), bytesString(b.Size))
			return err
		},
	}
}

var errPostgresBackup = errors.New("the facts are in PostgreSQL, which has backups of its own (pg_basebackup, pg_dump)")

// backup has the running server take a snapshot, or takes it by itself when there is none.
func (s streams) backup(ctx context.Context, c *config.Config) (b metadata.Backup, err error) {
	directory, err := dataDirectory(c, s.environ)
	if err != nil {
		return b, err
	}
	response, err := adminRequest(ctx, directory, http.MethodPost, "/backup", nil)
	if errors.Is(err, errNoServer) {
		stores, err := openStores(ctx, c, s.environ, 0, nil)
		if err != nil {
			return b, err
		}
		b, err = newKeeper(c, stores, nil).Take(ctx)
		return b, errors.Join(err, stores.close())
	}
	if err != nil {
		return b, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		why, _ := io.ReadAll(io.LimitReader(response.Body, 4<<10)) // the status says enough
		return b, fmt.Errorf("the running registry: %s", strings.TrimSpace(string(why)))
	}
	return b, json.NewDecoder(response.Body).Decode(&b)
}
