package registry

import (
	"context"
	"io"
	"sync"
	"sync/atomic"
)

// sessions sees to it that an upload has one writer in this process: a newcomer cuts off whoever has it and waits until
// that one is gone, so that the bytes that it goes on from don't change any more.
type sessions struct {
	mu   sync.Mutex
	held map[string]*hold
}

// hold is the right to write to one upload.
type hold struct {
	body       io.Closer
	superseded atomic.Bool
	released   chan struct{}
}

// take waits for the right to write to an upload and cuts off whoever has it. body is closed when another takes it away.
func (s *sessions) take(ctx context.Context, id string, body io.Closer) (*hold, error) {
	h := &hold{body: body, released: make(chan struct{})}
	for {
		holder := s.set(id, h)
		if holder == h {
			return h, nil
		}
		holder.interrupt()
		select {
		case <-holder.released:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// set gives the upload to h unless somebody has it, and returns who has it then.
func (s *sessions) set(id string, h *hold) *hold {
	s.mu.Lock()
	defer s.mu.Unlock()
	if holder, ok := s.held[id]; ok {
		return holder
	}
	if s.held == nil {
		s.held = make(map[string]*hold)
	}
	s.held[id] = h
	return h
}

func (s *sessions) release(id string, h *hold) {
	s.mu.Lock()
	delete(s.held, id)
	s.mu.Unlock()
	close(h.released)
}

func (h *hold) interrupt() {
	if !h.superseded.Swap(true) && h.body != nil {
		_ = h.body.Close()
	}
}
