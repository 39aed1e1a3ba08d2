package metadata_test

import (
	"database/sql"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"berth/storage/metadata"
)

// TestPlans sees to it that the statements of a store take time by what they find, not by what there is.
func TestPlans(t *testing.T) {
	path := filepath.Join(t.TempDir(), "metadata.sqlite")
	texts := usedStatements(t, path)
	db := raw(t, path)
	db.SetMaxOpenConns(1)
	_, err := db.ExecContext(t.Context(), `PRAGMA foreign_keys = ON`) // whose checks are in the plans
	must(t, err)
	checkLookups(t, db, texts)
	for _, text := range texts {
		verb, _, _ := strings.Cut(text, " ")
		if !slices.Contains([]string{"SELECT", "INSERT", "UPDATE", "DELETE"}, verb) || metadata.IsAudit(text) {
			continue
		}
		if strings.Contains(text, "FROM generations") {
			continue // it has one row a start
		}
		if strings.Contains(text, "FROM backups ORDER BY") {
			continue // the list of all
		}
		if strings.HasSuffix(text, "FROM robots ORDER BY name") {
			continue // the list of all
		}
		if strings.Contains(text, "FROM quotas") && !strings.Contains(text, "WHERE q.id = $1") {
			continue // it has one row a quota
		}
		if text == "SELECT id, name FROM repositories ORDER BY id" || strings.HasPrefix(text, "INSERT INTO quota_blobs") {
			continue // a quota that is new counts what there is
		}
		wantNoScan(t, text, plan(t, db, text))
	}
}

