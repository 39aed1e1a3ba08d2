package metadata_test

import (
	"context"
	"errors"
	"os"
	"sync"
	"testing"

	"berth/storage/metadata"
	"berth/storage/metadata/metatest"
	"berth/storage/metadata/postgrestest"
)

// postgres is the server of this package's tests, started for the first that asks.
var postgres struct {
	once   sync.Once
	server *postgrestest.Server
	err    error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if postgres.server != nil {
		if err := postgres.server.Remove(); err != nil {
			println(err.Error())
			code = 1
		}
	}
	os.Exit(code)
}

// postgresServer returns the server. Where none can be run, the test is skipped; in CI it fails.
func postgresServer(t testing.TB) *postgrestest.Server {
	t.Helper()
	postgres.once.Do(func() {
		directory, err := os.MkdirTemp("", "postgres")
		if err != nil {
			postgres.err = err
			return
		}
		// What these tests are about survives no crash of the machine.
		postgres.server, postgres.err = postgrestest.Start(context.Background(), directory, "fsync=off")
	})
	if errors.Is(postgres.err, postgrestest.ErrUnavailable) && os.Getenv("CI") == "" {
		t.Skip(postgres.err)
	}
	if postgres.err != nil {
		t.Fatal(postgres.err)
	}
	return postgres.server
}

func TestContractOnPostgres(t *testing.T) {
	server := postgresServer(t)
	template := server.NewDatabase(t, "")
	s, err := metadata.Open(t.Context(), metadata.Config{DSN: template})
	must(t, err)
	must(t, s.Close())
	metatest.Run(t, func(t testing.TB, c metadata.Config) *metadata.Store {
		c.DSN = server.NewDatabase(t, "test1")
		return open(t, c)
	})
}
