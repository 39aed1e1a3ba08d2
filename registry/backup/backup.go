// Package backup keeps snapshots of the facts in the blob store, writes them to files together with the blobs, and brings them back.
//
// A snapshot is the SQLite database as it was at one moment, compressed, under a key that begins with metadata.BackupPrefix, so that
// it is found without any facts. While it is kept, the bytes of all blobs that it names are too, whatever is deleted meanwhile. One counts
// once it is whole and durable; what a crash left of others is removed. The oldest goes only after a newer one counts.
//
// A file (Export, Reader) has the database, and, when that is asked for, exactly the blobs that it names, and keys. While it is written the
// bytes of those blobs stay, as if it were a snapshot that is kept. No key is in a snapshot, nor in a file that was not asked to have them.
// A file says of all that is in it what its checksums are, but not who wrote it: whoever can change files can make others.
//
// It fails with the errors of packages metadata and storage, and with ErrDamaged. A snapshot or file that is damaged is noticed when
// it is read, before it replaces anything.
package backup

import (
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"berth/storage"
	"berth/storage/metadata"
)

// retry is how long it takes until another try after one that failed.
const retry = 10 * time.Minute

// Config is what a Keeper works on. Metadata, Blobs, Directory and Keep have to be set.
type Config struct {
	Metadata *metadata.Store
	Blobs    storage.Blobs
	// Directory is where a snapshot is written before it is sent: it needs as much space as the database takes, and for a file that
	// much again, compressed.
	Directory string
	// Interval is the time between snapshots, zero takes none, and Keep is how many are kept.
	Interval time.Duration
	Keep     int
	// Secrets are the names of settings that are keys.
	Secrets []string
	// Keys reads the keys that are files.
	Keys func() ([]Key, error)
	// Version is the program's, for people who look into a file.
	Version string
	// Log may be nil.
	Log *slog.Logger
}

// Keeper takes snapshots. Make it with New. There is one for a database at a time.
type Keeper struct {
	config Config
	taking sync.Mutex // held while one is taken for the blob store

	mu      sync.Mutex
	running map[string]bool // names of snapshots that are being taken, or written to a file
}

// New returns a Keeper, which does nothing until it is asked.
func New(c Config) *Keeper {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Keeper{config: c, running: make(map[string]bool)}
}

