package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"berth/config"
	"berth/registry/backup"
	"berth/registry/fsck"
	"berth/storage"
	"berth/storage/metadata"

	"github.com/spf13/cobra"
)

// restoring is how `registry restore` was called.
type restoring struct {
	from                  string
	list, replace, asJSON bool
}

func restoreCommand(s streams) *cobra.Command {
	var r restoring
	command := &cobra.Command{
		Use:   "restore [CONFIG]",
		Short: "Bring back the facts from a snapshot in the blob store",
		Long: `Put the newest snapshot of the SQLite database, or the one that --from names, where the configuration has the database, and
check what came back. What was pushed after the snapshot is lost: its bytes are put on the list of those to be deleted after gc.grace. What
was deleted after it is there again, and so are its bytes. Uploads that were under way begin again.

No registry may be running on it. The exit code is 0 when all is well, and 1 when something is missing or the restore failed.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			c, _, err := s.loadConfig(args)
			if err != nil {
				return err
			}
			if c.Metadata.Postgres.DSN != "" {
				return errPostgresBackup
			}
			return s.restore(command.Context(), c, r)
		},
	}
	command.Flags().StringVar(&r.from, "from", "", "the snapshot's name, as --list prints it, instead of the newest")
	command.Flags().BoolVar(&r.list, "list", false, "list the snapshots, and restore none")
	command.Flags().BoolVar(&r.replace, "replace", false, "move a database that is there out of the way first")
	command.Flags().BoolVar(&r.asJSON, "json", false, "print the list, or the report of the check, as JSON")
	return command
}

func (s streams) restore(ctx context.Context, c *config.Config, r restoring) (err error) {
	directory, err := dataDirectory(c, s.environ)
	if err != nil {
		return err
	}
	blobs, err := openBlobs(ctx, c.Storage, directory)
	if err != nil {
		return err
	}
	all, err := backup.List(ctx, blobs.(storage.Lister))
	if err != nil {
		return err
	}
	if r.list {
		return s.printSnapshots(all, r.asJSON)
	}
	chosen, err := choose(all, r.from)
	if err != nil {
		return err
	}
	t := target{metadataPath(c, directory), blobs, all, c.GC.Grace}
	if err := s.bringBack(ctx, directory, t, chosen, r.replace); err != nil {
		return err
	}
	stores, err := openStores(ctx, c, s.environ, 0, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stores.close()) }()
	report, err := fsck.Check(ctx, fsck.Config{Metadata: stores.facts, Blobs: stores.blobs, Progress: s.progress})
	if err != nil {
		return fmt.Errorf("the snapshot is restored, but could not be checked: run registry fsck: %w", err)
	}
	return s.printReport(report, r.asJSON)
}

// snapshotLine is what `restore --list --json` prints of each.
type snapshotLine struct {
	Name  string    `json:"name"`
	Bytes int64     `json:"bytes"`
	Taken time.Time `json:"taken"`
}

func (s streams) printSnapshots(all []storage.Object, asJSON bool) error {
	lines := []snapshotLine{}
	for _, o := range all {
		lines = append(lines, snapshotLine{filepath.Base(o.Key), o.Size, o.Modified})
	}
	if asJSON {
		encoder := json.NewEncoder(s.out)
		encoder.SetIndent("", "  ")
		return encoder.Encode(lines)
	}
	for _, l := range lines {
		if _, err := fmt.Fprintf(s.out, "%s  %s  %10s\n", l.Name, l.Taken.Local().Format(time.DateTime), bytesString(l.Bytes)); err != nil {
			return err
		}
	}
	return nil
}

// choose returns the snapshot with a name, or the newest.
func choose(all []storage.Object, name string) (storage.Object, error) {
	if len(all) == 0 {
		return storage.Object{}, errors.New("there is no snapshot: metadata.sqlite.backup takes them")
	}
	if name == "" || name == "latest" {
		return all[len(all)-1], nil
	}
	for _, o := range all {
		if filepath.Base(o.Key) == filepath.Base(name) {
			return o, nil
		}
	}
	return storage.Object{}, fmt.Errorf("there is no snapshot %s: registry restore --list names them", name)
}

// target is where a snapshot is brought back to.
type target struct {
	path      string // of the database
	blobs     storage.Blobs
	snapshots []storage.Object // all that there are
	grace     time.Duration
}

// bringBack puts the database of a snapshot in place, in order with what is in the blob store now: until then nothing has changed.
func (s streams) bringBack(ctx context.Context, directory string, t target, chosen storage.Object, replace bool) (err error) {
	if err := os.MkdirAll(filepath.Dir(t.path), 0o700); err != nil {
		return err
	}
	lock, err := lockDirectory(ctx, directory, 0, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	if _, err := os.Stat(t.path); err == nil && !replace {
		return fmt.Errorf("there is a database at %s: --replace moves it out of the way", t.path)
	}
	fetched := t.path + ".restored"
	clean := func() error {
		for _, suffix := range []string{"", "-wal", "-shm", ".lock"} {
			if err := os.Remove(fetched + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		return nil
	}
	if err := clean(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, clean()) }()
	if err := backup.Fetch(ctx, t.blobs, chosen, fetched); err != nil {
		return err
	}
	if err := s.settle(ctx, t, fetched); err != nil {
		return err
	}
	if err := s.moveAside(t.path); err != nil {
		return err
	}
	if err := os.Rename(fetched, t.path); err != nil {
		return err
	}
	_, err = fmt.Fprintf(s.out, "restored %s to %s\n", filepath.Base(chosen.Key), t.path)
	return err
}

// moveAside keeps a database, with what SQLite has beside it, under another name.
func (s streams) moveAside(path string) error {
	aside := path + ".replaced-" + time.Now().UTC().Format("20060102T150405Z")
	for _, suffix := range []string{"-wal", "-shm", ""} {
		err := os.Rename(path+suffix, aside+suffix)
		switch {
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return err
		case err == nil && suffix == "":
			_, err := fmt.Fprintf(s.out, "the old database is %s now\n", aside)
			return err
		}
	}
	return nil
}

// settle brings facts of the past together with a blob store of today.
func (s streams) settle(ctx context.Context, t target, path string) (err error) {
	_, wholeObjects := t.blobs.(storage.WholeObjects)
	facts, err := metadata.Open(ctx, metadata.Config{Path: path, Grace: t.grace, WholeObjects: wholeObjects})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, facts.Close()) }()
	for _, o := range t.snapshots { // all of them keep their bytes, also those that were taken later
		if err := facts.AdoptBackup(ctx, o.Key, o.Size); err != nil {
			return err
		}
	}
	if _, err := facts.EndUploads(ctx); err != nil {
		return err
	}
	var unknown int
	var keys []string
	bury := func() error {
		n, err := facts.BuryOrphans(ctx, keys, t.grace)
		unknown, keys = unknown+n, keys[:0]
		return err
	}
	err = t.blobs.(storage.Lister).List(ctx, metadata.BlobPrefix, func(o storage.Object) error {
		if keys = append(keys, o.Key); len(keys) < 500 {
			return nil
		}
		return bury()
	})
	if err := cmp.Or(err, bury()); err != nil {
		return err
	}
	_, err = fmt.Fprintf(s.out, "%d objects are not in the snapshot: they are deleted after gc.grace (%s), and when no other snapshot needs them\n", unknown, t.grace)
	return err
}
