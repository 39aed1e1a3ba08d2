package metadata_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"berth/storage/metadata"
	"berth/storage/metadata/metatest"
	"berth/storage/storagetest"
)

// setting writes a row of its own.
func setting(n int) func(exec func(string, ...any) error) error {
	return func(exec func(string, ...any) error) error {
		return exec(`INSERT INTO settings (name, value) VALUES ($1, x'00')`, fmt.Sprint(n))
	}
}

// inOneBatch has transactions share a commit, and returns their errors.
func inOneBatch(t *testing.T, s *metadata.Store, fns ...func(exec func(string, ...any) error) error) []error {
	t.Helper()
	started, release := make(chan struct{}), make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		_ = metadata.Update(t.Context(), s, func(func(string, ...any) error) error { // holds the writer up
			close(started)
			<-release
			return nil
		})
	})
	<-started
	errs := make([]error, len(fns))
	for i, fn := range fns {
		all.Go(func() { errs[i] = metadata.Update(t.Context(), s, fn) })
	}
	for metadata.Waiting(s) < len(fns) {
		time.Sleep(time.Millisecond)
	}
	close(release)
	all.Wait()
	return errs
}

// wantSettings fails unless exactly the numbered rows are there.
func wantSettings(t *testing.T, s *metadata.Store, n int, there func(i int) bool) {
	t.Helper()
	for i := range n {
		value, err := s.Setting(t.Context(), fmt.Sprint(i))
		if err != nil || (value != nil) != there(i) {
			t.Errorf("row %d: %v, %v", i, value, err)
		}
	}
}

func count(calls []string, name string) (n int) {
	for _, c := range calls {
		if c == name {
			n++
		}
	}
	return n
}

// TestGroupCommit has 100 transactions that wait share one commit, and so one sync.
func TestGroupCommit(t *testing.T) {
	const many = 100
	var f storagetest.Faults
	s := open(t, metadata.Config{Wrap: metatest.Faults{Faults: &f}.Wrap})
	before := count(f.Calls(), "COMMIT")
	fns := make([]func(exec func(string, ...any) error) error, many)
	for i := range fns {
		fns[i] = setting(i)
	}
	must(t, errors.Join(inOneBatch(t, s, fns...)...))
	if n := count(f.Calls(), "COMMIT") - before; n != 2 { // that which held the writer up, and theirs
		t.Errorf("%d commits", n)
	}
	wantSettings(t, s, many, func(int) bool { return true })
}

// TestSyncLevel goes to and fro between commits that a power loss may take and those that it may not.
func TestSyncLevel(t *testing.T) {
	s := open(t, metadata.Config{})
	for range 3 {
		for survives, want := range map[bool]int{false: 1, true: 2} {
			if level, err := metadata.SyncLevel(t.Context(), s, survives); level != want || err != nil {
				t.Errorf("level %d where a power loss counts: %t, %v", level, survives, err)
			}
		}
	}
}

// TestDurable sees to it that what clients are told is stored is synced, and that the rest need not be.
func TestDurable(t *testing.T) {
	f := &storagetest.Faults{}
	c := quick(filepath.Join(t.TempDir(), "metadata.sqlite"))
	c.Wrap = metatest.Faults{Faults: f}.Wrap
	s := open(t, c)
	relaxed := []string{"start", "claim", "checkpoint", "start another", "lease", "forget keys", "note use", "keep upload",
		"delete small object"}
	for _, run := range scenarios() {
		steps, err := run(t.Context(), s, 0)
		must(t, err)
		for _, step := range steps {
			must(t, s.ForgetKeys(t.Context(), nil)) // which is not durable
			before := len(f.Calls())
			runStep(t, s, step)
			durable := slices.Contains(f.Calls()[before:], "PRAGMA synchronous = FULL")
			if durable == slices.Contains(relaxed, step.name) {
				t.Errorf("%s is durable: %t", step.name, durable)
			}
		}
	}
}

// TestBatchIsolation has transactions fail that share a commit with others.
func TestBatchIsolation(t *testing.T) {
	s := open(t, metadata.Config{})
	refused := errors.New("refused")
	errs := inOneBatch(t, s,
		setting(0),
		func(exec func(string, ...any) error) error { return errors.Join(setting(1)(exec), refused) },
		func(exec func(string, ...any) error) error {
			_ = setting(2)(exec)
			panic("on purpose")
		},
		func(exec func(string, ...any) error) error { return errors.Join(setting(3)(exec), exec(`no SQL`)) },
		func(exec func(string, ...any) error) error { // breaks a constraint
			return errors.Join(setting(4)(exec), exec(`INSERT INTO tags VALUES (99, 'x', 99, 0, '', 0)`))
		},
		setting(5),
	)
	for i, want := range []string{"", "refused", "on purpose", "syntax error", "FOREIGN KEY", ""} {
		if got := fmt.Sprint(errs[i]); want == "" && errs[i] != nil || !strings.Contains(got, want) {
			t.Errorf("transaction %d: %s, want %q", i, got, want)
		}
	}
	wantSettings(t, s, 6, func(i int) bool { return i == 0 || i == 5 })
	mustAudit(t, s)
}