// Run removes what a crash left, and takes a snapshot at every interval, counted from the last one that there is, until ctx ends.
func (k *Keeper) Run(ctx context.Context) {
	for {
		wait, err := k.next(ctx)
		if err != nil {
			if ctx.Err() == nil {
				k.config.Log.Error("no snapshot was taken, or what a crash left of one stays; the next try is soon", "error", err, "wait", retry)
			}
			wait = retry
		}
		if wait == never {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// never is the time until nothing.
const never time.Duration = -1

// next does what there is to do now, and returns how long it is until there may be more.
func (k *Keeper) next(ctx context.Context) (time.Duration, error) {
	if err := k.sweep(ctx); err != nil {
		return 0, err
	}
	if k.config.Interval <= 0 {
		return never, nil
	}
	wait, err := k.wait(ctx)
	if err != nil || wait > 0 {
		return wait, err
	}
	_, err = k.Take(ctx)
	return 0, err
}

// wait returns how long it is until the next snapshot.
func (k *Keeper) wait(ctx context.Context) (time.Duration, error) {
	all, err := k.config.Metadata.Backups(ctx)
	if err != nil {
		return 0, err
	}
	var last time.Time
	for _, b := range all {
		if !b.Finished.IsZero() && b.Started.After(last) {
			last = b.Started
		}
	}
	now, _, err := k.config.Metadata.Clock(ctx)
	return last.Add(k.config.Interval).Sub(now), err
}

// Take takes a snapshot now, and removes those that are too many.
func (k *Keeper) Take(ctx context.Context) (b metadata.Backup, err error) {
	k.taking.Lock()
	defer k.taking.Unlock()
	if b, err = k.take(ctx); err != nil {
		return b, fmt.Errorf("take a snapshot: %w", err)
	}
	k.config.Log.Info("snapshot taken", "name", b.Name, "bytes", b.Size)
	if err := k.prune(ctx); err != nil {
		k.config.Log.Warn("a snapshot that is too many stays, the next one tries again", "error", err)
	}
	return b, nil
}

func (k *Keeper) take(ctx context.Context) (b metadata.Backup, err error) {
	k.tidy(ctx)
	name, err := k.begin(ctx)
	if err != nil {
		return b, err
	}
	defer k.end(name)
	directory := k.directory(name)
	defer func() {
		if err = errors.Join(err, os.RemoveAll(directory)); err != nil {
			err = errors.Join(err, k.remove(context.WithoutCancel(ctx), name)) // else it keeps the bytes of what is deleted
		}
	}()
	if err := os.Mkdir(directory, 0o700); err != nil {
		return b, err
	}
	file := filepath.Join(directory, "metadata.sqlite")
	if err := k.config.Metadata.WriteSnapshot(ctx, file, k.config.Secrets...); err != nil {
		return b, err
	}
	size, err := k.send(ctx, name, file)
	if err != nil {
		return b, err
	}
	if err := k.config.Metadata.FinishBackup(ctx, name, size); err != nil {
		return b, err
	}
	return metadata.Backup{Name: name, Size: size}, nil
}

// begin has the bytes of all blobs stay that a snapshot which is taken from now on names, until its row is finished or removed.
func (k *Keeper) begin(ctx context.Context) (name string, err error) {
	k.mu.Lock() // a row that nobody is at is one that a crash left
	defer k.mu.Unlock()
	if name, err = k.config.Metadata.StartBackup(ctx); err == nil {
		k.running[name] = true
	}
	return name, err
}

func (k *Keeper) end(name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.running, name)
}

// temporary begins the names of directories where snapshots are that are being written, and of files that are being fetched.
const temporary = ".snapshot-"

func (k *Keeper) directory(name string) string {
	return filepath.Join(k.config.Directory, temporary+filepath.Base(name))
}

// tidy is sweep, for who goes on without.
func (k *Keeper) tidy(ctx context.Context) {
	if err := k.sweep(ctx); err != nil && ctx.Err() == nil {
		k.config.Log.Warn("what is left of backups that were cut off stays, the next one tries again", "error", err)
	}
}

// sweep removes what is left of snapshots that a crash cut off: else bytes of deleted blobs would stay for them. Objects go before their
// rows.
func (k *Keeper) sweep(ctx context.Context) error {
	left, err := filepath.Glob(filepath.Join(k.config.Directory, temporary+"*")) // before those that are running are looked at
	if err != nil {
		return err
	}
	rows, running, err := k.rows(ctx)
	if err != nil {
		return err
	}
	for _, path := range left {
		name := metadata.BackupPrefix + strings.TrimPrefix(filepath.Base(path), temporary)
		if !running[name] {
			err = errors.Join(err, os.RemoveAll(path))
		}
	}
	for _, b := range rows {
		if b.Finished.IsZero() && !running[b.Name] {
			err = errors.Join(err, k.remove(ctx, b.Name))
		}
	}
	return err
}

// rows returns all rows, and the names of those at which somebody was then.
func (k *Keeper) rows(ctx context.Context) ([]metadata.Backup, map[string]bool, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	all, err := k.config.Metadata.Backups(ctx)
	return all, maps.Clone(k.running), err
}

// send stores a file in the blob store, compressed, and returns how many bytes that takes.
func (k *Keeper) send(ctx context.Context, name, file string) (size int64, err error) {
	f, err := os.Open(file)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	w, err := k.config.Blobs.Write(ctx, storage.Checkpoint{Key: name})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	z := gzip.NewWriter(w)
	if _, err := io.Copy(z, reader{ctx, f}); err != nil {
		return 0, err
	}
	if err := z.Close(); err != nil {
		return 0, err
	}
	c, err := w.Checkpoint(ctx)
	if err != nil {
		return 0, err
	}
	return c.Size, k.config.Blobs.Complete(ctx, c)
}

// reader ends with ctx: a database may be large.
type reader struct {
	ctx context.Context // of the one call that this reader lives in
	io.Reader
}

func (r reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}

// prune removes the oldest snapshots but for Keep. The object goes before its row.
func (k *Keeper) prune(ctx context.Context) error {
	all, err := k.config.Metadata.Backups(ctx)
	if err != nil {
		return err
	}
	whole := 0
	for _, b := range slices.Backward(all) {
		if b.Finished.IsZero() {
			continue
		}
		if whole++; whole <= k.config.Keep {
			continue
		}
		if err := k.remove(ctx, b.Name); err != nil {
			return err
		}
	}
	return nil
}

func (k *Keeper) remove(ctx context.Context, name string) error {
	if err := k.config.Blobs.Delete(ctx, name); err != nil {
		return fmt.Errorf("remove snapshot %s: %w", name, err)
	}
	if err := k.config.Metadata.ForgetBackup(ctx, name); err != nil {
		return fmt.Errorf("remove snapshot %s: %w", name, err)
	}
	return nil
}

func removeIfThere(file string) error {
	if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// List returns the snapshots that a blob store has, the newest last. The last ones may not be whole.
func List(ctx context.Context, blobs storage.Lister) (all []storage.Object, err error) {
	err = blobs.List(ctx, metadata.BackupPrefix, func(o storage.Object) error {
		if o.Size > 0 {
			all = append(all, o)
		}
		return nil
	})
	slices.SortFunc(all, func(a, b storage.Object) int { return cmp.Compare(a.Key, b.Key) })
	return all, err
}

// Fetch writes the database of a snapshot to a new file, after checking that it is whole.
func Fetch(ctx context.Context, blobs storage.Blobs, snapshot storage.Object, path string) (err error) {
	file := filepath.Join(filepath.Dir(path), temporary+filepath.Base(snapshot.Key))
	defer func() {
		if err = errors.Join(err, removeIfThere(file)); err != nil {
			err = fmt.Errorf("fetch snapshot %s: %w", snapshot.Key, err)
		}
	}()
	if err := removeIfThere(file); err != nil {
		return err
	}
	if err := fetch(ctx, blobs, snapshot, file); err != nil {
		return err
	}
	if err := metadata.CheckSnapshot(ctx, file); err != nil {
		return err
	}
	if err := os.Link(file, path); err != nil { // which does not replace what is there
		return err
	}
	return syncDirectory(filepath.Dir(path))
}

func fetch(ctx context.Context, blobs storage.Blobs, snapshot storage.Object, file string) (err error) {
	r, err := blobs.Open(ctx, snapshot.Key, snapshot.Size)
	if err != nil {
		return err
	}
	defer r.Close()
	z, err := gzip.NewReader(r)
	if err != nil {
		return fmt.Errorf("it is damaged: %w", err)
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := io.Copy(f, reader{ctx, z}); err != nil {
		return fmt.Errorf("it is damaged, or could not be read: %w", err)
	}
	return f.Sync()
}

func syncDirectory(directory string) error {
	d, err := os.Open(directory)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
