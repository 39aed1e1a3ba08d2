package metadata

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"
)

const (
	// maxBatch bounds how many transactions share a commit, and so how long the first of them waits.
	maxBatch = 128
	// checkpointAt is the size of the write-ahead log in bytes at which it is copied into the database, beside the
	// commits that go on.
	checkpointAt = 16 << 20
	// truncateAt is the size at which commits wait until the log was copied and begins anew: beside commits that
	// never pause, it would grow for ever.
	truncateAt = 64 << 20
	// busyTimeout is how many milliseconds the writer waits for others: for readers only, when it truncates the log.
	busyTimeout = 500
)

var errClosed = errors.New("metadata store is closed")

// writer is the one writer of an SQLite database. Callers that come while a commit is being synced share the next one:
// one transaction, one savepoint for each, one sync for all.
type writer struct {
	db       *sql.DB
	words    *strings.Replacer
	walPath  string
	requests chan *request
	kick     chan struct{} // wakes the checkpointer
	copying  sync.Mutex    // held while the log is copied: SQLite refuses to do it twice at once
	done     sync.WaitGroup
	closing  sync.RWMutex // held for reading while sending to requests
	closed   bool
	config   Config

	// Of the goroutine run alone:
	conn       *sql.Conn
	statements *statements
	level      durability // what PRAGMA synchronous says now
	reserve    reserve
	failed     error // of a sync: the kernel may have dropped what it could not write, and later syncs don't tell
	log        logLimits
}

// logLimits are sizes of the write-ahead log in bytes.
type logLimits struct {
	checkpoint int64 // from which the checkpointer is woken
	truncate   int64 // from which commits wait
	retry      int64 // below which that is not tried again
}

type request struct {
	durability durability
	fn         func(context.Context, *tx) error
	ctx        context.Context // without cancellation: a batch is nobody's own
	result     chan error
}

// startWriter migrates the database and starts the goroutines that write to it. They end with close.
func startWriter(ctx context.Context, db *sql.DB, words *strings.Replacer, c Config) (*writer, error) {
	if err := migrate(ctx, db, sqliteDialect()); err != nil {
		return nil, err
	}
	w := &writer{
		db: db, words: words, walPath: c.Path + "-wal", config: c,
		requests: make(chan *request, maxBatch), kick: make(chan struct{}, 1),
		log:     logLimits{checkpoint: checkpointAt, truncate: truncateAt},
		reserve: openReserve(c.Path),
	}
	if err := w.connect(ctx); err != nil {
		return nil, err
	}
	w.done.Go(w.run)
	w.done.Go(w.checkpoint)
	return w, nil
}

// do runs fn in a transaction of its own or shared with others. Once fn was accepted its outcome is awaited, whatever
// becomes of ctx: it is known within one commit.
func (w *writer) do(ctx context.Context, d durability, fn func(context.Context, *tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	r := &request{durability: d, fn: fn, ctx: context.WithoutCancel(ctx), result: make(chan error, 1)}
	if err := w.send(r); err != nil {
		return err
	}
	return <-r.result
}

func (w *writer) send(r *request) error {
	w.closing.RLock()
	defer w.closing.RUnlock()
	if w.closed {
		return errClosed
	}
	w.requests <- r
	return nil
}

// close finishes what was accepted and closes the database.
func (w *writer) close() error {
	w.closing.Lock()
	wasClosed := w.closed
	w.closed = true
	w.closing.Unlock()
	if wasClosed {
		return nil
	}
	close(w.requests)
	w.done.Wait()
	return errors.Join(w.disconnect(), w.db.Close())
}

func (w *writer) run() {
	defer close(w.kick)
	batch := make([]*request, 0, maxBatch)
	for first := range w.requests {
		batch = w.gather(append(batch[:0], first))
		w.commit(batch)
		w.watchLog()
	}
}

// gather adds the requests that are waiting to batch.
func (w *writer) gather(batch []*request) []*request {
	for len(batch) < maxBatch {
		select {
		case r, ok := <-w.requests:
			if !ok {
				return batch
			}
			batch = append(batch, r)
		default:
			return batch
		}
	}
	return batch
}

// commit runs a batch in one transaction and tells everyone their outcome: that of their own part when the transaction
// was committed, its error to all when it was not.
func (w *writer) commit(batch []*request) {
	outcomes := w.outcomes(batch)
	var full []*request
	for i, r := range batch {
		if isNoSpace(outcomes[i]) && w.reserve.held {
			full = append(full, r)
		} else {
			r.result <- outcomes[i]
		}
	}
	if len(full) > 0 && w.reserve.release() {
		w.config.Log.Warn("the disk under the metadata is full, its reserve is in use")
	}
	for _, r := range full {
		r.result <- w.outcomes([]*request{r})[0]
	}
}

// outcomes runs a batch in one transaction and returns the outcome of each.
func (w *writer) outcomes(batch []*request) []error {
	outcomes, err := w.transact(batch)
	if err == nil {
		return outcomes
	}
	w.reconnect()
	if isFailedSync(err) {
		w.failed = err
	}
	outcomes = make([]error, len(batch))
	for i := range outcomes {
		outcomes[i] = fmt.Errorf("commit metadata: %w", err)
	}
	return outcomes
}

func (w *writer) transact(batch []*request) (outcomes []error, err error) {
	if w.failed != nil {
		return nil, fmt.Errorf("nothing is written after a sync failed, for it is not known what the disk has: check the disk and restart: %w", w.failed)
	}
	if w.conn == nil {
		if err := w.connect(context.Background()); err != nil {
			return nil, err
		}
	}
	if err := w.setLevel(batch); err != nil {
		return nil, err
	}
	if err := w.raw(`BEGIN IMMEDIATE`); err != nil {
		return nil, err
	}
	outcomes = make([]error, len(batch))
	for i, r := range batch {
		if outcomes[i], err = w.part(r); err != nil {
			return nil, err
		}
	}
	return outcomes, w.raw(`COMMIT`)
}

// part runs one request within a savepoint. err is not nil when the whole transaction is lost.
func (w *writer) part(r *request) (outcome, err error) {
	if err := w.raw(`SAVEPOINT part`); err != nil {
		return nil, err
	}
	if outcome = w.attempt(r); outcome != nil {
		// Errors such as a full disk roll the transaction back, and then this savepoint is gone with it.
		if err := w.raw(`ROLLBACK TO part`); err != nil {
			return nil, errors.Join(outcome, err)
		}
	}
	return outcome, w.raw(`RELEASE part`)
}

// attempt runs a request's function. A panic in it is a fault of this package: it must not take the writer's lock along.
func (w *writer) attempt(r *request) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic in a transaction: %v", p)
		}
	}()
	return r.fn(r.ctx, &tx{w.statements.get})
}

