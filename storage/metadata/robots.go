package metadata

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// ErrExists says that a name is taken.
var ErrExists = errors.New("it exists already")

// Robot is a machine's account.
type Robot struct {
	// ID is never used for another robot.
	ID string `json:"id"`
	// Name is unique among the robots that there are.
	Name string `json:"name"`
	// Repositories are patterns of where the robot may do Actions, which have commas between them.
	Repositories []string  `json:"repositories"`
	Actions      string    `json:"actions"`
	CreatedAt    time.Time `json:"created"`
	// ExpiresAt is zero for robots that stay until they are deleted.
	ExpiresAt time.Time `json:"expires,omitzero"`
	// LastUsedAt is zero for robots that were never used. It may lag by some minutes.
	LastUsedAt time.Time `json:"last_used,omitzero"`
}

const robotColumns = `id, name, repositories, actions, created_at, COALESCE(expires_at, 0), COALESCE(last_used_at, 0)`

// AddRobot keeps a robot with the hash of its secret, for lifetime unless that is zero, and returns it with its times. It
// fails with ErrExists when there is one of that name, be it an expired one.
func (s *Store) AddRobot(ctx context.Context, r Robot, secretHash []byte, lifetime time.Duration) (kept Robot, err error) {
	repositories, err := json.Marshal(r.Repositories)
	if err != nil {
		return Robot{}, err
	}
	err = s.db.update(ctx, durable, func(ctx context.Context, t *tx) error {
		n, err := t.exec(ctx, `
			INSERT INTO robots (id, name, secret_hash, repositories, actions, created_at, expires_at)
			VALUES ($1, $2, $3, $4, $5, {now}, {now} + $6) ON CONFLICT (name) DO NOTHING`,
			r.ID, r.Name, secretHash, string(repositories), r.Actions, sql.NullInt64{Int64: lifetime.Milliseconds(), Valid: lifetime > 0})
		if err != nil {
			return err
		}
		if n == 0 {
			return ErrExists
		}
		kept, err = scanRobot(t.row(ctx, `SELECT `+robotColumns+` FROM robots WHERE id = $1`, r.ID))
		return err
	})
	return kept, err
}

// Robots returns all robots, sorted by name, those that have expired too.
func (s *Store) Robots(ctx context.Context) (all []Robot, err error) {
	err = s.db.view(ctx, func(ctx context.Context, t *tx) error {
		all, err = collect(ctx, t, scanRobot, `SELECT `+robotColumns+` FROM robots ORDER BY name`)
		return err
	})
	return all, err
}

// Robot returns a robot that has not expired. It fails with ErrNotFound.
func (s *Store) Robot(ctx context.Context, id string) (Robot, error) {
	return s.robot(ctx, `SELECT `+robotColumns+` FROM robots WHERE id = $1 AND (expires_at IS NULL OR expires_at > {now})`, id)
}

// RobotBySecret returns the robot that has not expired whose secret has a hash. It fails with ErrNotFound.
func (s *Store) RobotBySecret(ctx context.Context, hash []byte) (Robot, error) {
	return s.robot(ctx, `SELECT `+robotColumns+` FROM robots WHERE secret_hash = $1 AND (expires_at IS NULL OR expires_at > {now})`, hash)
}

func (s *Store) robot(ctx context.Context, query string, arg any) (r Robot, err error) {
	err = s.db.view(ctx, func(ctx context.Context, t *tx) error {
		r, err = scanRobot(t.row(ctx, query, arg))
		return found(err)
	})
	return r, err
}

// DeleteRobot deletes a robot by its name. It fails with ErrNotFound.
func (s *Store) DeleteRobot(ctx context.Context, name string) error {
	return s.db.update(ctx, durable, func(ctx context.Context, t *tx) error {
		n, err := t.exec(ctx, `DELETE FROM robots WHERE name = $1`, name)
		if err == nil && n == 0 {
			return ErrNotFound
		}
		return err
	})
}

// NoteRobotUses records when robots were last used, by their ids, where that is later than what is known.
func (s *Store) NoteRobotUses(ctx context.Context, uses map[string]time.Time) error {
	return s.db.update(ctx, relaxed, func(ctx context.Context, t *tx) error {
		for id, at := range uses {
			if _, err := t.exec(ctx, `
				UPDATE robots SET last_used_at = $2 WHERE id = $1 AND (last_used_at IS NULL OR last_used_at < $2)`,
				id, at.UnixMilli()); err != nil {
				return err
			}
		}
		return nil
	})
}

func scanRobot(row scanner) (r Robot, err error) {
	var repositories string
	var created, expires, used int64
	if err := row.Scan(&r.ID, &r.Name, &repositories, &r.Actions, &created, &expires, &used); err != nil {
		return Robot{}, err
	}
	if err := json.Unmarshal([]byte(repositories), &r.Repositories); err != nil {
		return Robot{}, fmt.Errorf("repositories of robot %s: %w", r.Name, err)
	}
	r.CreatedAt, r.ExpiresAt, r.LastUsedAt = time.UnixMilli(created), timeOrZero(expires), timeOrZero(used)
	return r, nil
}

func timeOrZero(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}
