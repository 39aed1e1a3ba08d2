package metadata

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"time"

	"github.com/opencontainers/go-digest"
)

const (
	// finishedUploadStays is how long a repeated PUT finds the session that its first try finished.
	finishedUploadStays = time.Hour
	// lateWriter is how long a claim that was superseded may go on to write: the last requests that it sent to the blob store.
	lateWriter = time.Hour
)

// Upload is an upload session.
type Upload struct {
	ID         string
	Repository string
	// Epoch tells claims apart: only the newest claim's results are recorded.
	Epoch int64
	// Key is where the bytes are; empty for a finished session, and for one that writes none because it has Pinned.
	Key string
	// Spare is a key under which nothing was ever written, for a claim that can't append to what is under Key; empty where there
	// is nothing to append to, and without Config.WholeObjects. A claim that uses it makes it its Key, and Left of what was.
	Spare string
	// Left is a key that the claim gave up.
	Left string
	// Size and State are the last checkpoint of the bytes, HashState the hash of so many bytes.
	Size      int64
	State     []byte
	Algorithm digest.Algorithm
	HashState []byte
	// Content are all bytes up to Size when they are few and to be kept here, in place of the blob store, as a small object under Key. Only
	// KeepUpload returns it.
	Content []byte
	// Outgrown says that there is a small object under Key, and that the blob store has all bytes now: it is removed.
	Outgrown bool
	// Config is what the bytes so far are as an image config, when that is known.
	Config *ImageConfig
	// Pinned is a blob that the upload declared to be and that is held for it meanwhile.
	Pinned digest.Digest
	// Committed is the digest of the blob that a finished session became.
	Committed digest.Digest
	// Unclaimed has CommitUpload take the session as Upload returned it: it fails when anything was recorded since.
	Unclaimed bool
}

// Fresh reports whether the session has a key under which nobody has claimed to write yet.
func (u Upload) Fresh() bool { return u.Epoch == 1 && u.Size == 0 && u.Key != "" && u.Committed == "" }

// StartUpload records a new session in a repository, made if missing. With a declared digest that is already the digest
// of a blob, and that is not quarantined, that blob is pinned and no key is allocated. Each call needs a new id, also one that
// repeats a failed call.
func (s *Store) StartUpload(ctx context.Context, id, repository string, algorithm digest.Algorithm, declared digest.Digest) (u Upload, err error) {
	if err := s.openKeys(ctx); err != nil {
		return u, err
	}
	if declared == "" {
		if u, err = s.startUpload(ctx, id, repository, algorithm); err != ErrNotFound {
			return u, err
		}
	}
	err = s.db.update(ctx, apart, func(ctx context.Context, t *tx) error {
		u = Upload{ID: id, Repository: repository, Algorithm: algorithm, Epoch: 1}
		repositoryID, err := s.makeRepository(ctx, t, repository)
		if err != nil {
			return err
		}
		if u.Pinned, err = held(ctx, t, declared); err != nil {
			return err
		}
		if u.Pinned == "" {
			u.Key = s.keys.next()
		}
		_, err = t.exec(ctx, `
			INSERT INTO uploads (id, repository, epoch, key, size, algorithm, pinned_digest, started_at, expires_at)
			VALUES ($1, $2, $3, $4, 0, $5, $6, {now}, {now} + $7)`,
			id, repositoryID, u.Epoch, nullable(u.Key), string(algorithm), sqlDigest(u.Pinned), s.config.UploadExpiry.Milliseconds())
		return err
	})
	return u, err
}

// startUpload records a new session that declares nothing. It fails with ErrNotFound when there is no such repository yet.
func (s *Store) startUpload(ctx context.Context, id, repository string, algorithm digest.Algorithm) (u Upload, err error) {
	err = s.db.updateOne(ctx, func(ctx context.Context, t *tx) error {
		u = Upload{ID: id, Repository: repository, Algorithm: algorithm, Epoch: 1, Key: s.keys.next()}
		n, err := t.exec(ctx, `
			INSERT INTO uploads (id, repository, epoch, key, size, algorithm, started_at, expires_at)
			SELECT $1, r.id, $3, $4, 0, $5, {now}, {now} + $6 FROM repositories r WHERE r.name = $2`,
			id, repository, u.Epoch, u.Key, string(algorithm), s.config.UploadExpiry.Milliseconds())
		if err == nil && n == 0 {
			err = ErrNotFound
		}
		return err
	})
	return u, err
}

