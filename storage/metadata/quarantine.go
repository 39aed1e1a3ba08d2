package metadata

import (
	"context"
	"fmt"

	"github.com/opencontainers/go-digest"
)

// ErrQuarantined says that a blob is there and its bytes are not, or are wrong. It is an ErrNotFound, since the content has to be
// pushed again.
var ErrQuarantined = fmt.Errorf("%w: its bytes are damaged", ErrNotFound)

// Quarantine hides a blob whose bytes under key are missing, short or wrong, and reports whether it did: it leaves a blob alone that
// has other bytes by now, or is quarantined already. Until CommitUpload brings the content again, or EndQuarantine is called, the blob
// is absent for all who ask for it, mount it, or put a new manifest that references it. Manifests that are there go on to hold it.
func (s *Store) Quarantine(ctx context.Context, d digest.Digest, key string) (done bool, err error) {
	return s.changeBlob(ctx, `UPDATE blobs SET quarantined_at = {now} WHERE digest = $1 AND key = $2 AND quarantined_at IS NULL`, d, key)
}

// EndQuarantine makes a blob visible again whose bytes under key proved to be right, and reports whether it did.
func (s *Store) EndQuarantine(ctx context.Context, d digest.Digest, key string) (done bool, err error) {
	return s.changeBlob(ctx, `UPDATE blobs SET quarantined_at = NULL WHERE digest = $1 AND key = $2 AND quarantined_at IS NOT NULL`, d, key)
}

func (s *Store) changeBlob(ctx context.Context, statement string, d digest.Digest, key string) (done bool, err error) {
	err = s.db.update(ctx, durable, func(ctx context.Context, t *tx) error {
		n, err := t.exec(ctx, statement, sqlDigest(d), key)
		done = n > 0
		return err
	})
	return done, err
}

// refuseQuarantined fails with ErrQuarantined when a blob is quarantined.
func refuseQuarantined(ctx context.Context, t *tx, d digest.Digest) error {
	quarantined, err := t.exists(ctx, `SELECT 1 FROM blobs WHERE digest = $1 AND quarantined_at IS NOT NULL`, sqlDigest(d))
	if err == nil && quarantined {
		err = ErrQuarantined
	}
	return err
}

// replaceDamaged buries the key of a quarantined blob, which is about to get another: as drop does, since a kept snapshot may name it.
func (s *Store) replaceDamaged(ctx context.Context, t *tx, d digest.Digest) error {
	_, err := t.exec(ctx, `
		INSERT INTO dead_keys (key, delete_after, died_at, stored_at)
		SELECT key, {now} + $2, {now}, stored_at FROM blobs WHERE digest = $1 AND quarantined_at IS NOT NULL`,
		sqlDigest(d), s.config.Grace.Milliseconds())
	return err
}
