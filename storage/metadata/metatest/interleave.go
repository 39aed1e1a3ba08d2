package metatest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"berth/storage/metadata"

	"github.com/opencontainers/go-digest"
)

// collectorSteps is how many transactions of the collector and the reaper meet those of a client.
const collectorSteps = 4

// Interleave has the collector and the reaper run between the transactions of clients, in every order that there is: a blob that nobody
// needs is on its way out while somebody comes to need it. Whatever a client was told is there has to stay.
func Interleave(t *testing.T, open Open) {
	for name, scenario := range map[string]struct {
		held  bool // the blob is there, and so is a manifest that references it
		steps []func(*meeting) error
	}{
		"push":      {false, []func(*meeting) error{(*meeting).start, (*meeting).claim, (*meeting).commit, (*meeting).put}},
		"re-upload": {false, []func(*meeting) error{(*meeting).declare, (*meeting).claim, (*meeting).commit, (*meeting).put}},
		"HEAD+push": {false, []func(*meeting) error{(*meeting).head, (*meeting).pushMissing, (*meeting).put}},
		"mount":     {false, []func(*meeting) error{(*meeting).mount, (*meeting).pushMissing, (*meeting).put}},
		"delete":    {true, []func(*meeting) error{(*meeting).delete, (*meeting).head, (*meeting).pushMissing, (*meeting).put}},
	} {
		t.Run(name, func(t *testing.T) {
			// What is dead can be deleted at once. Leases hold, but for those that are ended below.
			f := newFixture(t, open, metadata.Config{Grace: time.Nanosecond})
			bytes := make(map[string]bool)
			n := 0
			for order := range orders(len(scenario.steps), collectorSteps) {
				n++
				m := &meeting{f: f, t: t, bytes: bytes, d: blob(n), from: fmt.Sprintf("from-%d", n), to: fmt.Sprintf("from-%d", n), image: image(name, blob(n))}
				m.prepare(scenario.held)
				m.run(order, scenario.steps)
			}
			if want := binomial(len(scenario.steps)+collectorSteps, collectorSteps); n != want {
				t.Errorf("%d orders were tried of %d", n, want)
			}
			f.audit(t)
		})
	}
}

// orders yields every way to shuffle the steps of a client with those of the collector: true is a client's.
func orders(client, collector int) func(yield func([]bool) bool) {
	var extend func(order []bool, client, collector int, yield func([]bool) bool) bool
	extend = func(order []bool, client, collector int, yield func([]bool) bool) bool {
		if client+collector == 0 {
			return yield(order)
		}
		order = order[:len(order):len(order)]
		return (client == 0 || extend(append(order, true), client-1, collector, yield)) &&
			(collector == 0 || extend(append(order, false), client, collector-1, yield))
	}
	return func(yield func([]bool) bool) { extend(nil, client, collector, yield) }
}

func binomial(n, k int) int {
	result := 1
	for i := range k {
		result = result * (n - i) / (i + 1)
	}
	return result
}

// meeting is a client that comes to need a blob which is being collected.
type meeting struct {
	f        *fixture
	t        *testing.T
	bytes    map[string]bool // keys under which there are some
	d        digest.Digest
	from, to string // repositories
	image    metadata.NewManifest

	upload  metadata.Upload
	missing bool     // the client was told that the blob is not there
	dead    []string // keys that the reaper is deleting
}

// prepare stores the blob, and ends its lease.
func (m *meeting) prepare(referenced bool) {
	m.t.Helper()
	m.bytes[m.f.push(m.t, m.from, m.d)] = true
	if referenced {
		m.f.put(m.t, m.from, m.image)
	}
	m.f.endLease(m.t, m.from, m.d)
}

func (m *meeting) run(order []bool, steps []func(*meeting) error) {
	m.t.Helper()
	collector := []func(*meeting) error{(*meeting).collect, (*meeting).reap, (*meeting).forget, (*meeting).collect}
	done := ""
	for _, client := range order {
		next, name := &collector, "collector "
		if client {
			next, name = &steps, "client "
		}
		done += name
		if err := (*next)[0](m); err != nil {
			m.t.Fatalf("after %s: %v", done, err)
		}
		*next = (*next)[1:]
	}
	for _, step := range []func(*meeting) error{(*meeting).reap, (*meeting).forget, (*meeting).collect, (*meeting).reap, (*meeting).forget} {
		must(m.t, step(m))
	}
	b, err := m.f.Blob(m.t.Context(), m.to, m.d)
	if err != nil || !m.bytes[b.Key] {
		m.t.Fatalf("after %s: the blob is %+v (%v), and its bytes are there: %t", done, b, err, m.bytes[b.Key])
	}
}

func (m *meeting) ctx() context.Context { return m.t.Context() }

func (m *meeting) collect() error {
	_, err := m.f.Collect(m.ctx(), 1000)
	return err
}

func (m *meeting) reap() (err error) {
	if m.dead, err = m.f.ClaimDeadKeys(m.ctx(), 1000); err != nil {
		return err
	}
	for _, key := range m.dead {
		delete(m.bytes, key)
	}
	return nil
}

func (m *meeting) forget() error { return m.f.ForgetKeys(m.ctx(), m.dead) }

func (m *meeting) start() (err error) {
	m.upload, err = m.f.StartUpload(m.ctx(), m.f.newID(), m.to, digest.SHA256, "")
	return err
}

func (m *meeting) declare() (err error) {
	m.upload, err = m.f.StartUpload(m.ctx(), m.f.newID(), m.to, digest.SHA256, m.d)
	return err
}

// claim writes the bytes, unless they are held already.
func (m *meeting) claim() (err error) {
	m.upload, err = m.f.ClaimUpload(m.ctx(), m.to, m.upload.ID, m.d)
	if err == nil && m.upload.Pinned == "" {
		m.bytes[m.upload.Key] = true
	}
	m.upload.Size = blobSize
	return err
}

func (m *meeting) commit() error { return m.f.CommitUpload(m.ctx(), m.upload, m.d) }

func (m *meeting) head() error { return m.note(second(m.f.LeaseBlob(m.ctx(), m.to, m.d))) }

func (m *meeting) mount() error {
	m.to = "to-" + m.from
	return m.note(m.f.MountBlob(m.ctx(), m.to, m.from, m.d))
}

// note remembers whether the client was told that the blob is not there.
func (m *meeting) note(err error) error {
	m.missing = errors.Is(err, metadata.ErrNotFound)
	if m.missing {
		return nil
	}
	return err
}

func (m *meeting) pushMissing() error {
	if !m.missing {
		return nil
	}
	return errors.Join(m.start(), m.claim(), m.commit())
}

func (m *meeting) put() error { return m.f.PutManifest(m.ctx(), m.to, tagged(m.image, "t")) }

func (m *meeting) delete() error {
	return m.f.DeleteManifest(m.ctx(), m.to, m.image.Digest, metadata.Deletion{})
}

func second[T any](_ T, err error) error { return err }
