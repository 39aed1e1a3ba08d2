package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/url"
	"os"
	"slices"
	"strings"

	"berth/client"
	"berth/transfer"
	"berth/transfer/layout"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
)

// importing is what is asked of `import`.
type importing struct {
	copyFlags
	source, to, prefix string
}

func importCommand(s streams) *cobra.Command {
	var f importing
	command := &cobra.Command{
		Use:   "import --from HOST:PORT|DIR|FILE.tar [REPO[:TAG]...]",
		Short: "Copy repositories from another registry, its data directory, or an OCI image layout",
		Long: `Copy repositories into the registry of this machine, or into the one that --to names: those that are named, or else all. REPO may
be a pattern as in access rules, such as 'team/**', where the source lists its repositories; REPO:TAG is one tag.

Tags are copied with all that they lead to: the images of an index, attestations, signatures, SBOMs. Digests stay what they are. A
manifest without a tag comes along only when one of these lists it or it refers to one of these. Layers that are to be had elsewhere only
(foreign ones) are not copied. Docker schema 1 manifests are skipped. What an index lists and the source lacks is reported as missing, and
the index copied as it is, if the target takes it.

What the target has is not sent again, and what another of its repositories has is mounted: a command that was interrupted is given again
to go on, and once more, later, to bring what is new. A tag that the source moved is moved; one that it deleted stays.

--from is a registry, or http://HOST:PORT for one without TLS; or the data directory of registry:2 or registry:3, which should not be
running; or an OCI image layout: a directory or a tar file, as registry export, docker save, skopeo, buildx and others make them. A layout calls its images HOST/REPO:TAG, REPO:TAG, or by a tag only. Those that have
only a tag are copied into REPO, which is named then. REPO:TAG takes the only image of a layout, whatever it is called.

The exit code is 1 when something failed. --json prints a line for each tag: repository, tag, digest, status (copied, present, planned,
skipped, failed), blobs and bytes that were sent, missing digests, and the reason.

` + copyHelp,
		Example: `  registry import --from old.lan:5000
  registry import --from http://old.lan:5000 app 'team/**' --dry-run
  registry import --from docker.io library/alpine
  registry import --from app.tar`,
		RunE: func(command *cobra.Command, args []string) error { return s.importAll(command.Context(), f, args) },
	}
	f.addFor(command, "the target")
	flags := command.Flags()
	flags.StringVar(&f.source, "from", "", "what is copied from: a registry, or the path of its data or of an OCI image layout")
	flags.StringVar(&f.to, "to", "", "the HOST:PORT that is copied to, in place of the registry of this machine")
	flags.StringVar(&f.prefix, "prefix", "", "put this before the names of repositories, such as mirror/")
	flags.StringVar(&f.fromUsername, "from-username", "", "log in to the source as this user, in place of a stored login")
	flags.BoolVar(&f.fromPasswordStdin, "from-password-stdin", false, "read that user's password from standard input")
	flags.BoolVar(&f.fromPlainHTTP, "from-plain-http", false, "ask the source without TLS, as http:// does")
	command.MarkFlagsRequiredTogether("from-username", "from-password-stdin")
	command.MarkFlagsMutuallyExclusive("password-stdin", "from-password-stdin")
	_ = command.MarkFlagRequired("from") // it is there
	return command
}

const copyHelp = `Certificates are verified by the system's CAs, by those that the trust line installed in certs.d, and by --ca; for the
registry of this machine also by its own CA, where this user may read it. Logins are those of docker login and podman login.`

func (s streams) importAll(ctx context.Context, f importing, args []string) error {
	selected, err := parseSelection(args)
	if err != nil {
		return err
	}
	path, err := f.locate()
	if err != nil {
		return err
	}
	c, err := s.client(&f.remoteFlags, client.Reference{Host: f.to})
	if err != nil {
		return err
	}
	switch {
	case path != "" && layout.IsDistribution(path):
		source := layout.OpenDistribution(path)
		return s.copyAll(ctx, f.copyFlags, selected.each(ctx, source.Repositories, func(name string, tags []string) (transfer.Repository, error) {
			return f.into(c, name, source.Source(name), tags)
		}))
	case path != "":
		return s.importLayout(ctx, f, c, path, selected)
	}
	return s.copyAll(ctx, f.copyFlags, selected.each(ctx, catalog(c, f.from), func(name string, tags []string) (transfer.Repository, error) {
		from, _, err := c.Open(client.Reference{Host: f.from, Repository: name})
		if err != nil {
			return transfer.Repository{}, err
		}
		return f.into(c, name, from, tags)
	}))
}

