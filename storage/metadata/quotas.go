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

// SetQuotas has these quotas hold, and no others, for what is added from now on. A quota that is new, or whose repositories are not
// those that are counted, has them counted, while nobody else pushes. Each process that has the store open has to have the same ones.
func (s *Store) SetQuotas(ctx context.Context, quotas []Quota) error {
	var plan []quotaChange
	look := func(ctx context.Context, t *tx) (err error) {
		plan, err = planQuotas(ctx, t, quotas)
		return err
	}
	if err := s.db.view(ctx, look); err != nil {
		return err
	}
	if len(plan) > 0 {
		err := s.db.update(ctx, alone, func(ctx context.Context, t *tx) error {
			if err := look(ctx, t); err != nil {
				return err
			}
			for _, change := range plan {
				if change.count && len(change.repositories) > 0 {
					s.config.Log.Info("counting for a quota", "quota", change.quota.Repositories, "repositories", len(change.repositories))
				}
				if err := change.apply(ctx, t); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return s.enforce(ctx, quotas)
}

// enforce has quotas hold whose rows are there.
func (s *Store) enforce(ctx context.Context, quotas []Quota) error {
	inForce := make(quotasInForce, len(quotas))
	err := s.db.view(ctx, func(ctx context.Context, t *tx) error {
		for i, q := range quotas {
			inForce[i] = quotaInForce{Quota: q, turn: make(chan struct{}, 1), grown: new(atomic.Int64)}
			if err := t.row(ctx, `SELECT id FROM quotas WHERE repositories = $1`, patternsText(q.Repositories)).Scan(&inForce[i].id); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		slices.SortFunc(inForce, func(a, b quotaInForce) int { return int(a.id - b.id) })
		s.quotas.Store(&inForce)
	}
	return err
}

// patternsText is how a row names the patterns of a quota.
func patternsText(patterns []string) string {
	text, _ := json.Marshal(patterns) // strings always can be
	return string(text)
}

// quotaChange makes the row of a quota, and what it counts, what they should be.
type quotaChange struct {
	id     int64 // 0 for a new one
	remove bool
	quota  Quota
	// count is set when repositories are to be counted that are not yet, or no more.
	count        bool
	repositories []int64
}

// planQuotas returns what is to be changed until the rows are those of quotas.
func planQuotas(ctx context.Context, t *tx, quotas []Quota) (plan []quotaChange, err error) {
	type row struct {
		id          int64
		text        string
		bytes, tags int64
	}
	rows, err := collect(ctx, t, func(from scanner) (r row, err error) {
		err = from.Scan(&r.id, &r.text, &r.bytes, &r.tags)
		return r, err
	}, `SELECT id, repositories, bytes, tags FROM quotas ORDER BY id`)
	if err != nil {
		return nil, err
	}
	for _, r := range rows {
		if !slices.ContainsFunc(quotas, func(q Quota) bool { return patternsText(q.Repositories) == r.text }) {
			plan = append(plan, quotaChange{id: r.id, remove: true})
		}
	}
	for _, q := range quotas {
		c := quotaChange{quota: q}
		i := slices.IndexFunc(rows, func(r row) bool { return r.text == patternsText(q.Repositories) })
		if i >= 0 {
			c.id = rows[i].id
		}
		var counted []int64
		if counted, err = collect(ctx, t, scanID, `SELECT repository FROM quota_repositories WHERE quota = $1 ORDER BY repository`, c.id); err != nil {
			return nil, err
		}
		if c.repositories, err = matchingRepositories(ctx, t, q); err != nil {
			return nil, err
		}
		c.count = i < 0 || !slices.Equal(counted, c.repositories)
		if c.count || rows[i].bytes != q.Bytes || rows[i].tags != q.Tags {
			plan = append(plan, c)
		}
	}
	return plan, nil
}

func matchingRepositories(ctx context.Context, t *tx, q Quota) (ids []int64, err error) {
	_, err = collect(ctx, t, func(row scanner) (struct{}, error) {
		var id int64
		var name string
		err := row.Scan(&id, &name)
		if err == nil && q.Match(name) {
			ids = append(ids, id)
		}
		return struct{}{}, err
	}, `SELECT id, name FROM repositories ORDER BY id`)
	return ids, err
}

func (c quotaChange) apply(ctx context.Context, t *tx) error {
	switch {
	case c.remove:
		return forgetCounts(ctx, t, c.id, `DELETE FROM quotas WHERE id = $1`)
	case c.id == 0:
		err := t.row(ctx, `INSERT INTO quotas (repositories, bytes, tags, used_bytes, used_tags) VALUES ($1, $2, $3, 0, 0) RETURNING id`,
			patternsText(c.quota.Repositories), c.quota.Bytes, c.quota.Tags).Scan(&c.id)
		if err != nil {
			return err
		}
	default:
		if _, err := t.exec(ctx, `UPDATE quotas SET bytes = $2, tags = $3 WHERE id = $1`, c.id, c.quota.Bytes, c.quota.Tags); err != nil {
			return err
		}
	}
	if !c.count {
		return nil
	}
	ids, err := json.Marshal(c.repositories)
	if err == nil {
		err = forgetCounts(ctx, t, c.id)
	}
	if err == nil && len(c.repositories) > 0 {
		_, err = t.exec(ctx, `INSERT INTO quota_repositories (repository, quota) SELECT CAST(e.value AS {int}), $1 FROM {elements}($2) AS e`, c.id, string(ids))
	}
	if err == nil {
		err = count(ctx, t, c.id)
	}
	return err
}

// forgetCounts removes what was counted for a quota, and then does more.
func forgetCounts(ctx context.Context, t *tx, id int64, more ...string) error {
	for _, statement := range append([]string{
		`DELETE FROM quota_repositories WHERE quota = $1`,
		`DELETE FROM quota_blobs WHERE quota = $1`,
		`DELETE FROM quota_changes WHERE quota = $1`,
	}, more...) {
		if _, err := t.exec(ctx, statement, id); err != nil {
			return err
		}
	}
	return nil
}

// count counts what the repositories of a quota hold of which nothing was counted.
func count(ctx context.Context, t *tx, id int64) error {
	for _, statement := range []string{
		`INSERT INTO quota_blobs (quota, digest, size, links)
		 SELECT $1, l.digest, max(b.size), count(*)
		 FROM quota_repositories q
		 JOIN repository_blobs l ON l.repository = q.repository
		 JOIN blobs b ON b.digest = l.digest
		 WHERE q.quota = $1 GROUP BY l.digest`,
		`DELETE FROM quota_changes WHERE quota = $1`,
		`UPDATE quotas SET used_bytes = (SELECT coalesce(sum(size), 0) FROM quota_blobs WHERE quota = $1),
		   used_tags = (SELECT count(*) FROM quota_repositories q JOIN tags t ON t.repository = q.repository WHERE q.quota = $1)
		 WHERE id = $1`,
	} {
		if _, err := t.exec(ctx, statement, id); err != nil {
			return err
		}
	}
	return nil
}

// countRepository has a new repository counted from now on, for the quotas that it matches.
func (s *Store) countRepository(ctx context.Context, t *tx, id int64, name string) error {
	for _, q := range s.quotasOf(name) {
		_, err := t.exec(ctx, `INSERT INTO quota_repositories (repository, quota) SELECT $1, id FROM quotas WHERE id = $2`, id, q.id)
		if err != nil {
			return err
		}
	}
	return nil
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
// Whoever adds to a quota writes its row first. So two of them never run at the same time, and one that began before another one ended
// does not go on from what it saw: PostgreSQL has a serializable transaction begin anew then, and each statement of a fresh one sees all
// that was committed before.
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
	err := s.db.update(ctx, d, func(ctx context.Context, t *tx) error {
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

// lostTurn is the error of a transaction that tried to be the next to write a quota's row.
type lostTurn struct{ err error }

func (l *lostTurn) Error() string { return l.err.Error() }
func (l *lostTurn) Unwrap() error { return l.err }

// begin writes the rows of quotas, and returns what of them is used.
func (quotas quotasInForce) begin(ctx context.Context, t *tx) ([]QuotaUse, error) {
	before := make([]QuotaUse, len(quotas))
	for i, q := range quotas {
		if _, err := t.exec(ctx, lockQuota, q.id); err != nil {
			return nil, &lostTurn{err}
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
			err := s.db.update(ctx, fresh, func(ctx context.Context, t *tx) (err error) {
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
	// First, as those who add do: it waits for its turn among them. Beside those that never pause, it would have to begin again for ever.
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
