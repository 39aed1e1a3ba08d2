package metatest

import (
	"database/sql"
	"database/sql/driver"
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	"berth/storage/metadata"
	"berth/storage/storagetest"
)

// faulty opens a database through Faults, with a table in it, and returns it with its connector.
func faulty(t *testing.T, f *storagetest.Faults) *sql.DB {
	t.Helper()
	var plain driver.Connector
	s, err := metadata.Open(t.Context(), metadata.Config{
		Path: filepath.Join(t.TempDir(), "db"),
		Wrap: func(c driver.Connector) driver.Connector {
			if plain == nil {
				plain = c
			}
			return c
		},
	})
	must(t, err)
	db := sql.OpenDB(Faults{Faults: f}.Wrap(plain))
	t.Cleanup(func() {
		must(t, db.Close())
		must(t, s.Close())
	})
	return db
}

// write does the same in each way that database/sql has.
func write(t *testing.T, db *sql.DB, way string) error {
	const insert = `INSERT INTO settings (name, value) VALUES ('x', x'00')`
	var name string
	switch way {
	case "exec":
		_, err := db.ExecContext(t.Context(), insert)
		return err
	case "query":
		return db.QueryRowContext(t.Context(), insert+` RETURNING name`).Scan(&name)
	case "prepared exec", "prepared query":
		return writePrepared(t, db, insert, way)
	}
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		return err
	}
	if _, err = tx.ExecContext(t.Context(), insert); err != nil {
		_ = tx.Rollback() // the insert's error counts
		return err
	}
	return tx.Commit()
}

func writePrepared(t *testing.T, db *sql.DB, insert, way string) error {
	prepared, err := db.PrepareContext(t.Context(), insert+` RETURNING name`)
	if err != nil {
		return err
	}
	defer prepared.Close()
	if way == "prepared exec" {
		_, err = prepared.ExecContext(t.Context())
		return err
	}
	var name string
	return prepared.QueryRowContext(t.Context()).Scan(&name)
}

// TestFaults has each call fail and looks at what it did.
func TestFaults(t *testing.T) {
	for _, test := range []struct {
		way   string
		calls []string
		done  []bool // whether the row is there when that call was unreported
	}{
		{"exec", []string{"CONNECT", "INSERT INTO settings"}, []bool{false, true}},
		{"query", []string{"CONNECT", "INSERT INTO settings"}, []bool{false, true}},
		{"prepared exec", []string{"CONNECT", "INSERT INTO settings"}, []bool{false, true}},
		{"prepared query", []string{"CONNECT", "INSERT INTO settings"}, []bool{false, true}},
		{"transaction", []string{"CONNECT", "BEGIN", "INSERT INTO settings", "COMMIT"}, []bool{false, false, false, true}},
	} {
		storagetest.Sweep(t, func(t *testing.T, f *storagetest.Faults) {
			db := faulty(t, f)
			err := write(t, db, test.way)
			if f.At == 0 {
				must(t, err)
				wantEqual(t, "calls", f.Calls(), test.calls)
			} else {
				wantError(t, test.way, err, storagetest.ErrInjected)
			}
			var rows int
			must(t, db.QueryRowContext(t.Context(), `SELECT count(*) FROM settings WHERE name NOT LIKE 'gc-%'`).Scan(&rows))
			done := f.At == 0 || f.Mode == storagetest.Unreported && test.done[f.At-1]
			if (rows == 1) != done {
				t.Errorf("%d rows", rows)
			}
		})
	}
}

func TestStatementName(t *testing.T) {
	for text, want := range map[string]string{
		"":                                   "",
		"  SELECT 1":                         "",
		"explain query plan DELETE FROM x":   "",
		"BEGIN IMMEDIATE":                    "BEGIN IMMEDIATE",
		"COMMIT":                             "COMMIT",
		"PRAGMA synchronous = FULL":          "PRAGMA synchronous = FULL",
		"\n\tINSERT INTO a (b)\n VALUES (1)": "INSERT INTO a",
		"UPDATE a SET b = 1":                 "UPDATE a",
		"DELETE FROM a WHERE b = 1":          "DELETE FROM a",
		"-- why\n--\nCREATE TABLE a (":       "CREATE TABLE a",
		"-- why":                             "",
		"CREATE INDEX a ON b (c) WHERE d":    "CREATE INDEX a ON",
	} {
		if got := statementName(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// TestOneNumbering has calls of another store be numbered between the statements.
func TestOneNumbering(t *testing.T) {
	f := &storagetest.Faults{At: 3}
	db := faulty(t, f)
	must(t, write(t, db, "exec"))
	wantError(t, "the other's call", f.Do("other", func() error { return fmt.Errorf("was made") }), storagetest.ErrInjected)
	if calls := f.Calls(); !slices.Equal(calls, []string{"CONNECT", "INSERT INTO settings", "other"}) {
		t.Errorf("calls %q", calls)
	}
}