// held returns d when it is the digest of a blob that is not quarantined, else nothing.
func held(ctx context.Context, t *tx, d digest.Digest) (digest.Digest, error) {
	if d == "" {
		return "", nil
	}
	known, err := t.exists(ctx, `SELECT 1 FROM blobs WHERE digest = $1 AND quarantined_at IS NULL`, sqlDigest(d))
	if !known {
		d = ""
	}
	return d, err
}

// Upload returns a session, finished ones too. It fails with ErrNotFound.
func (s *Store) Upload(ctx context.Context, repository, id string) (u Upload, err error) {
	err = s.db.view(ctx, func(ctx context.Context, t *tx) error {
		u, err = getUpload(ctx, t, repository, id)
		return err
	})
	return u, err
}

// ClaimUpload makes the caller the owner of a session: no earlier claim can record a result any more. When declared is
// the digest of a blob and the session has no bytes yet, the blob is pinned until the next claim: the caller may discard
// what it is sent. A session that has neither a pinned blob nor a key gets a key. A finished session is returned as it
// is. It fails with ErrNotFound.
func (s *Store) ClaimUpload(ctx context.Context, repository, id string, declared digest.Digest) (u Upload, err error) {
	if err := s.openKeys(ctx); err != nil {
		return u, err
	}
	if u, err = s.claimNext(ctx, repository, id, declared); err != ErrNotFound {
		return u, err
	}
	u, err = s.claim(ctx, apart, repository, id, declared)
	if err == errUnpins {
		u, err = s.claim(ctx, relaxed, repository, id, declared)
	}
	return u, err
}

// claimNext is ClaimUpload as a push without trouble has it, in one statement: the session is open and pins no blob, the declared one is
// not there, and no claim has to be kept from keys that it may still write to. Of all others it returns ErrNotFound.
func (s *Store) claimNext(ctx context.Context, repository, id string, declared digest.Digest) (u Upload, err error) {
	err = s.db.updateOne(ctx, func(ctx context.Context, t *tx) error {
		u = Upload{ID: id, Repository: repository}
		next := ""
		if s.config.WholeObjects {
			next = s.keys.next()
		}
		var spare sql.NullString
		var config []byte
		err := t.row(ctx, `
			UPDATE uploads SET epoch = epoch + 1, expires_at = {now} + $3, spare = CASE WHEN size > 0 THEN $4 ELSE spare END
			WHERE id = $1 AND repository = (SELECT r.id FROM repositories r WHERE r.name = $2)
			  AND committed IS NULL AND pinned_digest IS NULL AND key IS NOT NULL AND spare IS NULL
			  AND (size > 0 OR NOT EXISTS (SELECT 1 FROM blobs b WHERE b.digest = $5 AND b.quarantined_at IS NULL))
			  AND (size > 0 OR epoch = 1 OR NOT $6)
			RETURNING epoch, key, spare, size, state, algorithm, hash_state, config`,
			id, repository, s.config.UploadExpiry.Milliseconds(), nullable(next), sqlDigest(declared), s.config.WholeObjects).Scan(
			&u.Epoch, &u.Key, &spare, &u.Size, &u.State, &u.Algorithm, &u.HashState, &config)
		if err != nil {
			return found(err)
		}
		u.Spare = spare.String
		u.Config, err = decodeConfig(config)
		return err
	})
	return u, err
}

// errUnpins says that a transaction apart is not enough: whether a blob is used by anybody is for one that is kept from others.
var errUnpins = errors.New("the claim lets go of a blob")

func (s *Store) claim(ctx context.Context, d durability, repository, id string, declared digest.Digest) (u Upload, err error) {
	err = s.db.update(ctx, d, func(ctx context.Context, t *tx) error {
		if u, err = getUpload(ctx, t, repository, id); err != nil || u.Committed != "" {
			return err
		}
		pinned := u.Pinned
		u.Pinned = ""
		if u.Size == 0 {
			if u.Pinned, err = held(ctx, t, declared); err != nil {
				return err
			}
		}
		if s.config.WholeObjects {
			if err := s.renewKeys(ctx, t, &u); err != nil {
				return err
			}
		}
		if u.Pinned == "" && u.Key == "" {
			u.Key = s.keys.next()
		}
		u.Epoch++
		_, err = t.exec(ctx, `
			UPDATE uploads SET epoch = $2, key = $3, pinned_digest = $4, expires_at = {now} + $5, spare = $6 WHERE id = $1`,
			id, u.Epoch, nullable(u.Key), sqlDigest(u.Pinned), s.config.UploadExpiry.Milliseconds(), nullable(u.Spare))
		switch {
		case err != nil || pinned == "" || pinned == u.Pinned:
			return err
		case d == apart:
			return errUnpins
		}
		return s.dropUnused(ctx, t, pinned)
	})
	return u, err
}

