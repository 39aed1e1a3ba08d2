package metadata

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// lookup is a question that many clients ask at once: one manifest of one repository, one blob, or the begin of a list, which whoever
// watches a registry asks for again and again. body is set when a manifest's bytes are wanted.
type lookup struct {
	repository, tag string
	digest          sqlDigest // when tag is empty
	body, blob      bool
	names           int // how many tags of the repository, or repositories where that is empty
}

// answer is what a lookup found. Its bytes and names belong to everybody: they are never changed.
type answer struct {
	manifest Manifest
	body     []byte
	blob     Blob
	names    []string
}

// size is about how many bytes an answer takes.
func (a answer) size() int64 {
	const header = 16 // of a string
	size := int64(len(a.body)) + 512
	for _, name := range a.names {
		size += int64(len(name)) + header
	}
	return size
}

// rememberedBytes bounds what is remembered, and rememberedNames those of it that are lists: of how many names is for clients to say.
const (
	rememberedBytes = 16 << 20
	rememberedNames = 2 << 20
)

// memory remembers answers until anything changes. It is for a database that nobody else writes to.
//
// That makes it exact: while a change is under way nothing is remembered and nothing recalled, and after it, before who made it
// hears of that, all is forgotten.
type memory struct {
	changing atomic.Int64 // how many changes are under way
	since    atomic.Pointer[remembered]
}

// remembered is what was asked since the last change.
type remembered struct {
	answers sync.Map // of answer by lookup
	bytes   atomic.Int64
	names   atomic.Int64 // bytes of lists
}

// room reports whether there is room for an answer, and takes it.
func (r *remembered) room(q lookup, a answer) bool {
	taken, most := &r.bytes, int64(rememberedBytes)
	if q.names > 0 {
		taken, most = &r.names, rememberedNames
	}
	size := a.size()
	if taken.Add(size) <= most {
		return true
	}
	taken.Add(-size)
	return false
}

// change makes a change.
func (m *memory) change(do func() error) error {
	m.changing.Add(1)
	defer func() {
		m.since.Store(&remembered{})
		m.changing.Add(-1)
	}()
	return do()
}

// recall returns what find does, or did since the last change.
func (m *memory) recall(q lookup, find func() (answer, error)) (answer, error) {
	if m.changing.Load() > 0 {
		return find()
	}
	since := m.since.Load() // after changing, of which a change lets go last
	if since == nil {
		return find()
	}
	if known, ok := since.answers.Load(q); ok {
		return known.(answer), nil
	}
	found, err := find()
	if err == nil && m.changing.Load() == 0 && m.since.Load() == since && since.room(q, found) {
		since.answers.Store(q, found)
	}
	return found, err
}

// sharing has those who ask the same at the same time share the answer. It is for a database that others write to: nobody gets an
// answer that was asked for before they came, so that they see all that was told to be done by then.
type sharing struct {
	mu    sync.Mutex
	asked map[lookup]*question
}

// question is one that is asked, and the next one for those who came after that.
type question struct {
	answered chan struct{} // closed when answer and err are set for good
	answer   answer
	err      error
	next     *question
}

func newQuestion() *question { return &question{answered: make(chan struct{}), err: ErrUnavailable} }

// ask returns what find finds when it is called after now.
func (s *sharing) ask(ctx context.Context, q lookup, find func(context.Context) (answer, error)) (answer, error) {
	s.mu.Lock()
	if s.asked == nil {
		s.asked = make(map[lookup]*question)
	}
	current := s.asked[q]
	switch {
	case current == nil: // nobody asks
		mine := newQuestion()
		s.asked[q] = mine
		s.mu.Unlock()
		s.answer(ctx, q, mine, find)
		return mine.answer, mine.err
	case current.next == nil: // the next question is this caller's
		mine := newQuestion()
		current.next = mine
		s.mu.Unlock()
		<-current.answered // which takes no longer than a statement may
		s.answer(ctx, q, mine, find)
		return mine.answer, mine.err
	}
	next := current.next
	s.mu.Unlock()
	select {
	case <-next.answered:
		return next.answer, next.err
	case <-ctx.Done():
		return answer{}, ctx.Err()
	}
}

// answer asks a question for all who wait for it, whatever becomes of ctx.
func (s *sharing) answer(ctx context.Context, q lookup, mine *question, find func(context.Context) (answer, error)) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), sharedTimeout)
	defer cancel()
	defer close(mine.answered)
	defer s.end(q, mine)
	mine.answer, mine.err = find(ctx)
}

// end lets those ask who wait for a question to be answered.
func (s *sharing) end(q lookup, mine *question) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if mine.next != nil {
		s.asked[q] = mine.next
	} else {
		delete(s.asked, q)
	}
}

// sharedTimeout bounds a question, repetitions included.
const sharedTimeout = time.Minute
