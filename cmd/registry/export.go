package main

import (
	"context"
	"errors"
	"fmt"

	"berth/client"
	"berth/transfer"
	"berth/transfer/layout"

	"github.com/spf13/cobra"
)

// exporting is what is asked of `export`.
type exporting struct {
	copyFlags
	layout, host string
}

func exportCommand(s streams) *cobra.Command {
	var f exporting
	command := &cobra.Command{
		Use:   "export --layout oci|distribution DIR|FILE.tar [REPO[:TAG]...]",
		Short: "Copy repositories into a directory or file that other programs read",
		Long: `Copy repositories of the registry of this machine, or of the one that --from names: those that are named, or else all. REPO may
be a pattern as in access rules, such as 'team/**'; REPO:TAG is one tag.

Tags are copied with all that they lead to: the images of an index, attestations, signatures, SBOMs. Manifests without a tag, to which
nothing of that leads, are not. Digests stay what they are, and each blob is compared with its digest.

--layout oci writes an OCI image layout, into a directory or, when the name ends with .tar, a file. It calls images REPO:TAG
(org.opencontainers.image.ref.name) and HOST:PORT/REPO:TAG (io.containerd.image.name): for skopeo copy oci:DIR:REPO:TAG and
oci-archive:FILE.tar:REPO:TAG, oras, ctr images import, and registry import. A file is for docker load and podman load, too: those that
load one platform only find the images for that of this machine.

--layout distribution writes the data directory of registry:2 or registry:3, which serve it as it is. For what refers to an image it makes
the tags by which clients find that in registries without an API for it.

A directory may be one that was written before: what is there is not written again, so that a command that was interrupted is given again
to go on. A tar file is written anew, and is there when it is whole. No registry may be running on the directory of distribution's layout.

The exit code is 1 when something failed. --json prints a line for each tag, as for registry import.

` + copyHelp,
		Example: `  registry export --layout oci app.tar app:1.2
  registry export --layout oci /mnt/usb/images 'team/**'
  registry export --layout distribution /srv/registry`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			return s.export(command.Context(), f, args[0], args[1:])
		},
	}
	f.addFor(command, "the registry")
	flags := command.Flags()
	flags.StringVar(&f.layout, "layout", "", "oci or distribution")
	flags.StringVar(&f.host, "from", "", "the HOST:PORT that is copied from, in place of the registry of this machine")
	_ = command.MarkFlagRequired("layout") // it is there
	return command
}

func (s streams) export(ctx context.Context, f exporting, path string, args []string) error {
	selected, err := parseSelection(args)
	if err != nil {
		return err
	}
	c, err := s.client(&f.remoteFlags, client.Reference{Host: f.host})
	if err != nil {
		return err
	}
	to, end, err := f.target(c, path)
	if err != nil {
		return err
	}
	err = s.copyAll(ctx, f.copyFlags, selected.each(ctx, catalog(c, f.host), func(name string, tags []string) (transfer.Repository, error) {
		from, _, err := c.Open(client.Reference{Host: f.host, Repository: name})
		return transfer.Repository{Name: name, From: from, To: to(name), Tags: tags}, err
	}))
	return errors.Join(err, end(err))
}

// target returns what makes the writer of a repository, and what ends the writing when that succeeded or failed.
func (f exporting) target(c *client.Client, path string) (to func(name string) transfer.Writer, end func(error) error, err error) {
	switch f.layout {
	case "distribution":
		if layout.IsTar(path) {
			return nil, nil, fmt.Errorf("%s: the layout distribution is a directory", path)
		}
		d := layout.OpenDistribution(path)
		return func(name string) transfer.Writer { return d.Repository(name) }, func(error) error { return nil }, nil
	case "oci":
		_, ref, err := c.Open(client.Reference{Host: f.host, Repository: "x"})
		if err != nil {
			return nil, nil, err
		}
		o, err := layout.CreateOCI(path, ref.Host)
		if err != nil {
			return nil, nil, err
		}
		return func(name string) transfer.Writer { return o.Repository(name) }, func(err error) error {
			if f.dryRun || err != nil && err != errReported && layout.IsTar(path) {
				return o.Discard()
			}
			return o.Close()
		}, nil
	}
	return nil, nil, fmt.Errorf("--layout %q: it is oci or distribution", f.layout)
}
