// Package fsck checks that facts and bytes agree: every row has its bytes with the right size and digest, every key is
// in exactly one place, every reference is what the manifest's bytes say, and no bytes lie about that no row knows.
//
// It works beside a running server: what looks wrong is looked at again, so that a change that happened in between is no
// finding. It says nothing about bytes that an unclean stop left and that recovery has yet to find. An error means that the
// check could not be finished, not that something is wrong.
//
// It only reads, unless it is asked to repair. Then it never deletes what a row knows: a blob whose bytes are missing, short or,
// where they were all read, wrong, is quarantined, which says in one transaction that these bytes are not to be served. Any other
// error of the blob store changes nothing. Bytes that no row knows die after the grace, and contradictions between rows that have
// one right end are put right. A finding is reported as repaired once that is durable.
package fsck

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"berth/registry/manifest"
	"berth/storage"
	"berth/storage/metadata"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/time/rate"
)

const (
	page = 200
	// manifestPage is small because bodies may have 4 MiB each.
	manifestPage = 8
	// most is how many contradictions of one kind are listed.
	most = 100
	// bufferSize is how many bytes are read at once.
	bufferSize = 256 << 10
)

// Config is what is checked. Metadata and Blobs have to be set.
type Config struct {
	Metadata *metadata.Store
	Blobs    storage.Blobs
	// Rehash reads all bytes and checks their digests, no more than Rate bytes a second. Zero is no limit.
	Rehash bool
	Rate   int64
	// Repair does what can be done about what is found.
	Repair bool
	// Progress, when set, is called now and then with what was seen so far.
	Progress func(Report)
}

// Report is what a check saw.
type Report struct {
	Blobs     int   `json:"blobs"`
	Bytes     int64 `json:"bytes"`
	Manifests int   `json:"manifests"`
	Objects   int   `json:"objects"`
	// Unrecovered counts objects of an unclean stop that recovery has yet to find.
	Unrecovered int `json:"unrecovered"`
	// Leftovers counts objects of the registry whose data were taken over that nothing needs any more, and LeftoverBytes how large they are.
	// They are deleted when it is asked to repair.
	Leftovers     int   `json:"leftovers"`
	LeftoverBytes int64 `json:"leftoverBytes"`
	// Findings is what was found wrong, and Left of how many of them something is left to do: none when all is well.
	Findings []Finding `json:"findings"`
	Left     int       `json:"left"`
}

// Finding is one thing that is wrong, or was.
type Finding struct {
	// Subject is a blob's digest, a manifest's name, a key, or "metadata".
	Subject string `json:"subject"`
	Problem string `json:"problem"`
	// Repaired is what was done about it, if anything.
	Repaired string `json:"repaired,omitempty"`
	// Remedy is what is left for somebody to do, where that is known.
	Remedy string `json:"remedy,omitempty"`
}

// Left reports whether something is left to do about it.
func (f Finding) Left() bool { return f.Repaired == "" || f.Remedy != "" }

// check is one run.
type check struct {
	Config
	lister  storage.Lister
	limiter *rate.Limiter // nil without a limit
	buffer  []byte        // for rehashing
	shown   int64         // bytes at the last progress
	outside int           // blobs that are not in the metadata
	stored  bool          // something is known to be in the blob store
	report  Report

	leftovers *leftovers // nil where no data were taken over
}

// Check looks at everything.
func Check(ctx context.Context, c Config) (Report, error) {
	run := &check{Config: c, buffer: make([]byte, bufferSize), report: Report{Findings: []Finding{}}}
	if c.Rate > 0 {
		run.limiter = rate.NewLimiter(rate.Limit(c.Rate), bufferSize)
	}
	var ok bool
	if run.lister, ok = c.Blobs.(storage.Lister); !ok {
		return run.report, fmt.Errorf("%T can't list what it stores", c.Blobs)
	}
	for _, step := range []func(context.Context) error{run.findAdopted, run.facts, run.blobs, run.manifests, run.objects, run.adopted} {
		if err := step(ctx); err != nil {
			return run.report, err
		}
	}
	return run.report, nil
}

func (c *check) add(f Finding) {
	c.report.Findings = append(c.report.Findings, f)
	if f.Left() {
		c.report.Left++
	}
}

func (c *check) find(subject, format string, args ...any) {
	c.add(Finding{Subject: subject, Problem: fmt.Sprintf(format, args...)})
}

// failed adds a finding whose repair failed: whether it happened all the same, the next check says.
func (c *check) failed(f Finding, err error) {
	f.Problem += fmt.Sprintf("; the repair failed: %v", err)
	f.Repaired, f.Remedy = "", "registry fsck --repair again"
	c.add(f)
}

func (c *check) progress() {
	c.shown = c.report.Bytes
	if c.Progress != nil {
		c.Progress(c.report)
	}
}

// facts checks the rows against each other.
func (c *check) facts(ctx context.Context) error {
	if c.Repair {
		mended, err := c.Metadata.Mend(ctx, most)
		for _, m := range mended {
			c.add(Finding{Subject: "metadata", Problem: m.Problem, Repaired: m.Remedy})
		}
		if err != nil {
			c.failed(Finding{Subject: "metadata", Problem: "not all rows were put right that can be"}, err)
		}
	}
	problems, err := c.Metadata.Audit(ctx, most)
	if err != nil {
		return fmt.Errorf("audit metadata: %w", err)
	}
	for _, p := range problems {
		c.find("metadata", "%s", p)
	}
	return nil
}

