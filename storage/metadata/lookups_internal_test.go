package metadata

import (
	"context"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
)

// TestMemory asks between, during and after changes.
func TestMemory(t *testing.T) {
	var m memory
	value, finds := int64(0), 0
	ask := func(want int64, wantFinds int) {
		t.Helper()
		got, err := m.recall(lookup{tag: "a"}, func() (answer, error) {
			finds++
			return answer{manifest: Manifest{Size: value}}, nil
		})
		if err != nil || got.manifest.Size != want || finds != wantFinds {
			t.Errorf("got %d, %v after %d finds, want %d after %d", got.manifest.Size, err, finds, want, wantFinds)
		}
	}
	set := func(v int64) func() error { return func() error { value = v; return nil } }
	ask(0, 1) // nothing changed yet, but what was before is not known
	_ = m.change(set(1))
	ask(1, 2)
	ask(1, 2)
	_ = m.change(func() error {
		ask(1, 3) // before it commits
		value = 2
		ask(2, 4) // while it did, and nobody was told
		return context.Canceled
	})
	ask(2, 5)
	ask(2, 5)
	// A change that began and ended while something was looked for.
	_, _ = m.recall(lookup{tag: "b"}, func() (answer, error) {
		return answer{}, m.change(set(3))
	})
	ask(3, 6)
	if _, ok := m.since.Load().answers.Load(lookup{tag: "b"}); ok {
		t.Error("what was found during a change is remembered")
	}
}

func TestMemoryIsBounded(t *testing.T) {
	var m memory
	_ = m.change(func() error { return nil })
	for i := range 100 {
		_, _ = m.recall(lookup{tag: string(rune(i))}, func() (answer, error) { return answer{body: make([]byte, 1<<20)}, nil })
	}
	if held := m.held(); held > rememberedBytes || held < rememberedBytes/2 {
		t.Errorf("%d bytes are remembered", held)
	}
	// Lists take nothing from the others, however many of them are asked for.
	_ = m.change(func() error { return nil })
	for i := range 200 {
		_, _ = m.recall(lookup{names: i + 1}, func() (answer, error) { return answer{names: []string{strings.Repeat("x", 100<<10)}}, nil })
	}
	if held := m.held(); held > rememberedNames || held < rememberedNames/2 {
		t.Errorf("%d bytes of lists are remembered", held)
	}
	_, _ = m.recall(lookup{tag: "a"}, func() (answer, error) { return answer{body: make([]byte, 8<<20)}, nil })
	if _, ok := m.since.Load().answers.Load(lookup{tag: "a"}); !ok {
		t.Error("a manifest is not remembered beside lists")
	}
}

// held is how many bytes are remembered.
func (m *memory) held() (held int64) {
	m.since.Load().answers.Range(func(_, a any) bool {
		held += a.(answer).size()
		return true
	})
	return held
}

// TestSharing has callers come while others wait for an answer.
func TestSharing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s sharing
		var all sync.WaitGroup
		finds, release := int64(0), make(chan struct{})
		ask := func(ctx context.Context, want int64, wantErr error) {
			all.Go(func() {
				got, err := s.ask(ctx, lookup{tag: "a"}, func(ctx context.Context) (answer, error) {
					finds++
					mine := answer{manifest: Manifest{Size: finds}}
					<-release
					return mine, ctx.Err()
				})
				if err != wantErr || got.manifest.Size != want {
					t.Errorf("got %d, %v, want %d, %v", got.manifest.Size, err, want, wantErr)
				}
			})
			synctest.Wait()
		}
		ask(t.Context(), 1, nil)
		ending, end := context.WithCancel(t.Context())
		ask(ending, 2, nil) // who asks for others asks on
		ask(t.Context(), 2, nil)
		ask(ending, 0, context.Canceled)
		end()
		synctest.Wait()
		release <- struct{}{}
		synctest.Wait()
		ask(t.Context(), 3, nil) // the second question was asked before it came
		release <- struct{}{}
		synctest.Wait()
		release <- struct{}{}
		all.Wait()
		if finds != 3 || len(s.asked) != 0 {
			t.Errorf("it was asked %d times, %d are left", finds, len(s.asked))
		}
	})
}
