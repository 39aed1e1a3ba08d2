package backup

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"berth/storage"
	"berth/storage/metadata"

	"github.com/opencontainers/go-digest"
)

// page is how many blobs are asked for at once.
const page = 200

// Reader reads a file, once from its begin to its end: NewReader, Database, Keys, Restore. It believes nothing that it did not check, and
// takes no entry but the one that has to come next. What it reads is good when Restore has returned nil, and of no use else.
type Reader struct {
	Manifest Manifest
	// Progress, when it is set, is called with how many bytes of Manifest.Size() were read.
	Progress func(done int64)

	tar  *tar.Reader
	sum  string // SHA-256 of the manifest's bytes
	done int64
	// written are the keys of the blob store that were written.
	written []string
}

// NewReader reads what a file says about itself.
func NewReader(r io.Reader) (*Reader, error) {
	in := &Reader{tar: tar.NewReader(r)}
	header, err := in.tar.Next()
	if err != nil || header.Typeflag != tar.TypeReg || header.Name != manifestEntry || header.Size > maxManifest {
		return nil, errors.Join(errors.New("this is no backup that registry backup --to wrote"), err)
	}
	data, err := io.ReadAll(checked{in.tar})
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(data)
	in.sum = hex.EncodeToString(sum[:])
	in.Manifest, err = parseManifest(data)
	return in, err
}

// checked reads what can only be damaged when it can't be read.
type checked struct{ io.Reader }

func (c checked) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	if err != nil && err != io.EOF && !errors.Is(err, ErrDamaged) {
		err = damagedf("%w", err)
	}
	return n, err
}

// next goes on to an entry, which has to be the next one. Its bytes count as progress.
func (in *Reader) next(name string, size int64) (io.Reader, fs.FileMode, error) {
	header, err := in.tar.Next()
	switch {
	case err == io.EOF:
		return nil, 0, damagedf("it ends before %s", name)
	case err != nil:
		return nil, 0, damagedf("before %s: %w", name, err)
	case header.Typeflag != tar.TypeReg || header.Name != name:
		return nil, 0, damagedf("there is %.200q where %s should be", header.Name, name)
	case header.Size != size:
		return nil, 0, damagedf("%s has %d bytes, not %d", name, header.Size, size)
	}
	return checked{io.TeeReader(in.tar, counter{in})}, fs.FileMode(header.Mode).Perm(), nil
}

// counter counts what is read.
type counter struct{ in *Reader }

func (c counter) Write(p []byte) (int, error) {
	c.in.done += int64(len(p))
	if c.in.Progress != nil {
		c.in.Progress(c.in.done)
	}
	return len(p), nil
}

// Database writes the database to a new file, and checks that it is whole.
func (in *Reader) Database(ctx context.Context, path string) error {
	if err := in.database(ctx, path); err != nil {
		return err
	}
	if err := metadata.CheckSnapshot(ctx, path); err != nil {
		return fmt.Errorf("the database of the backup: %w", err)
	}
	return nil
}

func (in *Reader) database(ctx context.Context, path string) (err error) {
	d := in.Manifest.Database
	entry, _, err := in.next(databaseEntry, d.Size)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := decompress(ctx, f, entry, d); err != nil {
		return err
	}
	return f.Sync()
}

// decompress writes no more than the manifest says, however much the entry would become.
func decompress(ctx context.Context, to io.Writer, entry io.Reader, d Database) error {
	sum := sha256.New()
	entry = io.TeeReader(entry, sum)
	z, err := gzip.NewReader(entry)
	if err != nil {
		return damagedf("%s: %w", databaseEntry, err)
	}
	n, err := io.Copy(to, io.LimitReader(reader{ctx, checked{z}}, d.Uncompressed+1))
	if err != nil {
		return fmt.Errorf("%s: %w", databaseEntry, err)
	}
	if _, err := io.Copy(io.Discard, entry); err != nil { // nothing, in a file that is whole
		return err
	}
	if n != d.Uncompressed || hex.EncodeToString(sum.Sum(nil)) != d.SHA256 {
		return damagedf("%s is not what its checksum says", databaseEntry)
	}
	return nil
}