// usedStatements makes every call of a store and returns the statements that this took.
func usedStatements(t *testing.T, path string) []string {
	t.Helper()
	s := open(t, quick(path))
	for name, run := range scenarios() {
		steps, err := run(t.Context(), s, 0)
		must(t, err)
		for _, step := range steps {
			step.name = name + ": " + step.name
			runStep(t, s, step)
		}
	}
	ctx, d := t.Context(), blob(1)
	index := image("index", []string{"1-one"})
	index.Children = []metadata.Edge{{Digest: d, Optional: true}}
	index.Assemblies = []metadata.Assembly{{Tag: "1", Build: func(metadata.AssemblyParts) *metadata.NewManifest { return nil }}}
	must(t, s.PutManifest(ctx, "assembly-0", index))
	for name, list := range map[string]func() error{
		"tags":              func() error { _, err := s.Tags(ctx, "manifests-0", "", 1); return err },
		"repositories":      func() error { _, err := s.Repositories(ctx, "", 1); return err },
		"blob repositories": func() error { _, err := s.BlobRepositories(ctx, d, "", 1); return err },
		"referrers":         func() error { _, _, err := s.Referrers(ctx, "manifests-0", d, "", "", 1); return err },
		"config platform":   func() error { _, err := s.ConfigPlatform(ctx, "manifests-0", d); return notFound(err) },
		"manifest platform": func() error { _, err := s.ManifestPlatform(ctx, "manifests-0", d); return notFound(err) },
		"tags of manifest":  func() error { _, err := s.ManifestTags(ctx, "manifests-0", d, 1); return err },
		"children":          func() error { _, err := s.Children(ctx, "manifests-0", d); return err },
		"dead keys":         func() error { _, err := s.ClaimDeadKeys(ctx, 1); return err },
		"collect":           func() error { _, err := s.Collect(ctx, 1); return err },
		"blobs":             func() error { _, err := s.Blobs(ctx, "", 1); return err },
		"manifests":         func() error { _, err := s.Manifests(ctx, 0, 1); return err },
		"written uploads":   func() error { _, err := s.WrittenUploads(ctx); return err },
		"generations":       func() error { _, err := s.UnclosedGenerations(ctx); return err },
		"backups":           func() error { _, err := s.Backups(ctx); return err },
		"clock":             func() error { _, _, err := s.Clock(ctx); return err },
		"close generation":  func() error { return s.CloseGeneration(ctx, "x") },
		"robots":            func() error { _, err := s.Robots(ctx); return err },
		"robot":             func() error { _, err := s.Robot(ctx, "x"); return notFound(err) },
		"robot by secret":   func() error { _, err := s.RobotBySecret(ctx, []byte("x")); return notFound(err) },
		"mend":              func() error { _, err := s.Mend(ctx, 1); return err },
		"audit":             func() error { _, err := s.Audit(ctx, 1); return err },
	} {
		if err := list(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	return metadata.Statements(s)
}

// notFound lets a lookup find nothing.
func notFound(err error) error {
	if errors.Is(err, metadata.ErrNotFound) {
		return nil
	}
	return err
}

func wantNoScan(t *testing.T, text, plan string) {
	t.Helper()
	for step := range strings.SplitSeq(plan, "\n") {
		if step == "SCAN b" && strings.Contains(text, "FROM backups b") {
			continue // it has as many rows as snapshots are kept
		}
		if strings.HasPrefix(step, "SCAN ") && step != "SCAN CONSTANT ROW" && step != "SCAN always" &&
			step != "SCAN page" && // what a limit lets through
			!strings.HasPrefix(step, "SCAN json_each") { // a list that is an argument
			t.Errorf("%s\n%s", text, step)
		}
		// Few are sorted here: the manifests that need one blob, and the repositories that have one.
		if strings.Contains(step, "TEMP B-TREE") && !strings.Contains(text, "DISTINCT") && !strings.Contains(text, "l.digest = $1 AND r.name > $2") {
			t.Errorf("%s\n%s", text, step)
		}
	}
}

// plan is how SQLite runs a statement and checks its foreign keys, one step a line.
func plan(t *testing.T, db *sql.DB, text string) string {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+text, make([]any, 20)...)
	must(t, err)
	defer rows.Close()
	var steps []string
	for rows.Next() {
		var id, parent, unused int
		var step string
		must(t, rows.Scan(&id, &parent, &unused, &step))
		steps = append(steps, step)
	}
	must(t, rows.Err())
	return strings.Join(steps, "\n")
}

// checkLookups names the index of each lookup that the speed of the registry hangs on.
func checkLookups(t *testing.T, db *sql.DB, texts []string) {
	for name, want := range map[string]struct{ part, step string }{
		"tag":                  {"b.body FROM repositories r JOIN tags t ON", "SEARCH t USING PRIMARY KEY (repository=? AND name=?)"},
		"manifest":             {"b.body FROM repositories r JOIN manifests m ON", "SEARCH m USING INDEX sqlite_autoindex_manifests_1 (repository=? AND digest=?)"},
		"blob":                 {"SELECT b.key, b.size", "SEARCH l USING PRIMARY KEY (repository=? AND digest=?)"},
		"tags page":            {"SELECT name FROM tags", "SEARCH tags USING PRIMARY KEY (repository=? AND name>?)"},
		"repositories page":    {"SELECT r.name FROM repositories r WHERE", "SEARCH r USING COVERING INDEX sqlite_autoindex_repositories_1 (name>?)"},
		"repository is empty":  {"SELECT r.name FROM repositories r WHERE", "SEARCH m EXISTS USING INDEX manifests_shown (repository=?)"},
		"referrers":            {"m.annotations FROM", "SEARCH m USING INDEX manifests_subject (repository=? AND subject=? AND digest>?)"},
		"dead keys":            {"FROM dead_keys WHERE delete_after <=", "SEARCH dead_keys USING INDEX dead_keys_delete_after (delete_after<?)"},
		"expired uploads":      {"FROM uploads WHERE expires_at <=", "SEARCH uploads USING INDEX uploads_expires_at (expires_at<?)"},
		"blob in use":          {"SELECT DISTINCT m.digest FROM manifest_blobs", "SEARCH e USING COVERING INDEX manifest_blobs_linked (repository=? AND linked=?)"},
		"manifest in use":      {"SELECT DISTINCT m.digest FROM manifest_children", "SEARCH e USING COVERING INDEX manifest_children_child (child=?)"},
		"blob linked":          {"DELETE FROM blobs", "SEARCH repository_blobs USING COVERING INDEX repository_blobs_digest (digest=?)"},
		"blob pinned":          {"DELETE FROM blobs", "SEARCH uploads USING COVERING INDEX uploads_pinned (pinned_digest=?)"},
		"edges that wait":      {"UPDATE manifest_blobs SET linked", "SEARCH manifest_blobs USING INDEX manifest_blobs_waiting (repository=? AND digest=?)"},
		"indexes that wait":    {"UPDATE manifest_children SET child", "SEARCH manifest_children USING INDEX manifest_children_waiting (repository=? AND digest=?)"},
		"tags of the manifest": {"DELETE FROM tags WHERE manifest", "SEARCH tags USING INDEX tags_manifest (manifest=?)"},
	} {
		i := slices.IndexFunc(texts, func(text string) bool { return strings.Contains(text, want.part) })
		if i < 0 {
			t.Errorf("%s: no statement has %q", name, want.part)
			continue
		}
		if steps := strings.Split(plan(t, db, texts[i]), "\n"); !slices.Contains(steps, want.step) {
			t.Errorf("%s: %s\n got %q\nwant %q", name, texts[i], steps, want.step)
		}
	}
}
