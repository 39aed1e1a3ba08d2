package metadata_test

import (
	"context"
	"errors"
	"fmt"

	"berth/storage/metadata"

	"github.com/opencontainers/go-digest"
)

// quotaSteps pushes under a quota: what has room, what has none, and what has some again.
func quotaSteps(ctx context.Context, s *metadata.Store, round int) ([]step, error) {
	repository, ids := fmt.Sprint("quotas-", round), 0
	one, two := blob(10*round), blob(10*round+1)
	m := image("one", []string{"x"}, one)
	set := func(limit int64) func(context.Context, *metadata.Store) error {
		return func(ctx context.Context, s *metadata.Store) error {
			return s.SetQuotas(ctx, []metadata.Quota{{
				Repositories: []string{repository}, Match: func(name string) bool { return name == repository }, Bytes: limit, Tags: 1,
			}})
		}
	}
	pushed := func(d digest.Digest) func(context.Context, *metadata.Store) error {
		return func(ctx context.Context, s *metadata.Store) error {
			ids++ // ids are not used twice
			return push(ctx, s, repository, fmt.Sprintf("%s-%d", repository, ids), d)
		}
	}
	used := func(bytes, tags int64) func(context.Context, *metadata.Store) error {
		return func(ctx context.Context, s *metadata.Store) error {
			all, err := s.Quotas(ctx, repository)
			if err == nil && len(all) > 0 && (all[0].UsedBytes > bytes || all[0].UsedTags > tags) {
				err = fmt.Errorf("%+v is used, not %d and %d", all, bytes, tags)
			}
			return err
		}
	}
	return []step{
		{name: "set quota", call: set(10), check: used(20, 1)},
		{name: "push", call: pushed(one), check: blobExists(repository, one)},
		{name: "put", call: func(ctx context.Context, s *metadata.Store) error { return s.PutManifest(ctx, repository, m) }, check: manifestExists(repository, m, "x")},
		{name: "push too much", call: func(ctx context.Context, s *metadata.Store) error {
			err := pushed(two)(ctx, s)
			if _, refused := errors.AsType[*metadata.QuotaError](err); refused {
				return nil
			}
			return fmt.Errorf("not refused: %w", err)
		}, check: used(20, 1)},
		{name: "raise quota", call: set(20), check: used(20, 1)},
		{name: "mount", call: func(ctx context.Context, s *metadata.Store) error {
			return s.MountBlob(ctx, repository, "elsewhere", two)
		}, check: blobExists(repository, two)},
		{name: "fold", call: func(ctx context.Context, s *metadata.Store) error { return s.FoldQuotas(ctx) }, check: used(20, 1)},
	}, push(ctx, s, "elsewhere", "held-"+repository, two)
}
