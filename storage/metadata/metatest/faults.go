package metatest

import (
	"context"
	"database/sql/driver"
	"errors"
	"io"
	"strings"

	"berth/storage/storagetest"
)

// Faults makes statements of a store fail as storagetest.Faults makes calls of a blob store fail. The Wrap method goes
// into metadata.Config.Wrap:
//
//	metadata.Config{Wrap: metatest.Faults{Faults: f}.Wrap}
//
// What is numbered: each connection that is made, each statement that is not a plain query, and the begin and commit of
// transactions of database/sql; not their rollback, after which a driver has nothing to report that helps. One
// storagetest.Faults may number the calls of a blob store and the statements beside it, so that one sweep has all of them
// fail.
type Faults struct {
	*storagetest.Faults
	// Conflicts is for PostgreSQL: queries are numbered too, connections and begins are not, and the call that is refused fails as one that
	// could not be serialized, so that its transaction takes no further statement.
	Conflicts bool
}

// Wrap returns c with faults.
func (f Faults) Wrap(c driver.Connector) driver.Connector { return connector{c, f} }

type connector struct {
	driver.Connector
	faults Faults
}

// Connect implements driver.Connector.
func (c connector) Connect(ctx context.Context) (driver.Conn, error) {
	if c.faults.Conflicts {
		made, err := c.Connector.Connect(ctx)
		if err != nil {
			return nil, err
		}
		return conn{made, c.faults}, nil
	}
	var made driver.Conn
	err := c.faults.Do("CONNECT", func() (err error) {
		made, err = c.Connector.Connect(ctx)
		return err
	})
	if err == nil {
		return conn{made, c.faults}, nil
	}
	if made != nil {
		err = errors.Join(err, made.Close())
	}
	return nil, err
}

// conn is a connection of a driver that has the interfaces of database/sql with contexts.
type conn struct {
	driver.Conn
	faults Faults
}

// PrepareContext implements driver.ConnPrepareContext. Preparing changes nothing and is not numbered.
func (c conn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	made, err := c.Conn.(driver.ConnPrepareContext).PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	return stmt{made, c, query}, nil
}

// ExecContext implements driver.ExecerContext.
func (c conn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	return c.exec(ctx, query, func() (driver.Result, error) {
		return c.Conn.(driver.ExecerContext).ExecContext(ctx, query, args)
	})
}

// QueryContext implements driver.QueryerContext.
func (c conn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	return c.query(ctx, query, func() (driver.Rows, error) {
		return c.Conn.(driver.QueryerContext).QueryContext(ctx, query, args)
	})
}

// BeginTx implements driver.ConnBeginTx.
func (c conn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	var begun driver.Tx
	begin := func() (err error) {
		begun, err = c.Conn.(driver.ConnBeginTx).BeginTx(ctx, opts)
		return err
	}
	do := c.faults.Do
	if c.faults.Conflicts {
		do = func(_ string, call func() error) error { return call() }
	}
	err := do("BEGIN", begin)
	if err == nil {
		return tx{begun, c.faults}, nil
	}
	if begun != nil {
		err = errors.Join(err, begun.Rollback())
	}
	return nil, err
}

// ResetSession implements driver.SessionResetter.
func (c conn) ResetSession(ctx context.Context) error {
	if r, ok := c.Conn.(driver.SessionResetter); ok {
		return r.ResetSession(ctx)
	}
	return nil
}

// IsValid implements driver.Validator.
func (c conn) IsValid() bool {
	v, ok := c.Conn.(driver.Validator)
	return !ok || v.IsValid()
}

type stmt struct {
	driver.Stmt
	on   conn
	text string
}

// ExecContext implements driver.StmtExecContext.
func (s stmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	return s.on.exec(ctx, s.text, func() (driver.Result, error) {
		return s.Stmt.(driver.StmtExecContext).ExecContext(ctx, args)
	})
}

// QueryContext implements driver.StmtQueryContext.
func (s stmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	return s.on.query(ctx, s.text, func() (driver.Rows, error) {
		return s.Stmt.(driver.StmtQueryContext).QueryContext(ctx, args)
	})
}

type tx struct {
	driver.Tx
	faults Faults
}

// Commit implements driver.Tx. When it is refused, the transaction is rolled back: database/sql won't ask again.
func (t tx) Commit() error {
	called := false
	err := t.faults.Do("COMMIT", func() error {
		called = true
		return t.Tx.Commit()
	})
	if !called {
		err = errors.Join(err, t.Tx.Rollback())
	}
	return err
}

func (c conn) exec(ctx context.Context, text string, call func() (driver.Result, error)) (result driver.Result, err error) {
	err = c.do(ctx, text, func() (err error) {
		result, err = call()
		return err
	})
	return result, err
}

func (c conn) query(ctx context.Context, text string, call func() (driver.Rows, error)) (rows driver.Rows, err error) {
	err = c.do(ctx, text, func() (err error) {
		rows, err = call()
		return err
	})
	if err != nil && rows != nil {
		return nil, errors.Join(err, exhaust(rows))
	}
	return rows, err
}

// do numbers a statement, unless it is one that is not, and runs it.
func (c conn) do(ctx context.Context, text string, call func() error) error {
	name := statementName(text)
	if name == "" && !c.faults.Conflicts {
		return call()
	}
	called := false
	err := c.faults.Do(name, func() error {
		called = true
		return call()
	})
	if called || !c.faults.Conflicts {
		return err
	}
	_, err = c.Conn.(driver.ExecerContext).ExecContext(ctx,
		`DO $$ BEGIN RAISE EXCEPTION 'injected conflict' USING ERRCODE = 'serialization_failure'; END $$`, nil)
	return err
}

// exhaust reads rows to their end: some drivers run a statement only as far as its rows are read.
func exhaust(rows driver.Rows) error {
	values := make([]driver.Value, len(rows.Columns()))
	for {
		err := rows.Next(values)
		if errors.Is(err, io.EOF) {
			return rows.Close()
		}
		if err != nil {
			return errors.Join(err, rows.Close())
		}
	}
}

// statementName shortens a statement to what it does to which table, or returns nothing for a query.
func statementName(text string) string {
	text = strings.TrimSpace(text)
	for strings.HasPrefix(text, "--") {
		_, text, _ = strings.Cut(text, "\n")
		text = strings.TrimSpace(text)
	}
	words := strings.Fields(text)
	if len(words) == 0 || strings.EqualFold(words[0], "SELECT") || strings.EqualFold(words[0], "EXPLAIN") {
		return ""
	}
	for i, word := range words {
		if i == 4 || strings.HasPrefix(word, "(") || strings.EqualFold(word, "SET") || strings.EqualFold(word, "WHERE") {
			return strings.Join(words[:i], " ")
		}
	}
	return strings.Join(words, " ")
}
