//go:build !race

package metadata_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"berth/conformance/server"
	"berth/storage/metadata"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver
	"github.com/opencontainers/go-digest"
)

const (
	// smallScale is how many manifests the small store has. With fewer, pages of its lists would not be full.
	smallScale = 1000
	// defaultScale is how many the large one has, unless BERTH_SCALE says otherwise: `make scale` does.
	defaultScale = 50_000
	// scaleMost is how many times longer a call may take on the large store.
	scaleMost = 2.0
	// scaleRounds is how many rounds of scaleCalls calls on each store there are at the most until the medians of one are that near:
	// other work on the machine takes the caches from the large store more than from the small one, in the rounds that it meets.
	scaleRounds = 30
	scaleCalls  = 200
	// startMost is how long the large store may take to open.
	startMost = time.Second
)

// scale is a store with rows that were made up: n manifests of three blobs each, in n/10 repositories. Half of the manifests are in one
// of these. Nine of ten have a tag, and each tenth of the large repository refers to another one, which has ten referrers; each
// hundredth there is an index of two.
type scale struct {
	n        int64
	dialect  scaleDialect
	populate *sql.DB
	store    *metadata.Store
	config   metadata.Config
	scanned  map[string]int64 // what scans said after the rows were made
}

// scaleDialect is how to make rows up.
type scaleDialect struct {
	numbers string    // a table of the numbers from 1 to %d, as i
	digest  string    // of the number that %[1]s stands for
	body    string    // of a manifest
	checked [2]string // to check foreign keys, and not to
	settled []string  // what the database does by itself in time
}

// multiplier spreads numbers over 32 bits, as Knuth has it: digests come in no order.
const multiplier = 2654435761

// digestOf is what the digest of a dialect makes of a number.
func digestOf(i int64) digest.Digest {
	return digest.NewDigestFromEncoded(digest.SHA256, fmt.Sprintf("%08x%056x", uint32(uint64(i)*multiplier), i))
}

func sqliteScale() scaleDialect {
	return scaleDialect{
		numbers: `(WITH RECURSIVE c (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < %d) SELECT i FROM c)`,
		digest:  `unhex('01' || printf('%%08x', (%[1]s) * 2654435761 %% 4294967296) || printf('%%056x', %[1]s))`,
		body:    `CAST(printf('%400d', i) AS BLOB)`,
		checked: [2]string{`PRAGMA foreign_keys = ON`, `PRAGMA foreign_keys = OFF`},
	}
}

func postgresScale() scaleDialect {
	return scaleDialect{
		numbers: `(SELECT i FROM generate_series(1, %d) AS g (i))`,
		digest:  `decode('01' || lpad(to_hex((%[1]s)::bigint * 2654435761 %% 4294967296), 8, '0') || lpad(to_hex(%[1]s), 56, '0'), 'hex')`,
		body:    `convert_to(lpad(i::text, 400), 'UTF8')`,
		checked: [2]string{`SET session_replication_role = origin`, `SET session_replication_role = replica`},
		settled: []string{
			`SELECT setval(pg_get_serial_sequence('repositories', 'id'), (SELECT max(id) FROM repositories))`,
			`SELECT setval(pg_get_serial_sequence('manifests', 'id'), (SELECT max(id) FROM manifests))`,
			`VACUUM (ANALYZE)`,
		},
	}
}

