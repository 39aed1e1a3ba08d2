package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"berth/atomicfile"
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
		Use:   "restore [CONFIG] [--from FILE|s3://BUCKET/KEY|NAME]",
		Short: "Bring back a registry from a backup",
		Long: `Bring back what registry backup stored, and check what came back: from the file that --from names (- is standard input), from
an object s3://BUCKET/KEY (reached as registry backup --help says), or from a snapshot in the blob store, the newest unless --from names one of those that --list prints. A name that has the form of a snapshot's is
one; a file of such a name has to be given with its directory.

The database is put where the configuration has it. What was pushed after the backup is lost: its bytes, if they are there, are put on the
list of those to be deleted after gc.grace. What was deleted after it is there again, and so are its bytes, which come from the file or
have been kept for a snapshot. Uploads that were under way begin again. Of a file without blobs the facts come back, and the check names
the blobs whose bytes are not there. Keys that are in a file are put where they were.

The whole file is checked before anything that is there is replaced, and bytes that are there are never written over: after an error
everything is as it was. No registry may be running on it, and there may be no database yet, unless --replace moves it out of the way. Run
it as the user that the registry runs as.

The exit code is 0 when all is well, and 1 when something is missing or the restore failed.`,
		Example: `  registry restore config.yml --list
  registry restore config.yml --from /backup/registry.tar
  ssh backup cat registry.tar | registry restore config.yml --from -`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			if err := refuseTarget(args, "--from"); err != nil {
				return err
			}
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
	command.Flags().StringVar(&r.from, "from", "", "a file, an object s3://BUCKET/KEY, - for standard input, or a snapshot's name instead of the newest")
	command.Flags().BoolVar(&r.list, "list", false, "list the snapshots in the blob store, and restore none")
	command.Flags().BoolVar(&r.replace, "replace", false, "move a database and keys that are there out of the way first")
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
	from, err := s.origin(ctx, c, blobs, all, r.from)
	if err != nil {
		return err
	}
	defer from.close()
	t := target{directory, metadataPath(c, directory), newKeyFiles(c, directory), blobs, all, c.GC.Grace, r.replace, s.out}
	if r.asJSON {
		t.says = s.errOut
	}
	if err := s.bringBack(ctx, t, from); err != nil {
		return err
	}
	stores, err := openStores(ctx, c, s.environ)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stores.close()) }()
	report, err := fsck.Check(ctx, fsck.Config{Metadata: stores.facts, Blobs: stores.blobs, Progress: s.progress})
	if err != nil {
		return fmt.Errorf("the backup is restored, but could not be checked: run registry fsck: %w", err)
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

// origin is what is brought back.
type origin struct {
	name string
	// database writes the database to a new file, after checking that it is whole.
	database func(ctx context.Context, path string) error
	// file has blobs and keys behind the database. It is nil for a snapshot, whose blobs are in the blob store.
	file  *backup.Reader
	close func() error
}

// origin opens what --from names.
func (s streams) origin(
	ctx context.Context, c *config.Config, blobs storage.Blobs, snapshots []storage.Object, from string,
) (o origin, err error) {
	if from == "" || from == "latest" || metadata.IsBackupName(from) {
		chosen, err := choose(snapshots, from)
		return origin{
			name:     filepath.Base(chosen.Key),
			database: func(ctx context.Context, path string) error { return backup.Fetch(ctx, blobs, chosen, path) },
			close:    func() error { return nil },
		}, err
	}
	in, name, err := s.openFrom(ctx, c, from)
	if err != nil {
		return o, err
	}
	file, err := backup.NewReader(bufio.NewReaderSize(in, 128<<10))
	if err != nil {
		return o, errors.Join(fmt.Errorf("%s: %w", name, err), in.Close())
	}
	file.Progress = s.readProgress(file.Manifest.Size())
	return origin{name: name, database: file.Database, file: file, close: in.Close}, nil
}

// openFrom opens standard input, an object in S3, or a file, and says what it is.
func (s streams) openFrom(ctx context.Context, c *config.Config, from string) (in io.ReadCloser, name string, err error) {
	if from == "-" {
		return io.NopCloser(s.in), "standard input", nil
	}
	if strings.HasPrefix(from, bucketScheme) {
		o, err := s.openObject(ctx, c, from, false)
		if err != nil {
			return nil, "", err
		}
		in, err := o.open(ctx)
		return in, from, err
	}
	in, err = os.Open(from)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w, and no snapshot's name: registry restore --list prints those", err)
	}
	return in, from, err
}

// readProgress returns what shows on a terminal how much of a file was read.
func (s streams) readProgress(total int64) func(int64) {
	var shown time.Time
	return func(done int64) {
		if time.Since(shown) > progressEvery || done == total {
			shown = time.Now()
			s.showBytes(done, total)
		}
	}
}

