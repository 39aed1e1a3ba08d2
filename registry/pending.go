package registry

import (
	"cmp"
	"context"
	"encoding"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"berth/storage/metadata"

	"github.com/opencontainers/go-digest"
)

const (
	// pendingMost is how many uploads are pending at most, and pendingBytes how many bytes they have together.
	pendingMost  = 10_000
	pendingBytes = 16 << 20
	// pendingFor is how long an upload stays pending after it began or grew.
	pendingFor = time.Second
	// journalBytes is how large the journal gets, beside twice what is pending, before what ended is dropped from it.
	journalBytes = 1 << 20
	// journalIdle is how large it may stay when nothing is pending: all of it would be read at the next start.
	journalIdle = 64 << 10
)

// Journal keeps records beyond the end of the process, as storage/journal does.
type Journal interface {
	// Append adds a record, or leaves all as it was.
	Append(record []byte) error
	// Replace has the journal hold these records and no others, or leaves all as it was.
	Replace(records [][]byte) error
	// Size is how many bytes there are.
	Size() int64
}

// pending are the uploads that no transaction has recorded yet: new ones with few bytes. A small push then needs one transaction, its last;
// those that begin the upload and record its chunk would cost more than all else. They are in a journal, so that the end of the process takes
// no upload with it, and one that is not finished at once is recorded as all others are.
type pending struct {
	journal Journal // nil has nothing be pending

	mu    sync.Mutex
	byKey map[string]pendingUpload // by sessionKey
	bytes int64
	// compactAt is a size of the journal below which what ended is not dropped again.
	compactAt int64
}

type pendingUpload struct {
	facts   metadata.Upload // without Key, as nothing was written
	touched time.Time
}

// put makes an upload pending as it is, and reports whether it could.
func (p *pending) put(u metadata.Upload) bool {
	if p.journal == nil {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	key := sessionKey(u.Repository, u.ID)
	known, ok := p.byKey[key]
	grown := int64(len(u.Content) - len(known.facts.Content))
	if !ok && len(p.byKey) >= pendingMost || p.bytes+grown > pendingBytes || p.journal.Append(encodePending(u)) != nil {
		return false
	}
	p.set(key, u)
	if p.journal.Size() > max(p.compactAt, journalBytes+2*p.bytes) {
		_ = p.compact()
		p.compactAt = p.journal.Size() + journalBytes // whether or not that worked
	}
	return true
}

func (p *pending) set(key string, u metadata.Upload) {
	if p.byKey == nil {
		p.byKey = make(map[string]pendingUpload)
	}
	p.bytes += int64(len(u.Content) - len(p.byKey[key].facts.Content))
	p.byKey[key] = pendingUpload{u, time.Now()}
}

// compact drops from the journal what ended.
func (p *pending) compact() error {
	records := make([][]byte, 0, len(p.byKey))
	for _, u := range p.byKey {
		records = append(records, encodePending(u.facts))
	}
	return p.journal.Replace(records)
}

func (p *pending) get(repository, id string) (metadata.Upload, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	u, ok := p.byKey[sessionKey(repository, id)]
	return u.facts, ok
}

// remove ends an upload that was cancelled or is recorded elsewhere, and reports whether there was such a one.
func (p *pending) remove(repository, id string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := sessionKey(repository, id)
	u, ok := p.byKey[key]
	if !ok {
		return false
	}
	delete(p.byKey, key)
	p.bytes -= int64(len(u.facts.Content))
	// Without this record, it would be there again after a crash, unless it is recorded elsewhere, and then expire.
	_ = p.journal.Append(encodeEnd(repository, id))
	return true
}

// since returns those that were put so long ago.
func (p *pending) since(idle time.Duration) (all []metadata.Upload) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, u := range p.byKey {
		if time.Since(u.touched) >= idle {
			all = append(all, u.facts)
		}
	}
	return all
}

const (
	pendingRecord = 1 // an upload, with all of its bytes
	endRecord     = 2 // that it is pending no more
)

// encodePending is repository, id and algorithm with their lengths, and then the bytes.
func encodePending(u metadata.Upload) []byte {
	record := make([]byte, 0, 32+len(u.Repository)+len(u.ID)+len(u.Algorithm)+len(u.Content))
	return append(appendStrings(append(record, pendingRecord), u.Repository, u.ID, string(u.Algorithm)), u.Content...)
}

func encodeEnd(repository, id string) []byte {
	return appendStrings([]byte{endRecord}, repository, id)
}

func appendStrings(to []byte, all ...string) []byte {
	for _, s := range all {
		to = append(binary.AppendUvarint(to, uint64(len(s))), s...)
	}
	return to
}