// renewKeys gives a claim keys that no earlier claim can write under any more: nothing tells a late writer in another process to
// stop. Its keys die once it has surely ended.
func (s *Store) renewKeys(ctx context.Context, t *tx, u *Upload) error {
	if u.Spare != "" {
		if err := bury(ctx, t, u.Spare, lateWriter); err != nil {
			return err
		}
		u.Spare = ""
	}
	switch {
	case u.Size > 0:
		u.Spare = s.keys.next()
	case u.Key != "" && u.Epoch > 1: // of the first epoch nobody wrote
		if err := bury(ctx, t, u.Key, lateWriter); err != nil {
			return err
		}
		u.Key = ""
	}
	return nil
}

// KeepUpload records a session of which only the caller knew, with the Size, Content and HashState that it has so far; it gets its Key. With
// a declared digest it is like StartUpload as long as Size is zero. What an earlier call recorded of it whose answer was lost is replaced. It
// fails with ErrSuperseded when others know the session.
func (s *Store) KeepUpload(ctx context.Context, u Upload, declared digest.Digest) (kept Upload, err error) {
	if err := s.openKeys(ctx); err != nil {
		return kept, err
	}
	err = s.db.update(ctx, relaxed, func(ctx context.Context, t *tx) error {
		switch before, err := getUpload(ctx, t, u.Repository, u.ID); {
		case err == ErrNotFound:
		case err != nil:
			return err
		case before.Epoch > 1 || before.Committed != "":
			return ErrSuperseded
		default:
			if err := s.endUpload(ctx, t, u.ID, []string{before.Key}, before.Pinned); err != nil {
				return err
			}
		}
		kept = u
		kept.Epoch = 1
		repositoryID, err := s.makeRepository(ctx, t, u.Repository)
		if err != nil {
			return err
		}
		if u.Size == 0 {
			if kept.Pinned, err = held(ctx, t, declared); err != nil {
				return err
			}
		}
		if kept.Pinned == "" {
			kept.Key = s.keys.next()
		}
		_, err = t.exec(ctx, `
			INSERT INTO uploads (id, repository, epoch, key, size, algorithm, hash_state, pinned_digest, started_at, expires_at)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, {now}, {now} + $9)`,
			u.ID, repositoryID, kept.Epoch, nullable(kept.Key), u.Size, string(u.Algorithm), u.HashState, sqlDigest(kept.Pinned),
			s.config.UploadExpiry.Milliseconds())
		if err != nil || u.Size == 0 {
			return err
		}
		return keepSmall(ctx, t, kept)
	})
	return kept, err
}

// CheckpointUpload records how far the bytes of a claimed session are durable: Key, Size, State, HashState and Config of u, and its
// Content. Left dies. It fails with ErrSuperseded when the claim is not the newest any more.
func (s *Store) CheckpointUpload(ctx context.Context, u Upload) error {
	config, err := encodeConfig(u.Config)
	if err != nil {
		return err
	}
	update := s.db.updateOne
	if u.Left != "" || u.changesSmall() { // which are recorded with it
		update = func(ctx context.Context, fn func(context.Context, *tx) error) error {
			return s.db.update(ctx, apart, fn)
		}
	}
	return update(ctx, func(ctx context.Context, t *tx) error {
		n, err := t.exec(ctx, `
			UPDATE uploads SET size = $3, state = $4, hash_state = $5, config = $6, expires_at = {now} + $7, key = $8, spare = $9
			WHERE id = $1 AND epoch = $2 AND committed IS NULL`,
			u.ID, u.Epoch, u.Size, u.State, u.HashState, config, s.config.UploadExpiry.Milliseconds(), nullable(u.Key), nullable(u.Spare))
		if err == nil && n == 0 {
			return ErrSuperseded
		}
		if err == nil {
			err = keepSmall(ctx, t, u)
		}
		if err != nil || u.Left == "" {
			return err
		}
		return bury(ctx, t, u.Left, lateWriter)
	})
}