func (s streams) importLayout(ctx context.Context, f importing, c *client.Client, path string, selected selection) error {
	source, err := layout.OpenSource(path)
	if err != nil {
		return err
	}
	defer func() { _ = source.Close() }() // it was read only
	images, err := named(source.Images(), selected, path)
	if err != nil {
		return err
	}
	return s.copyAll(ctx, f.copyFlags, func(yield func(transfer.Repository, error) bool) {
		for _, name := range slices.Sorted(maps.Keys(images)) {
			if !yield(f.into(c, name, source.Repository(images[name]), nil)) {
				return
			}
		}
	})
}

// locate says what --from is: it returns the path of a layout, or sets the host of a registry.
func (f *importing) locate() (path string, err error) {
	u, parseErr := url.Parse(f.source)
	_, statErr := os.Stat(f.source)
	switch {
	case parseErr == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "":
		if strings.Trim(u.Path, "/") != "" || u.User != nil || u.RawQuery != "" {
			return "", fmt.Errorf("--from %s: name the registry as %s://%s, and repositories after it", u.Redacted(), u.Scheme, u.Host)
		}
		f.from, f.fromPlainHTTP = u.Host, f.fromPlainHTTP || u.Scheme == "http"
	case statErr == nil && (f.fromUsername != "" || f.fromPlainHTTP):
		return "", fmt.Errorf("--from %s is a path, for which there is neither --from-username nor --from-plain-http", f.source)
	case statErr == nil:
		return f.source, nil
	case strings.Contains(f.source, "/") || layout.IsTar(f.source):
		return "", fmt.Errorf("--from: %w", statErr)
	default:
		f.from = f.source
	}
	if !isHost(f.from) {
		return "", fmt.Errorf("--from %q is neither HOST:PORT nor the path of something that is there", f.source)
	}
	return "", nil
}

// isHost reports whether a reference takes what stands before its first slash for a host.
func isHost(s string) bool {
	ref, err := client.ParseReference(s + "/x")
	return err == nil && s != "" && ref.Host == s
}

// into returns the copying of a repository into the target.
func (f *importing) into(c *client.Client, name string, from transfer.Reader, tags []string) (transfer.Repository, error) {
	name = f.prefix + name
	to, _, err := c.Open(client.Reference{Host: f.to, Repository: name})
	return transfer.Repository{Name: name, From: from, To: to, Tags: tags}, err
}

// named returns the images of a layout that are meant, by repository and tag. It fails where that is not clear.
func named(images []layout.Image, selected selection, path string) (map[string]map[string]v1.Descriptor, error) {
	only := "" // the one repository that is named
	if len(selected.names) == 1 && len(selected.patterns) == 0 {
		only = selected.names[0]
	}
	if tags := selected.tags[only]; len(tags) == 1 && len(images) == 1 {
		return map[string]map[string]v1.Descriptor{only: {tags[0]: images[0].Descriptor}}, nil
	}
	all := map[string]map[string]v1.Descriptor{}
	for _, image := range images {
		repository := cmp.Or(image.Repository, only)
		switch {
		case image.Tag == "":
			return nil, fmt.Errorf("%s has %s, and one has no name (%s): only a layout with a single image can be imported then, as REPO:TAG",
				path, count(len(images), "image"), image.Descriptor.Digest)
		case repository == "":
			return nil, fmt.Errorf("%s does not say for which repository its tag %s is: name one after it, as REPO", path, image.Tag)
		case !selected.has(repository, image.Tag):
			continue
		case all[repository] == nil:
			all[repository] = map[string]v1.Descriptor{}
		}
		all[repository][image.Tag] = image.Descriptor
	}
	if len(all) == 0 && len(images) > 0 {
		return nil, fmt.Errorf("%s has none of what is named", path)
	}
	return all, nil
}
