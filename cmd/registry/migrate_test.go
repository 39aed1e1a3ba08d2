package main

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"berth/storage/metadata/postgrestest"
)

// database returns the variable that names a file with the DSN of a new PostgreSQL database, and the DSN.
func database(t *testing.T) (variable, dsn string) {
	t.Helper()
	directory, err := os.MkdirTemp("", "postgres") // t.TempDir is for this user only, and the server runs as another
	if err != nil {
		t.Fatal(err)
	}
	server, err := postgrestest.Start(t.Context(), directory, "fsync=off")
	if errors.Is(err, postgrestest.ErrUnavailable) && os.Getenv("CI") == "" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Remove(); err != nil {
			t.Error(err)
		}
	})
	dsn = server.NewDatabase(t, "")
	file := filepath.Join(t.TempDir(), "dsn")
	if err := os.WriteFile(file, []byte(dsn+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return "REGISTRY_METADATA_POSTGRES_DSN_FILE=" + file, dsn
}

// TestMigrate starts a registry with SQLite, moves it to PostgreSQL, and goes on there.
func TestMigrate(t *testing.T) {
	variable, dsn := database(t)
	directory := t.TempDir()
	environ := []string{"REGISTRY_HTTP_TLS_MODE=off", "REGISTRY_AUTH=none"}
	where := []string{"REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY=" + directory}
	fails := func(want string, environ []string, args ...string) {
		t.Helper()
		out, errOut, err := command(t, append(where, environ...), args...)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(out+errOut+err.Error(), dsn) {
			t.Errorf("%v: %v, want %q", args, err, want)
		}
	}
	r := serve(t, directory, environ...)
	visitor{t: t, url: r.url()}.pushImage("app", "v1", "amd64")
	fails("a registry is using ", []string{variable}, "metadata", "migrate")
	r.end(t)

	fails("there is nowhere to move to", nil, "metadata", "migrate")
	fails("registry metadata migrate moves its facts", append(environ, variable, "REGISTRY_HTTP_ADDR=127.0.0.1:0"), "serve")
	out, _, err := command(t, append(where, variable), "metadata", "migrate")
	if err != nil || !strings.Contains(out, "to PostgreSQL, and checked them") {
		t.Fatalf("%v\n%s", err, out)
	}
	fails("was moved before", []string{variable}, "metadata", "migrate")
	fails("were moved to PostgreSQL: set metadata.postgres.dsn", environ, "serve")

	r = serve(t, directory, append(environ, variable)...)
	defer r.end(t)
	v := visitor{t: t, url: r.url()}
	if status, body, _ := v.do(http.MethodGet, "/v2/app/manifests/v1", "", ""); status != http.StatusOK {
		t.Errorf("after the move: %d %s", status, body)
	}
	v.pushImage("app", "v2", "arm")
	if out, errOut, err := command(t, append(where, append(environ, variable)...), "fsck"); err != nil || !strings.Contains(out, ": 0 findings") {
		t.Errorf("fsck: %v\n%s%s", err, out, errOut)
	}
	if out, _, err := command(t, append(where, variable), "config", "check"); err != nil || strings.Contains(out, dsn) || !strings.Contains(out, "dsn: ") {
		t.Errorf("config check: %v\n%s", err, out)
	}
	if log := r.out.String() + r.errOut.String(); strings.Contains(log, dsn) {
		t.Errorf("the DSN is in the log:\n%s", log)
	}
}
