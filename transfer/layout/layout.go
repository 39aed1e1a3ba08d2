// Package layout keeps repositories in directories and files that other programs read: in OCI image layouts, and as the data directory
// of distribution's registry.
//
// Blobs are compared with size and digest while they are written. A file is written under another name, synced, and then put in place,
// so that what is there is whole: it is not written again. A crash leaves files whose names begin with .new-, which nothing reads.
//
// The names of repositories and tags, and digests, have to be valid: they become paths.
package layout

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"berth/atomicfile"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	fileMode      = 0o644
	directoryMode = 0o755
)

// opener opens a blob that is to be copied.
type opener = func() (io.ReadCloser, error)

// blobPath returns where the blobs of a digest are in an OCI image layout.
func blobPath(d digest.Digest) string {
	return v1.ImageBlobsDir + "/" + d.Algorithm().String() + "/" + d.Encoded()
}

// copyVerified copies a blob, and fails unless it has the size and the digest of d.
func copyVerified(w io.Writer, d v1.Descriptor, open opener) (err error) {
	body, err := open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	verifier := d.Digest.Verifier()
	n, err := io.Copy(io.MultiWriter(w, verifier), io.LimitReader(body, d.Size))
	if err == nil && n == d.Size { // is there more?
		var more int64
		more, err = io.Copy(io.Discard, io.LimitReader(body, 1))
		n += more
	}
	switch {
	case err != nil:
		return err
	case n > d.Size:
		return fmt.Errorf("%s has more than %d bytes: it is damaged at the source", d.Digest, d.Size)
	case n < d.Size:
		return fmt.Errorf("%s has %d bytes of %d: it is damaged at the source", d.Digest, n, d.Size)
	case !verifier.Verified():
		return fmt.Errorf("%s has other bytes than its digest says: it is damaged at the source", d.Digest)
	}
	return nil
}

// writeFile puts a blob into a file, whose directory is made.
func writeFile(path string, d v1.Descriptor, open opener) (err error) {
	directory := filepath.Dir(path)
	if err := os.MkdirAll(directory, directoryMode); err != nil {
		return err
	}
	f, err := os.CreateTemp(directory, ".new-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name()) // it has no name that anybody reads
		}
	}()
	err = copyVerified(f, d, open)
	if err = errors.Join(err, f.Chmod(fileMode), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDirectory(directory)
}

func syncDirectory(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// hasFile reports whether there is a file of a size.
func hasFile(path string, size int64) (bool, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && info.Mode().IsRegular() && info.Size() == size, err
}

// writeSmall puts a small file in place, whose directory is made, unless it is there.
func writeSmall(path, content string) error {
	old, err := os.ReadFile(path)
	if err == nil && string(old) == content {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), directoryMode); err != nil {
		return err
	}
	return atomicfile.Write(path, []byte(content), fileMode)
}
