package main

import (
	"encoding/json"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"berth/config"
	"berth/registry/fsck"
)

// clinic is a registry with an image whose layer is damaged and healed.
type clinic struct {
	t         *testing.T
	directory string
	online    bool // whether a server is asked to check
	running   *running
}

// clinicLayer is too large to be kept in the metadata.
var clinicLayer = strings.Repeat("a layer of some length", 1000)

func newClinic(t *testing.T, online bool) *clinic {
	c := &clinic{t: t, directory: t.TempDir(), online: online}
	c.serve()
	c.visitor().push("app", clinicLayer)
	return c
}

func (c *clinic) serve() {
	c.running = serve(c.t, c.directory, "REGISTRY_AUTH=none", "REGISTRY_HTTP_TLS_MODE=off", "REGISTRY_GC_INTERVAL=1h")
}

func (c *clinic) visitor() visitor { return visitor{t: c.t, url: c.running.url()} }

// layer is the file of the layer.
func (c *clinic) layer() (path string) {
	c.t.Helper()
	err := filepath.WalkDir(filepath.Join(c.directory, "blobs"), func(name string, _ fs.DirEntry, err error) error {
		if content, _ := os.ReadFile(name); string(content) == clinicLayer { // what is no file has none
			path = name
		}
		return err
	})
	if err != nil || path == "" {
		c.t.Fatalf("there is no file of the layer: %v", err)
	}
	return path
}

func (c *clinic) write(path, content string) {
	c.t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		c.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		c.t.Fatal(err)
	}
}

// fsck checks, and fails the test unless the exit code is 0 as ok says and the output has all that is wanted.
func (c *clinic) fsck(ok bool, flags []string, want ...string) {
	c.t.Helper()
	if !c.online {
		c.running.end(c.t)
		defer c.serve()
	}
	out, errOut, err := command(c.t, c.running.environ, append([]string{"fsck"}, flags...)...)
	if (err == nil) != ok {
		c.t.Errorf("fsck %s: %v\n%s%s", flags, err, out, errOut)
	}
	for _, part := range want {
		if !strings.Contains(out, part) {
			c.t.Errorf("fsck %s does not say %q:\n%s", flags, part, out)
		}
	}
	var report fsck.Report
	if slices.Contains(flags, "--json") && (json.Unmarshal([]byte(out), &report) != nil || report.Findings == nil || (report.Left == 0) != ok) {
		c.t.Errorf("fsck %s: %s", flags, out)
	}
}

// status fails the test unless a request is answered with a status and, where it has one, with a body that has a text.
func (c *clinic) status(method, path string, want int, text string) {
	c.t.Helper()
	status, body, _ := c.visitor().do(method, "/v2/app/"+path, "", "")
	if status != want || !strings.Contains(body, text) {
		c.t.Errorf("%s %s: %d %s, want %d %s", method, path, status, body, want, text)
	}
}

// TestFsckRepair damages a file, has it quarantined, and heals it with a push, through the API and the command.
func TestFsckRepair(t *testing.T) {
	for name, online := range map[string]bool{"online": true, "offline": false} {
		t.Run(name, func(t *testing.T) {
			c := newClinic(t, online)
			blob := "blobs/" + digestOf(clinicLayer)
			c.fsck(true, nil, ": 0 findings\n")
			if err := os.Truncate(c.layer(), 5); err != nil {
				t.Fatal(err)
			}
			c.status(http.MethodGet, blob, http.StatusNotFound, `"BLOB_UNKNOWN"`)
			c.status(http.MethodHead, blob, http.StatusOK, "")
			if log := c.running.errOut.String(); !strings.Contains(log, "registry fsck --repair") || !strings.Contains(log, digestOf(clinicLayer)) {
				t.Errorf("the log does not say what to do:\n%s", log)
			}
			c.fsck(false, nil, digestOf(clinicLayer)+": ", "5 bytes of 22000", "  remedy:   registry fsck --repair quarantines it", "1 findings, 1 left to do\n")
			c.status(http.MethodHead, blob, http.StatusOK, "")
			c.fsck(false, []string{"--repair"}, "  repaired: it is quarantined", "  remedy:   push it again; it is in app")
			for _, flags := range [][]string{nil, {"--repair"}, {"--rehash", "--repair"}, {"--json"}} {
				c.fsck(false, flags, "quarantined since ", "push it again; it is in app")
			}
			c.status(http.MethodGet, blob, http.StatusNotFound, `"message":"the registry's copy of this blob is damaged: push it again"`)
			c.status(http.MethodHead, blob, http.StatusNotFound, "")
			c.status(http.MethodGet, "manifests/latest", http.StatusOK, digestOf(clinicLayer))
			c.visitor().push("app", clinicLayer)
			c.status(http.MethodGet, blob, http.StatusOK, clinicLayer)
			c.fsck(true, []string{"--rehash"}, ": 0 findings\n")
			c.fsck(true, []string{"--json"}, `"left": 0`)
			c.running.end(t)
		})
	}
}