// Keys returns the keys.
func (in *Reader) Keys() (keys []Key, err error) {
	for _, part := range in.Manifest.Keys {
		entry, mode, err := in.next(part.Name, part.Size)
		if err != nil {
			return nil, err
		}
		data, err := io.ReadAll(entry)
		if err != nil {
			return nil, err
		}
		if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != part.SHA256 {
			return nil, damagedf("%s is not what its checksum says", part.Name)
		}
		keys = append(keys, Key{strings.TrimPrefix(part.Name, keyEntries), mode, data})
	}
	return keys, nil
}

// Restore stores the blobs, if the file has them, under the keys that facts have for them, which are those of its database. Bytes that are
// there already stay as they are: a blob whose key other bytes are under gets another key. An error says that the file is not whole, or
// that the blobs could not be stored; Discard then removes what was.
func (in *Reader) Restore(ctx context.Context, facts *metadata.Store, blobs storage.Blobs) error {
	last := digest.Digest("")
	for more := in.Manifest.Blobs != nil; more; {
		some, err := facts.Blobs(ctx, last, page)
		if err != nil {
			return err
		}
		for _, b := range some {
			last = b.Digest
			if b.Inline {
				continue
			}
			if err := in.blob(ctx, facts, blobs, b); err != nil {
				return fmt.Errorf("restore blob %s: %w", b.Digest, err)
			}
		}
		more = len(some) == page
	}
	return in.end()
}

func (in *Reader) end() error {
	want := endLine(in.sum)
	entry, _, err := in.next(endEntry, int64(len(want)))
	if err != nil {
		return err
	}
	got, err := io.ReadAll(entry)
	if err != nil {
		return err
	}
	if !bytes.Equal(got, []byte(want)) {
		return damagedf("%s is not what its checksum says", manifestEntry)
	}
	if header, err := in.tar.Next(); err == nil {
		return damagedf("there is %.200q behind its end", header.Name)
	} else if err != io.EOF {
		return damagedf("behind its end: %w", err)
	}
	return nil
}

func (in *Reader) blob(ctx context.Context, facts *metadata.Store, blobs storage.Blobs, b metadata.Blob) error {
	entry, _, err := in.next(blobEntry(b.Digest), b.Size)
	if err != nil {
		return err
	}
	whole, taken, err := look(ctx, blobs, b)
	switch {
	case err != nil:
		return err
	case whole:
		return verify(ctx, io.Discard, entry, b)
	case taken: // by what a restore before this one left, or a disk damaged
		if b.Key, err = facts.MoveBlob(ctx, b.Digest); err != nil {
			return err
		}
	}
	in.written = append(in.written, b.Key)
	return store(ctx, blobs, entry, b)
}

// look says whether the bytes of a blob are there, and whether anything is.
func look(ctx context.Context, blobs storage.Blobs, b metadata.Blob) (whole, taken bool, err error) {
	r, err := blobs.Open(ctx, b.Key, b.Size)
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return false, false, nil
	case errors.Is(err, storage.ErrUnavailable):
		return false, false, err
	case err != nil:
		return false, true, ctx.Err()
	}
	defer r.Close()
	return verify(ctx, io.Discard, r, b) == nil, true, ctx.Err()
}

// verify copies the bytes of a blob, and fails unless they are.
func verify(ctx context.Context, to io.Writer, from io.Reader, b metadata.Blob) error {
	sum := b.Digest.Algorithm().Hash()
	n, err := io.Copy(to, reader{ctx, io.TeeReader(from, sum)})
	if err != nil {
		return err
	}
	if got := digest.NewDigest(b.Digest.Algorithm(), sum); n != b.Size || got != b.Digest {
		return damagedf("its %d bytes have digest %s", n, got)
	}
	return nil
}

func store(ctx context.Context, blobs storage.Blobs, from io.Reader, b metadata.Blob) (err error) {
	w, err := blobs.Write(ctx, storage.Checkpoint{Key: b.Key})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	if err := verify(ctx, w, from, b); err != nil {
		return err
	}
	c, err := w.Checkpoint(ctx)
	if err != nil {
		return err
	}
	return blobs.Complete(ctx, c)
}

// Discard removes the blobs that Restore stored.
func (in *Reader) Discard(ctx context.Context, blobs storage.Blobs) error {
	var errs []error
	for _, key := range in.written {
		errs = append(errs, blobs.Delete(ctx, key))
	}
	in.written = nil
	return errors.Join(errs...)
}
