package metadata

import (
	"context"
	"database/sql"
	"errors"
	"time"
)

// changesSmall reports whether keepSmall does anything.
func (u Upload) changesSmall() bool { return u.Content != nil || u.Outgrown }

// keepSmall keeps the Content of an upload, if it has any, and drops what it has Outgrown.
func keepSmall(ctx context.Context, t *tx, u Upload) error {
	if u.Outgrown {
		_, err := t.exec(ctx, `DELETE FROM small_objects WHERE key = $1`, u.Key)
		return err
	}
	if u.Content == nil {
		return nil
	}
	_, err := t.exec(ctx, `
		INSERT INTO small_objects (key, kept_at, content) VALUES ($1, {now}, $2)
		ON CONFLICT (key) DO UPDATE SET kept_at = excluded.kept_at, content = excluded.content`, u.Key, u.Content)
	return err
}

// inline says of a row of blobs that its bytes are a small object.
const inline = `EXISTS (SELECT 1 FROM small_objects o WHERE o.key = blobs.key)`

// SmallObject returns the bytes that were kept as the Content of an upload under a key, and whether there are any.
func (s *Store) SmallObject(ctx context.Context, key string) (content []byte, ok bool, err error) {
	err = s.db.view(ctx, func(ctx context.Context, t *tx) error {
		err := t.row(ctx, `SELECT content FROM small_objects WHERE key = $1`, key).Scan(&content)
		if ok = err == nil; errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		return err
	})
	if ok && content == nil { // the driver's word for no bytes
		content = []byte{}
	}
	return content, ok, err
}

// DeleteSmallObject removes the bytes that are kept under a key, if there are any. A power loss may bring them back, together with what was
// recorded as late as that.
func (s *Store) DeleteSmallObject(ctx context.Context, key string) error {
	var kept bool
	err := s.db.view(ctx, func(ctx context.Context, t *tx) (err error) {
		kept, err = t.exists(ctx, `SELECT 1 FROM small_objects WHERE key = $1`, key)
		return err
	})
	if err != nil || !kept { // which is so of most keys, and costs no transaction
		return err
	}
	return s.db.update(ctx, relaxed, func(ctx context.Context, t *tx) error {
		_, err := t.exec(ctx, `DELETE FROM small_objects WHERE key = $1`, key)
		return err
	})
}

// EachSmallObject calls fn for all bytes that are kept under keys with a prefix, and stops at its first error. What is kept or deleted
// meanwhile may be missed.
func (s *Store) EachSmallObject(ctx context.Context, prefix string, fn func(key string, size int64, kept time.Time) error) error {
	const page = 500
	type object struct {
		key  string
		size int64
		kept sql.NullInt64
	}
	scan := func(row scanner) (o object, err error) {
		err = row.Scan(&o.key, &o.size, &o.kept)
		return o, err
	}
	for last, more := "", true; more; {
		var some []object
		err := s.db.view(ctx, func(ctx context.Context, t *tx) (err error) {
			some, err = collect(ctx, t, scan, `
				SELECT key, length(content), kept_at FROM small_objects
				WHERE key > $1 AND key >= $2 AND key < $3 ORDER BY key LIMIT $4`, last, prefix, prefix+"\x7f", page)
			return err
		})
		if err != nil {
			return err
		}
		for _, o := range some {
			if err := fn(o.key, o.size, sqlTime(o.kept)); err != nil {
				return err
			}
			last = o.key
		}
		more = len(some) == page
	}
	return nil
}
