package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"

	"berth/config"
	"berth/registry/fsck"

	"github.com/spf13/cobra"
)

func fsckCommand(s streams) *cobra.Command {
	var rehash, asJSON bool
	command := &cobra.Command{
		Use:   "fsck [CONFIG]",
		Short: "Check that facts and bytes agree",
		Long: `Check that every blob has its bytes, every manifest is what its references say, and no bytes lie about that nothing
knows of. Nothing is repaired or removed. A running server does the check itself, while it serves.

The exit code is 0 when all is well and 1 when something was found or the check could not be finished.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			c, _, err := s.loadConfig(args)
			if err != nil {
				return err
			}
			report, err := s.fsck(command.Context(), c, rehash)
			if err != nil {
				return err
			}
			return s.printReport(report, asJSON)
		},
	}
	command.Flags().BoolVar(&rehash, "rehash", false, "read all bytes and check their digests")
	command.Flags().BoolVar(&asJSON, "json", false, "print the report as JSON")
	return command
}

// fsck has the running server check, or checks by itself when there is none.
func (s streams) fsck(ctx context.Context, c *config.Config, rehash bool) (fsck.Report, error) {
	directory, err := dataDirectory(c, s.environ)
	if err != nil {
		return fsck.Report{}, err
	}
	path := "/fsck"
	if rehash {
		path += "?rehash"
	}
	response, err := adminRequest(ctx, directory, http.MethodPost, path, nil)
	if errors.Is(err, errNoServer) {
		return s.fsckOffline(ctx, c, directory, rehash)
	}
	if err != nil {
		return fsck.Report{}, fmt.Errorf("ask the running registry: %w", err)
	}
	defer response.Body.Close()
	return s.readReport(response)
}

func (s streams) readReport(response *http.Response) (fsck.Report, error) {
	var last fsckLine
	err := decodeLines(response.Body, func(l fsckLine) error {
		last = l
		s.progress(l.Report)
		return nil
	})
	switch {
	case err != nil:
		return last.Report, err
	case last.Error != "":
		return last.Report, fmt.Errorf("check: %s", last.Error)
	case !last.Done:
		return last.Report, errors.New("check: the registry stopped before it was done")
	}
	return last.Report, nil
}

func (s streams) fsckOffline(ctx context.Context, c *config.Config, directory string, rehash bool) (_ fsck.Report, err error) {
	if _, err := os.Stat(metadataPath(c, directory)); err != nil && c.Metadata.Postgres.DSN == "" {
		return fsck.Report{}, fmt.Errorf("there is no registry to check: %w", err)
	}
	stores, err := openStores(ctx, c, s.environ, 0, nil)
	if err != nil {
		return fsck.Report{}, err
	}
	defer func() { err = errors.Join(err, stores.close()) }()
	return fsck.Check(ctx, fsck.Config{Metadata: stores.facts, Blobs: stores.blobs, Rehash: rehash, Progress: s.progress})
}

// progress shows on a terminal how far a check is.
func (s streams) progress(r fsck.Report) {
	if isTerminal(s.errOut) {
		fmt.Fprintf(s.errOut, "\r%d blobs (%s), %d manifests, %d objects", r.Blobs, bytesString(r.Bytes), r.Manifests, r.Objects)
	}
}

func (s streams) printReport(r fsck.Report, asJSON bool) error {
	if isTerminal(s.errOut) {
		fmt.Fprintln(s.errOut)
	}
	if asJSON {
		encoder := json.NewEncoder(s.out)
		encoder.SetIndent("", "  ")
		if err := encoder.Encode(r); err != nil {
			return err
		}
	} else {
		s.printFindings(r)
	}
	if len(r.Findings) > 0 {
		return errReported
	}
	return nil
}

func (s streams) printFindings(r fsck.Report) {
	for _, f := range r.Findings {
		fmt.Fprintf(s.out, "%s: %s\n", f.Subject, f.Problem)
	}
	fmt.Fprintf(s.out, "checked %d blobs (%s), %d manifests, %d objects: %d findings\n",
		r.Blobs, bytesString(r.Bytes), r.Manifests, r.Objects, len(r.Findings))
	if r.Unrecovered > 0 {
		fmt.Fprintf(s.out, "%d objects were left by an unclean stop: the next start of the registry removes them\n", r.Unrecovered)
	}
}
