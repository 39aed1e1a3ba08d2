package diskcache

import (
	"context"
	"errors"
	"sync"
)

// reach is how far beyond what was fetched a reader waits: what comes while another request is being made.
const reach = 4 << 20

var (
	// errGone says that an entry was given up before anything was fetched.
	errGone = errors.New("no longer kept")
	// errFar says that a place is too far beyond what was fetched to wait for it.
	errFar = errors.New("not fetched yet")
)

// progress says how much of an entry is there, and wakes those who wait for more.
type progress struct {
	mu      sync.Mutex
	have    int64 // bytes in the file; -1 before the backend has answered
	err     error // why there will be no more
	changed chan struct{}
}

// set says how much is there.
func (p *progress) set(have int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.have = have
	p.wake()
}

// fail says that there will be no more, and why. The first reason counts.
func (p *progress) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.err = err
	}
	p.wake()
}

func (p *progress) wake() {
	if p.changed != nil {
		close(p.changed)
		p.changed = nil
	}
}

func (p *progress) fetched() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.have
}

// look returns nil and nil when the first to bytes are there, nil and an error when that is not worth waiting for, and else what is
// closed when there is news.
func (p *progress) look(from, to int64) (<-chan struct{}, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.have >= to:
		return nil, nil
	case p.err != nil:
		return nil, p.err
	case from > p.have+reach:
		return nil, errFar
	}
	if p.changed == nil {
		p.changed = make(chan struct{})
	}
	return p.changed, nil
}

// await waits until the bytes from from to to are there. It fails when they won't be soon.
func (p *progress) await(ctx context.Context, from, to int64) error {
	for {
		changed, err := p.look(from, to)
		if changed == nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