// statements make the rows of n manifests. Manifest i is the blob-like number n*4+i, and has the blobs 3i-2 to 3i.
func (d scaleDialect) statements(n int64) []string {
	repositories, manifest := n/10, n*4
	sql := func(text string) string {
		return strings.NewReplacer(
			"{repository}", fmt.Sprintf("(CASE WHEN i <= %d THEN 1 ELSE 2 + i %% %d END)", n/2, repositories-1),
			"{blob repository}", fmt.Sprintf("(CASE WHEN (i + 2) / 3 <= %d THEN 1 ELSE 2 + (i + 2) / 3 %% %d END)", n/2, repositories-1),
			"{repositories}", fmt.Sprintf(d.numbers, repositories),
			"{manifests}", fmt.Sprintf(d.numbers, n),
			"{blobs}", fmt.Sprintf(d.numbers, 3*n),
			"{positions}", fmt.Sprintf(d.numbers, 2),
			"{manifest i}", fmt.Sprintf(d.digest, fmt.Sprintf("%d + i", manifest)),
			"{child}", fmt.Sprintf(d.digest, fmt.Sprintf("%d + m.i - p.i", manifest)),
			"{subject}", fmt.Sprintf(d.digest, fmt.Sprintf("%d + i - i %% 100 + 1", manifest)),
			"{blob i}", fmt.Sprintf(d.digest, "i"),
			"{config}", fmt.Sprintf(d.digest, "3 * i - 2"),
			"{body}", d.body,
			"{referrer}", fmt.Sprintf("i %% 10 = 0 AND i < %d", n/2),
		).Replace(text)
	}
	return []string{
		sql(`INSERT INTO repositories (id, name, created_at) SELECT i, 'team' || (i % 97) || '/app' || i, 1 FROM {repositories} AS x`),
		sql(`INSERT INTO blobs (digest, key, size, stored_at)
			SELECT {blob i}, 'blobs/00000000/' || (i / 10000) || '/' || i, 1000 + i, 1 FROM {blobs} AS x ORDER BY 1`),
		sql(`INSERT INTO repository_blobs (repository, digest, leased_until) SELECT {blob repository}, {blob i}, 4102444800000 FROM {blobs} AS x ORDER BY 1, 2`),
		sql(`INSERT INTO manifests (id, repository, digest, media_type, artifact_type, subject, config_digest, os, architecture, size, total_size, pushed_at, pushed_by)
			SELECT i, {repository}, {manifest i}, 'application/vnd.oci.image.manifest.v1+json', '', CASE WHEN {referrer} THEN {subject} END,
			  {config}, 'linux', 'amd64', 400, 4000, 1, 'someone' FROM {manifests} AS x`),
		sql(`INSERT INTO manifest_bodies (manifest, body) SELECT i, {body} FROM {manifests} AS x`),
		sql(`INSERT INTO manifest_blobs (manifest, position, repository, digest, linked, size, media_type)
			SELECT (i + 2) / 3, (i + 2) % 3, {blob repository}, {blob i}, {blob i}, 1000 + i, 'application/vnd.oci.image.layer.v1.tar+gzip' FROM {blobs} AS x`),
		sql(fmt.Sprintf(`INSERT INTO manifest_children (manifest, position, repository, digest, child, size, media_type, os, architecture)
			SELECT m.i, p.i - 1, 1, {child}, m.i - p.i, 400, 'application/vnd.oci.image.manifest.v1+json', 'linux', 'amd64'
			FROM {manifests} AS m, {positions} AS p WHERE m.i %% 100 = 50 AND m.i <= %d`, n/2)),
		sql(`INSERT INTO tags (repository, name, manifest, updated_at, updated_by)
			SELECT {repository}, 'v' || i, i, 1, 'someone' FROM {manifests} AS x WHERE NOT ({referrer})`),
	}
}

// fill makes the rows. Those of the small store are checked as they are made, and then against each other: of the large one the same
// statements make more.
func (s *scale) fill(t *testing.T) {
	t.Helper()
	ctx, begin := t.Context(), time.Now()
	conn, err := s.populate.Conn(ctx)
	must(t, err)
	defer conn.Close()
	exec := func(text string) {
		t.Helper()
		if _, err := conn.ExecContext(ctx, text); err != nil {
			t.Fatalf("%v in %s", err, text)
		}
	}
	small := s.n == smallScale
	if small {
		exec(s.dialect.checked[0])
	} else {
		exec(s.dialect.checked[1])
	}
	exec("BEGIN")
	for _, text := range s.dialect.statements(s.n) {
		exec(text)
	}
	exec("COMMIT")
	for _, text := range s.dialect.settled {
		exec(text)
	}
	must(t, conn.Close())
	t.Logf("%d manifests, %d repositories and %d blobs in %v", s.n, s.n/10, 3*s.n, time.Since(begin).Round(time.Millisecond))
	s.open(t)
	t.Cleanup(func() { s.close(t) })
	if small {
		mustAudit(t, s.store)
	}
}

