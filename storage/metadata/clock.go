package metadata

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// Clock returns the database's time and the one that was noted last. A clock that is behind that was set back, or is not
// set yet: what it says is over may not be.
func (s *Store) Clock(ctx context.Context) (now, noted time.Time, err error) {
	var ms int64
	var seen []byte
	err = s.db.view(ctx, func(ctx context.Context, t *tx) error {
		return t.row(ctx, `SELECT {now}, (SELECT value FROM settings WHERE name = 'clock')`).Scan(&ms, &seen)
	})
	if err != nil {
		return now, noted, err
	}
	now = time.UnixMilli(ms)
	if seen != nil {
		last, err := strconv.ParseInt(string(seen), 10, 64)
		if err != nil {
			return now, noted, fmt.Errorf("setting clock: %w", err)
		}
		noted = time.UnixMilli(last)
	}
	return now, noted, nil
}

// NoteClock notes a time that can be trusted. Whatever was committed before is durable afterwards, the bookkeeping of
// uploads too.
func (s *Store) NoteClock(ctx context.Context, now time.Time) error {
	return s.db.update(ctx, durable, func(ctx context.Context, t *tx) error {
		return setSetting(ctx, t, "clock", strconv.AppendInt(nil, now.UnixMilli(), 10))
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

// SetSetting keeps value under a name, in place of what was there.
func (s *Store) SetSetting(ctx context.Context, name string, value []byte) error {
	return s.db.update(ctx, durable, func(ctx context.Context, t *tx) error {
		return setSetting(ctx, t, name, value)
	})
}

func setSetting(ctx context.Context, t *tx, name string, value []byte) error {
	_, err := t.exec(ctx, `INSERT INTO settings (name, value) VALUES ($1, $2)
		ON CONFLICT (name) DO UPDATE SET value = excluded.value`, name, value)
	return err
}
