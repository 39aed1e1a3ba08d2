package conformance

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// suiteRun is one run of the official conformance suite.
type suiteRun struct {
	name     string
	options  options
	env      []string // for the suite
	disabled []string // what the suite's settings leave out
}

func suiteRuns() []suiteRun {
	dev := []string{
		"OCI_VERSION=dev", "OCI_API_BLOBS_UPLOAD_CANCEL=true", "OCI_API_BLOBS_DIGEST_HEADER=true",
		"OCI_API_MANIFESTS_DIGEST_HEADER=true", "OCI_API_MANIFESTS_TAG_PARAM=true",
	}
	sparse := "REGISTRY_VALIDATION_MANIFESTS_INDEXES_PLATFORMS=none"
	return []suiteRun{
		{
			name: "1.1", env: []string{"OCI_VERSION=1.1"},
			disabled: []string{"Blob upload cancel", "Manifest put with tag params", "Sparse Manifests", "Tag Param", "Tag Param sha512"},
		},
		{name: "dev", env: dev, disabled: []string{"Sparse Manifests"}},
		{name: "dev, HTTPS and htpasswd", options: options{tls: true, htpasswd: true}, env: dev, disabled: []string{"Sparse Manifests"}},
		{name: "dev, sparse", options: options{env: []string{sparse}}, env: append(dev, "OCI_DATA_SPARSE=true")},
	}
}

// results is what the suite reports: a status for each API and each kind of data.
type results struct {
	APIs map[string]string `yaml:"apis"`
	Data map[string]string `yaml:"data"`
}

// TestOfficialSuite runs the conformance suite of the OCI distribution spec. With CONFORMANCE_TABLE set it also writes the
// results to the file of that name.
func TestOfficialSuite(t *testing.T) {
	runs := suiteRuns()
	reports := make([]results, len(runs))
	t.Run("runs", func(t *testing.T) {
		for i, run := range runs {
			t.Run(run.name, func(t *testing.T) {
				t.Parallel()
				reports[i] = runSuite(t, run)
				check(t, run, reports[i])
			})
		}
	})
	if t.Failed() {
		return
	}
	table := markdown(runs, reports)
	t.Logf("\n%s", table)
	if path := os.Getenv("CONFORMANCE_TABLE"); path != "" {
		if err := os.WriteFile(path, []byte(page+table), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// runSuite runs the suite against a registry of its own. Every test case of it that did not pass or was not skipped is an
// error of t.
func runSuite(t *testing.T, run suiteRun) results {
	t.Helper()
	dir, err := tools()
	if err != nil {
		t.Fatal(err)
	}
	b := start(t, run.options)
	out := t.TempDir()
	cmd := exec.CommandContext(t.Context(), filepath.Join(dir, "conformance"))
	cmd.Dir = out
	cmd.Env = append([]string{"HOME=" + out, "OCI_RESULTS_DIR=" + out, "OCI_REGISTRY=" + b.host()}, run.env...)
	cmd.Env = append(cmd.Env, suiteAccess(b, run.options)...)
	if output, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("the suite: %v\n%s", err, output[max(0, len(output)-2000):])
	}
	reportFailures(t, filepath.Join(out, "junit.xml"))
	b.stop()
	return readResults(t, filepath.Join(out, "results.yaml"))
}

// suiteAccess tells the suite how to reach a registry.
func suiteAccess(b *berth, o options) []string {
	if !o.tls {
		return []string{"OCI_TLS=disabled"}
	}
	return []string{"OCI_TLS=enabled", "SSL_CERT_FILE=" + b.CA, "OCI_USERNAME=" + user, "OCI_PASSWORD=" + password}
}

func readResults(t *testing.T, path string) results {
	t.Helper()
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var r results
	if err := yaml.Unmarshal(file, &r); err != nil {
		t.Fatal(err)
	}
	return r
}

// reportFailures makes an error of every test case in a JUnit report that neither passed nor was skipped.
func reportFailures(t *testing.T, path string) {
	t.Helper()
	var report struct {
		Cases []struct {
			Name   string `xml:"name,attr"`
			Status string `xml:"status,attr"`
			Errors string `xml:"system-out"`
		} `xml:"testsuite>testcase"`
	}
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := xml.Unmarshal(file, &report); err != nil {
		t.Fatal(err)
	}
	if len(report.Cases) == 0 {
		t.Error("the suite ran no test case")
	}
	for _, c := range report.Cases {
		if c.Status != "passed" && c.Status != "skipped" {
			t.Errorf("%s: %s: %s", c.Name, c.Status, c.Errors)
		}
	}
}

// check makes an error of everything that did not pass and that the run did not leave out on purpose.
func check(t *testing.T, run suiteRun, r results) {
	t.Helper()
	if len(r.APIs) == 0 || len(r.Data) == 0 {
		t.Errorf("the suite reports %d APIs and %d kinds of data", len(r.APIs), len(r.Data))
	}
	for _, statuses := range []map[string]string{r.APIs, r.Data} {
		for name, status := range statuses {
			want := "Pass"
			if slices.Contains(run.disabled, name) {
				want = "Disabled"
			}
			if status != want {
				t.Errorf("%s: %s, want %s", name, status, want)
			}
		}
	}
}

const page = `# Conformance

What the [conformance suite of the OCI distribution spec](https://github.com/opencontainers/distribution-spec/tree/main/conformance)
says of Berth, at the version that ` + "`tools/go.mod`" + ` pins. ` + "`make test`" + ` runs it and fails on anything but what is
below; ` + "`make conformance-table`" + ` writes this page.

- **1.1** is the released version of the spec.
- **dev** is what its main branch adds: cancelling uploads, digest headers everywhere, tag parameters.
- **dev, HTTPS and htpasswd** is the same over HTTPS with a certificate that Berth made, as a user with a password.
- **dev, sparse** also pushes an index that lacks an image and an image that lacks a layer, which
  ` + "`validation.manifests.indexes.platforms: none`" + ` allows.

"Disabled" is what the suite's settings for that run leave out.

`

// markdown makes a table of what the suite reported: a line for each API and kind of data, a column for each run.
func markdown(runs []suiteRun, reports []results) string {
	var b bytes.Buffer
	b.WriteString("| |")
	for _, run := range runs {
		fmt.Fprintf(&b, " %s |", run.name)
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", len(runs)) + "\n")
	writeRows(&b, reports, func(r results) map[string]string { return r.APIs })
	writeRows(&b, reports, func(r results) map[string]string { return r.Data })
	return b.String()
}

func writeRows(b *bytes.Buffer, reports []results, part func(results) map[string]string) {
	for _, name := range slices.Sorted(maps.Keys(part(reports[0]))) {
		fmt.Fprintf(b, "| %s |", name)
		for _, r := range reports {
			fmt.Fprintf(b, " %s |", part(r)[name])
		}
		b.WriteString("\n")
	}
}
