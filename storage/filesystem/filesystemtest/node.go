package filesystemtest

import (
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"

	"berth/storage/filesystem"
)

// block is how much of a write is kept or lost as one.
const block = 512

// node is the durable state of a file or a directory, and what was done to it since.
type node struct {
	entries map[string]*node // of a directory; nil for a file
	content []byte           // of a file
	changes []func()         // not synced yet: each does to the durable state what was done to the present one
}

func newDir() *node { return &node{entries: map[string]*node{}} }

func (n *node) change(do func()) { n.changes = append(n.changes, do) }

func (n *node) sync() { n.apply(len(n.changes)) }

// apply makes the first changes durable and forgets the others.
func (n *node) apply(first int) {
	for _, do := range n.changes[:first] {
		do()
	}
	n.changes = nil
}

// write records a write of p at an offset.
func (n *node) write(p []byte, offset int64) {
	for piece := range slices.Chunk(slices.Clone(p), block) {
		at := offset
		n.change(func() {
			n.resize(max(int64(len(n.content)), at+int64(len(piece))))
			copy(n.content[at:], piece)
		})
		offset += int64(len(piece))
	}
}

// truncate records a change of the size.
func (n *node) truncate(size int64) { n.change(func() { n.resize(size) }) }

func (n *node) resize(size int64) {
	have := int64(len(n.content))
	n.content = append(n.content[:min(have, size)], make([]byte, max(0, size-have))...)
}

// restore writes what a power loss leaves of n to path, which is a directory that exists or a file that does not.
func (n *node) restore(path string, keep *rand.Rand) error {
	kept := 0
	if keep != nil {
		kept = keep.IntN(len(n.changes) + 1)
	}
	n.apply(kept)
	if n.entries == nil {
		return os.WriteFile(path, n.content, 0o640)
	}
	for _, name := range slices.Sorted(maps.Keys(n.entries)) {
		entry, path := n.entries[name], filepath.Join(path, name)
		if entry.entries != nil {
			if err := os.Mkdir(path, 0o750); err != nil {
				return err
			}
		}
		if err := entry.restore(path, keep); err != nil {
			return err
		}
	}
	return nil
}

// file is an open file. It hides what else the file below can do, lest anything be written behind its back.
type file struct {
	below filesystem.File
	power *PowerLoss
	node  *node
}

func (f *file) Read(p []byte) (n int, err error) {
	err = f.power.do(func() error {
		n, err = f.below.Read(p)
		return err
	})
	return n, err
}

func (f *file) ReadAt(p []byte, offset int64) (n int, err error) {
	err = f.power.do(func() error {
		n, err = f.below.ReadAt(p, offset)
		return err
	})
	return n, err
}

func (f *file) Seek(offset int64, whence int) (at int64, err error) {
	err = f.power.do(func() error {
		at, err = f.below.Seek(offset, whence)
		return err
	})
	return at, err
}

func (f *file) Stat() (info fs.FileInfo, err error) {
	err = f.power.do(func() error {
		info, err = f.below.Stat()
		return err
	})
	return info, err
}

func (f *file) Write(p []byte) (n int, err error) {
	err = f.power.change(func() error {
		at, err := f.below.Seek(0, io.SeekCurrent)
		if err != nil {
			return err
		}
		n, err = f.below.Write(p)
		f.node.write(p[:n], at)
		return err
	})
	return n, err
}

func (f *file) Truncate(size int64) error {
	return f.power.change(func() error {
		if err := f.below.Truncate(size); err != nil {
			return err
		}
		f.node.truncate(size)
		return nil
	})
}

func (f *file) Sync() error {
	return f.power.change(func() error {
		f.node.sync()
		return nil
	})
}

// Close closes the file below in any case, so that no test leaks it.
func (f *file) Close() error {
	err := f.below.Close()
	if off := f.power.do(func() error { return nil }); off != nil {
		return off
	}
	return err
}
