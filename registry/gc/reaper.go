// Package gc frees what nobody needs: uploads whose time is over, and bytes that are on the dead list.
//
// Bytes are deleted only after the transaction that declared them dead, and deleting them again does no harm, so that a
// crash at any moment leaves nothing but work to repeat. An error ends a round; what was not reached waits for the next.
// Nothing is freed while the clock can't be trusted. The package does not look for unreferenced blobs.
package gc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"berth/storage"
	"berth/storage/metadata"
)

const (
	// batch is how many rows one transaction handles, so that pushes don't wait for the reaper.
	batch = 100
	// putOff is how long keys wait whose bytes can't be deleted.
	putOff = 10 * time.Minute
	// orphanBatch is how many found keys are looked up at once.
	orphanBatch = 500
)

// Config is what a Reaper works on. Metadata and Blobs have to be set.
type Config struct {
	Metadata *metadata.Store
	Blobs    storage.Blobs
	// Interval is the time between rounds. One minute by default.
	Interval time.Duration
	// KeepUploads never ends an upload that is not finished, however old.
	KeepUploads bool
	// Log may be nil.
	Log *slog.Logger
}

// Reaper ends uploads whose time is over and deletes dead bytes. Make it with New.
type Reaper struct {
	facts    *metadata.Store
	blobs    storage.Blobs
	interval time.Duration
	keep     bool
	log      *slog.Logger
	clock    clock
}

// New returns a Reaper, which does nothing until it is asked.
func New(c Config) *Reaper {
	if c.Interval <= 0 {
		c.Interval = time.Minute
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Reaper{facts: c.Metadata, blobs: c.Blobs, interval: c.Interval, keep: c.KeepUploads, log: c.Log}
}

// Run recovers from an unclean stop and then works a round at every interval until ctx ends.
func (r *Reaper) Run(ctx context.Context) {
	if err := r.Recover(ctx); err != nil && ctx.Err() == nil {
		r.log.Error("recovery failed, the next start tries again", "error", err)
	}
	ticker := time.NewTicker(r.interval)
	defer ticker.Stop()
	for {
		if _, err := r.Round(ctx); err != nil && ctx.Err() == nil {
			r.log.Error("reaper failed, the next round tries again", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// Report says what a round did.
type Report struct {
	Uploads int // ended
	Keys    int // deleted
}

// Round ends the uploads whose time is over and deletes the bytes whose time has come. It does nothing while the clock
// can't be trusted.
func (r *Reaper) Round(ctx context.Context) (done Report, err error) {
	if err := r.facts.KeepAlive(ctx); err != nil {
		return done, fmt.Errorf("say that this server runs: %w", err)
	}
	now, noted, err := r.facts.Clock(ctx)
	if err != nil {
		return done, fmt.Errorf("read clock: %w", err)
	}
	if why := r.clock.distrust(now, noted, time.Now()); why != "" {
		r.log.Warn("clock is not trusted, nothing is freed", "reason", why, "clock", now, "noted", noted)
		return done, nil
	}
	for n := batch; n == batch; done.Uploads += n {
		if n, err = r.facts.ExpireUploads(ctx, r.keep, batch); err != nil {
			return done, fmt.Errorf("end uploads: %w", err)
		}
	}
	for more := true; more; {
		var n int
		n, more, err = r.reap(ctx, now)
		done.Keys += n
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// reap deletes the bytes of up to batch dead keys and then forgets those keys. It returns how many it deleted and
// whether there may be more. Keys whose bytes can't be deleted are put off, so that others don't wait behind them.
func (r *Reaper) reap(ctx context.Context, now time.Time) (int, bool, error) {
	keys, err := r.facts.ClaimDeadKeys(ctx, batch)
	if err != nil {
		return 0, false, fmt.Errorf("claim dead keys: %w", err)
	}
	if len(keys) == 0 {
		return 0, false, nil
	}
	// What declared these keys dead has to be durable before their bytes are gone, and noting the clock makes it so.
	if err := r.facts.NoteClock(ctx, now); err != nil {
		return 0, false, fmt.Errorf("note clock: %w", err)
	}
	var gone, stuck []string
	var failures []error
	for _, key := range keys {
		if err := r.blobs.Delete(ctx, key); err != nil {
			stuck, failures = append(stuck, key), append(failures, err)
		} else {
			gone = append(gone, key)
		}
	}
	if err := errors.Join(r.facts.ForgetKeys(ctx, gone), r.facts.DelayKeys(ctx, stuck, putOff)); err != nil {
		return 0, false, fmt.Errorf("forget dead keys: %w", err)
	}
	if len(stuck) > 0 {
		return len(gone), false, fmt.Errorf("delete dead bytes: %w", errors.Join(failures...))
	}
	return len(gone), len(keys) == batch, nil
}

// Recover puts bytes that no row knows on the dead list: those that earlier starts wrote just before they were cut off.
// Only the prefixes of such starts are listed.
func (r *Reaper) Recover(ctx context.Context) error {
	prefixes, err := r.facts.UnclosedGenerations(ctx)
	if err != nil {
		return fmt.Errorf("find unclean stops: %w", err)
	}
	lister, ok := r.blobs.(storage.Lister)
	if !ok && len(prefixes) > 0 {
		return fmt.Errorf("%T can't list what an unclean stop left", r.blobs)
	}
	for _, prefix := range prefixes {
		buried, err := r.buryOrphans(ctx, lister, prefix)
		if err != nil {
			return fmt.Errorf("recover %s: %w", prefix, err)
		}
		if err := r.facts.CloseGeneration(ctx, prefix); err != nil {
			return fmt.Errorf("recover %s: %w", prefix, err)
		}
		r.log.Info("recovered from an unclean stop", "prefix", prefix, "orphans", buried)
	}
	return nil
}

func (r *Reaper) buryOrphans(ctx context.Context, lister storage.Lister, prefix string) (total int, err error) {
	keys := make([]string, 0, orphanBatch)
	bury := func() error {
		n, err := r.facts.BuryOrphans(ctx, keys, 0)
		total += n
		keys = keys[:0]
		return err
	}
	err = lister.List(ctx, prefix+"/", func(o storage.Object) error {
		keys = append(keys, o.Key)
		if len(keys) < orphanBatch {
			return nil
		}
		return bury()
	})
	if err != nil {
		return total, err
	}
	return total, bury()
}
