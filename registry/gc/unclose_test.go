package gc_test

import (
	"database/sql"
	"path/filepath"
	"testing"

	_ "modernc.org/sqlite"
)

// unclose makes the last stop look unclean.
func unclose(t *testing.T, path string) {
	t.Helper()
	execSQL(t, path, `UPDATE generations SET closed_at = NULL`)
}

// sql changes the database behind the store's back.
func (s *site) sql(t *testing.T, statement string) {
	t.Helper()
	execSQL(t, filepath.Join(s.directory, "metadata.sqlite"), statement)
}

func execSQL(t *testing.T, path, statement string) {
	t.Helper()
	db, err := sql.Open("sqlite", path+"?_pragma=busy_timeout(10000)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(statement); err != nil {
		t.Fatal(err)
	}
}
