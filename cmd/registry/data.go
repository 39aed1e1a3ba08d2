package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"berth/config"
	"berth/filelock"
	"berth/storage"
	"berth/storage/diskcache"
	"berth/storage/filesystem"
	"berth/storage/journal"
	"berth/storage/metadata"
	"berth/storage/s3"
	"berth/storage/small"
)

// systemData is where registry:2 keeps its data.
const systemData = "/var/lib/registry"

// dataDirectory returns where data is kept: the configured directory; else that of registry:2 when it is there, so that
// its data is found; else the user's own.
func dataDirectory(c *config.Config, environ []string) (string, error) {
	root := c.Storage.FileSystem.RootDirectory
	if c.Storage.Driver == "s3" {
		root = c.Storage.Directory
	}
	if root != "" {
		return filepath.Abs(root)
	}
	if _, err := os.Stat(systemData); c.Storage.Driver != "" || !errors.Is(err, fs.ErrNotExist) {
		return systemData, nil
	}
	base := variable(environ, "XDG_DATA_HOME")
	if base == "" {
		home := variable(environ, "HOME")
		if home == "" {
			return "", errors.New("there is no home directory to keep data in: set storage.filesystem.rootdirectory (REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY)")
		}
		base = filepath.Join(home, ".local", "share")
	}
	return filepath.Join(base, "berth"), nil
}

func variable(environ []string, name string) string {
	for _, v := range environ {
		if value, ok := strings.CutPrefix(v, name+"="); ok {
			return value
		}
	}
	return ""
}

// stores are the bytes and the facts of a registry, open.
type stores struct {
	directory string
	progress  *progress // of a start; nil for commands
	lock      *filelock.Lock
	blobs     storage.Blobs
	inline    int              // the most bytes of a blob that facts keep
	begun     *journal.Journal // has the uploads that have just begun; nil without one
	cache     *diskcache.Cache // nil without one
	facts     *metadata.Store
}

func (s *stores) close() error {
	var err error
	if s.cache != nil {
		err = s.cache.Close()
	}
	if s.begun != nil {
		err = errors.Join(err, s.begun.Close())
	}
	if s.facts != nil {
		err = errors.Join(err, s.facts.Close())
	}
	return errors.Join(err, s.lock.Close())
}

func metadataPath(c *config.Config, directory string) string {
	if path := c.Metadata.SQLite.Path; path != "" {
		return path
	}
	return filepath.Join(directory, "metadata.sqlite")
}

