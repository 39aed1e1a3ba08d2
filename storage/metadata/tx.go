package metadata

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"sync"
)

// tx runs statements: those of one transaction, or single ones.
type tx struct {
	// get returns a statement, to be run where tx is.
	get func(ctx context.Context, query string) (*sql.Stmt, error)
}

// statements prepares each statement once and keeps it.
type statements struct {
	prepare func(ctx context.Context, query string) (*sql.Stmt, error)
	words   *strings.Replacer
	byText  sync.Map // of *sql.Stmt
}

func (s *statements) get(ctx context.Context, query string) (*sql.Stmt, error) {
	if known, ok := s.byText.Load(query); ok {
		return known.(*sql.Stmt), nil
	}
	made, err := s.prepare(ctx, s.words.Replace(query))
	if err != nil {
		return nil, err
	}
	known, raced := s.byText.LoadOrStore(query, made)
	if raced {
		_ = made.Close() // another goroutine prepared the same: its statement serves
	}
	return known.(*sql.Stmt), nil
}

func (s *statements) close() error {
	var errs []error
	s.byText.Range(func(_, statement any) bool {
		errs = append(errs, statement.(*sql.Stmt).Close())
		return true
	})
	return errors.Join(errs...)
}

// scanner is a row, or the error of asking for it.
type scanner interface{ Scan(dest ...any) error }

type failedRow struct{ err error }

func (r failedRow) Scan(...any) error { return r.err }

// exec runs a statement and returns how many rows it changed.
func (t *tx) exec(ctx context.Context, query string, args ...any) (int64, error) {
	statement, err := t.get(ctx, query)
	if err != nil {
		return 0, err
	}
	result, err := statement.ExecContext(ctx, args...)
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

// row runs a query for at most one row, whose Scan fails with sql.ErrNoRows when there is none.
func (t *tx) row(ctx context.Context, query string, args ...any) scanner {
	statement, err := t.get(ctx, query)
	if err != nil {
		return failedRow{err}
	}
	return statement.QueryRowContext(ctx, args...)
}

// exists reports whether a query has a row.
func (t *tx) exists(ctx context.Context, query string, args ...any) (bool, error) {
	var one int
	switch err := t.row(ctx, query, args...).Scan(&one); {
	case errors.Is(err, sql.ErrNoRows):
		return false, nil
	case err != nil:
		return false, err
	}
	return true, nil
}

// errEnough ends collect before the last row.
var errEnough = errors.New("enough rows")

// collect runs a query and returns what scan makes of each row, until it says errEnough.
func collect[T any](ctx context.Context, t *tx, scan func(scanner) (T, error), query string, args ...any) ([]T, error) {
	statement, err := t.get(ctx, query)
	if err != nil {
		return nil, err
	}
	rows, err := statement.QueryContext(ctx, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []T
	for rows.Next() {
		one, err := scan(rows)
		if err == errEnough {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, rows.Err()
}

func scanString(row scanner) (s string, err error) {
	err = row.Scan(&s)
	return s, err
}

func scanDigest(row scanner) (d sqlDigest, err error) {
	err = row.Scan(&d)
	return d, err
}

// found turns the absence of a row into ErrNotFound.
func found(err error) error {
	if errors.Is(err, sql.ErrNoRows) {
		return ErrNotFound
	}
	return err
}
