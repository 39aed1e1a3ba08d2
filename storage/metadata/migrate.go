package metadata

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"strings"

	"github.com/pressly/goose/v3"
)

//go:embed migrations/*.sql
var migrations embed.FS

// dialect is what differs between SQL databases in the text of statements.
type dialect struct {
	goose goose.Dialect
	words *strings.Replacer
}

func sqliteDialect() dialect {
	return dialect{goose: goose.DialectSQLite3, words: strings.NewReplacer(
		"{id}", "INTEGER PRIMARY KEY",
		"{int}", "INTEGER",
		"{bytes}", "BLOB",
		"{text}", "TEXT",
		"{strict}", "STRICT",
		"{rowless}", "STRICT, WITHOUT ROWID",
		"{elements}", "json_each",
		"{now}", "CAST(unixepoch('subsec') * 1000 AS INTEGER)",
	)}
}

// migrate brings the schema of db to this version's. It fails, changing nothing, when the schema is a newer version's.
func migrate(ctx context.Context, db *sql.DB, d dialect) error {
	steps, err := readMigrations(d)
	if err != nil {
		return err
	}
	provider, err := goose.NewProvider(d.goose, db, nil, goose.WithGoMigrations(steps...),
		goose.WithDisableGlobalRegistry(true), goose.WithTableName("schema_versions"))
	if err != nil {
		return fmt.Errorf("read schema version: %w", err)
	}
	has, knows, err := provider.GetVersions(ctx)
	if err != nil {
		return fmt.Errorf("read schema version: %w", err)
	}
	if has > knows {
		return fmt.Errorf("the metadata has schema version %d, written by a newer Berth; this one knows version %d: start the newer one, or restore a backup", has, knows)
	}
	if _, err := provider.Up(ctx); err != nil {
		return fmt.Errorf("migrate schema: %w", err)
	}
	return nil
}

func readMigrations(d dialect) ([]*goose.Migration, error) {
	files, err := migrations.ReadDir("migrations")
	if err != nil {
		return nil, err
	}
	var steps []*goose.Migration
	for _, f := range files {
		version, err := goose.NumericComponent(f.Name())
		if err != nil {
			return nil, err
		}
		text, err := migrations.ReadFile("migrations/" + f.Name())
		if err != nil {
			return nil, err
		}
		steps = append(steps, goose.NewGoMigration(version, &goose.GoFunc{RunTx: runStatements(d.words.Replace(string(text)))}, nil))
	}
	return steps, nil
}

// runStatements runs statements that end with a semicolon at the end of a line, one by one: not every driver takes
// several at once.
func runStatements(text string) func(context.Context, *sql.Tx) error {
	return func(ctx context.Context, tx *sql.Tx) error {
		for statement := range strings.SplitSeq(text, ";\n") {
			if strings.TrimSpace(statement) == "" {
				continue
			}
			if _, err := tx.ExecContext(ctx, statement); err != nil {
				return fmt.Errorf("%w in: %s", err, strings.TrimSpace(statement))
			}
		}
		return nil
	}
}
