package backup

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"berth/storage/metadata"

	"github.com/opencontainers/go-digest"
)

// bufferSize is how many bytes are written at once.
const bufferSize = 128 << 10

// Contents says what a file has besides the facts.
type Contents struct {
	// Blobs are the bytes of all blobs.
	Blobs bool
	// Keys are those of Config.Keys, and the settings of Config.Secrets.
	Keys bool
}

// Export is a snapshot that is to be written to a file. The bytes of all blobs that it names stay until it is closed.
type Export struct {
	Manifest Manifest

	keeper    *Keeper
	name      string
	directory string
	keys      []Key
}

// Export takes a snapshot for a file, which has to be closed. Snapshots in the blob store are as they were.
func (k *Keeper) Export(ctx context.Context, c Contents) (e *Export, err error) {
	k.tidy(ctx)
	name, err := k.begin(ctx)
	if err != nil {
		return nil, fmt.Errorf("take a snapshot: %w", err)
	}
	e = &Export{keeper: k, name: name, directory: k.directory(name)}
	if err := e.take(ctx, c); err != nil {
		return nil, errors.Join(fmt.Errorf("take a snapshot: %w", err), e.Close())
	}
	return e, nil
}

// Close removes the snapshot, and lets bytes of deleted blobs go.
func (e *Export) Close() error {
	defer e.keeper.end(e.name)
	err := os.RemoveAll(e.directory)
	if failed := e.keeper.config.Metadata.ForgetBackup(context.Background(), e.name); failed != nil {
		err = errors.Join(err, fmt.Errorf("remove the snapshot: %w", failed))
	}
	return err
}

func (e *Export) take(ctx context.Context, c Contents) error {
	config := e.keeper.config
	e.Manifest = Manifest{Format: format, Taken: time.Now().UTC(), Version: config.Version}
	if err := os.Mkdir(e.directory, 0o700); err != nil {
		return err
	}
	without := config.Secrets
	if c.Keys {
		without = nil
	}
	file := e.path("metadata.sqlite")
	if err := config.Metadata.WriteSnapshot(ctx, file, without...); err != nil {
		return err
	}
	var err error
	if e.Manifest.Database, err = compress(ctx, file, e.path(databaseEntry)); err != nil {
		return err
	}
	if c.Keys {
		if err := e.takeKeys(); err != nil {
			return err
		}
	}
	if !c.Blobs {
		return os.Remove(file)
	}
	e.Manifest.Blobs = new(Blobs)
	return e.eachBlob(ctx, func(b metadata.Blob) error {
		if b.Inline {
			e.Manifest.Blobs.Inline++
			return nil
		}
		e.Manifest.Blobs.Count++
		e.Manifest.Blobs.Bytes += b.Size
		return nil
	})
}

func (e *Export) path(name string) string { return filepath.Join(e.directory, name) }