// setLevel makes the next commit durable when anyone in the batch asks for it: a synced log holds all earlier commits.
func (w *writer) setLevel(batch []*request) error {
	level := relaxed
	for _, r := range batch {
		level = min(level, r.durability)
	}
	if level == w.level {
		return nil
	}
	pragma := `PRAGMA synchronous = FULL`
	if level == relaxed {
		pragma = `PRAGMA synchronous = NORMAL`
	}
	if err := w.raw(pragma); err != nil {
		return err
	}
	w.level = level
	return nil
}

// raw runs a statement of the transaction's own.
func (w *writer) raw(statement string) error {
	_, err := (&tx{w.statements.get}).exec(context.Background(), statement)
	return err
}

func (w *writer) connect(ctx context.Context) error {
	conn, err := w.db.Conn(ctx)
	if err != nil {
		return err
	}
	w.conn, w.level = conn, durable
	w.statements = &statements{prepare: conn.PrepareContext, words: w.words}
	return nil
}

func (w *writer) disconnect() error {
	if w.conn == nil {
		return nil
	}
	err := errors.Join(w.statements.close(), w.conn.Close())
	w.conn = nil
	return err
}

// reconnect gives up a connection whose transaction failed: what state it is in is not worth finding out. The database
// decides on the next connection what was committed.
func (w *writer) reconnect() {
	if w.conn == nil {
		return // there was none to be had
	}
	_ = w.raw(`ROLLBACK`)    // fails when the database rolled back by itself
	_ = w.statements.close() // before the connection, which does not know them
	_ = w.conn.Raw(func(any) error { return driver.ErrBadConn })
	w.conn = nil
}

// watchLog has the write-ahead log copied when it has grown.
func (w *writer) watchLog() {
	w.reserve.refill()
	size := w.logSize()
	switch {
	case size >= max(w.log.truncate, w.log.retry) && w.conn != nil:
		w.log.retry = 0
		if !w.copyLog(w.conn, `PRAGMA wal_checkpoint(TRUNCATE)`) {
			w.log.retry = 2 * size // commits must not wait for a long read more than a few times
		}
	case size >= w.log.checkpoint:
		select {
		case w.kick <- struct{}{}:
		default: // it is at it
		}
	}
}

func (w *writer) logSize() int64 {
	info, err := os.Stat(w.walPath)
	if err != nil {
		return 0 // no log yet
	}
	return info.Size()
}

// checkpoint copies the log into the database off the commit path, whenever it is kicked.
func (w *writer) checkpoint() {
	for range w.kick {
		conn, err := w.db.Conn(context.Background())
		if err != nil {
			w.config.Log.Error("metadata checkpoint failed", "error", err)
			continue
		}
		w.copyLog(conn, `PRAGMA wal_checkpoint(PASSIVE)`)
		_ = conn.Close()
		time.Sleep(10 * time.Millisecond) // a log that readers keep in use is not worth trying at full speed
	}
}

// copyLog reports whether the whole log was copied.
func (w *writer) copyLog(conn *sql.Conn, pragma string) bool {
	w.copying.Lock()
	defer w.copying.Unlock()
	var busy, logged, copied int
	if err := conn.QueryRowContext(context.Background(), pragma).Scan(&busy, &logged, &copied); err != nil {
		w.config.Log.Error("metadata checkpoint failed", "error", err)
		return false
	}
	return busy == 0
}
