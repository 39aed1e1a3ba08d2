package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"berth/config"
	"berth/registry/adopt"
	"berth/storage"
)

// adoptEvery is how often a start that takes over data says how far it is.
const adoptEvery = 5 * time.Second

// listed is a blob store that can list what it has, as all do.
type listed interface {
	storage.Blobs
	storage.Lister
}

// adopt takes over the data of distribution's registry when they lie where this one keeps its own, and there are no facts yet.
func (s streams) adopt(ctx context.Context, c *config.Config, stores *stores, log *slog.Logger) error {
	terminal := isTerminal(s.errOut)
	var said time.Time
	report, err := adopt.Run(ctx, adopt.Config{
		Metadata: stores.facts,
		Blobs:    stores.blobs.(listed),
		Lease:    c.GC.Lease,
		Log:      log,
		Progress: func(r adopt.Report) {
			stores.progress.say("taking over the data of distribution's registry: %d blobs of %d", r.Manifests+r.Blobs, r.Stored)
			switch {
			case terminal:
				fmt.Fprintf(s.errOut, "\rtaking over: %d repositories, %d tags, %d manifests, %d blobs of %d (%s)",
					r.Repositories, r.Tags, r.Manifests, r.Manifests+r.Blobs, r.Stored, bytesString(r.Bytes))
			case time.Since(said) >= adoptEvery:
				said = time.Now()
				log.Info("taking over the data of distribution's registry", "repositories", r.Repositories, "tags", r.Tags,
					"manifests", r.Manifests, "blobs", r.Blobs, "stored", r.Stored)
			}
		},
	})
	if err != nil || report == nil {
		return err
	}
	if terminal {
		fmt.Fprintln(s.errOut)
	}
	level := slog.LevelInfo
	if report.Problems > 0 {
		level = slog.LevelWarn
	}
	log.Log(ctx, level, "took over the data of distribution's registry", "repositories", report.Repositories, "tags", report.Tags,
		"manifests", report.Manifests, "blobs", report.Blobs, "bytes", report.Bytes, "unused", report.Unused, "unusedBytes", report.UnusedBytes,
		"uploads", report.Uploads, "kept", report.Kept, "problems", report.Problems, "took", report.Ended.Sub(report.Began).Round(time.Millisecond))
	return nil
}