// TestLostBatch has the commit of a batch fail: everyone in it hears of it, and nothing of it is there.
func TestLostBatch(t *testing.T) {
	for name, cause := range map[string]error{"full": syscall.ENOSPC, "broken": nil} {
		t.Run(name, func(t *testing.T) {
			f := &storagetest.Faults{Err: cause}
			s := open(t, metadata.Config{Wrap: metatest.Faults{Faults: f}.Wrap})
			lose := func(exec func(string, ...any) error) error {
				f.At = len(f.Calls()) + 3 // its own insert, its release, the commit
				return setting(0)(exec)
			}
			must(t, metadata.Update(t.Context(), s, setting(1)))
			err := metadata.Update(t.Context(), s, lose)
			if err == nil || errors.Is(err, metadata.ErrNoSpace) != (cause != nil) {
				t.Errorf("commit: %v", err)
			}
			if calls := f.Calls(); calls[f.At-1] != "COMMIT" {
				t.Fatalf("not the commit failed but %s", calls[f.At-1])
			}
			wantSettings(t, s, 2, func(i int) bool { return i == 1 })
			must(t, metadata.Update(t.Context(), s, setting(0)))
		})
	}
}

// breakable is a database whose connections break, and that can't be connected to again, while it is down.
type breakable struct {
	driver.Connector
	down *atomic.Bool
}

func (b breakable) Connect(ctx context.Context) (driver.Conn, error) {
	if b.down.Load() {
		return nil, errors.New("down")
	}
	return b.Connector.Connect(ctx)
}

// TestDown loses the connection while no new one can be made, and gets it back later.
func TestDown(t *testing.T) {
	var down atomic.Bool
	f := &storagetest.Faults{}
	s := open(t, metadata.Config{Wrap: func(c driver.Connector) driver.Connector {
		return breakable{metatest.Faults{Faults: f}.Wrap(c), &down}
	}})
	must(t, s.Ping(t.Context()))
	down.Store(true)
	err := metadata.Update(t.Context(), s, func(exec func(string, ...any) error) error {
		f.At = len(f.Calls()) + 2
		return setting(0)(exec)
	})
	if !errors.Is(err, storagetest.ErrInjected) {
		t.Fatalf("the release of the savepoint: %v", err)
	}
	for range 3 {
		if err := metadata.Update(t.Context(), s, setting(0)); err == nil || !strings.Contains(err.Error(), "down") {
			t.Errorf("while down: %v", err)
		}
	}
	must(t, s.Ping(t.Context())) // reads go on
	down.Store(false)
	must(t, metadata.Update(t.Context(), s, setting(0)))
	wantSettings(t, s, 1, func(int) bool { return true })
}

// TestLog writes many times the size at which the log is truncated, beside readers, and without a pause.
func TestLog(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "metadata.sqlite")
	s := open(t, metadata.Config{Path: path})
	const checkpoint, truncate = 64 << 10, 256 << 10
	must(t, metadata.LimitLog(t.Context(), s, checkpoint, truncate))
	stop := readInLoop(t, s)
	most, total := int64(0), int64(0)
	for i := range 100 {
		m := image(fmt.Sprint(i), []string{"x"})
		m.Body = make([]byte, 64<<10)
		must(t, s.PutManifest(t.Context(), "a", m))
		total += int64(len(m.Body))
		most = max(most, logSize(t, path))
	}
	must(t, stop())
	if total < 10*truncate || most > 2*truncate {
		t.Errorf("the log grew to %d bytes of %d", most, total)
	}
	mustAudit(t, s)
}

// TestCheckpointer has the log be copied although it never reaches the size at which commits wait for that.
func TestCheckpointer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "metadata.sqlite")
	s := open(t, metadata.Config{Path: path})
	must(t, metadata.LimitLog(t.Context(), s, 64<<10, 1<<40))
	before := size(t, path)
	deadline := time.Now().Add(10 * time.Second)
	for i := 0; size(t, path) < before+(1<<20); i++ {
		m := image(fmt.Sprint(i), nil)
		m.Body = make([]byte, 64<<10)
		must(t, s.PutManifest(t.Context(), "a", m))
		if time.Now().After(deadline) {
			t.Fatalf("the database has %d bytes, the log %d", size(t, path), logSize(t, path))
		}
	}
}

// readInLoop reads until the function that it returns is called.
func readInLoop(t *testing.T, s *metadata.Store) (stop func() error) {
	var stopped atomic.Bool
	var all sync.WaitGroup
	var err error
	all.Go(func() {
		for !stopped.Load() && err == nil {
			_, err = s.Tags(t.Context(), "a", "", 10)
			if errors.Is(err, metadata.ErrNotFound) {
				err = nil
			}
		}
	})
	return func() error {
		stopped.Store(true)
		all.Wait()
		return err
	}
}

func logSize(t *testing.T, path string) int64 { return size(t, path+"-wal") }

func size(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	must(t, err)
	return info.Size()
}

// TestLongRead holds the log while commits go on: truncating it is tried now and then, not at every commit.
func TestLongRead(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "metadata.sqlite")
	s := open(t, metadata.Config{Path: path})
	must(t, s.PutManifest(t.Context(), "a", image("one", nil)))
	reading, err := raw(t, path).BeginTx(t.Context(), &sql.TxOptions{ReadOnly: true})
	must(t, err)
	var n int
	must(t, reading.QueryRowContext(t.Context(), `SELECT count(*) FROM manifests`).Scan(&n))

	must(t, metadata.LimitLog(t.Context(), s, 1<<40, 1))
	grow := func(i int) int64 {
		m := image(fmt.Sprint(i), nil)
		m.Body = make([]byte, 32<<10)
		must(t, s.PutManifest(t.Context(), "a", m))
		retry, err := metadata.LogRetry(t.Context(), s)
		must(t, err)
		return retry
	}
	first := grow(0)
	if first == 0 {
		t.Fatal("the log was truncated under a reader")
	}
	retries := map[int64]bool{first: true}
	for i := range 20 {
		retries[grow(i+1)] = true
	}
	if len(retries) > 8 {
		t.Errorf("truncating was tried %d times", len(retries))
	}
	must(t, reading.Rollback())
	for i := 100; logSize(t, path) > 64<<10; i++ {
		grow(i)
	}
	mustAudit(t, s)
}
