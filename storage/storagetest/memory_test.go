package storagetest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"berth/storage"
)

// memory behaves as an object store with multipart uploads does: parts are replaced but never changed, a checkpoint names
// its parts, and an object is nowhere to be read before it is complete.
type memory struct {
	mu       sync.Mutex
	uploads  map[string]map[int][]byte // parts by key and number
	complete map[string][]byte
	made     time.Time
}

func newMemory() *memory {
	return &memory{uploads: map[string]map[int][]byte{}, complete: map[string][]byte{}, made: time.Now()}
}

// begin locks the backend for a call.
func (m *memory) begin(ctx context.Context, key string) (unlock func(), err error) {
	if err := storage.CheckKey(key); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	return m.mu.Unlock, nil
}

// join returns the bytes of a checkpoint and the number of its parts.
func (m *memory) join(c storage.Checkpoint) ([]byte, int, error) {
	parts := 0
	if len(c.State) > 0 {
		if err := json.Unmarshal(c.State, &parts); err != nil {
			return nil, 0, err
		}
	}
	upload, ok := m.uploads[c.Key]
	var all []byte
	for i := range parts {
		all = append(all, upload[i]...)
	}
	if !ok || int64(len(all)) < c.Size {
		return nil, 0, fmt.Errorf("%s: %w", c.Key, storage.ErrNotFound)
	}
	return all, parts, nil
}

func (m *memory) Write(ctx context.Context, from storage.Checkpoint) (storage.Writer, error) {
	unlock, err := m.begin(ctx, from.Key)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if from.Size == 0 {
		m.uploads[from.Key] = map[int][]byte{}
		return &memoryWriter{memory: m, key: from.Key}, nil
	}
	_, parts, err := m.join(from)
	if err != nil {
		return nil, err
	}
	return &memoryWriter{memory: m, key: from.Key, size: from.Size, parts: parts}, nil
}

func (m *memory) Complete(ctx context.Context, c storage.Checkpoint) error {
	unlock, err := m.begin(ctx, c.Key)
	if err != nil {
		return err
	}
	defer unlock()
	if _, ok := m.complete[c.Key]; ok {
		return nil
	}
	all, _, err := m.join(c)
	if err != nil {
		return err
	}
	m.complete[c.Key] = all
	delete(m.uploads, c.Key)
	return nil
}

func (m *memory) Open(ctx context.Context, key string, size int64) (io.ReadSeekCloser, error) {
	unlock, err := m.begin(ctx, key)
	if err != nil {
		return nil, err
	}
	defer unlock()
	content, ok := m.complete[key]
	if !ok {
		return nil, fmt.Errorf("%s: %w", key, storage.ErrNotFound)
	}
	if int64(len(content)) < size {
		return nil, fmt.Errorf("%s: %w", key, storage.ErrShort)
	}
	return struct {
		io.ReadSeeker
		io.Closer
	}{bytes.NewReader(content[:size]), io.NopCloser(nil)}, nil
}

func (m *memory) Delete(ctx context.Context, key string) error {
	unlock, err := m.begin(ctx, key)
	if err != nil {
		return err
	}
	defer unlock()
	delete(m.complete, key)
	delete(m.uploads, key)
	return nil
}

func (m *memory) List(ctx context.Context, prefix string, fn func(storage.Object) error) error {
	for _, o := range m.objects(prefix) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := fn(o); err != nil {
			return err
		}
	}
	return nil
}

func (m *memory) objects(prefix string) (objects []storage.Object) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for key, content := range m.complete {
		objects = append(objects, storage.Object{Key: key, Size: int64(len(content)), Modified: m.made})
	}
	for key := range m.uploads {
		objects = append(objects, storage.Object{Key: key, Modified: m.made})
	}
	matching := objects[:0]
	for _, o := range objects {
		if strings.HasPrefix(o.Key, prefix) {
			matching = append(matching, o)
		}
	}
	return matching
}

type memoryWriter struct {
	memory *memory
	key    string
	size   int64
	parts  int
	buffer []byte
}

func (w *memoryWriter) Write(p []byte) (int, error) {
	w.buffer = append(w.buffer, p...)
	return len(p), nil
}

func (w *memoryWriter) Checkpoint(ctx context.Context) (storage.Checkpoint, error) {
	unlock, err := w.memory.begin(ctx, w.key)
	if err != nil {
		return storage.Checkpoint{}, err
	}
	defer unlock()
	if len(w.buffer) > 0 {
		w.memory.uploads[w.key][w.parts] = w.buffer
		w.size += int64(len(w.buffer))
		w.parts++
		w.buffer = nil
	}
	state, err := json.Marshal(w.parts)
	return storage.Checkpoint{Key: w.key, Size: w.size, State: state}, err
}

func (w *memoryWriter) Close() error { return nil }
