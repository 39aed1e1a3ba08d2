// Package fsck checks that facts and bytes agree: every row has its bytes with the right size and digest, every key is
// in exactly one place, every reference is what the manifest's bytes say, and no bytes lie about that no row knows.
//
// It only reads, and works beside a running server: what looks wrong is looked at again, so that a change that happened
// in between is no finding. It says nothing about bytes that an unclean stop left and that recovery has yet to find.
// An error means that the check could not be finished, not that something is wrong.
package fsck

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"berth/registry/manifest"
	"berth/storage"
	"berth/storage/metadata"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	page = 200
	// manifestPage is small because bodies may have 4 MiB each.
	manifestPage = 8
	// most is how many contradictions of one kind are listed.
	most = 100
)

// Config is what is checked. Metadata and Blobs have to be set.
type Config struct {
	Metadata *metadata.Store
	Blobs    storage.Blobs
	// Rehash reads all bytes and checks their digests.
	Rehash bool
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
	// Findings is what is wrong: nothing when all is well.
	Findings []Finding `json:"findings"`
}

// Finding is one thing that is wrong.
type Finding struct {
	// Subject is a blob's digest, a manifest's name, a key, or "metadata".
	Subject string `json:"subject"`
	Problem string `json:"problem"`
}

// check is one run.
type check struct {
	Config
	report Report
}

// Check looks at everything.
func Check(ctx context.Context, c Config) (Report, error) {
	run := &check{Config: c, report: Report{Findings: []Finding{}}}
	for _, step := range []func(context.Context) error{run.facts, run.blobs, run.manifests, run.objects} {
		if err := step(ctx); err != nil {
			return run.report, err
		}
	}
	return run.report, nil
}

func (c *check) find(subject, format string, args ...any) {
	c.report.Findings = append(c.report.Findings, Finding{Subject: subject, Problem: fmt.Sprintf(format, args...)})
}

func (c *check) progress() {
	if c.Progress != nil {
		c.Progress(c.report)
	}
}

// facts checks the rows against each other.
func (c *check) facts(ctx context.Context) error {
	problems, err := c.Metadata.Audit(ctx, most)
	if err != nil {
		return fmt.Errorf("audit metadata: %w", err)
	}
	for _, p := range problems {
		c.find("metadata", "%s", p)
	}
	return nil
}

// blobs checks that every blob has its bytes.
func (c *check) blobs(ctx context.Context) error {
	for last := digest.Digest(""); ; {
		blobs, err := c.Metadata.Blobs(ctx, last, page)
		if err != nil {
			return fmt.Errorf("list blobs: %w", err)
		}
		for _, b := range blobs {
			if err := c.blob(ctx, b); err != nil {
				return err
			}
			last = b.Digest
		}
		c.progress()
		if len(blobs) < page {
			return nil
		}
	}
}

func (c *check) blob(ctx context.Context, b metadata.Blob) error {
	c.report.Blobs++
	c.report.Bytes += b.Size
	problem := c.bytes(ctx, b)
	if problem == nil {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	uses, err := c.Metadata.KeyUses(ctx, []string{b.Key})
	if err != nil {
		return fmt.Errorf("look up key %s: %w", b.Key, err)
	}
	if len(uses) == 1 && uses[0].Use == "blob" {
		c.find(b.Digest.String(), "%v", problem)
	}
	return nil
}

// bytes returns what is wrong with a blob's bytes.
func (c *check) bytes(ctx context.Context, b metadata.Blob) (err error) {
	r, err := c.Blobs.Open(ctx, b.Key, b.Size)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if !c.Rehash {
		size, err := r.Seek(0, io.SeekEnd)
		if err == nil && size != b.Size {
			err = fmt.Errorf("key %s has %d bytes of %d", b.Key, size, b.Size)
		}
		return err
	}
	sum := b.Digest.Algorithm().Hash()
	n, err := io.Copy(sum, reader{ctx, r})
	if err != nil {
		return err
	}
	if got := digest.NewDigest(b.Digest.Algorithm(), sum); got != b.Digest || n != b.Size {
		return fmt.Errorf("the %d bytes under key %s have digest %s", n, b.Key, got)
	}
	return nil
}

// reader ends with ctx: rehashing a large blob takes a while.
type reader struct {
	ctx context.Context // of the one call that this reader lives in
	io.Reader
}

func (r reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
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
	lister, ok := c.Blobs.(storage.Lister)
	if !ok {
		return fmt.Errorf("%T can't list what it stores", c.Blobs)
	}
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
	err = lister.List(ctx, "blobs/", func(o storage.Object) error {
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
	return errors.Join(c.strays(ctx, lister, strays), c.absent(ctx, absent))
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
func (c *check) strays(ctx context.Context, lister storage.Lister, keys []string) error {
	for _, key := range keys {
		err := lister.List(ctx, key, func(o storage.Object) error {
			if o.Key != key {
				return nil
			}
			known, err := c.known(ctx, o)
			if err == nil && !known {
				c.find(key, "%d bytes that no row knows", o.Size)
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("look for object %s: %w", key, err)
		}
	}
	return nil
}

// absent finds the open uploads whose bytes are not there, unless they ended in between.
func (c *check) absent(ctx context.Context, uploads map[string]metadata.KeyUse) error {
	for key, u := range uploads {
		uses, err := c.Metadata.KeyUses(ctx, []string{key})
		if err != nil {
			return fmt.Errorf("look up key %s: %w", key, err)
		}
		if len(uses) == 1 && uses[0].Use == "upload" {
			c.find(key, "an open upload lacks some of its %d bytes", u.Size)
		}
	}
	return nil
}
