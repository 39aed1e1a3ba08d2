package metadata_test

import (
	"testing"

	"berth/storage/metadata/metatest"
	"berth/storage/storagetest"

	"github.com/jackc/pgx/v5/pgconn"
)

// TestConflicts has each statement of each scenario be one that PostgreSQL can't serialize: the transaction is run again, and who made the
// call does not hear of it.
func TestConflicts(t *testing.T) {
	t.Parallel()
	server := postgresServer(t)
	for name, scenario := range scenarios() {
		t.Run(name, func(t *testing.T) {
			f := &storagetest.Faults{Err: &pgconn.PgError{Code: "40001"}} // of a commit
			c := quick("")
			c.DSN, c.Wrap = server.NewDatabase(t, ""), metatest.Faults{Faults: f, Conflicts: true}.Wrap
			s := open(t, c)
			for round, failed := 0, true; failed; round++ {
				f.At = 0
				steps, err := scenario(t.Context(), s, round)
				must(t, err)
				first := len(f.Calls())
				f.At = first + round + 1
				for _, step := range steps {
					if err := step.call(t.Context(), s); err != nil {
						t.Errorf("statement %d: %s: %v", round+1, step.name, err)
					}
				}
				failed = len(f.Calls()) >= f.At
				if !failed && round < 10 {
					t.Errorf("only %d statements failed", round)
				}
				for _, step := range steps {
					if err := step.check(t.Context(), s); err != nil {
						t.Errorf("statement %d: %s: %v", round+1, step.name, err)
					}
				}
			}
			mustAudit(t, s)
		})
	}
}
