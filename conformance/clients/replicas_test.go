package clients

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"berth/storage/metadata/postgrestest"
)

// haproxyConfig passes connections on to two servers in turn.
const haproxyConfig = `
defaults
    mode tcp
    timeout connect 5s
    timeout client 1m
    timeout server 1m
listen registry
    bind :5000
    balance roundrobin
    option httpchk GET /health
    default-server check inter 500ms check-ssl verify none
    server one 127.0.0.1:6001
    server two 127.0.0.1:6002
`

// TestClientsOnReplicas has clients do what they do in TestClients with two servers of one registry, over PostgreSQL and S3 and behind
// HAProxy. Each request has a connection of its own, so that an upload goes on at the other server with each. Blobs come from the
// servers, since the steps count bytes there. The other clients would add time, and nothing that is different with two servers.
func TestClientsOnReplicas(t *testing.T) {
	t.Parallel()
	need(t, "haproxy")
	some := map[string]client{}
	for _, c := range []client{docker(), dockerWithContainerd(), podman(), skopeo(), crane(), oras()} {
		if !strings.HasSuffix(c.cutPush, perhaps) {
			c.cutPush += perhaps // by itself or by its user: on a connection of its own a request that is cut fails in more than one way
		}
		some[c.name] = c
	}
	rows := doAll(t, some, serveReplicas)
	seen := map[string]map[string]int{} // by upload: the requests at each server
	for i := range 2 {
		for line := range strings.Lines(rows[0].server.during(t).do(fmt.Sprintf("cat %s.%d", accessLog, i+1))) {
			var a struct{ Endpoint, Reference string }
			if json.Unmarshal([]byte(line), &a) != nil || !strings.HasPrefix(a.Endpoint, "upload") || a.Reference == "" {
				continue
			}
			if seen[a.Reference] == nil {
				seen[a.Reference] = map[string]int{}
			}
			seen[a.Reference][fmt.Sprint(i)]++
		}
	}
	both := 0
	for _, servers := range seen {
		if len(servers) == 2 {
			both++
		}
	}
	t.Logf("of %d uploads %d were at both servers", len(seen), both)
	if len(seen) < len(some) || both < len(seen)/3 {
		t.Error("that is too few for this test to mean anything")
	}
}

// serveReplicas runs the parts of such a registry on a machine, and returns the command of the first server.
func serveReplicas(m *machine) string {
	m.t.Helper()
	directory, err := os.MkdirTemp("", "postgres") // which another user has to reach
	if err != nil {
		m.t.Fatal(err)
	}
	postgres, err := postgrestest.Start(m.t.Context(), directory)
	if errors.Is(err, postgrestest.ErrUnavailable) {
		unavailable(m.t, err.Error())
	}
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() {
		if err := postgres.Remove(); err != nil {
			m.t.Error(err)
		}
	})
	bucket := m.t.TempDir() // on a disk: the gateway keeps attributes of files
	gateway := tool(m.t, "versitygw", "../../tools/s3", "github.com/versity/versitygw/cmd/versitygw")
	m.do("mkdir -p " + bucket + "/registry")
	m.start("env ROOT_ACCESS_KEY=test ROOT_SECRET_KEY=test-secret "+gateway+" --port 127.0.0.1:7070 --quiet posix "+bucket,
		"curl --silent http://127.0.0.1:7070/")
	m.write("/run/dsn", postgres.NewDatabase(m.t, ""))
	m.write("/run/haproxy.cfg", haproxyConfig)
	all := withRules(m, "REGISTRY_STORAGE=s3", "REGISTRY_STORAGE_S3_BUCKET=registry", "REGISTRY_STORAGE_S3_REGION=us-east-1",
		"REGISTRY_STORAGE_S3_REGIONENDPOINT=http://127.0.0.1:7070", "REGISTRY_STORAGE_S3_ACCESSKEY=test", "REGISTRY_STORAGE_S3_SECRETKEY=test-secret",
		"REGISTRY_STORAGE_REDIRECT_DISABLE=true", "REGISTRY_METADATA_POSTGRES_DSN_FILE=/run/dsn", "'REGISTRY_HTTP_HEADERS={Connection: [close]}'",
		"REGISTRY_HTTP_HTTP2_DISABLED=true") // whose connections would end with requests on them
	var first string
	for i := range 2 {
		command := fmt.Sprintf("env REGISTRY_STORAGE_DIRECTORY=/run/registry-%d REGISTRY_HTTP_ADDR=:%d %s", i+1, 6001+i, all)
		m.start(fmt.Sprintf("sh -c '%s serve 2>&1 | tee -a %s >>%s.%d'", strings.ReplaceAll(command, "'", `'\''`), accessLog, accessLog, i+1),
			fmt.Sprintf("curl --silent --insecure https://127.0.0.1:%d/v2/", 6001+i))
		if i == 0 {
			first = command
		}
	}
	m.start("haproxy -db -f /run/haproxy.cfg", answers)
	return first
}
