package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"berth/config"
	"berth/filelock"
	"berth/storage"
	"berth/storage/diskcache"

	"github.com/VictoriaMetrics/metrics"
)

// openCache opens the disk cache that is configured, where it is of use: what clients read from the blob store by themselves it does
// not see. The registry works without it too, so that a disk that can't be used is only logged; that another registry uses
// the directory is a mistake.
func (s *stores) openCache(ctx context.Context, c config.Storage, log *slog.Logger) error {
	backend, elsewhere := s.blobs.(diskcache.Backend)
	disk := c.Cache.Disk
	if !elsewhere || disk.Size == 0 || !c.Redirect.Disable {
		return nil
	}
	cache, err := diskcache.Open(ctx, diskcache.Config{
		Backend: backend, Directory: disk.Directory, Size: int64(disk.Size), LockWait: lockWait, Log: log,
	})
	switch {
	case errors.Is(err, filelock.ErrHeld):
		return fmt.Errorf("another registry is using %s: set storage.cache.disk.directory to a directory of its own", disk.Directory)
	case err != nil && ctx.Err() == nil:
		log.Error("the disk cache can't be used: blobs are read from the blob store", "directory", disk.Directory, "error", err)
		return nil
	case err != nil:
		return err
	}
	s.cache = cache
	return nil
}

// served are the blobs as clients get them: from the cache, if there is one. Whoever checks what is stored uses blobs.
func (s *stores) served() storage.Blobs {
	if s.cache == nil {
		return s.blobs
	}
	return s.cache
}

// countCache adds what the cache counts to the metrics, if there are both.
func (s *stores) countCache(set *metrics.Set) {
	if s.cache == nil || set == nil {
		return
	}
	set.NewGauge("registry_disk_cache_hits_total", func() float64 { return float64(s.cache.Stats().Hits) })
	set.NewGauge("registry_disk_cache_misses_total", func() float64 { return float64(s.cache.Stats().Misses) })
	set.NewGauge("registry_disk_cache_bytes", func() float64 { return float64(s.cache.Stats().Bytes) })
}
