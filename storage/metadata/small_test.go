package metadata_test

import (
	"bytes"
	"context"
	"fmt"

	"berth/storage/metadata"

	"github.com/opencontainers/go-digest"
)

// smallSteps push what is kept here: bit by bit and at once.
func smallSteps(ctx context.Context, s *metadata.Store, round int) ([]step, error) {
	repository, chunked, whole := fmt.Sprint("small-", round), blob(1_000_000+2*round), blob(1_000_001+2*round) // which others don't push
	u := metadata.Upload{ID: repository + "-chunked", Repository: repository, Algorithm: digest.SHA256, Size: 2, Content: []byte("ab")}
	at := metadata.Upload{ID: repository + "-whole", Repository: repository, Algorithm: digest.SHA256, Size: 5, Content: []byte("whole")}
	gone := metadata.Upload{ID: repository + "-gone", Repository: repository, Algorithm: digest.SHA256, Size: 4, Content: []byte("gone")}
	return []step{
		{name: "keep upload", call: func(ctx context.Context, s *metadata.Store) error {
			kept, err := s.KeepUpload(ctx, u, "")
			if err == nil {
				u = kept
			}
			return err
		}, check: uploadExists(&u)},
		{name: "checkpoint", call: func(ctx context.Context, s *metadata.Store) error {
			u.Size, u.Content = 3, []byte("abc")
			return s.CheckpointUpload(ctx, u)
		}, check: uploadExists(&u)},
		{name: "commit", call: func(ctx context.Context, s *metadata.Store) error {
			u.Content = nil
			return s.CommitUpload(ctx, u, chunked)
		}, repeated: metadata.ErrSuperseded, check: smallExists(repository, chunked, "abc")},
		{name: "whole", call: func(ctx context.Context, s *metadata.Store) error {
			return s.CommitWhole(ctx, at, whole)
		}, check: smallExists(repository, whole, "whole")},
		{name: "delete small object", call: func(ctx context.Context, s *metadata.Store) error {
			kept, err := s.KeepUpload(ctx, gone, "")
			if err != nil {
				return err
			}
			gone = kept
			return s.DeleteSmallObject(ctx, kept.Key)
		}, check: func(ctx context.Context, s *metadata.Store) error {
			_, ok, err := s.SmallObject(ctx, gone.Key)
			if ok {
				err = fmt.Errorf("%s is there", gone.Key)
			}
			return err
		}},
	}, nil
}

func smallExists(repository string, d digest.Digest, want string) func(context.Context, *metadata.Store) error {
	return func(ctx context.Context, s *metadata.Store) error {
		b, err := s.Blob(ctx, repository, d)
		if err != nil {
			return err
		}
		content, ok, err := s.SmallObject(ctx, b.Key)
		if err == nil && (!ok || !bytes.Equal(content, []byte(want))) {
			err = fmt.Errorf("%q, %t is kept of %s", content, ok, d)
		}
		return err
	}
}
