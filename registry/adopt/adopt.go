// Package adopt takes over the data of distribution's registry (registry:2, registry:3) in place: it records as facts what the files
// of that registry say, and the bytes of blobs stay where they are, under keys that are their paths.
//
// It happens once, before a registry serves for the first time. What was recorded stays when it is interrupted, and the next start
// goes on. A marker beside the data names the registry that took it over, so that no other one does.
//
// Nothing is written but facts and the marker, and nothing is deleted: damaged parts (links without content, links to nothing, manifests
// that can't be read) are reported and passed over. What they may have needed is kept.
package adopt

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"berth/registry"
	"berth/storage"
	"berth/storage/metadata"

	"github.com/opencontainers/go-digest"
)

// most is how many problems a report lists.
const most = 1000

// Config is what is worked on. Metadata and Blobs have to be set.
type Config struct {
	Metadata *metadata.Store
	Blobs    interface {
		storage.Blobs
		storage.Lister
	}
	// Lease is how long blobs stay that no manifest references: a push of them may have been under way.
	Lease time.Duration
	// Progress, when set, is called now and then with what was done so far.
	Progress func(Report)
	// Log may be nil.
	Log *slog.Logger
}

// Report says what was taken over.
type Report struct {
	Repositories int `json:"repositories"`
	Tags         int `json:"tags"`
	Manifests    int `json:"manifests"`
	// Blobs are those that are in some repository, manifests not counted, and Bytes how large they are.
	Blobs int   `json:"blobs"`
	Bytes int64 `json:"bytes"`
	// Stored is how many blobs are stored, manifests among them.
	Stored int `json:"stored"`
	// Unused are those that no repository needs, and UnusedBytes how large they are. They stay where they are.
	Unused      int   `json:"unused"`
	UnusedBytes int64 `json:"unusedBytes"`
	// Uploads are those that were not finished. They stay where they are.
	Uploads int `json:"uploads"`
	// Kept are links of blobs that no manifest references and that are kept for good, since a manifest that can't be read may.
	Kept int `json:"kept"`
	// Problems is how many parts were passed over, and Findings the first of them.
	Problems int       `json:"problems"`
	Findings []Problem `json:"findings,omitempty"`
	// Began and Ended are when.
	Began time.Time `json:"began"`
	Ended time.Time `json:"ended"`
}

// Problem is a part that was not as it should be.
type Problem struct {
	// Subject is a repository, or REPOSITORY:TAG, or REPOSITORY@DIGEST.
	Subject string `json:"subject"`
	Problem string `json:"problem"`
}

// adoption is one run.
type adoption struct {
	Config
	id     string
	stored map[digest.Digest]*stored
	report Report
}

// stored is a blob of which the bytes are there.
type stored struct {
	size     int64 // bytes
	modified time.Time
	used     bool // by some repository
}

// Run takes over the data that is beside the blobs of a registry that has no facts yet, or goes on with it. It returns nil when
// there is nothing to do, or another process with the same facts was faster. It fails when another registry took the data over, and
// with the errors of packages metadata and storage.
func Run(ctx context.Context, c Config) (*Report, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	a := &adoption{Config: c, report: Report{Began: time.Now()}}
	begun, err := a.begin(ctx)
	if err != nil || !begun {
		return nil, err
	}
	err = a.run(ctx)
	if errors.Is(err, metadata.ErrAdopted) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("take over the data of distribution's registry: %w", err)
	}
	return &a.report, nil
}

// begin reports whether there is something to take over, and sees to it that no other registry does.
func (a *adoption) begin(ctx context.Context) (bool, error) {
	done, err := a.Metadata.Adopted(ctx)
	if err != nil || done != nil {
		return false, err
	}
	if a.id, err = a.Metadata.Adopting(ctx); err != nil {
		return false, err
	}
	if a.id == "" {
		if there, err := a.there(ctx); err != nil || !there {
			return false, err
		}
		empty, err := a.Metadata.Empty(ctx)
		if err != nil {
			return false, err
		}
		if !empty {
			if ended, err := a.Metadata.Adopted(ctx); err != nil || ended != nil { // by another process with these facts, just now
				return false, err
			}
			a.Log.Warn("the data of distribution's registry lies here and is not served: this registry had facts of its own before", "path", repositories)
			return false, nil
		}
		if marked := a.refuseMarked(ctx, ""); marked != nil {
			// It may be another process with these facts that began just now, or has ended already.
			if ended, err := a.Metadata.Adopted(ctx); err != nil || ended != nil {
				return false, err
			}
			if a.id, err = a.Metadata.Adopting(ctx); err != nil || a.id == "" {
				return false, errors.Join(marked, err)
			}
		}
		if a.id, err = a.Metadata.StartAdoption(ctx, rand.Text()); err != nil {
			return false, err
		}
	}
	return true, a.refuseMarked(ctx, a.id)
}

// there reports whether there is a repository of distribution's.
func (a *adoption) there(ctx context.Context) (bool, error) {
	errFound := errors.New("found")
	err := a.Blobs.List(ctx, repositories, func(o storage.Object) error {
		if _, ok := parseFile(o.Key); ok {
			return errFound
		}
		return nil
	})
	if errors.Is(err, errFound) {
		return true, nil
	}
	return false, err
}

// mark is the content of the marker.
type mark struct {
	ID    string    `json:"id"`
	Began time.Time `json:"began"`
}

