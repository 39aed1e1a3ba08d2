package metadata

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// clockStep is how far the clock has to move on before that is written down.
const clockStep = time.Minute

// ObserveClock returns the database's time and the latest one that it was ever seen to have before. A clock that is
// behind was set back, or is not set yet: what it says is over may not be.
func (s *Store) ObserveClock(ctx context.Context) (now, latest time.Time, err error) {
	var ms int64
	var seen []byte
	err = s.db.view(ctx, func(ctx context.Context, t *tx) error {
		return t.row(ctx, `SELECT {now}, (SELECT value FROM settings WHERE name = 'clock')`).Scan(&ms, &seen)
	})
	if err != nil {
		return now, latest, err
	}
	now = time.UnixMilli(ms)
	if seen != nil {
		last, err := strconv.ParseInt(string(seen), 10, 64)
		if err != nil {
			return now, latest, fmt.Errorf("setting clock: %w", err)
		}
		latest = time.UnixMilli(last)
	}
	if now.Sub(latest) < clockStep {
		return now, latest, nil
	}
	return now, latest, s.db.update(ctx, relaxed, func(ctx context.Context, t *tx) error {
		_, err := t.exec(ctx, `INSERT INTO settings (name, value) VALUES ('clock', $1)
			ON CONFLICT (name) DO UPDATE SET value = excluded.value`, strconv.AppendInt(nil, ms, 10))
		return err
	})
}

// Setting returns what is kept under a name, or nil.
func (s *Store) Setting(ctx context.Context, name string) (value []byte, err error) {
	err = s.db.view(ctx, func(ctx context.Context, t *tx) error {
		err := t.row(ctx, `SELECT value FROM settings WHERE name = $1`, name).Scan(&value)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		return err
	})
	return value, err
}

// SetSettingOnce keeps value under a name that has none, and returns what is kept there then.
func (s *Store) SetSettingOnce(ctx context.Context, name string, value []byte) (kept []byte, err error) {
	err = s.db.update(ctx, durable, func(ctx context.Context, t *tx) error {
		_, err := t.exec(ctx, `INSERT INTO settings (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING`, name, value)
		if err != nil {
			return err
		}
		return t.row(ctx, `SELECT value FROM settings WHERE name = $1`, name).Scan(&kept)
	})
	return kept, err
}