// compress writes a file, compressed, to another.
func compress(ctx context.Context, from, to string) (d Database, err error) {
	in, err := os.Open(from)
	if err != nil {
		return d, err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return d, err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	sum := sha256.New()
	z := gzip.NewWriter(io.MultiWriter(out, sum))
	if d.Uncompressed, err = io.Copy(z, reader{ctx, in}); err != nil {
		return d, err
	}
	if err := z.Close(); err != nil {
		return d, err
	}
	d.Name, d.SHA256 = databaseEntry, hex.EncodeToString(sum.Sum(nil))
	d.Size, err = out.Seek(0, io.SeekCurrent)
	return d, err
}

func (e *Export) takeKeys() (err error) {
	if e.keys, err = e.keeper.config.Keys(); err != nil {
		return err
	}
	for _, k := range e.keys {
		if len(k.Data) > maxKey {
			return fmt.Errorf("%s has %d bytes, and keys at most %d: move it elsewhere", k.Name, len(k.Data), maxKey)
		}
		sum := sha256.Sum256(k.Data)
		e.Manifest.Keys = append(e.Manifest.Keys, Part{keyEntries + k.Name, int64(len(k.Data)), hex.EncodeToString(sum[:])})
	}
	return e.Manifest.check() // the limits are those of who reads it
}

func (e *Export) eachBlob(ctx context.Context, fn func(metadata.Blob) error) error {
	return metadata.SnapshotBlobs(ctx, e.path("metadata.sqlite"), fn)
}

// Write writes the file. It fails, in the middle, when the bytes of a blob are not those of its digest.
func (e *Export) Write(ctx context.Context, to io.Writer) error {
	if err := e.write(ctx, to); err != nil {
		return fmt.Errorf("write the backup: %w", err)
	}
	return nil
}

func (e *Export) write(ctx context.Context, to io.Writer) error {
	buffer := bufio.NewWriterSize(to, bufferSize)
	out := &output{tar.NewWriter(buffer), e.Manifest.Taken}
	manifest, err := json.MarshalIndent(e.Manifest, "", "  ")
	if err != nil {
		return err
	}
	if err := out.bytes(manifestEntry, 0o600, manifest); err != nil {
		return err
	}
	if err := e.writeDatabase(ctx, out); err != nil {
		return err
	}
	for _, k := range e.keys {
		if err := out.bytes(keyEntries+k.Name, k.Mode, k.Data); err != nil {
			return err
		}
	}
	if e.Manifest.Blobs != nil {
		if err := e.eachBlob(ctx, func(b metadata.Blob) error { return e.writeBlob(ctx, out, b) }); err != nil {
			return err
		}
	}
	sum := sha256.Sum256(manifest)
	if err := out.bytes(endEntry, 0o600, []byte(endLine(hex.EncodeToString(sum[:])))); err != nil {
		return err
	}
	return errors.Join(out.tar.Close(), buffer.Flush())
}

func (e *Export) writeDatabase(ctx context.Context, out *output) error {
	f, err := os.Open(e.path(databaseEntry))
	if err != nil {
		return err
	}
	defer f.Close()
	if err := out.begin(databaseEntry, 0o600, e.Manifest.Database.Size); err != nil {
		return err
	}
	_, err = io.Copy(out.tar, reader{ctx, f})
	return err
}

func (e *Export) writeBlob(ctx context.Context, out *output, b metadata.Blob) (err error) {
	const remedy = "registry fsck --rehash names all blobs that are damaged; without blobs a backup needs none of them"
	r, err := e.keeper.config.Blobs.Open(ctx, b.Key, b.Size)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return fmt.Errorf("blob %s can't be read: %w: %s", b.Digest, err, remedy)
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	to := io.Discard // what is in the database is only checked
	if !b.Inline {
		if err := out.begin(blobEntry(b.Digest), 0o600, b.Size); err != nil {
			return err
		}
		to = out.tar
	}
	sum := b.Digest.Algorithm().Hash()
	n, err := io.Copy(to, reader{ctx, io.TeeReader(io.LimitReader(r, b.Size), sum)})
	if err != nil {
		return fmt.Errorf("blob %s: %w", b.Digest, err)
	}
	if got := digest.NewDigest(b.Digest.Algorithm(), sum); n != b.Size || got != b.Digest {
		return fmt.Errorf("blob %s is damaged: it has %d bytes of %d, with digest %s: %s", b.Digest, n, b.Size, got, remedy)
	}
	return nil
}

// output writes entries.
type output struct {
	tar   *tar.Writer
	taken time.Time
}

func (o *output) begin(name string, mode fs.FileMode, size int64) error {
	return o.tar.WriteHeader(&tar.Header{
		Typeflag: tar.TypeReg, Name: name, Size: size, Mode: int64(mode.Perm()), ModTime: o.taken.Truncate(time.Second),
	})
}

func (o *output) bytes(name string, mode fs.FileMode, data []byte) error {
	if err := o.begin(name, mode, int64(len(data))); err != nil {
		return err
	}
	_, err := o.tar.Write(data)
	return err
}
