package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"berth/client"
	"berth/registry/manifest"

	"github.com/spf13/cobra"
)

func inspectCommand(s streams) *cobra.Command {
	var f remoteFlags
	var asJSON bool
	command := &cobra.Command{
		Use:   "inspect [HOST:PORT/]REPO[:TAG][@DIGEST]",
		Short: "Show for which platforms an image is, and what refers to it",
		Long: `Show what a tag or digest in a registry names, this one or any other: the platforms of an index with the size of their
images (manifest, config and layers), when they were made and how many layers they have; below each platform what BuildKit
attests about it; and what refers to any of them, such as signatures and SBOMs. What an index lists and the repository lacks is
shown as missing.

` + remoteHelp + `

--json has the same with sizes in bytes. Its fields stay: new ones may be added.`,
		Example: `  registry inspect app:1.2
  registry inspect registry.lan:5000/team/app@sha256:…
  registry inspect app:1.2 --json | jq -r '.manifests[].platform'`,
		Args: cobra.ExactArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			ref, err := client.ParseReference(args[0])
			if err != nil {
				return err
			}
			c, err := s.client(&f, ref)
			if err != nil {
				return err
			}
			found, err := c.Inspect(command.Context(), ref)
			if err != nil {
				return err
			}
			if asJSON {
				return s.printJSON(found)
			}
			return s.printInspection(found)
		},
	}
	f.add(command)
	command.Flags().BoolVar(&asJSON, "json", false, "print it as JSON")
	return command
}

func (s streams) printInspection(m *client.Manifest) error {
	s.printHead(m)
	rows := m.Manifests
	if m.Kind != client.KindIndex {
		rows = []client.Manifest{*m}
	}
	if len(rows) > 0 {
		table := s.table("PLATFORM\tDIGEST\tSIZE\tCREATED\tLAYERS")
		for _, row := range rows {
			printRow(table, row, "")
		}
		if err := table.Flush(); err != nil {
			return err
		}
	}
	return s.printReferrers(m)
}

// printHead prints what is to be said of the whole.
func (s streams) printHead(m *client.Manifest) {
	fmt.Fprintf(s.out, "%s\n  digest   %s\n  type     %s\n", m.Reference, m.Digest, describe(m))
	if m.TotalSize > 0 {
		fmt.Fprintf(s.out, "  size     %s\n", bytesString(m.TotalSize))
	}
	if m.Problem != "" {
		fmt.Fprintf(s.out, "  problem  %s\n", printable(m.Problem))
	}
}

// describe names the kind of a manifest for people.
func describe(m *client.Manifest) string {
	kind := map[string]string{
		manifest.MediaTypeDockerManifestList: "Docker manifest list",
		manifest.MediaTypeDockerManifest:     "Docker image",
	}[m.MediaType]
	if kind == "" {
		kind = "OCI " + m.Kind
	}
	if m.ArtifactType != "" {
		kind += " of " + m.ArtifactType
	}
	if m.Kind == client.KindIndex {
		kind += ", " + count(images(m), "image")
	}
	if n := len(m.Annotations); n > 0 {
		kind += ", " + count(n, "annotation")
	}
	return printable(kind)
}

func images(m *client.Manifest) (n int) {
	for _, child := range m.Manifests {
		if child.Kind == client.KindImage {
			n++
		}
	}
	return n
}

func count(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

// table begins a table after an empty line.
func (s streams) table(heads string) *tabwriter.Writer {
	fmt.Fprintln(s.out)
	table := tabwriter.NewWriter(s.out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, heads)
	return table
}

// printRow prints a manifest, and below it what belongs to it.
func printRow(w io.Writer, m client.Manifest, indent string) {
	size, created, layers := bytesString(m.TotalSize), "-", "-"
	switch {
	case m.Missing:
		size = "missing"
	case m.Problem != "":
		size = "unreadable"
	case m.Kind != client.KindIndex && m.Kind != "":
		layers = fmt.Sprint(m.Layers)
	}
	if !m.Created.IsZero() {
		created = m.Created.Format(time.DateTime)
	}
	fmt.Fprintf(w, "%s%s\t%s\t%s\t%s\t%s\n", indent, title(m), m.Digest, size, created, layers)
	for _, a := range m.Attestations {
		printRow(w, a, indent+"  ")
	}
	for _, child := range m.Manifests {
		printRow(w, child, indent+"  ")
	}
}

// title says what a row of a table is about.
func title(m client.Manifest) string {
	switch {
	case m.Kind == client.KindAttestation:
		return printable(attests(m))
	case m.Platform != "" && m.OSVersion != "":
		return printable(m.Platform + " " + m.OSVersion)
	case m.Platform != "":
		return m.Platform
	case m.ArtifactType != "":
		return printable(m.ArtifactType)
	case m.Kind != "":
		return m.Kind
	}
	return printable(m.MediaType)
}

// attests names what an attestation states.
func attests(m client.Manifest) string {
	var all []string
	for _, predicate := range m.Predicates {
		switch {
		case strings.HasPrefix(predicate, "https://slsa.dev/provenance/"):
			predicate = "provenance"
		case strings.HasPrefix(predicate, "https://spdx.dev/"), strings.HasPrefix(predicate, "https://cyclonedx.org/"):
			predicate = "SBOM"
		}
		all = append(all, predicate)
	}
	if all == nil {
		return client.KindAttestation
	}
	return strings.Join(all, ", ")
}

func (s streams) printReferrers(m *client.Manifest) error {
	if countReferrers(m) == 0 {
		return nil
	}
	table := s.table("REFERRER\tDIGEST\tSIZE\tANNOTATIONS\tOF")
	printReferrersOf(table, m)
	return table.Flush()
}

func countReferrers(m *client.Manifest) int {
	n := len(m.Referrers)
	for i := range m.Manifests {
		n += countReferrers(&m.Manifests[i])
	}
	return n
}

func printReferrersOf(w io.Writer, m *client.Manifest) {
	for _, r := range m.Referrers {
		of := title(*m)
		if r.Tag != "" {
			of += ", by a tag of cosign"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\n", printable(r.ArtifactType), r.Digest, bytesString(r.Size), len(r.Annotations), of)
	}
	for i := range m.Manifests {
		printReferrersOf(w, &m.Manifests[i])
	}
}