// choose returns the snapshot with a name, or the newest.
func choose(all []storage.Object, name string) (storage.Object, error) {
	if len(all) == 0 {
		return storage.Object{}, errors.New("there is no snapshot in the blob store: metadata.sqlite.backup takes them; --from names a file")
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

// target is where a backup is brought back to.
type target struct {
	directory string
	path      string // of the database
	keys      keyFiles
	blobs     storage.Blobs
	snapshots []storage.Object // all that there are
	grace     time.Duration
	replace   bool // what is there
	says      io.Writer
}

// bringBack puts the database of a backup in place, in order with what is in the blob store then, and its keys. Until all of it is known
// to be good nothing has changed.
func (s streams) bringBack(ctx context.Context, t target, from origin) (err error) {
	if err := os.MkdirAll(filepath.Dir(t.path), 0o700); err != nil {
		return err
	}
	lock, err := lockDirectory(ctx, t.directory, 0, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	if _, err := os.Stat(t.path); err == nil && !t.replace {
		return fmt.Errorf("there is a database at %s: --replace moves it out of the way", t.path)
	}
	fetched := t.path + ".restored"
	if err := removeDatabase(fetched); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, removeDatabase(fetched)) }()
	if err := from.database(ctx, fetched); err != nil {
		return fmt.Errorf("restore %s: %w", from.name, err)
	}
	keys, err := from.keys(t)
	if err != nil {
		return fmt.Errorf("restore %s: %w", from.name, err)
	}
	if aside, err := s.putInPlace(ctx, t, from, fetched, keys); err != nil {
		return fmt.Errorf("restore %s: %w", from.name, err)
	} else if aside != "" {
		fmt.Fprintf(t.says, "the old database is %s now\n", aside)
	}
	_, err = fmt.Fprintf(t.says, "restored %s to %s\n", from.name, t.path)
	return err
}

// putInPlace puts a database where it belongs, with the blobs and keys that come with it, and returns where the old one is now, if any.
func (s streams) putInPlace(
	ctx context.Context, t target, from origin, fetched string, keys []atomicfile.File,
) (aside string, err error) {
	if from.file != nil {
		defer func() {
			if _, gone := os.Stat(fetched); err != nil && gone == nil { // else the blobs are those of the database that is in place
				err = errors.Join(err, from.file.Discard(context.WithoutCancel(ctx), t.blobs))
			}
		}()
	}
	if err := s.settle(ctx, t, from, fetched); err != nil {
		return "", err
	}
	if err := install(keys); err != nil {
		return "", err
	}
	if aside, err = moveAside(t.path); err != nil {
		return "", err
	}
	return aside, atomicfile.Rename(fetched, t.path)
}

// keys returns what has to be written to bring the keys back.
func (o origin) keys(t target) ([]atomicfile.File, error) {
	if o.file == nil {
		return nil, nil
	}
	keys, err := o.file.Keys()
	if err != nil {
		return nil, err
	}
	return t.keys.plan(keys, t.replace)
}

// removeDatabase removes a database that is of no use any more, with what SQLite has beside it, if it is there.
func removeDatabase(path string) error {
	for _, suffix := range []string{"", "-wal", "-shm", ".lock", ".reserve"} {
		if err := os.Remove(path + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// moveAside keeps a database, with what SQLite has beside it, under another name, which it returns when there is one.
func moveAside(path string) (string, error) {
	aside := path + asideSuffix(time.Now())
	for _, suffix := range []string{"-wal", "-shm", journalSuffix} {
		if err := os.Rename(path+suffix, aside+suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
	}
	err := os.Rename(path, aside)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return aside, err
}

// settle brings facts of the past together with a blob store of today, and with the blobs of a file.
func (s streams) settle(ctx context.Context, t target, from origin, path string) (err error) {
	_, wholeObjects := t.blobs.(storage.WholeObjects)
	facts, err := metadata.Open(ctx, metadata.Config{Path: path, Grace: t.grace, WholeObjects: wholeObjects})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, facts.Close()) }()
	if from.file != nil {
		err := from.file.Restore(ctx, facts, t.blobs)
		if isTerminal(s.errOut) {
			fmt.Fprintln(s.errOut)
		}
		if err != nil {
			return err
		}
	}
	if err := adoptBackups(ctx, facts, t.snapshots); err != nil {
		return err
	}
	if err := endUploads(ctx, facts); err != nil {
		return err
	}
	unknown, err := buryUnknown(ctx, facts, t)
	if err != nil || unknown == 0 {
		return err
	}
	_, err = fmt.Fprintf(t.says,
		"%d objects are not in the backup: they are deleted after gc.grace (%s), and when no other snapshot needs them\n", unknown, t.grace)
	return err
}

// adoptBackups has facts of the past know the snapshots that there are, and no others. All of them keep their bytes, also those that were
// taken later.
func adoptBackups(ctx context.Context, facts *metadata.Store, snapshots []storage.Object) error {
	known, err := facts.Backups(ctx)
	if err != nil {
		return err
	}
	for _, b := range known {
		if !slices.ContainsFunc(snapshots, func(o storage.Object) bool { return o.Key == b.Name }) {
			if err := facts.ForgetBackup(ctx, b.Name); err != nil {
				return err
			}
		}
	}
	for _, o := range snapshots {
		if err := facts.AdoptBackup(ctx, o.Key, o.Size); err != nil {
			return err
		}
	}
	return nil
}

// endUploads ends all uploads, since their bytes may be gone.
func endUploads(ctx context.Context, facts *metadata.Store) error {
	const batch = 500
	if _, err := facts.EndUploads(ctx); err != nil {
		return err
	}
	for {
		if n, err := facts.ExpireUploads(ctx, false, batch); err != nil || n < batch {
			return err
		}
	}
}

// buryUnknown puts all objects that no row knows on the dead list, and returns how many there were.
func buryUnknown(ctx context.Context, facts *metadata.Store, t target) (unknown int, err error) {
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
	return unknown, cmp.Or(err, bury())
}
