package gc_test

import (
	"database/sql"
	"testing"

	_ "modernc.org/sqlite"
)

// unclose makes the last stop look unclean.
func unclose(t *testing.T, path string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(`UPDATE generations SET closed_at = NULL`); err != nil {
		t.Fatal(err)
	}
}
