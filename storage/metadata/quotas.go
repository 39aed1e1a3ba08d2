package metadata

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
)

// Quota limits what the repositories that match some patterns hold together: bytes of blobs, each counted once, whether a manifest
// references it, none does yet or any more, or the trash alone keeps it; and tags.
type Quota struct {
	// Repositories are the patterns. They tell a quota from others.
	Repositories []string
	// Match reports whether a repository matches one of them.
	Match func(repository string) bool
	// Bytes and Tags are the limits. Zero is none.
	Bytes, Tags int64
}

// QuotaUse is a quota, and what of it is used.
type QuotaUse struct {
	Repositories        []string
	Bytes, Tags         int64
	UsedBytes, UsedTags int64
}

// QuotaError says that a call would exceed a quota, of which so much was used before, by adding that many bytes and tags.
type QuotaError struct {
	QuotaUse
	AddedBytes, AddedTags int64
}

// Error says so.
func (e *QuotaError) Error() string {
	return fmt.Sprintf("the quota of %q has %d bytes and %d tags, of which %d and %d are used: there is no room for %d and %d more",
		e.Repositories, e.Bytes, e.Tags, e.UsedBytes, e.UsedTags, e.AddedBytes, e.AddedTags)
}

// quotasInForce are the quotas that SetQuotas was called with.
type quotasInForce []quotaInForce

type quotaInForce struct {
	Quota
	id int64
	// turn is held by whoever adds to the quota, where others than the one writer of SQLite do: they would only wait for each other in
	// the database, each with a connection.
	turn chan struct{}
	// grown counts how often something was added.
	grown *atomic.Int64
}

// quotasOf returns the quotas of a repository, which need not exist, in the order of their ids.
func (s *Store) quotasOf(repository string) (matching quotasInForce) {
	all := s.quotas.Load()
	if all == nil {
		return nil
	}
	for _, q := range *all {
		if q.Match(repository) {
			matching = append(matching, q)
		}
	}
	return matching
}

// grow is an update that may add to a repository. It fails with a QuotaError when it would exceed a quota by that.
//
// Whoever adds to a quota waits for its turn, and writes its row first. So two of them never run at the same time, and one that began
// before another one ended, as one does that did not wait, does not go on from what it saw: PostgreSQL has a serializable transaction begin
// anew then, and each statement of a fresh one sees all that was committed before.
func (s *Store) grow(ctx context.Context, repository string, d durability, fn func(context.Context, *tx) error) error {
	quotas := s.quotasOf(repository)
	if len(quotas) == 0 {
		return s.db.update(ctx, d, fn)
	}
	if s.db.shared() {
		leave, err := quotas.enter(ctx)
		if err != nil {
			return err
		}
		defer leave()
	}
	err := s.db.updateInTurn(ctx, quotas.ids(), d, func(ctx context.Context, t *tx) error {
		before, err := quotas.begin(ctx, t)
		if err != nil {
			return err
		}
		if err := fn(ctx, t); err != nil {
			return err
		}
		return quotas.check(ctx, t, before)
	})
	if err == nil && quotas[0].grown.Add(1)%foldEvery == 0 {
		if err := s.FoldQuotas(context.WithoutCancel(ctx)); err != nil {
			s.config.Log.Warn("adding up quotas failed", "error", err) // it will be tried again
		}
	}
	return err
}

// growAtOnce is grow for an fn that runs one statement, which has to see what was committed before it.
func (s *Store) growAtOnce(ctx context.Context, repository string, fn func(context.Context, *tx) error) error {
	if len(s.quotasOf(repository)) == 0 {
		return s.db.updateOne(ctx, fn)
	}
	return s.grow(ctx, repository, fresh, fn)
}

// lockQuota writes the row of a quota.
const lockQuota = `UPDATE quotas SET used_bytes = used_bytes WHERE id = $1`

func (quotas quotasInForce) ids() []int64 {
	ids := make([]int64, len(quotas))
	for i, q := range quotas {
		ids[i] = q.id
	}
	return ids
}

// begin writes the rows of quotas, and returns what of them is used.
func (quotas quotasInForce) begin(ctx context.Context, t *tx) ([]QuotaUse, error) {
	before := make([]QuotaUse, len(quotas))
	for i, q := range quotas {
		if _, err := t.exec(ctx, lockQuota, q.id); err != nil {
			return nil, err
		}
		var err error
		if before[i], err = quotaUse(ctx, t, q.id); err != nil {
			return nil, err
		}
	}
	return before, nil
}

// check fails with a QuotaError when more of a quota is used than before, and more than it has.
func (quotas quotasInForce) check(ctx context.Context, t *tx, before []QuotaUse) error {
	for i, q := range quotas {
		after, err := quotaUse(ctx, t, q.id)
		if err != nil {
			return err
		}
		e := QuotaError{before[i], after.UsedBytes - before[i].UsedBytes, after.UsedTags - before[i].UsedTags}
		if e.Bytes > 0 && e.AddedBytes > 0 && after.UsedBytes > e.Bytes || e.Tags > 0 && e.AddedTags > 0 && after.UsedTags > e.Tags {
			return &e
		}
	}
	return nil
}

// enter waits until nobody else of this process adds to the quotas.
func (quotas quotasInForce) enter(ctx context.Context) (leave func(), err error) {
	entered := 0
	leave = func() {
		for _, q := range quotas[:entered] {
			<-q.turn
		}
	}
	for _, q := range quotas { // in the order of their ids, as everybody
		select {
		case q.turn <- struct{}{}:
			entered++
		case <-ctx.Done():
			leave()
			return nil, ctx.Err()
		}
	}
	return leave, nil
}