// CancelUpload ends a session: its key dies. It fails with ErrNotFound, also for a finished session.
func (s *Store) CancelUpload(ctx context.Context, repository, id string) error {
	return s.db.update(ctx, durable, func(ctx context.Context, t *tx) error {
		u, err := getUpload(ctx, t, repository, id)
		if err != nil {
			return err
		}
		if u.Committed != "" {
			return ErrNotFound
		}
		return s.endUpload(ctx, t, id, []string{u.Key, u.Spare}, u.Pinned)
	})
}

// RenewUpload begins the time of a claimed session anew, for chunks that take long. It fails with ErrSuperseded when the
// claim is not the newest any more.
func (s *Store) RenewUpload(ctx context.Context, u Upload) error {
	return s.db.updateOne(ctx, func(ctx context.Context, t *tx) error {
		n, err := t.exec(ctx, `UPDATE uploads SET expires_at = {now} + $3 WHERE id = $1 AND epoch = $2 AND committed IS NULL`,
			u.ID, u.Epoch, s.config.UploadExpiry.Milliseconds())
		if err == nil && n == 0 {
			return ErrSuperseded
		}
		return err
	})
}

// ExpireUploads ends up to limit sessions whose time is over, or only finished ones, and returns how many it ended.
func (s *Store) ExpireUploads(ctx context.Context, finishedOnly bool, limit int) (ended int, err error) {
	type expired struct {
		id     string
		keys   []string
		pinned sqlDigest
	}
	scan := func(row scanner) (e expired, err error) {
		var key, spare sql.NullString
		err = row.Scan(&e.id, &key, &spare, &e.pinned)
		e.keys = []string{key.String, spare.String}
		return e, err
	}
	err = s.db.update(ctx, durable, func(ctx context.Context, t *tx) error {
		ended = 0
		all, err := collect(ctx, t, scan,
			`SELECT id, key, spare, pinned_digest FROM uploads
			WHERE expires_at <= {now} AND (committed IS NOT NULL OR NOT $2) ORDER BY expires_at LIMIT $1 {skip locked}`, limit, finishedOnly)
		if err != nil {
			return err
		}
		for _, e := range all {
			if err := s.endUpload(ctx, t, e.id, e.keys, digest.Digest(e.pinned)); err != nil {
				return err
			}
			ended++
		}
		return nil
	})
	return ended, err
}

// endUpload removes a session's row and lets go of what it held. An empty key is none.
func (s *Store) endUpload(ctx context.Context, t *tx, id string, keys []string, pinned digest.Digest) error {
	if _, err := t.exec(ctx, `DELETE FROM uploads WHERE id = $1`, id); err != nil {
		return err
	}
	if pinned != "" {
		if err := s.dropUnused(ctx, t, pinned); err != nil {
			return err
		}
	}
	var wait time.Duration
	if s.config.WholeObjects {
		wait = lateWriter
	}
	for _, key := range keys {
		if key == "" {
			continue
		}
		if err := bury(ctx, t, key, wait); err != nil {
			return err
		}
	}
	return nil
}

func getUpload(ctx context.Context, t *tx, repository, id string) (Upload, error) {
	u := Upload{ID: id, Repository: repository}
	var key, spare sql.NullString
	var config []byte
	var pinned, committed sqlDigest
	err := t.row(ctx, `
		SELECT u.epoch, u.key, u.spare, u.size, u.state, u.algorithm, u.hash_state, u.config, u.pinned_digest, u.committed
		FROM uploads u JOIN repositories r ON r.id = u.repository
		WHERE u.id = $1 AND r.name = $2`, id, repository).Scan(
		&u.Epoch, &key, &spare, &u.Size, &u.State, &u.Algorithm, &u.HashState, &config, &pinned, &committed)
	if err != nil {
		return u, found(err)
	}
	u.Key, u.Spare, u.Pinned, u.Committed = key.String, spare.String, digest.Digest(pinned), digest.Digest(committed)
	u.Config, err = decodeConfig(config)
	return u, err
}

func encodeConfig(c *ImageConfig) ([]byte, error) {
	if c == nil {
		return nil, nil
	}
	return json.Marshal(c)
}

func decodeConfig(raw []byte) (*ImageConfig, error) {
	if raw == nil {
		return nil, nil
	}
	c := new(ImageConfig)
	return c, json.Unmarshal(raw, c)
}