func (s *scale) open(t *testing.T) {
	t.Helper()
	var err error
	s.store, err = metadata.Open(context.WithoutCancel(t.Context()), s.config)
	must(t, err)
}

// close closes the store, if it is open.
func (s *scale) close(t *testing.T) {
	t.Helper()
	if s.store != nil {
		must(t, s.store.Close())
	}
	s.store = nil
}

// scaleCall asks a store something about one of its first n/2 manifests, those of the large repository. It fails where the answer is
// not all that it has to be.
type scaleCall func(ctx context.Context, s *metadata.Store, n, i int64) error

func callsToCompare() map[string]scaleCall {
	const repository, page = "team1/app1", 100
	full := func(got, want int, err error) error {
		if err == nil && got != want {
			err = fmt.Errorf("%d entries, want %d", got, want)
		}
		return err
	}
	manifest := func(n, i int64) digest.Digest { return digestOf(n*4 + i) }
	tagged := func(i int64) int64 { return i - i%10 + 1 }
	return map[string]scaleCall{
		"tag list page": func(ctx context.Context, s *metadata.Store, n, i int64) error {
			names, err := s.Tags(ctx, repository, fmt.Sprint("v1", i%10), page)
			return full(len(names), page, err)
		},
		"catalog page": func(ctx context.Context, s *metadata.Store, n, i int64) error {
			names, err := s.Repositories(ctx, fmt.Sprint("team", i%5), 50)
			return full(len(names), 50, err)
		},
		"manifest by tag": func(ctx context.Context, s *metadata.Store, n, i int64) error {
			m, body, err := s.TaggedManifest(ctx, repository, fmt.Sprint("v", tagged(i)), true)
			if err == nil && m.Digest != manifest(n, tagged(i)) {
				err = fmt.Errorf("got %s", m.Digest)
			}
			return full(len(body), 400, err)
		},
		"manifest by digest": func(ctx context.Context, s *metadata.Store, n, i int64) error {
			_, body, err := s.Manifest(ctx, repository, manifest(n, i), true)
			return full(len(body), 400, err)
		},
		"manifest of a small repository": func(ctx context.Context, s *metadata.Store, n, i int64) error {
			i += n / 2
			r := 2 + i%(n/10-1)
			_, body, err := s.TaggedManifest(ctx, fmt.Sprintf("team%d/app%d", r%97, r), fmt.Sprint("v", i), true)
			return full(len(body), 400, err)
		},
		"referrers": func(ctx context.Context, s *metadata.Store, n, i int64) error {
			i = 1 + i%(n/2-200)
			all, _, err := s.Referrers(ctx, repository, manifest(n, i-i%100+101), "", "", page)
			return full(len(all), 10, err)
		},
		"blob link": func(ctx context.Context, s *metadata.Store, n, i int64) error {
			b, err := s.Blob(ctx, repository, digestOf(i))
			return full(int(b.Size-1000), int(i), err)
		},
		"blob lease": func(ctx context.Context, s *metadata.Store, n, i int64) error {
			_, err := s.LeaseBlob(ctx, repository, digestOf(i))
			return err
		},
		"blob repositories": func(ctx context.Context, s *metadata.Store, n, i int64) error {
			names, err := s.BlobRepositories(ctx, digestOf(i), "", page)
			return full(len(names), 1, err)
		},
		"children": func(ctx context.Context, s *metadata.Store, n, i int64) error {
			i = 1 + i%(n/2-100)
			edges, err := s.Children(ctx, repository, manifest(n, i-i%100+50))
			return full(len(edges), 2, err)
		},
		"config platform": func(ctx context.Context, s *metadata.Store, n, i int64) error {
			_, err := s.ConfigPlatform(ctx, repository, digestOf(i))
			return err
		},
	}
}

