package backup

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// A file is a tar of these entries, in this order:
//
//	backup.json           what is in it (Manifest), with the SHA-256 of the database and of each key
//	metadata.sqlite.gz    the database
//	keys/NAME             each key of the manifest
//	blobs/ALGORITHM/HEX   each blob that the database names, in the order of their digests, if the manifest says that there are blobs
//	backup.json.sha256    the SHA-256 of backup.json as sha256sum prints it, which ends a file that is whole
//
// So everything is checked by something that came before it, and the manifest by what comes last. Only the database is compressed: layers
// are already.
const (
	manifestEntry = "backup.json"
	databaseEntry = "metadata.sqlite.gz"
	keyEntries    = "keys/"
	blobEntries   = "blobs/"
	endEntry      = "backup.json.sha256"
)

const (
	// format is raised when an older program could not restore what a newer one wrote.
	format = 1

	maxManifest = 1 << 20 // bytes
	maxKeys     = 1000
	maxKey      = 256 << 10 // bytes
)

// ErrDamaged says that a file is no whole backup.
var ErrDamaged = errors.New("the backup is damaged or cut off")

func damagedf(message string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrDamaged, fmt.Errorf(message, args...))
}

// Manifest says what is in a file.
type Manifest struct {
	Format int `json:"format"`
	// Taken is when the database was as it is in the file.
	Taken time.Time `json:"taken"`
	// Version is that of the program that wrote the file.
	Version  string   `json:"version"`
	Database Database `json:"database"`
	Keys     []Part   `json:"keys,omitempty"`
	// Blobs is nil in a file without them.
	Blobs *Blobs `json:"blobs,omitempty"`
}

// Part is an entry of a file.
type Part struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"` // bytes
	SHA256 string `json:"sha256"`
}

// Database is the entry of the database.
type Database struct {
	Part
	Uncompressed int64 `json:"uncompressed"` // bytes
}

// Blobs says how many blobs have entries, and how many bytes they have. Inline are those that the database has.
type Blobs struct {
	Count  int64 `json:"count"`
	Bytes  int64 `json:"bytes"`
	Inline int64 `json:"inline"`
}

// Size is how many bytes the entries have.
func (m *Manifest) Size() int64 {
	total := m.Database.Size
	for _, k := range m.Keys {
		total += k.Size
	}
	if m.Blobs != nil {
		total += m.Blobs.Bytes
	}
	return total
}

// Key is a file with a key, or one that belongs to keys, such as a certificate.
type Key struct {
	Name string // a path with slashes that stays below where it is put
	Mode fs.FileMode
	Data []byte
}

func parseManifest(data []byte) (m Manifest, err error) {
	if err := json.Unmarshal(data, &m); err != nil {
		return m, damagedf("%s: %w", manifestEntry, err)
	}
	if m.Format > format {
		return m, fmt.Errorf("the backup was written by a newer Berth (%.40q): restore it with that one", m.Version)
	}
	return m, m.check()
}

var sha256Hex = regexp.MustCompile(`^[0-9a-f]{64}$`)

// check fails on what no program writes.
func (m *Manifest) check() error {
	switch b := m.Blobs; {
	case m.Format < 1:
		return damagedf("%s: format %d", manifestEntry, m.Format)
	case m.Database.Name != databaseEntry || m.Database.Size < 0 || m.Database.Uncompressed < 0 || !sha256Hex.MatchString(m.Database.SHA256):
		return damagedf("%s: the database is not described", manifestEntry)
	case len(m.Keys) > maxKeys:
		return damagedf("%s: there are %d keys", manifestEntry, len(m.Keys))
	case b != nil && (b.Count < 0 || b.Bytes < 0 || b.Inline < 0):
		return damagedf("%s: there are %d blobs of %d bytes", manifestEntry, b.Count, b.Bytes)
	}
	for _, k := range m.Keys {
		name, ok := strings.CutPrefix(k.Name, keyEntries)
		if !ok || name == "." || !fs.ValidPath(name) || k.Size < 0 || k.Size > maxKey || !sha256Hex.MatchString(k.SHA256) {
			return damagedf("%s: %.200q is no key", manifestEntry, k.Name)
		}
	}
	return nil
}

func blobEntry(d digest.Digest) string {
	return blobEntries + d.Algorithm().String() + "/" + d.Encoded()
}

// endLine is the content of endEntry.
func endLine(sum string) string { return sum + "  " + manifestEntry + "\n" }
