package metadata_test

import (
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"berth/storage/metadata"

	"github.com/opencontainers/go-digest"
)

// TestPushAndDeleteOrder has pushes of a blob meet deletes of it: they lock the same rows in the same order, so that neither has to wait
// for the database to find a deadlock.
func TestPushAndDeleteOrder(t *testing.T) {
	t.Parallel()
	dsn := postgresServer(t).NewDatabase(t, "")
	s, err := metadata.Open(t.Context(), metadata.Config{DSN: dsn})
	must(t, err)
	db, err := sql.Open("pgx", dsn)
	must(t, err)
	defer db.Close()
	d := digest.FromString("one")
	var all sync.WaitGroup
	end := time.Now().Add(5 * time.Second)
	for i := range 6 {
		all.Go(func() {
			for n := 0; time.Now().Before(end); n++ {
				if i%2 == 0 {
					if err := s.DeleteBlob(t.Context(), "a", d); err != nil && !errors.Is(err, metadata.ErrNotFound) {
						t.Error(err)
					}
					continue
				}
				u, err := s.StartUpload(t.Context(), fmt.Sprint(i, "-", n), "a", digest.SHA256, "")
				if err == nil {
					u.Size = 3
					err = s.CommitUpload(t.Context(), u, d)
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	mustAudit(t, s)
	must(t, s.Close()) // a connection that ends tells the server what it counted
	var deadlocks int
	must(t, db.QueryRowContext(t.Context(), `SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()`).Scan(&deadlocks))
	if deadlocks > 0 {
		t.Errorf("%d deadlocks", deadlocks)
	}
}