// TestScale holds calls on a store with many rows against those on one with few.
func TestScale(t *testing.T) {
	large := int64(defaultScale)
	if asked := os.Getenv("BERTH_SCALE"); asked != "" {
		var err error
		large, err = strconv.ParseInt(asked, 10, 64)
		must(t, err)
	}
	t.Run("SQLite", func(t *testing.T) {
		of := func(n int64) *scale {
			path := filepath.Join(t.TempDir(), "metadata.sqlite")
			must(t, makeSchema(t, metadata.Config{Path: path}))
			db, err := sql.Open("sqlite", path+"?_pragma=synchronous(off)&_pragma=cache_size(-500000)&_pragma=temp_store(memory)")
			must(t, err)
			s := &scale{n: n, dialect: sqliteScale(), populate: db, config: metadata.Config{Path: path}}
			s.fill(t)
			must(t, db.Close())
			return s
		}
		many := of(large)
		compare(t, of(smallScale), many, func(t *testing.T, s *scale) {
			db := raw(t, s.config.Path)
			for _, text := range metadata.Statements(s.store) {
				if strings.HasPrefix(text, "SELECT") && !strings.Contains(text, "FROM generations") {
					wantNoScan(t, text, plan(t, db, text))
				}
			}
		})
		if program := os.Getenv("BERTH_SCALE_PROGRAM"); program != "" {
			many.close(t)
			startProgram(t, program, filepath.Dir(many.config.Path))
		}
	})
	t.Run("PostgreSQL", func(t *testing.T) {
		of := func(n int64) *scale {
			dsn := postgresServer(t).NewDatabase(t, "")
			must(t, makeSchema(t, metadata.Config{DSN: dsn}))
			db, err := sql.Open("pgx", dsn)
			must(t, err)
			t.Cleanup(func() { must(t, db.Close()) }) // after the store's
			s := &scale{n: n, dialect: postgresScale(), populate: db, config: metadata.Config{DSN: dsn}}
			s.fill(t)
			s.scanned = s.scans(t)
			return s
		}
		compare(t, of(smallScale), of(large), wantNoPostgresScan)
	})
}

// makeSchema makes a store's schema.
func makeSchema(t *testing.T, c metadata.Config) error {
	s, err := metadata.Open(t.Context(), c)
	if err != nil {
		return err
	}
	return s.Close()
}

func compare(t *testing.T, small, large *scale, checkPlans func(*testing.T, *scale)) {
	for name, call := range callsToCompare() {
		t.Run(name, func(t *testing.T) { compareCall(t, small, large, call) })
	}
	checkPlans(t, large)
	fastest := time.Hour
	for range 3 {
		large.close(t)
		begin := time.Now()
		large.open(t)
		fastest = min(fastest, time.Since(begin))
	}
	if t.Logf("the large store opens in %v", fastest.Round(time.Millisecond)); fastest > startMost {
		t.Errorf("it takes more than %v", startMost)
	}
}

// startProgram starts the registry on a store, after a kill and after an orderly stop, until it answers over TLS, and looks at its memory
// when it was idle for a while.
func startProgram(t *testing.T, program, directory string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	address := l.Addr().String()
	must(t, l.Close())
	c := server.Config{
		Program: program, Args: []string{"serve"}, Dir: directory, URL: "https://" + address, CA: filepath.Join(directory, "tls", "ca.pem"),
		Env: []string{"REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY=" + directory, "REGISTRY_HTTP_ADDR=" + address, "REGISTRY_AUTH=none"},
	}
	first, err := server.Start(t.Context(), c) // which makes a CA and the certificate
	must(t, err)
	first.Kill()
	for _, after := range []string{"a kill", "an orderly stop"} {
		begin := time.Now()
		s, err := server.Start(t.Context(), c)
		must(t, err)
		took := time.Since(begin)
		time.Sleep(5 * time.Second)
		idle, err := server.Memory(s.PID())
		must(t, errors.Join(err, s.Stop(t.Context())))
		t.Logf("the program answers after %v, after %s, and holds %.1f MiB then", took.Round(time.Millisecond), after, float64(idle)/(1<<20))
		if took > startMost {
			t.Errorf("a start takes more than %v", startMost)
		}
	}
}

