package metadata

import (
	"context"
	"encoding/json"
	"slices"
	"sync/atomic"
)

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
