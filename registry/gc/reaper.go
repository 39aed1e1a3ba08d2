// Package gc frees what nobody needs, while the registry serves: uploads whose time is over, blobs that no manifest references
// and nobody has leased, and bytes that are on the dead list.
//
// Bytes are deleted only after the transaction that declared them dead, and deleting them again does no harm, so that a
// crash at any moment leaves nothing but work to repeat. An error ends a round; what was not reached waits for the next.
// Nothing is freed while the clock can't be trusted. Manifests without a tag stay, unless DeleteUntagged or a retention rule is asked for: who runs an
// image may know it by its digest alone.
package gc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"berth/storage"
	"berth/storage/metadata"
)

const (
	// batch is how many rows one transaction handles, so that pushes don't wait for the reaper.
	batch = 100
	// putOff is how long keys wait whose bytes can't be deleted.
	putOff = 10 * time.Minute
	// recoverEvery is the time between two looks for what unclean stops left.
	recoverEvery = time.Hour
	// orphanBatch is how many found keys are looked up at once.
	orphanBatch = 500
)

// Config is what a Reaper works on. Metadata and Blobs have to be set.
type Config struct {
	Metadata *metadata.Store
	Blobs    storage.Blobs
	// Interval is the time between rounds. One minute by default.
	Interval time.Duration
	// Rate is how many links of blobs are reviewed in a second, so that pushes and pulls don't wait. 1000 by default.
	Rate int
	// Retention are the rules that let tags and manifests go, and RetentionInterval how often they are applied. One hour by default.
	Retention         []RetentionRule
	RetentionInterval time.Duration
	// KeepUploads never ends an upload that is not finished, however old.
	KeepUploads bool
	// Log may be nil.
	Log *slog.Logger
}

// DeleteUntagged removes the manifests that metadata.Store.DeleteUntagged does, all of them, and calls each for every one. Dry removes
// none. What they referenced is for the next round.
func (r *Reaper) DeleteUntagged(ctx context.Context, dry bool, how metadata.Deletion, each func(metadata.UntaggedManifest)) error {
	var last metadata.UntaggedManifest
	for {
		some, err := r.facts.DeleteUntagged(ctx, dry, how, last, batch)
		if err != nil {
			return fmt.Errorf("delete untagged manifests: %w", err)
		}
		for _, m := range some {
			each(m)
			last = m
		}
		// What is gone may have been the last parent or subject of another one, which came before it.
		if len(some) == 0 {
			if dry || last == (metadata.UntaggedManifest{}) {
				return nil
			}
			last = metadata.UntaggedManifest{}
		}
	}
}

// Reaper ends uploads whose time is over, collects blobs, and deletes dead bytes. Make it with New. Its methods may be called at the
// same time; rounds wait for each other.
type Reaper struct {
	facts    *metadata.Store
	blobs    storage.Blobs
	interval time.Duration
	rate     int
	keep     bool
	rules    []RetentionRule
	log      *slog.Logger

	retainEvery time.Duration
	retained    time.Time // last

	round  sync.Mutex // held during one
	clock  clock
	mu     sync.Mutex
	status Status
}

// Status is what a Reaper did since it was made.
type Status struct {
	// Total is what all rounds did, and Bytes of it is what was collected and is deleted after the grace.
	Total Report
	// Last is when a round ended, and Error why that one failed.
	Last  time.Time
	Error string
	// Worked is when a round ended that did all that there was to do: none does while collecting is paused, or the clock is not trusted.
	Worked time.Time
}

