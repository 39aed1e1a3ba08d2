package clients

import (
	"debug/buildinfo"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// page is what docs/clients.md says before the table.
const page = `# Clients

Programs that people push and pull with, each driven for real: over HTTPS with a certificate that Berth made, after the line
that makes a machine trust it, as a user with a password. ` + "`make test`" + ` runs all of this and fails on anything but what is
below, versions aside; ` + "`make clients-table`" + ` writes this page.

- **login** is right and wrong passwords, pulling without a login what is for everybody, and being told what is missing.
- **both platforms** pushes an image for linux/amd64 and linux/arm/v7, and pulls the one and the other.
- **copy** is to another repository. "Mounts" means that no layer was sent: the registry logged the mount, and the bytes on the
  connection were counted.
- **cut in a layer** is what a client does when the connection ends in the middle of a layer: whether it goes on where it was,
  which is known by the bytes, and whether by itself or when the command is repeated; "perhaps" is where chance decides which
  error the client sees, and it retries after some only. What came of it was right each time.
- **sign and verify** is with a key of one's own and without a transparency log.

The version of docker with containerd is that of moby's Go module, which calls docker 29 so.

`

// pageFile is the page in the repository.
const pageFile = "../../docs/clients.md"

// checkPage compares the page with what the rows say, or writes it.
func checkPage(t *testing.T, rows []*row) {
	for _, r := range rows {
		if len(r.cells) != len(steps()) {
			return // it failed, or was not to run
		}
	}
	if t.Failed() {
		return
	}
	want := page + table(t, rows) + reasons(rows)
	if path := os.Getenv("CLIENTS_TABLE"); path != "" {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	is, err := os.ReadFile(pageFile)
	if err != nil {
		t.Fatal(err)
	}
	if withoutVersions(string(is)) != withoutVersions(want) {
		t.Errorf("docs/clients.md is not what was seen, which make clients-table writes:\n%s", want)
	}
}

// table has a line for each client and a column for each step.
func table(t *testing.T, rows []*row) string {
	var b strings.Builder
	b.WriteString("| client | version |")
	for _, s := range steps() {
		fmt.Fprintf(&b, " %s |", s.title)
	}
	b.WriteString("\n|---|---|" + strings.Repeat("---|", len(steps())) + "\n")
	for _, r := range rows {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", r.client.name, r.versions(t), strings.Join(r.cells, " | "))
	}
	return b.String()
}

// reasons says of each step who can't do it, and why.
func reasons(rows []*row) string {
	var b strings.Builder
	b.WriteString("\n")
	for _, s := range steps() {
		var whys []string
		who := map[string][]string{}
		for _, r := range rows {
			why := r.cannot[s.title]
			if why != "" && who[why] == nil {
				whys = append(whys, why)
			}
			who[why] = append(who[why], r.client.name)
		}
		for _, why := range whys {
			fmt.Fprintf(&b, "- No **%s** with %s: %s.\n", s.title, strings.Join(who[why], ", "), why)
		}
	}
	return b.String()
}

// withoutVersions removes the second cell of each line of a table.
func withoutVersions(page string) string {
	return regexp.MustCompile(`(?m)^(\| [^|]*\|)[^|]*\|`).ReplaceAllString(page, "$1")
}

// versions asks the client for its own: a program that was built here has that of its module.
func (r *row) versions(t *testing.T) string {
	t.Helper()
	if r.version != "" {
		return regexp.MustCompile(`\d+(\.\d+)+`).FindString(r.do(r.version))
	}
	dir, err := builders()
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for i, name := range r.built {
		info, err := buildinfo.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		version := strings.TrimPrefix(info.Main.Version, "v")
		if i > 0 {
			version = name + " " + version
		}
		all = append(all, version)
	}
	return strings.Join(all, ", ")
}
