package metadata

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
)

const (
	// repeatFor is for how long a transaction is run again after it met others, which went on instead; repeatLost, one that gets no connection.
	repeatFor, repeatLost = 10 * time.Second, 2 * time.Second
	// statementTimeout bounds a statement, so that a request does not wait for ever for a lock that somebody forgot.
	statementTimeout = 30 * time.Second
	// idleInTurn is how long a server that adds to a quota may be silent between statements: others wait.
	idleInTurn = 10 * time.Second
	// connectTimeout bounds the way to the database.
	connectTimeout = 5 * time.Second
	// deafTimeout is how long the database's machine may leave unanswered what was sent to it.
	deafTimeout = 10 * time.Second
)

// postgresDB is a PostgreSQL database that any number of processes share.
//
// Each update but those apart, those fresh and those of one statement is a serializable transaction: that it is right beside others needs no more thought
// than with the one writer of SQLite. One that met another is rolled back by the database and run again here.
type postgresDB struct {
	pool       *sql.DB
	statements *statements
	sharing    sharing
	idle       string // the idle_session_timeout of connections
	// transactions has a place for each that may run: one less than there are connections, since each may have to prepare a statement,
	// for which it needs another one.
	transactions chan struct{}
}

// openPostgres connects to the database of a DSN and brings its schema up to date. Of several that start at once one does, and the
// others wait for it.
func openPostgres(ctx context.Context, c Config) (*postgresDB, error) {
	settings, err := pgx.ParseConfig(c.DSN)
	if err != nil {
		return nil, errors.New("the DSN can't be read: write postgres://USER@HOST:PORT/DATABASE?sslmode=verify-full") // err would tell the password
	}
	if settings.ConnectTimeout == 0 {
		settings.ConnectTimeout = connectTimeout
	}
	settings.DialFunc = dialer().DialContext
	setDefault(settings.RuntimeParams, "application_name", "berth")
	d := postgresDialect()
	if err := migratePostgres(ctx, c, settings.Copy(), d); err != nil {
		return nil, err
	}
	setDefault(settings.RuntimeParams, "statement_timeout", fmt.Sprint(statementTimeout.Milliseconds()))
	setDefault(settings.RuntimeParams, "idle_in_transaction_session_timeout", fmt.Sprint(statementTimeout.Milliseconds()))
	setDefault(settings.RuntimeParams, "idle_session_timeout", "0") // the pool keeps connections
	// Every statement is prepared once and finds its rows by keys: to plan it anew for its arguments, which the server would do for some,
	// takes longer than to run it.
	setDefault(settings.RuntimeParams, "plan_cache_mode", "force_generic_plan")
	c.Connections = max(c.Connections, 2)
	db := &postgresDB{pool: openPool(c, settings), transactions: make(chan struct{}, c.Connections-1)}
	db.idle = settings.RuntimeParams["idle_session_timeout"]
	db.pool.SetMaxOpenConns(c.Connections)
	db.pool.SetMaxIdleConns(c.Connections)
	db.pool.SetConnMaxIdleTime(5 * time.Minute)
	db.statements = &statements{prepare: db.pool.PrepareContext, words: d.words}
	return db, nil
}

// migratePostgres brings the schema up to date, by connections of its own, whose statements may take as long as they take.
func migratePostgres(ctx context.Context, c Config, settings *pgx.ConnConfig, d dialect) error {
	pool := openPool(c, settings)
	return errors.Join(migrate(ctx, pool, d), pool.Close())
}

func openPool(c Config, settings *pgx.ConnConfig) *sql.DB {
	connector := stdlib.GetConnector(*settings)
	if c.Wrap != nil {
		connector = c.Wrap(connector)
	}
	return sql.OpenDB(connector)
}

func setDefault(parameters map[string]string, name, value string) {
	if _, ok := parameters[name]; !ok {
		parameters[name] = value
	}
}

// dialer returns a dialer whose connections end when the other machine is not heard of any more: nothing else tells of a network
// that lets nothing through.
func dialer() *net.Dialer {
	return &net.Dialer{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: deafTimeout / 2, Interval: deafTimeout / 4, Count: 2},
		Control:         func(_, _ string, c syscall.RawConn) error { return endWhenDeaf(c, deafTimeout) },
	}
}

// view runs its statements one by one, on whatever connection is free.
func (db *postgresDB) view(ctx context.Context, fn func(context.Context, *tx) error) error {
	return db.repeat(ctx, func() error { return fn(ctx, &tx{db.statements.get}) })
}