// New returns a Reaper, which does nothing until it is asked.
func New(c Config) *Reaper {
	if c.Interval <= 0 {
		c.Interval = time.Minute
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Rate <= 0 {
		c.Rate = 1000
	}
	if c.RetentionInterval <= 0 {
		c.RetentionInterval = time.Hour
	}
	return &Reaper{
		facts: c.Metadata, blobs: c.Blobs, interval: c.Interval, rate: c.Rate, keep: c.KeepUploads, log: c.Log,
		rules: c.Retention, retainEvery: c.RetentionInterval,
	}
}

// Run recovers from unclean stops, again every hour, and works a round at every interval, until ctx ends.
func (r *Reaper) Run(ctx context.Context) {
	ticker := time.NewTicker(r.interval)
	defer ticker.Stop()
	var recovered time.Time
	for {
		if time.Since(recovered) > recoverEvery { // another server may have been killed
			if err := r.Recover(ctx); err != nil && ctx.Err() == nil {
				r.log.Error("recovery failed, the next one tries again", "error", err, "wait", recoverEvery)
			}
			recovered = time.Now()
		}
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
	Uploads   int                // ended
	Retired   metadata.Retired   // by retention rules
	Purged    metadata.Purged    // from the trash
	Collected metadata.Collected // links and blobs
	Keys      int                // whose bytes were deleted
}

func (r *Report) add(more Report) {
	r.Uploads += more.Uploads
	r.Retired.Tags += more.Retired.Tags
	r.Retired.Manifests += more.Retired.Manifests
	r.Purged.Manifests += more.Purged.Manifests
	r.Purged.States += more.Purged.States
	r.Collected.Add(more.Collected)
	r.Keys += more.Keys
}

// Round ends the uploads whose time is over, empties the trash, collects the blobs that nothing needs, and deletes the bytes whose time has come. It does
// nothing while the clock can't be trusted, or collecting is paused.
func (r *Reaper) Round(ctx context.Context) (done Report, err error) {
	r.round.Lock()
	defer r.round.Unlock()
	now, ok, err := r.begin(ctx)
	if ok {
		done, err = r.work(ctx, now)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status.Total.add(done)
	r.status.Last, r.status.Error = time.Now(), ""
	if ok && err == nil {
		r.status.Worked = r.status.Last
	}
	if err != nil {
		r.status.Error = err.Error()
	}
	return done, err
}

// Status returns what was done so far.
func (r *Reaper) Status() Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.status
}

// begin says that this server runs. It reports whether anything may be freed, and what time it is.
func (r *Reaper) begin(ctx context.Context) (now time.Time, ok bool, err error) {
	if err := r.facts.KeepAlive(ctx); err != nil {
		return now, false, fmt.Errorf("say that this server runs: %w", err)
	}
	if paused, err := r.facts.Paused(ctx); err != nil || paused {
		return now, false, err
	}
	now, noted, err := r.facts.Clock(ctx)
	if err != nil {
		return now, false, fmt.Errorf("read clock: %w", err)
	}
	if why := r.clock.distrust(now, noted, time.Now()); why != "" {
		r.log.Warn("clock is not trusted, nothing is freed", "reason", why, "clock", now, "noted", noted)
		return now, false, nil
	}
	return now, true, nil
}

func (r *Reaper) work(ctx context.Context, now time.Time) (done Report, err error) {
	for n := batch; n == batch; done.Uploads += n {
		if n, err = r.facts.ExpireUploads(ctx, r.keep, batch); err != nil {
			return done, fmt.Errorf("end uploads: %w", err)
		}
	}
	if done.Retired, err = r.retain(ctx); err != nil {
		return done, err
	}
	if done.Purged, err = r.purge(ctx); err != nil {
		return done, err
	}
	if done.Collected, err = r.collect(ctx); err != nil {
		return done, err
	}
	if err := r.facts.FoldQuotas(ctx); err != nil {
		return done, fmt.Errorf("add up quotas: %w", err)
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

// purge removes from the trash what has been there for its time.
func (r *Reaper) purge(ctx context.Context) (done metadata.Purged, err error) {
	for {
		some, err := r.facts.PurgeTrash(ctx, batch)
		if err != nil {
			return done, fmt.Errorf("empty the trash: %w", err)
		}
		done.Manifests, done.States = done.Manifests+some.Manifests, done.States+some.States
		if some == (metadata.Purged{}) { // what an index listed comes after it
			break
		}
	}
	if done.Manifests > 0 {
		r.log.Info("emptied the trash", "manifests", done.Manifests)
	}
	return done, nil
}

// collect reviews all links of which it is time, no faster than at the rate.
func (r *Reaper) collect(ctx context.Context) (done metadata.Collected, err error) {
	for began := time.Now(); ; {
		some, err := r.facts.Collect(ctx, batch)
		if err != nil {
			return done, fmt.Errorf("collect blobs: %w", err)
		}
		done.Add(some)
		if some.Reviewed < batch {
			break
		}
		wait := time.Duration(done.Reviewed)*time.Second/time.Duration(r.rate) - time.Since(began)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return done, ctx.Err()
		}
	}
	if done.Links > 0 {
		r.log.Info("collected", "links", done.Links, "blobs", done.Blobs, "bytes", done.Bytes)
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
	if len(prefixes) > 0 {
		debug.FreeOSMemory() // a process that is idle from now on would keep what that took
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