// refuseMarked fails when the marker is of an adoption with another id. Without one, that with the id is marked, if it is not empty.
func (a *adoption) refuseMarked(ctx context.Context, id string) error {
	var found *storage.Object
	err := a.Blobs.List(ctx, marker, func(o storage.Object) error {
		if o.Key == marker {
			found = &o
		}
		return nil
	})
	switch {
	case err != nil:
		return err
	case found == nil && id == "":
		return nil
	case found == nil:
		return a.mark(ctx, mark{ID: id, Began: a.report.Began.UTC()})
	}
	content, err := read(ctx, a.Blobs, marker, found.Size, 1<<10)
	if err != nil {
		return err
	}
	var m mark
	err = json.Unmarshal(content, &m)
	switch {
	case id != "" && err != nil: // begun, and a crash came in between
		return a.mark(ctx, mark{ID: id, Began: a.report.Began.UTC()})
	case id != "" && m.ID == id:
		return nil
	}
	return fmt.Errorf("the data of distribution's registry here was taken over before, on %s, by a registry whose facts are not these: "+
		"give this one the metadata of that one (metadata.sqlite.path, metadata.postgres.dsn, or registry restore); "+
		"or, if that is lost, delete %s to take over once more what is still there", found.Modified.Format(time.DateTime), marker)
}

func (a *adoption) mark(ctx context.Context, m mark) (err error) {
	content, err := json.Marshal(m)
	if err != nil {
		return err
	}
	w, err := a.Blobs.Write(ctx, storage.Checkpoint{Key: marker})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	if _, err := w.Write(append(content, '\n')); err != nil {
		return err
	}
	c, err := w.Checkpoint(ctx)
	if err != nil {
		return err
	}
	return a.Blobs.Complete(ctx, c)
}

func (a *adoption) run(ctx context.Context) error {
	if err := a.listBlobs(ctx); err != nil {
		return err
	}
	if err := a.listRepositories(ctx); err != nil {
		return err
	}
	for _, s := range a.stored {
		if !s.used {
			a.report.Unused++
			a.report.UnusedBytes += s.size
		}
	}
	a.report.Ended = time.Now()
	summary, err := json.Marshal(a.report)
	if err != nil {
		return err
	}
	return a.Metadata.EndAdoption(ctx, a.id, summary)
}

// listBlobs finds the bytes that there are.
func (a *adoption) listBlobs(ctx context.Context) error {
	a.stored = make(map[digest.Digest]*stored)
	err := a.Blobs.List(ctx, blobs, func(o storage.Object) error {
		if d, ok := parseBlob(o.Key); ok {
			a.stored[d] = &stored{size: o.Size, modified: o.Modified}
			if a.report.Stored++; a.report.Stored%1000 == 0 {
				a.tell()
			}
		}
		return nil
	})
	a.tell()
	return err
}

// tell tells how far it is.
func (a *adoption) tell() {
	if a.Progress != nil {
		a.Progress(a.report)
	}
}

// listRepositories takes over one repository after the other. A list has the files of a repository together; where it has not, the
// repository is taken over in parts.
func (a *adoption) listRepositories(ctx context.Context) error {
	var current *repository
	next := func(name string) error {
		if current != nil && current.name == name {
			return nil
		}
		if current != nil {
			if err := current.adopt(ctx); err != nil {
				return fmt.Errorf("repository %s: %w", current.name, err)
			}
		}
		current = &repository{a: a, name: name, layers: make(map[digest.Digest]bool), there: make(map[digest.Digest]bool)}
		return nil
	}
	refused := make(map[string]bool)
	err := a.Blobs.List(ctx, repositories, func(o storage.Object) error {
		f, ok := parseFile(o.Key)
		if !ok {
			return nil
		}
		if f.refused != nil {
			a.refuse(f, refused)
			return nil
		}
		if err := next(f.repository); err != nil {
			return err
		}
		current.add(f, o)
		return nil
	})
	if err != nil || current == nil {
		return err
	}
	return next("")
}

// refuse reports a file that can't be taken over: once for a repository, a tag, or a digest.
func (a *adoption) refuse(f file, told map[string]bool) {
	subject := f.repository
	if f.tag != "" && registry.CheckName(f.repository) == nil {
		subject += ":" + f.tag
	}
	if !told[subject] {
		told[subject] = true
		a.find(subject, "it is not taken over: %v", f.refused)
	}
}

// record records a part of a repository.
func (a *adoption) record(ctx context.Context, part metadata.Adoption) error {
	if err := a.Metadata.Adopt(ctx, a.id, part); err != nil {
		return err
	}
	a.report.Manifests += len(part.Manifests)
	a.report.Tags += len(part.Tags)
	for _, b := range part.Blobs {
		if s := a.stored[b.Digest]; !s.used {
			s.used = true
			a.report.Blobs++
			a.report.Bytes += s.size
		}
	}
	a.tell()
	return nil
}

func (a *adoption) find(subject, format string, args ...any) {
	p := Problem{subject, fmt.Sprintf(format, args...)}
	a.report.Problems++
	switch {
	case a.report.Problems <= most:
		a.report.Findings = append(a.report.Findings, p)
		a.Log.Warn("passed over", "subject", p.Subject, "problem", p.Problem)
	case a.report.Problems == most+1:
		a.Log.Warn("there are more problems, which are counted and not listed")
	}
}

// read returns the bytes of an object, no more than limit of them.
func read(ctx context.Context, b storage.Blobs, key string, size, limit int64) (content []byte, err error) {
	if size > limit {
		return nil, damaged("%s has %d bytes: more than %d are not read", key, size, limit)
	}
	r, err := b.Open(ctx, key, size)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	return io.ReadAll(io.LimitReader(r, limit))
}