// manifests checks that every manifest's body is what its row and its references say.
func (c *check) manifests(ctx context.Context) error {
	for last := int64(0); ; {
		all, err := c.Metadata.Manifests(ctx, last, manifestPage)
		if err != nil {
			return fmt.Errorf("list manifests: %w", err)
		}
		for _, m := range all {
			c.report.Manifests++
			if c.leftovers != nil {
				c.leftovers.bodies[m.Digest] = struct{}{}
			}
			if problem := compare(m); problem != "" {
				c.find(m.Repository+"@"+m.Digest.String(), "%s", problem)
			}
			last = m.ID
		}
		c.progress()
		if len(all) < manifestPage {
			return nil
		}
	}
}

func compare(m metadata.StoredManifest) string {
	if got := m.Digest.Algorithm().FromBytes(m.Body); got != m.Digest {
		return fmt.Sprintf("the body has digest %s", got)
	}
	if int64(len(m.Body)) != m.Size {
		return fmt.Sprintf("the body has %d bytes of %d", len(m.Body), m.Size)
	}
	parsed, err := manifest.Parse(m.MediaType, m.Body)
	if err != nil {
		return fmt.Sprintf("the body can't be read: %v", err)
	}
	if !slices.Equal(digestsOf(parsed.Blobs), m.Blobs) {
		return "the blobs that are recorded are not those of the body"
	}
	if !slices.Equal(digestsOf(parsed.Children), m.Children) {
		return "the manifests that are recorded are not those of the body"
	}
	return ""
}

func digestsOf(descriptors []v1.Descriptor) []digest.Digest {
	all := make([]digest.Digest, len(descriptors))
	for i, d := range descriptors {
		all[i] = d.Digest
	}
	return all
}

// objects checks that some row knows everything that is stored, and that the bytes of open uploads are there.
func (c *check) objects(ctx context.Context) error {
	uploads, err := c.Metadata.WrittenUploads(ctx)
	if err != nil {
		return fmt.Errorf("list uploads: %w", err)
	}
	absent := make(map[string]metadata.KeyUse)
	for _, u := range uploads {
		absent[u.Key] = u
	}
	unrecovered, err := c.Metadata.UnclosedGenerations(ctx)
	if err != nil {
		return fmt.Errorf("find unclean stops: %w", err)
	}
	var strays []string
	err = c.list(ctx, metadata.BlobPrefix, func(o storage.Object) error {
		c.report.Objects++
		if u, ok := absent[o.Key]; ok && o.Size >= u.Size {
			delete(absent, o.Key)
		}
		known, err := c.known(ctx, o)
		if err != nil || known {
			return err
		}
		if inAny(unrecovered, o.Key) {
			c.report.Unrecovered++
		} else {
			strays = append(strays, o.Key)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("list objects: %w", err)
	}
	return errors.Join(c.strays(ctx, strays), c.absent(ctx, absent))
}

// list lists what is stored, in the metadata and in the blob store. An upload that is growing from the one into the other comes twice.
func (c *check) list(ctx context.Context, prefix string, fn func(storage.Object) error) error {
	// In this order, since the file of an upload that grows is there before its row goes.
	err := c.Metadata.EachSmallObject(ctx, prefix, func(key string, size int64, kept time.Time) error {
		return fn(storage.Object{Key: key, Size: size, Modified: kept})
	})
	if err != nil {
		return err
	}
	return c.lister.List(ctx, prefix, fn)
}

// known reports whether a row knows an object.
func (c *check) known(ctx context.Context, o storage.Object) (bool, error) {
	uses, err := c.Metadata.KeyUses(ctx, []string{o.Key})
	if err != nil {
		return false, fmt.Errorf("look up key %s: %w", o.Key, err)
	}
	return len(uses) > 0, nil
}

func inAny(prefixes []string, key string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(key, p+"/") })
}

// strays finds the objects that are still there although no row knows them: others were deleted in between.
func (c *check) strays(ctx context.Context, keys []string) error {
	for _, key := range keys {
		err := c.list(ctx, key, func(o storage.Object) error {
			if o.Key != key {
				return nil
			}
			known, err := c.known(ctx, o)
			if err == nil && !known {
				c.stray(ctx, o)
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("look for object %s: %w", key, err)
		}
	}
	return nil
}

// stray is about an object that no row knows. A kept snapshot may: the dead list sees to that.
func (c *check) stray(ctx context.Context, o storage.Object) {
	f := Finding{Subject: o.Key, Problem: fmt.Sprintf("%d bytes that no row knows", o.Size)}
	switch {
	case !c.Repair:
		f.Remedy = "registry fsck --repair has them deleted"
	case c.outside == 0: // these are sooner the facts of another blob store
		f.Remedy = "not deleted, since the facts name nothing in the blob store: correct the configuration, or restore the facts; " +
			"if they are the right ones, push an image with a layer of more than 16 KiB, and repair again"
	}
	if f.Remedy != "" {
		c.add(f)
		return
	}
	n, err := c.Metadata.BuryOrphans(ctx, []string{o.Key}, c.Metadata.Grace())
	switch {
	case err != nil:
		c.failed(f, err)
	case n > 0:
		f.Repaired = fmt.Sprintf("they are deleted after gc.grace (%s)", c.Metadata.Grace())
		c.add(f)
	}
}

// absent finds the open uploads whose bytes are not there, unless they ended in between.
func (c *check) absent(ctx context.Context, uploads map[string]metadata.KeyUse) error {
	for key, u := range uploads {
		uses, err := c.Metadata.KeyUses(ctx, []string{key})
		if err != nil {
			return fmt.Errorf("look up key %s: %w", key, err)
		}
		if len(uses) == 1 && uses[0].Use == "upload" {
			c.add(Finding{Subject: key, Problem: fmt.Sprintf("an open upload lacks some of its %d bytes", u.Size),
				Remedy: "it ends by itself, and its client has to begin anew"})
		}
	}
	return nil
}