func (db *postgresDB) lookup(ctx context.Context, q lookup, fn func(context.Context, *tx) (answer, error)) (answer, error) {
	return db.sharing.ask(ctx, q, func(ctx context.Context) (found answer, err error) {
		err = db.view(ctx, func(ctx context.Context, t *tx) error {
			found, err = fn(ctx, t)
			return err
		})
		return found, err
	})
}

func (db *postgresDB) snapshot(ctx context.Context, fn func(context.Context, *tx) error) error {
	return db.repeat(ctx, func() error {
		return db.transact(ctx, nil, &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true}, db.within(fn))
	})
}

// update makes no difference between durable and relaxed: an asynchronous commit would not survive a crash of the server, which is
// not one of ours, and with it a key could be lost that is in use.
func (db *postgresDB) update(ctx context.Context, d durability, fn func(context.Context, *tx) error) error {
	return db.updateInTurn(ctx, nil, d, fn)
}

func (db *postgresDB) updateInTurn(ctx context.Context, quotas []int64, d durability, fn func(context.Context, *tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if d == alone {
		return db.repeat(ctx, func() error {
			return db.transact(ctx, quotas, &sql.TxOptions{Isolation: sql.LevelSerializable}, db.alone(fn))
		})
	}
	// Once it began its outcome is awaited, as with SQLite: the client may go away, what it did should not hang.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*statementTimeout)
	defer cancel()
	level := sql.LevelSerializable
	switch d {
	case apart:
		// Serializable transactions that touch neighbours in an index meet each other there, and pushes would spend their time with
		// repetitions.
		level = sql.LevelRepeatableRead
	case fresh:
		level = sql.LevelReadCommitted
	}
	return db.repeat(ctx, func() error {
		return db.transact(ctx, quotas, &sql.TxOptions{Isolation: level}, db.within(fn))
	})
}

// updateOne spares the statement the two that would begin and commit a transaction. That what it reads is of one moment, and the rows
// that it writes are as it read them, holds for any statement.
func (db *postgresDB) updateOne(ctx context.Context, fn func(context.Context, *tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*statementTimeout)
	defer cancel()
	return db.repeat(ctx, func() error {
		err := fn(ctx, &tx{db.statements.get})
		if lostConnection(err) && code(err) == "" && !pgconn.SafeToRetry(err) {
			return &unknownOutcome{err}
		}
		return err
	})
}

// transact runs fn in a transaction, in its turn at each of some quotas.
func (db *postgresDB) transact(ctx context.Context, quotas []int64, options *sql.TxOptions, fn func(context.Context, *sql.Tx) error) (err error) {
	select {
	case db.transactions <- struct{}{}:
		defer func() { <-db.transactions }()
	case <-ctx.Done():
		return ctx.Err()
	}
	conn, err := db.pool.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // gives it back to the pool
	if len(quotas) > 0 {
		defer db.leaveQueues(ctx, conn)
	}
	for _, q := range quotas {
		if _, err := conn.ExecContext(ctx, enterQueue, quotaQueue, q, fmt.Sprint(idleInTurn.Milliseconds())); err != nil {
			return err
		}
	}
	transaction, err := conn.BeginTx(ctx, options)
	if err != nil {
		return err
	}
	defer func() { _ = transaction.Rollback() }() // after a commit it does nothing; where it fails, the connection is gone, and the transaction with it
	if err := fn(ctx, transaction); err != nil {
		return err
	}
	if err := transaction.Commit(); err != nil {
		if lostConnection(err) && !pgconn.SafeToRetry(err) {
			return &unknownOutcome{err}
		}
		return err
	}
	return nil
}

// quotaQueue and the id of a quota are the advisory lock at which servers queue to add to it. It has to be held before the transaction
// begins: one that is serializable sees what was before its first statement, and would begin again for each that was before it in the queue.
const quotaQueue = 0x71756f74

// Outside of a transaction nothing but idle_session_timeout ends the session of a server that is not heard of any more.
const (
	enterQueue = `SELECT pg_advisory_lock($1, $2), set_config('idle_session_timeout', $3, false)`
	leaveQueue = `SELECT pg_advisory_unlock_all(), set_config('idle_session_timeout', $1, false)`
)

// leaveQueues leaves the queues of all quotas in which conn waits, or whose turn it has.
func (db *postgresDB) leaveQueues(ctx context.Context, conn *sql.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), connectTimeout)
	defer cancel()
	if _, err := conn.ExecContext(ctx, leaveQueue, db.idle); err != nil {
		_ = conn.Raw(func(any) error { return driver.ErrBadConn }) // it ends, and what it held with it
	}
}