// compareCall makes calls on both stores in turn, about manifests here and there, until the medians of a round are near enough, or
// it is clear that they are not.
func compareCall(t *testing.T, small, large *scale, call scaleCall) {
	random := rand.New(rand.NewPCG(1, 2))
	var medians [2]time.Duration
	for range scaleRounds {
		var took [2][]time.Duration
		for range scaleCalls {
			for which, s := range []*scale{small, large} {
				metadata.Forget(s.store)
				i := 1 + random.Int64N(s.n/2-1)
				begin := time.Now()
				err := call(t.Context(), s.store, s.n, i)
				took[which] = append(took[which], time.Since(begin))
				if err != nil {
					t.Fatalf("%d of %d: %v", i, s.n, err)
				}
			}
		}
		for which := range took {
			slices.Sort(took[which])
			medians[which] = took[which][len(took[which])/2]
		}
		if float64(medians[1]) <= scaleMost*float64(medians[0]) {
			t.Logf("%v, with few rows %v", medians[1], medians[0])
			return
		}
	}
	t.Errorf("%v, more than %.0f times the %v with few rows", medians[1], scaleMost, medians[0])
}

// wantNoPostgresScan looks at the plans that PostgreSQL makes for statements whatever they are asked, and at what it counted: with plans
// for what they were asked it never read a whole table either.
func wantNoPostgresScan(t *testing.T, s *scale) {
	texts := metadata.Statements(s.store)
	s.close(t) // connections that end tell what they counted
	after := s.scans(t)
	for table, n := range after {
		if n != s.scanned[table] && !slices.Contains([]string{"generations", "settings", "schema_versions"}, table) {
			t.Errorf("%s was read as a whole, %d times", table, n-s.scanned[table])
		}
	}
	conn, err := s.populate.Conn(t.Context())
	must(t, err)
	defer conn.Close()
	_, err = conn.ExecContext(t.Context(), `SET plan_cache_mode = force_generic_plan`)
	must(t, err)
	checked := 0
	for _, text := range texts {
		if !strings.HasPrefix(text, "SELECT") || strings.Contains(text, "FROM generations") || strings.Contains(text, "FROM settings") { // a few rows
			continue
		}
		checked++
		if plan := genericPlan(t, conn, text); strings.Contains(plan, "Seq Scan") || !strings.Contains(plan, "Index") {
			t.Errorf("%s\n%s", text, plan)
		}
	}
	if checked < 8 {
		t.Errorf("only %d statements were looked at", checked)
	}
}

// scans returns how often each table was read as a whole.
func (s *scale) scans(t *testing.T) map[string]int64 {
	t.Helper()
	rows, err := s.populate.QueryContext(t.Context(), `SELECT relname, seq_scan FROM pg_stat_user_tables`)
	must(t, err)
	defer rows.Close()
	scans := make(map[string]int64)
	for rows.Next() {
		var table string
		var n int64
		must(t, rows.Scan(&table, &n))
		scans[table] = n
	}
	must(t, rows.Err())
	return scans
}

// genericPlan is how PostgreSQL runs a statement without regard to what it is asked.
func genericPlan(t *testing.T, conn *sql.Conn, text string) string {
	t.Helper()
	parameters := 0
	for i := 1; strings.Contains(text, fmt.Sprint("$", i)); i++ {
		parameters = i
	}
	execute := "EXECUTE asked"
	if parameters > 0 {
		execute += "(" + strings.TrimSuffix(strings.Repeat("NULL, ", parameters), ", ") + ")"
	}
	_, err := conn.ExecContext(t.Context(), "PREPARE asked AS "+text)
	must(t, err)
	rows, err := conn.QueryContext(t.Context(), "EXPLAIN "+execute)
	must(t, err)
	var steps []string
	for rows.Next() {
		var step string
		must(t, rows.Scan(&step))
		steps = append(steps, step)
	}
	must(t, rows.Err())
	must(t, rows.Close())
	_, err = conn.ExecContext(t.Context(), "DEALLOCATE asked")
	must(t, err)
	return strings.Join(steps, "\n")
}