const quotaUses = `
	SELECT q.repositories, q.bytes, q.tags,
	  q.used_bytes + coalesce((SELECT sum(c.bytes) FROM quota_changes c WHERE c.quota = q.id), 0),
	  q.used_tags + coalesce((SELECT sum(c.tags) FROM quota_changes c WHERE c.quota = q.id), 0)
	FROM quotas q `

func scanQuotaUse(row scanner) (u QuotaUse, err error) {
	var patterns string
	if err = row.Scan(&patterns, &u.Bytes, &u.Tags, &u.UsedBytes, &u.UsedTags); err == nil {
		err = json.Unmarshal([]byte(patterns), &u.Repositories)
	}
	return u, err
}

// quotaUse returns what of a quota is used: nothing of one that is not there any more.
func quotaUse(ctx context.Context, t *tx, id int64) (QuotaUse, error) {
	u, err := scanQuotaUse(t.row(ctx, quotaUses+`WHERE q.id = $1`, id))
	if errors.Is(err, sql.ErrNoRows) {
		err = nil
	}
	return u, err
}

// CheckQuota reports early what would come out when so many bytes were added to a repository, as the blob d or, when it is empty, as one
// that is not known: it fails with a QuotaError when they would exceed a quota, or, when size is zero, when a quota has no room left.
func (s *Store) CheckQuota(ctx context.Context, repository string, size int64, d digest.Digest) error {
	quotas := s.quotasOf(repository)
	if len(quotas) == 0 {
		return nil
	}
	return s.db.view(ctx, func(ctx context.Context, t *tx) error {
		for _, q := range quotas {
			u, err := quotaUse(ctx, t, q.id)
			if err != nil {
				return err
			}
			if u.Bytes == 0 || max(size, 1) <= u.Bytes-u.UsedBytes {
				continue
			}
			counted, err := t.exists(ctx, `SELECT 1 FROM quota_blobs WHERE quota = $1 AND digest = $2`, q.id, sqlDigest(d))
			if err != nil {
				return err
			}
			if !counted {
				return &QuotaError{QuotaUse: u, AddedBytes: size}
			}
		}
		return nil
	})
}

// Quotas returns the quotas that count a repository whose name begins with prefix, and those that count none when it is empty, with what
// of them is used, in the order in which they were made.
func (s *Store) Quotas(ctx context.Context, prefix string) (all []QuotaUse, err error) {
	err = s.db.view(ctx, func(ctx context.Context, t *tx) error {
		all, err = collect(ctx, t, scanQuotaUse, quotaUses+`
			WHERE $1 = '' OR EXISTS (
			  SELECT 1 FROM quota_repositories c JOIN repositories r ON r.id = c.repository
			  WHERE c.quota = q.id AND substr(r.name, 1, length($1)) = $1)
			ORDER BY q.id`, prefix)
		return err
	})
	return all, err
}

const (
	// foldAtOnce bounds how many changes a transaction adds up.
	foldAtOnce = 1000
	// foldEvery is after how many additions that is done: each has all changes to add up that were not.
	foldEvery = 256
)

// FoldQuotas adds up what was added to quotas and taken away from them, so that there is little to add up when that is asked for.
func (s *Store) FoldQuotas(ctx context.Context) error {
	quotas := s.quotas.Load()
	if quotas == nil {
		return nil
	}
	changed, err := s.changedQuotas(ctx)
	if err != nil {
		return err
	}
	for _, q := range *quotas {
		for slices.Contains(changed, q.id) {
			n := 0
			err := s.db.updateInTurn(ctx, []int64{q.id}, fresh, func(ctx context.Context, t *tx) (err error) {
				n, err = fold(ctx, t, q.id)
				return err
			})
			if err != nil {
				return err
			}
			if n < foldAtOnce {
				break
			}
		}
	}
	return nil
}

// changedQuotas returns the ids of the quotas in force of which something was added or taken away since that was added up.
func (s *Store) changedQuotas(ctx context.Context) (ids []int64, err error) {
	err = s.db.view(ctx, func(ctx context.Context, t *tx) error {
		ids, err = collect(ctx, t, scanID, `SELECT q.id FROM quotas q WHERE EXISTS (SELECT 1 FROM quota_changes c WHERE c.quota = q.id)`)
		return err
	})
	return ids, err
}

func fold(ctx context.Context, t *tx, quota int64) (changes int, err error) {
	// First, as those who add do.
	if _, err := t.exec(ctx, lockQuota, quota); err != nil {
		return 0, err
	}
	var bytes, tags int64
	_, err = collect(ctx, t, func(row scanner) (struct{}, error) {
		var b, n int64
		err := row.Scan(&b, &n)
		changes, bytes, tags = changes+1, bytes+b, tags+n
		return struct{}{}, err
	}, `DELETE FROM quota_changes WHERE id IN (SELECT id FROM quota_changes WHERE quota = $1 ORDER BY id LIMIT $2) RETURNING bytes, tags`, quota, foldAtOnce)
	if err != nil || changes == 0 {
		return changes, err
	}
	_, err = t.exec(ctx, `UPDATE quotas SET used_bytes = used_bytes + $2, used_tags = used_tags + $3 WHERE id = $1`, quota, bytes, tags)
	return changes, err
}