// within has fn run its statements in a transaction.
func (db *postgresDB) within(fn func(context.Context, *tx) error) func(context.Context, *sql.Tx) error {
	return func(ctx context.Context, transaction *sql.Tx) error {
		return fn(ctx, &tx{func(ctx context.Context, query string) (*sql.Stmt, error) {
			statement, err := db.statements.get(ctx, query)
			if err != nil {
				return nil, err
			}
			return transaction.StmtContext(ctx, statement), nil
		}})
	}
}

// alone has fn run its statements in a transaction that locks tables, before it looks at anything. Who had looked before and writes after it
// is serializable too, and begins again. The statements are prepared in it: on another connection that would wait for the lock.
func (db *postgresDB) alone(fn func(context.Context, *tx) error) func(context.Context, *sql.Tx) error {
	return func(ctx context.Context, transaction *sql.Tx) error {
		for _, statement := range []string{
			`SET LOCAL statement_timeout = 0`,
			`LOCK TABLE quotas, repositories, repository_blobs, tags IN SHARE ROW EXCLUSIVE MODE`,
		} {
			if _, err := transaction.ExecContext(ctx, statement); err != nil {
				return err
			}
		}
		own := &statements{prepare: transaction.PrepareContext, words: db.statements.words}
		return fn(ctx, &tx{own.get}) // the end of the transaction closes them
	}
}

// unknownOutcome is a commit whose answer was lost.
type unknownOutcome struct{ err error }

func (u *unknownOutcome) Error() string { return "the answer to a commit was lost: " + u.err.Error() }
func (u *unknownOutcome) Unwrap() error { return u.err }

// repeat runs a call again while it fails without effect for a reason that passes, after growing pauses.
func (db *postgresDB) repeat(ctx context.Context, call func() error) error {
	started := time.Now()
	var failed time.Time // for the first time
	for attempt := 1; ; attempt++ {
		err := call()
		if attempt == 1 {
			failed = time.Now()
		}
		enough := time.Since(failed) > repeatFor
		if lostConnection(err) {
			enough = time.Since(started) > repeatLost
		}
		if err == nil || enough || !mayRepeat(err) {
			return classifyPostgres(err)
		}
		select {
		case <-time.After(time.Duration(1 + rand.Int64N(int64(time.Millisecond<<min(attempt, 7))))):
		case <-ctx.Done():
			return classifyPostgres(err)
		}
	}
}

// mayRepeat reports whether a call had no effect and may have its effect later: it could not be serialized with another one,
// was in a deadlock with it, met a row that the other was making or deleting, or lost its connection before its commit.
func mayRepeat(err error) bool {
	if _, ok := errors.AsType[*unknownOutcome](err); ok {
		return false
	}
	switch code(err) {
	case "40001", "40P01", "23503", "23505":
		return true
	}
	return lostConnection(err)
}

// lostConnection reports whether there is no connection to the database any more, or none yet.
func lostConnection(err error) bool {
	if c := code(err); c != "" {
		switch c {
		case "57P01", "57P02", "57P03": // it stops, it crashed, it starts
			return true
		case "53300": // it has too many
			return true
		case "25P03", "57P05": // it ended one that was idle, as when this process was paused
			return true
		}
		return strings.HasPrefix(c, "08")
	}
	if errors.Is(err, context.Canceled) {
		return false
	}
	if _, connecting := errors.AsType[*pgconn.ConnectError](err); connecting {
		return true
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return false // of the call, which can't be repeated then
	}
	_, network := errors.AsType[net.Error](err)
	return network || pgconn.SafeToRetry(err) || errors.Is(err, driver.ErrBadConn) || errors.Is(err, io.EOF) ||
		errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed)
}

func code(err error) string {
	if failure, ok := errors.AsType[*pgconn.PgError](err); ok {
		return failure.Code
	}
	return ""
}

// classifyPostgres names the errors that callers act on.
func classifyPostgres(err error) error {
	switch {
	case err == nil:
		return nil
	case code(err) == "53100": // its disk is full
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	case lostConnection(err), mayRepeat(err), passes(code(err)), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return err
}

// passes reports whether the error with a code is one of the moment.
func passes(code string) bool {
	switch code {
	case "57014", "55P03", "53200", "25006": // a timeout, a lock, no memory, a server that is not the primary any more
		return true
	}
	return false
}

func (db *postgresDB) audits() []string { return nil }

func (db *postgresDB) compounds() bool { return true }

func (db *postgresDB) shared() bool { return true }

func (db *postgresDB) close() error {
	return errors.Join(db.statements.close(), db.pool.Close())
}
