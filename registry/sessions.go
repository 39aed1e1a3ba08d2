package registry

import (
	"context"
	"io"
	"sync"
	"sync/atomic"
)

// sessions sees to it that an upload has one writer in this process: a newcomer cuts off whoever has it and waits until
// that one is gone, so that the bytes that it goes on from don't change any more. Of several that wait, the newest gets it.
type sessions struct {
	mu   sync.Mutex
	byID map[string]*session
}

// session is an upload that somebody has or waits for.
type session struct {
	holder *hold // nil between two
	newest *hold
	users  int // the holder and those who wait
}

// hold is the right to write to one upload.
type hold struct {
	body       io.Closer
	superseded atomic.Bool
	released   chan struct{}
}

// take waits for the right to write to an upload and cuts off whoever has it. body is closed when another takes it away.
// It fails with ErrUploadSuperseded when a newer request came before the right was free.
func (s *sessions) take(ctx context.Context, id string, body io.Closer) (*hold, error) {
	h := &hold{body: body, released: make(chan struct{})}
	holder := s.join(id, h)
	for holder != h {
		holder.interrupt()
		select {
		case <-holder.released:
		case <-ctx.Done():
			s.leave(id, nil)
			return nil, ctx.Err()
		}
		if holder = s.next(id, h); holder == nil {
			s.leave(id, nil)
			return nil, ErrUploadSuperseded
		}
	}
	return h, nil
}

// tryTake takes an upload that nobody has, or returns nil.
func (s *sessions) tryTake(id string) *hold {
	h := &hold{released: make(chan struct{})}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byID[id] != nil {
		return nil
	}
	s.add(id, h)
	return h
}

// join makes h the newest of an upload, and its holder when there is none. It returns the holder.
func (s *sessions) join(id string, h *hold) *hold {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.add(id, h)
}

// add is join for who has locked.
func (s *sessions) add(id string, h *hold) *hold {
	if s.byID == nil {
		s.byID = make(map[string]*session)
	}
	if s.byID[id] == nil {
		s.byID[id] = &session{}
	}
	one := s.byID[id]
	one.newest = h
	one.users++
	if one.holder == nil {
		one.holder = h
	}
	return one.holder
}

// next makes h the holder when the upload is free, and returns the holder, or nil when h is not the newest any more.
func (s *sessions) next(id string, h *hold) *hold {
	s.mu.Lock()
	defer s.mu.Unlock()
	one := s.byID[id]
	if one.newest != h {
		return nil
	}
	if one.holder == nil {
		one.holder = h
	}
	return one.holder
}

// leave ends the use of an upload, by its holder or, with nil, by one that waited.
func (s *sessions) leave(id string, h *hold) {
	s.mu.Lock()
	defer s.mu.Unlock()
	one := s.byID[id]
	if h != nil {
		one.holder = nil
		close(h.released)
	}
	if one.users--; one.users == 0 {
		delete(s.byID, id)
	}
}

func (h *hold) interrupt() {
	if !h.superseded.Swap(true) && h.body != nil {
		_ = h.body.Close()
	}
}