// TestFsckRepairAll repairs what needs nobody else: then all is well.
func TestFsckRepairAll(t *testing.T) {
	for name, online := range map[string]bool{"online": true, "offline": false} {
		t.Run(name, func(t *testing.T) {
			c := newClinic(t, online)
			layer := c.layer()
			c.write(filepath.Join(c.directory, "blobs/deadbeef/0000/stray"), "x")
			c.fsck(false, nil, "stray: 1 bytes that no row knows\n  remedy:   registry fsck --repair has them deleted")
			c.fsck(true, []string{"--repair"}, "  repaired: they are deleted after gc.grace (24h0m0s)\n", "1 findings, 0 left to do\n")
			c.fsck(true, nil, ": 0 findings\n")
			c.write(layer, strings.ToUpper(clinicLayer))
			c.fsck(true, []string{"--repair"}, ": 0 findings\n") // which does not read
			c.fsck(false, []string{"--repair", "--rehash", "--rate", "50MB"}, "have digest "+digestOf(strings.ToUpper(clinicLayer)), "it is quarantined")
			c.write(layer, clinicLayer)
			c.fsck(false, []string{"--repair"}, "quarantined since")
			c.fsck(false, []string{"--rehash"}, "and its bytes are right", "registry fsck --rehash --repair ends the quarantine")
			c.fsck(true, []string{"--repair", "--rehash", "--json"}, `"repaired": "the quarantine ended"`)
			c.fsck(true, []string{"--rehash", "--rate", "0"}, ": 0 findings\n")
			c.status(http.MethodGet, "blobs/"+digestOf(clinicLayer), http.StatusOK, clinicLayer)
			c.running.end(t)
			if log := c.running.errOut.String(); online && (!strings.Contains(log, "msg=repaired") && !strings.Contains(log, `"msg":"repaired"`)) {
				t.Errorf("the log does not say what was repaired:\n%s", log)
			}
		})
	}
}

func TestFsckBadRate(t *testing.T) {
	for _, rate := range []string{"fast", "-1", "1.5MB", ""} {
		if _, _, err := command(t, nil, "fsck", "--rate="+rate); err == nil || !strings.Contains(err.Error(), "must be a size") {
			t.Errorf("%q: %v", rate, err)
		}
	}
}

func FuzzFsckOptions(f *testing.F) {
	for _, o := range []fsckOptions{{}, {true, true, 0}, {repair: true, rate: onlineRate}, {rehash: true, rate: config.Size(1)}} {
		f.Add(o.query())
	}
	f.Add("rate=x")
	f.Fuzz(func(t *testing.T, query string) {
		v, err := url.ParseQuery(query)
		if err != nil {
			return
		}
		o, err := parseFsckOptions(v)
		if err != nil {
			return
		}
		if v, err = url.ParseQuery(o.query()); err != nil {
			t.Fatal(err)
		}
		if again, err := parseFsckOptions(v); err != nil || again != o {
			t.Errorf("%s is read as %+v, and that as %+v, %v", query, o, again, err)
		}
	})
}
