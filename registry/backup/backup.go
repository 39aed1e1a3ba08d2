// Package backup keeps snapshots of the facts in the blob store, and brings one back.
//
// A snapshot is the SQLite database as it was at one moment, compressed, under a key that begins with metadata.BackupPrefix, so that
// it is found without any facts. While it is kept, the bytes of all blobs that it names are too, whatever is deleted meanwhile. One counts
// once it is whole and durable; what a crash left of others is removed. The oldest goes only after a newer one counts.
//
// It fails with the errors of packages metadata and storage. A snapshot that is damaged is noticed when it is fetched.
package backup

import (
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"berth/storage"
	"berth/storage/metadata"
)

// retry is how long it takes until another try after one that failed.
const retry = 10 * time.Minute

// Config is what a Keeper works on. All but Log have to be set.
type Config struct {
	Metadata *metadata.Store
	Blobs    storage.Blobs
	// Directory is where a snapshot is written before it is sent: it needs as much space as the database takes.
	Directory string
	// Interval is the time between snapshots, and Keep how many are kept.
	Interval time.Duration
	Keep     int
	// Log may be nil.
	Log *slog.Logger
}

// Keeper takes snapshots. Make it with New.
type Keeper struct {
	config Config
	taking sync.Mutex // held while one is taken
}

// New returns a Keeper, which does nothing until it is asked.
func New(c Config) *Keeper {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Keeper{config: c}
}

// Run takes a snapshot at every interval, counted from the last one that there is, until ctx ends.
func (k *Keeper) Run(ctx context.Context) {
	for {
		wait, err := k.wait(ctx)
		if err == nil && wait <= 0 {
			if _, err = k.Take(ctx); err == nil {
				continue
			}
		}
		if err != nil {
			if ctx.Err() == nil {
				k.config.Log.Error("no snapshot was taken, the next try is soon", "error", err, "wait", retry)
			}
			wait = retry
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
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
	if err := k.clean(); err != nil {
		return b, err
	}
	name, err := k.config.Metadata.StartBackup(ctx)
	if err != nil {
		return b, err
	}
	file := filepath.Join(k.config.Directory, temporary+filepath.Base(name))
	defer func() {
		if err = errors.Join(err, removeIfThere(file)); err != nil {
			err = errors.Join(err, k.remove(context.WithoutCancel(ctx), name)) // else it keeps the bytes of what is deleted
		}
	}()
	if err := k.config.Metadata.WriteSnapshot(ctx, file); err != nil {
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

// temporary begins the names of files that are being sent or fetched.
const temporary = ".snapshot-"

// clean removes what a crash left in the directory.
func (k *Keeper) clean() error {
	left, err := filepath.Glob(filepath.Join(k.config.Directory, temporary+"*"))
	for _, file := range left {
		err = errors.Join(err, removeIfThere(file))
	}
	return err
}

func removeIfThere(file string) error {
	if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
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

// prune removes the snapshots that are not whole, and the oldest of the others but for Keep. The object goes before its row.
func (k *Keeper) prune(ctx context.Context) error {
	all, err := k.config.Metadata.Backups(ctx)
	if err != nil {
		return err
	}
	whole := 0
	for _, b := range slices.Backward(all) {
		if !b.Finished.IsZero() {
			if whole++; whole <= k.config.Keep {
				continue
			}
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
