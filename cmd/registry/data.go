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
	"time"

	"berth/config"
	"berth/storage/filesystem"
	"berth/storage/metadata"
)

// systemData is where registry:2 keeps its data.
const systemData = "/var/lib/registry"

// dataDirectory returns where data is kept: the configured directory; else that of registry:2 when it is there, so that
// its data is found; else the user's own.
func dataDirectory(c *config.Config, environ []string) (string, error) {
	if root := c.Storage.FileSystem.RootDirectory; root != "" {
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
	blobs     *filesystem.Store
	facts     *metadata.Store
}

func metadataPath(c *config.Config, directory string) string {
	if path := c.Metadata.SQLite.Path; path != "" {
		return path
	}
	return filepath.Join(directory, "metadata.sqlite")
}

// openStores opens bytes and facts. It waits so long for another process to let go of them.
func openStores(ctx context.Context, c *config.Config, environ []string, wait time.Duration, log *slog.Logger) (*stores, error) {
	directory, err := dataDirectory(c, environ)
	if err != nil {
		return nil, err
	}
	blobs, err := filesystem.Open(filesystem.Config{Root: directory, MinFree: int64(c.Storage.FileSystem.MinFree)})
	if err != nil {
		return nil, err
	}
	facts, err := metadata.Open(ctx, metadata.Config{
		Path:         metadataPath(c, directory),
		Lease:        c.GC.Lease,
		Grace:        c.GC.Grace,
		UploadExpiry: c.Storage.Maintenance.UploadPurging.Age,
		LockWait:     wait,
		Log:          log,
	})
	if errors.Is(err, metadata.ErrInUse) {
		return nil, fmt.Errorf("another registry is using %s: stop it first, or give this one a data directory of its own", directory)
	}
	if err != nil {
		return nil, err
	}
	return &stores{directory: directory, blobs: blobs, facts: facts}, nil
}
