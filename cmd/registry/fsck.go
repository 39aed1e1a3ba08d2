package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"

	"berth/config"
	"berth/registry/fsck"
	"berth/storage/metadata"

	"github.com/spf13/cobra"
)

// onlineRate is how many bytes a second a running server reads to check digests, unless it is told: what nodes pull meanwhile comes
// from the same disk.
const onlineRate = config.Size(100 << 20)

// fsckOptions are how `registry fsck` was called.
type fsckOptions struct {
	repair, rehash bool
	rate           config.Size // bytes a second; 0 is no limit
}

// query is the options as parseFsckOptions reads them.
func (o fsckOptions) query() string {
	v := url.Values{"rate": {strconv.FormatInt(int64(o.rate), 10)}}
	if o.repair {
		v.Set("repair", "")
	}
	if o.rehash {
		v.Set("rehash", "")
	}
	return v.Encode()
}

func parseFsckOptions(v url.Values) (fsckOptions, error) {
	o := fsckOptions{repair: v.Has("repair"), rehash: v.Has("rehash")}
	if !v.Has("rate") {
		return o, nil
	}
	if err := o.rate.UnmarshalText([]byte(v.Get("rate"))); err != nil {
		return o, fmt.Errorf("rate: %w", err)
	}
	return o, nil
}

// check checks open stores.
func (o fsckOptions) check(ctx context.Context, s *stores, progress func(fsck.Report)) (fsck.Report, error) {
	return fsck.Check(ctx, fsck.Config{
		Metadata: s.facts, Blobs: s.blobs, Repair: o.repair, Rehash: o.rehash, Rate: int64(o.rate), Progress: progress,
	})
}

func fsckCommand(s streams) *cobra.Command {
	var o fsckOptions
	var asJSON bool
	command := &cobra.Command{
		Use:   "fsck [CONFIG]",
		Short: "Check that facts and bytes agree, and repair what can be",
		Long: `Check that every blob has its bytes, every manifest is what its references say, and no bytes lie about that nothing
knows of. A running server does the check itself, while it serves. Without --repair, nothing is changed.

--repair quarantines blobs whose bytes are missing or cut off, or, with --rehash, are wrong: whoever asks for one is told that it is not
there, so that nobody gets wrong bytes and clients push it again, which heals it for all repositories. What references it stays. An error of
the disk or the bucket quarantines nothing. Bytes that nothing knows of are deleted after gc.grace, and rows that contradict each other are
put right where there is one way to do so. With --rehash, a blob that was quarantined and has its bytes again, as when a disk was mounted,
is not quarantined any more.

The exit code is 0 when all is well, or was repaired; and 1 when something is left to do, such as to push what is quarantined, or the check
could not be finished.`,
		Example: `  registry fsck --rehash --rate 20MB
  registry fsck --repair`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			c, _, err := s.loadConfig(args)
			if err != nil {
				return err
			}
			report, err := s.fsck(command.Context(), c, o, command.Flags().Changed("rate"))
			if err != nil && len(report.Findings) == 0 {
				return err
			}
			return cmp.Or(err, s.printReport(report, asJSON))
		},
	}
	command.Flags().BoolVar(&o.repair, "repair", false, "repair what can be")
	command.Flags().BoolVar(&o.rehash, "rehash", false, "read all bytes and check their digests")
	command.Flags().TextVar(&o.rate, "rate", config.Size(0),
		"with --rehash, read at most so many `BYTES` a second; 0 does not limit (default "+onlineRate.String()+" while the registry serves)")
	command.Flags().BoolVar(&asJSON, "json", false, "print the report as JSON")
	return command
}

// fsck has the running server check, or checks by itself when there is none. The rate that was not chosen depends on that. The report
// is of use beside an error, too.
func (s streams) fsck(ctx context.Context, c *config.Config, o fsckOptions, rateChosen bool) (fsck.Report, error) {
	directory, err := dataDirectory(c, s.environ)
	if err != nil {
		return fsck.Report{}, err
	}
	asked := o
	if !rateChosen {
		asked.rate = onlineRate
	}
	response, err := adminRequest(ctx, adminSocket(c, directory), http.MethodPost, "/fsck?"+asked.query(), nil)
	if errors.Is(err, errNoServer) {
		return s.fsckOffline(ctx, c, directory, o)
	}
	if err != nil {
		return fsck.Report{}, fmt.Errorf("ask the running registry: %w", err)
	}
	defer response.Body.Close()
	return s.readReport(response)
}

func (s streams) readReport(response *http.Response) (fsck.Report, error) {
	if response.StatusCode != http.StatusOK {
		why, _ := io.ReadAll(io.LimitReader(response.Body, 4<<10)) // the status says enough
		return fsck.Report{}, fmt.Errorf("the running registry: %s", strings.TrimSpace(string(why)))
	}
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

func (s streams) fsckOffline(ctx context.Context, c *config.Config, directory string, o fsckOptions) (_ fsck.Report, err error) {
	if _, err := os.Stat(metadataPath(c, directory)); err != nil && c.Metadata.Postgres.DSN == "" {
		return fsck.Report{}, fmt.Errorf("there is no registry to check: %w", err)
	}
	stores, err := openStores(ctx, c, s.environ)
	if err != nil {
		return fsck.Report{}, err
	}
	defer func() { err = errors.Join(err, stores.close()) }()
	return o.check(ctx, stores, s.progress)
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
	if r.Left > 0 {
		return errReported
	}
	return nil
}

func (s streams) printFindings(r fsck.Report) {
	for _, f := range r.Findings {
		fmt.Fprintf(s.out, "%s: %s\n", f.Subject, f.Problem)
		if f.Repaired != "" {
			fmt.Fprintf(s.out, "  repaired: %s\n", f.Repaired)
		}
		if f.Remedy != "" {
			fmt.Fprintf(s.out, "  remedy:   %s\n", f.Remedy)
		}
	}
	left := ""
	if len(r.Findings) > 0 {
		left = fmt.Sprintf(", %d left to do", r.Left)
	}
	fmt.Fprintf(s.out, "checked %d blobs (%s), %d manifests, %d objects: %d findings%s\n",
		r.Blobs, bytesString(r.Bytes), r.Manifests, r.Objects, len(r.Findings), left)
	if r.Leftovers > 0 && !slices.ContainsFunc(r.Findings, func(f fsck.Finding) bool { return f.Subject == metadata.AdoptedPrefix }) {
		fmt.Fprintf(s.out, "%d objects (%s) are left of the registry whose data were taken over, and nothing needs them: with --repair they are deleted\n",
			r.Leftovers, bytesString(r.LeftoverBytes))
	}
	if r.Unrecovered > 0 {
		fmt.Fprintf(s.out, "%d objects were left by an unclean stop: the next start of the registry removes them\n", r.Unrecovered)
	}
}
