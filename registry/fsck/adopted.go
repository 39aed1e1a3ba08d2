package fsck

import (
	"context"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"berth/storage"
	"berth/storage/metadata"

	"github.com/opencontainers/go-digest"
)

// orphanBatch is how many objects are buried at once.
const orphanBatch = 500

// leftovers is what lies where the data of distribution's registry were taken over.
type leftovers struct {
	since  time.Time                  // when they were
	bodies map[digest.Digest]struct{} // of manifests, which distribution keeps as blobs
	unused []string                   // blobs that nothing needs
	bytes  int64                      // of these
	newer  []string                   // files that were written afterwards
}

// findAdopted looks whether data were taken over.
func (c *check) findAdopted(ctx context.Context) error {
	summary, err := c.Metadata.Adopted(ctx)
	if err != nil {
		return fmt.Errorf("find what was taken over: %w", err)
	}
	if summary == nil {
		return nil
	}
	var report struct{ Ended time.Time }
	if err := json.Unmarshal(summary, &report); err != nil {
		return fmt.Errorf("find what was taken over: %w", err)
	}
	const clocks = time.Minute // of a blob store elsewhere may differ
	c.leftovers = &leftovers{since: report.Ended.Add(clocks), bodies: make(map[digest.Digest]struct{})}
	return nil
}

// adopted looks at the data that were taken over: nothing else should write there any more.
func (c *check) adopted(ctx context.Context) error {
	l := c.leftovers
	if l == nil {
		return nil
	}
	err := c.lister.List(ctx, metadata.AdoptedPrefix, func(o storage.Object) error { return c.leftover(ctx, o) })
	if err != nil {
		return fmt.Errorf("list what was taken over: %w", err)
	}
	if n := len(l.newer); n > 0 {
		c.add(Finding{
			Subject: l.newer[0], Problem: fmt.Sprintf("%d files of distribution's registry are newer than the day on which its data were taken over", n),
			Remedy: "stop the registry that writes there, and push to this one what it got; unless they were copied without their times",
		})
	}
	c.report.Leftovers, c.report.LeftoverBytes = len(l.unused), l.bytes
	if !c.Repair || len(l.unused) == 0 {
		return nil
	}
	f := Finding{
		Subject: metadata.AdoptedPrefix,
		Problem: fmt.Sprintf("%d blobs of the registry whose data were taken over are needed by nothing: %d bytes", len(l.unused), l.bytes),
	}
	for some := range slices.Chunk(l.unused, orphanBatch) {
		if _, err := c.Metadata.BuryOrphans(ctx, some, c.Metadata.Grace()); err != nil {
			c.failed(f, err)
			return nil
		}
	}
	f.Repaired = fmt.Sprintf("they are deleted after gc.grace (%s)", c.Metadata.Grace())
	c.add(f)
	return nil
}

// leftover looks at one file of distribution's registry: a blob's bytes, or the link of a manifest. Others tell nothing.
func (c *check) leftover(ctx context.Context, o storage.Object) error {
	l := c.leftovers
	isBlob := strings.HasPrefix(o.Key, metadata.AdoptedPrefix+"blobs/") && path.Base(o.Key) == "data"
	if !isBlob && !strings.Contains(o.Key, "/_manifests/revisions/") {
		return nil
	}
	hex := path.Dir(o.Key)
	algorithm := path.Dir(hex)
	if isBlob {
		algorithm = path.Dir(algorithm)
	}
	if _, ok := l.bodies[digest.NewDigestFromEncoded(digest.Algorithm(path.Base(algorithm)), path.Base(hex))]; ok {
		return nil
	}
	if isBlob {
		c.report.Objects++
		if known, err := c.known(ctx, o); err != nil || known {
			return err
		}
	}
	switch {
	case o.Modified.After(l.since):
		l.newer = append(l.newer, o.Key)
	case isBlob:
		l.unused = append(l.unused, o.Key)
		l.bytes += o.Size
	}
	return nil
}