var errRecord = errors.New("a record of the journal of uploads is not understood")

// decodePending returns the upload that a record is about, and whether it ended.
func decodePending(record []byte) (u metadata.Upload, ended bool, err error) {
	if len(record) == 0 || record[0] != pendingRecord && record[0] != endRecord {
		return u, false, errRecord
	}
	ended, record = record[0] == endRecord, record[1:]
	algorithm := ""
	for _, into := range []*string{&u.Repository, &u.ID, &algorithm} {
		if into == &algorithm && ended {
			break
		}
		n, prefix := binary.Uvarint(record)
		if prefix <= 0 || n > uint64(len(record)-prefix) {
			return u, false, errRecord
		}
		*into, record = string(record[prefix:prefix+int(n)]), record[prefix+int(n):]
	}
	u.Algorithm = digest.Algorithm(algorithm)
	if ended {
		return u, true, nil
	}
	if !u.Algorithm.Available() {
		return u, false, errRecord
	}
	u.Size, u.Content = int64(len(record)), append([]byte{}, record...)
	return u, false, nil
}

// RecoverUploads has the uploads be pending again that were when the process before this one ended, by the records of its journal. It has to
// be called before any other method.
func (s *Service) RecoverUploads(ctx context.Context, records [][]byte) error {
	if s.pending.journal == nil {
		return nil
	}
	left := make(map[string]metadata.Upload)
	for _, record := range records {
		u, ended, err := decodePending(record)
		if err != nil { // another version wrote it
			s.log.Warn("a client has to begin an upload anew", "error", err)
			continue
		}
		key := sessionKey(u.Repository, u.ID)
		if left[key] = u; ended {
			delete(left, key)
		}
	}
	for key, u := range left {
		_, err := s.facts.Upload(ctx, u.Repository, u.ID)
		switch {
		case errors.Is(err, metadata.ErrNotFound):
			s.pending.set(key, u)
		case err != nil:
			return explain(err, nil, "recover upload %s", u.ID)
		}
	}
	if err := s.pending.compact(); err != nil {
		s.log.Warn("the journal of uploads could not be made smaller", "error", err)
	}
	return nil
}

// tidy makes the journal small when nothing is pending.
func (p *pending) tidy() {
	if p.journal == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.byKey) == 0 && p.journal.Size() > journalIdle {
		_ = p.compact() // or the next time
	}
}

// KeepUploads records the pending uploads that began or grew so long ago.
func (s *Service) KeepUploads(ctx context.Context, idle time.Duration) error {
	var first error
	failed := 0
	for _, u := range s.pending.since(idle) {
		if err := s.keepIdle(ctx, u.Repository, u.ID); err != nil {
			failed++
			first = cmp.Or(first, explain(err, nil, "keep upload %s", u.ID))
		}
	}
	s.pending.tidy()
	if failed > 1 {
		return fmt.Errorf("%w (and %d others)", first, failed-1)
	}
	return first
}

func (s *Service) keepIdle(ctx context.Context, repository, id string) error {
	h := s.sessions.tryTake(sessionKey(repository, id))
	if h == nil { // a request is about it now
		return nil
	}
	defer s.sessions.leave(sessionKey(repository, id), h)
	u, ok := s.pending.get(repository, id)
	if !ok {
		return nil
	}
	_, err := s.keep(ctx, u, "")
	if errors.Is(err, metadata.ErrSuperseded) { // it was committed, though who did so heard of an error
		s.pending.remove(repository, id)
		return nil
	}
	return err
}

// keep records a pending upload, which then is one like all others. With a declared digest that is held, it needs no bytes any more.
func (s *Service) keep(ctx context.Context, u metadata.Upload, declared digest.Digest) (metadata.Upload, error) {
	u.Content = u.Content[:u.Size]
	if u.Size > 0 {
		sum := u.Algorithm.Hash()
		sum.Write(u.Content)
		var err error
		if u.HashState, err = sum.(encoding.BinaryMarshaler).MarshalBinary(); err != nil {
			return u, fmt.Errorf("keep upload %s: %w", u.ID, err)
		}
	}
	kept, err := s.facts.KeepUpload(ctx, u, declared)
	if err == nil {
		s.pending.remove(u.Repository, u.ID)
	}
	return kept, err
}

// FollowUploads calls KeepUploads for those that are not finished at once, until ctx ends. Failures are told to fail.
func (s *Service) FollowUploads(ctx context.Context, fail func(error)) {
	ticker := time.NewTicker(pendingFor)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			if err := s.KeepUploads(ctx, pendingFor); err != nil && ctx.Err() == nil {
				fail(err)
			}
		case <-ctx.Done():
			return
		}
	}
}
