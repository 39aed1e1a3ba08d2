package metadata

import (
	"context"
	"slices"
	"strings"
)

// Update runs fn in a transaction, which it shares with others that come at the same time. exec runs statements of it.
func Update(ctx context.Context, s *Store, fn func(exec func(query string, args ...any) error) error) error {
	return s.db.update(ctx, durable, func(ctx context.Context, t *tx) error {
		return fn(func(query string, args ...any) error {
			_, err := t.exec(ctx, query, args...)
			return err
		})
	})
}

// SyncLevel is what SQLite's synchronous says within a transaction: 2 is FULL, 1 is NORMAL.
func SyncLevel(ctx context.Context, s *Store, survivesPowerLoss bool) (level int, err error) {
	d := relaxed
	if survivesPowerLoss {
		d = durable
	}
	err = s.db.update(ctx, d, func(ctx context.Context, t *tx) error {
		return t.row(ctx, `PRAGMA synchronous`).Scan(&level)
	})
	return level, err
}

// Waiting is how many transactions wait for the writer.
func Waiting(s *Store) int { return len(s.db.(*sqliteDB).writer.requests) }

// IsAudit reports whether a text that Statements returned is of a query that audits, or repairs what that found: those look at everything.
func IsAudit(text string) bool {
	queries, words := (&sqliteDB{}).audits(), sqliteDialect().words
	for _, a := range audits {
		queries = append(queries, a.query)
		if a.repair != "" {
			queries = append(queries, a.repair)
		}
	}
	return slices.ContainsFunc(queries, func(query string) bool {
		return strings.HasPrefix(text, strings.Join(strings.Fields(words.Replace(query)), " "))
	})
}

// Statements are the texts of the statements that the store prepared, as the database sees them.
func Statements(s *Store) (texts []string) {
	var all []*statements
	switch db := s.db.(type) {
	case *sqliteDB:
		all = []*statements{db.reads, db.writer.statements}
	case *postgresDB:
		all = []*statements{db.statements}
	}
	for _, prepared := range all {
		prepared.byText.Range(func(text, _ any) bool {
			texts = append(texts, strings.Join(strings.Fields(prepared.words.Replace(text.(string))), " "))
			return true
		})
	}
	slices.Sort(texts)
	return texts
}

// Forget forgets what the store remembers of lookups.
func Forget(s *Store) {
	if db, ok := s.db.(*sqliteDB); ok {
		_ = db.memory.change(func() error { return nil })
	}
}

// LimitLog has the write-ahead log copied when it has checkpoint bytes, and truncated when it has truncate bytes.
func LimitLog(ctx context.Context, s *Store, checkpoint, truncate int64) error {
	w := s.db.(*sqliteDB).writer
	return w.do(ctx, relaxed, func(context.Context, *tx) error { // in the goroutine that owns the limits
		w.log = logLimits{checkpoint: checkpoint, truncate: truncate}
		return nil
	})
}

// LogRetry is the size of the log below which truncating it is not tried again.
func LogRetry(ctx context.Context, s *Store) (size int64, err error) {
	w := s.db.(*sqliteDB).writer
	err = w.do(ctx, relaxed, func(context.Context, *tx) error {
		size = w.log.retry
		return nil
	})
	return size, err
}

// EnterQueue and QuotaQueue are how a server waits for its turn at a quota.
const (
	EnterQueue = enterQueue
	QuotaQueue = quotaQueue
)
