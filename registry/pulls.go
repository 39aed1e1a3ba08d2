package registry

import (
	"context"
	"sync"
	"time"

	"berth/storage/metadata"

	"github.com/opencontainers/go-digest"
)

// pullsEvery is how often pulls are written down, and pullsMost how many manifests of them are held until then: what comes above that is
// written down the next time that it is pulled.
const (
	pullsEvery = time.Minute
	pullsMost  = 100_000
)

// pulls remembers which manifests were pulled since it was last asked, so that a pull costs the database nothing.
type pulls struct {
	mu   sync.Mutex
	seen map[metadata.Pull]struct{}
}

func (p *pulls) note(repository string, d digest.Digest) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.seen == nil {
		p.seen = make(map[metadata.Pull]struct{})
	}
	if len(p.seen) < pullsMost {
		p.seen[metadata.Pull{Repository: repository, Digest: d}] = struct{}{}
	}
}

// take returns up to most, and forgets them.
func (p *pulls) take(most int) (taken []metadata.Pull) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for pull := range p.seen {
		if len(taken) == most {
			break
		}
		taken = append(taken, pull)
		delete(p.seen, pull)
	}
	return taken
}

// WritePulls writes down which manifests were pulled since it was last called. What it could not write it forgets: those manifests count as
// pulled when they are pulled again.
func (s *Service) WritePulls(ctx context.Context) error {
	const batch = 500
	for {
		taken := s.pulls.take(batch)
		if len(taken) == 0 {
			return nil
		}
		if err := s.facts.NotePulls(ctx, taken); err != nil {
			return explain(err, nil, "write down pulls")
		}
	}
}

// FollowPulls calls WritePulls every minute, and once more when ctx ends. Failures are told to fail.
func (s *Service) FollowPulls(ctx context.Context, fail func(error)) {
	ticker := time.NewTicker(pullsEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			if err := s.WritePulls(ctx); err != nil {
				fail(err)
			}
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			if err := s.WritePulls(last); err != nil {
				fail(err)
			}
			return
		}
	}
}