// openStores opens bytes and facts, unless another process has them.
func openStores(ctx context.Context, c *config.Config, environ []string) (*stores, error) {
	s, err := lockStores(ctx, c, environ, 0, nil)
	if err != nil {
		return nil, err
	}
	if err := s.open(ctx, c, 0, nil); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

// lockStores opens the bytes and has the data directory to itself. It waits so long for another process to let go of that.
func lockStores(ctx context.Context, c *config.Config, environ []string, wait time.Duration, log *slog.Logger) (*stores, error) {
	directory, err := dataDirectory(c, environ)
	if err != nil {
		return nil, err
	}
	s := &stores{directory: directory}
	if s.blobs, err = openBlobs(ctx, c.Storage, directory); err != nil {
		return nil, err
	}
	s.lock, err = lockDirectory(ctx, directory, wait, log)
	return s, err
}

// open opens the facts. It waits so long for another process to let go of them.
func (s *stores) open(ctx context.Context, c *config.Config, wait time.Duration, log *slog.Logger) error {
	_, wholeObjects := s.blobs.(storage.WholeObjects)
	err := refuseEmpty(ctx, c, metadataPath(c, s.directory), s.blobs)
	if err != nil {
		return err
	}
	if s.facts, err = openFacts(ctx, c, s.directory, wholeObjects, wait, log); err != nil {
		return err
	}
	return s.keepSmall(ctx, log)
}

// keepSmall has SQLite keep small blobs, where the others are files beside it. From anywhere else it moves those to the blob store that a
// registry left there which had files: its facts may have been moved to PostgreSQL since, or its blobs to a bucket.
func (s *stores) keepSmall(ctx context.Context, log *slog.Logger) error {
	files, ok := s.blobs.(*filesystem.Store)
	if ok && s.facts.Alone() {
		s.blobs, s.inline = small.New(files, s.facts), small.Limit
		return nil
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	told := time.Time{}
	err := small.Move(ctx, s.facts, s.blobs, func(done, all int) {
		s.progress.say("moving small blobs from the metadata to the blob store: %d of %d", done, all)
		if time.Since(told) > 5*time.Second || done == all {
			told = time.Now()
			log.Info("small blobs are moved from the metadata to the blob store", "done", done, "of", all)
		}
	})
	if ok && errors.Is(err, storage.ErrNoSpace) { // which is no reason not to start
		log.Warn("small blobs stay in the metadata until the next start, and uploads that were under way begin again", "error", err)
		s.blobs, err = small.New(files, s.facts), endUploads(ctx, s.facts) // whose small bytes would be taken for those of files
	}
	return err
}

// journalSuffix is behind the database's name in that of the journal of uploads.
const journalSuffix = ".uploads"

// openJournal opens the journal of uploads that have just begun, where SQLite keeps small blobs, and returns its records. The registry works
// without it too, and has to when the disk is full.
func (s *stores) openJournal(path string, log *slog.Logger) (records [][]byte, err error) {
	if s.inline == 0 {
		return nil, nil
	}
	s.begun, records, err = journal.Open(path)
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		log.Warn("there is no room for the journal of uploads: small pushes take longer until the next start", "path", path)
		return nil, nil
	}
	return records, err
}

// refuseEmpty fails when there is a bucket with blobs, and no facts of them: to start empty on it would look as if everything had been
// lost.
func refuseEmpty(ctx context.Context, c *config.Config, path string, blobs storage.Blobs) error {
	if _, err := os.Stat(path); c.Storage.Driver != "s3" || c.Metadata.Postgres.DSN != "" || !errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	errFound := errors.New("found")
	for _, prefix := range []string{metadata.BackupPrefix, metadata.BlobPrefix} {
		switch err := blobs.(storage.Lister).List(ctx, prefix, func(storage.Object) error { return errFound }); {
		case errors.Is(err, errFound):
			return fmt.Errorf("the bucket holds blobs, but their metadata is not at %s: registry restore brings back the newest snapshot of it; "+
				"or set metadata.sqlite.path to where it is, or another storage.s3.rootdirectory to begin anew", path)
		case err != nil:
			return err
		}
	}
	return nil
}

// openBlobs opens the blob store that is configured. One that keeps files keeps them in directory.
func openBlobs(ctx context.Context, c config.Storage, directory string) (storage.Blobs, error) {
	if c.Driver != "s3" {
		return filesystem.Open(filesystem.Config{Root: directory, MinFree: int64(c.FileSystem.MinFree)})
	}
	if err := os.MkdirAll(directory, 0o700); err != nil {
		return nil, err
	}
	return s3.Open(ctx, s3Config(c))
}

// s3Config is how the blob store is reached that is configured.
func s3Config(c config.Storage) s3.Config {
	return s3.Config{
		AccessKey:        string(c.S3.AccessKey),
		SecretKey:        string(c.S3.SecretKey),
		SessionToken:     string(c.S3.SessionToken),
		Bucket:           c.S3.Bucket,
		Region:           c.S3.Region,
		RegionEndpoint:   c.S3.RegionEndpoint,
		ForcePathStyle:   c.S3.ForcePathStyle == nil && c.S3.RegionEndpoint != "" || c.S3.ForcePathStyle != nil && *c.S3.ForcePathStyle,
		RootDirectory:    c.S3.RootDirectory,
		Insecure:         !c.S3.Secure,
		SkipVerify:       c.S3.SkipVerify,
		UseDualStack:     c.S3.UseDualStack,
		UseFIPSEndpoint:  c.S3.UseFIPSEndpoint,
		Accelerate:       c.S3.Accelerate,
		UserAgent:        c.S3.UserAgent,
		Encrypt:          c.S3.Encrypt,
		KeyID:            c.S3.KeyID,
		StorageClass:     c.S3.StorageClass,
		ObjectACL:        c.S3.ObjectACL,
		Memory:           int64(c.S3.Memory),
		ChunkSize:        int64(c.S3.ChunkSize),
		Checksum:         c.S3.Checksum,
		RedirectEndpoint: c.Redirect.Endpoint,
	}
}

// lockDirectory keeps a second registry out of a data directory, whatever database it is configured with.
func lockDirectory(ctx context.Context, directory string, wait time.Duration, log *slog.Logger) (*filelock.Lock, error) {
	path := filepath.Join(directory, "registry.lock")
	lock, err := filelock.Take(ctx, path, 0)
	if errors.Is(err, filelock.ErrHeld) && wait > 0 {
		log.Info("waiting for another registry to let go of the data directory", "directory", directory, "wait", wait)
		lock, err = filelock.Take(ctx, path, wait)
	}
	if errors.Is(err, filelock.ErrHeld) {
		return nil, fmt.Errorf("another registry is using %s: stop it first, or give this one a data directory of its own", directory)
	}
	return lock, err
}

func openFacts(ctx context.Context, c *config.Config, directory string, wholeObjects bool, wait time.Duration, log *slog.Logger) (*metadata.Store, error) {
	path := metadataPath(c, directory)
	if c.Metadata.Postgres.DSN == "" {
		if err := refuseForgotten(path, directory); err != nil {
			return nil, err
		}
	}
	facts, err := metadata.Open(ctx, metadata.Config{
		Path:         path,
		DSN:          string(c.Metadata.Postgres.DSN),
		Connections:  c.Metadata.Postgres.Connections,
		Lease:        c.GC.Lease,
		Grace:        c.GC.Grace,
		Trash:        c.Trash.Retain,
		UploadExpiry: c.Storage.Maintenance.UploadPurging.Age,
		WholeObjects: wholeObjects,
		LockWait:     wait,
		Log:          log,
	})
	switch {
	case errors.Is(err, filelock.ErrHeld):
		return nil, fmt.Errorf("another registry is using %s: stop it first, or set metadata.sqlite.path to another file", path)
	case errors.Is(err, metadata.ErrMoved):
		return nil, fmt.Errorf("the facts of %s were moved to PostgreSQL: set metadata.postgres.dsn", path)
	case err != nil:
		return nil, err
	}
	if err := refuseUnmoved(ctx, c, path, facts); err != nil {
		return nil, errors.Join(err, facts.Close())
	}
	return facts, nil
}

// refuseUnmoved fails when a registry is started on an empty PostgreSQL database beside an SQLite database with its facts.
func refuseUnmoved(ctx context.Context, c *config.Config, path string, facts *metadata.Store) error {
	if c.Metadata.Postgres.DSN == "" {
		return nil
	}
	if _, err := os.Stat(path); err != nil {
		return nil // there is no such database
	}
	repositories, err := facts.Repositories(ctx, "", 1)
	if err != nil || len(repositories) > 0 {
		return err
	}
	if moved, err := metadata.Moved(ctx, path); err != nil || moved {
		return err
	}
	return fmt.Errorf("the PostgreSQL database is empty, and there is one of SQLite at %s: registry metadata migrate moves its facts; or move it away to begin anew", path)
}

// refuseForgotten fails when a directory has data but there is no metadata of it: to start empty beside it would look as
// if everything had been lost.
func refuseForgotten(path, directory string) error {
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return nil // it is there, or whoever opens it says what is wrong
	}
	if holdsFiles(filepath.Join(directory, "blobs")) {
		return fmt.Errorf("%s holds blobs, but their metadata is not at %s: set metadata.sqlite.path to where it is, or bring it back with registry restore", directory, path)
	}
	return nil
}

// holdsFiles reports whether there is a file somewhere below a directory: blobs that were deleted leave directories.
func holdsFiles(directory string) bool {
	errFound := errors.New("found")
	return errors.Is(filepath.WalkDir(directory, func(_ string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			return errFound
		}
		return err
	}), errFound)
}
