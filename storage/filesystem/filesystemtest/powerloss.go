// Package filesystemtest cuts the power under a filesystem.Store.
//
// PowerLoss models what POSIX promises and no more: the bytes of a file are durable once the file was synced, an entry of
// a directory (made or removed) once the directory was synced, and syncing the one says nothing of the other. Real file
// systems keep more, so code that survives here relies on none of them. It does not model disks that lie, bytes that rot,
// or a sync that fails; its syncs never reach the disk.
package filesystemtest

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"berth/storage/filesystem"
)

// ErrPowerLoss is the error of every call after the power was cut.
var ErrPowerLoss = errors.New("the power is off")

// Config says how the power is lost. The zero value never cuts it by itself and keeps nothing that was not synced.
type Config struct {
	// CutAt is the number of the mutating call that finds the power cut, counted from 1. Zero is none.
	CutAt int
	// Keep decides how much of what was not synced is kept: a random prefix of the changes of each file and of each
	// directory. Nil keeps nothing. A write counts as one change per block of 512 bytes.
	Keep *rand.Rand
}

// PowerLoss implements filesystem.FS over a directory that nobody else changes, and whose files it also keeps in
// memory: they should be small. Its methods may be called at the same time.
type PowerLoss struct {
	root   string
	config Config
	os     filesystem.OS

	mu    sync.Mutex
	nodes map[string]*node // what is there now, by path
	calls int
	off   bool
	lost  error // what went wrong when the power was cut
}

// New begins with all that is below root being durable.
func New(root string, c Config) (*PowerLoss, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, fmt.Errorf("power loss below %s: %w", root, err)
	}
	p := &PowerLoss{root: root, config: c, nodes: map[string]*node{root: newDir()}}
	if err := filepath.WalkDir(root, p.load); err != nil {
		return nil, fmt.Errorf("power loss below %s: %w", root, err)
	}
	return p, nil
}

func (p *PowerLoss) load(path string, entry fs.DirEntry, err error) error {
	if err != nil || path == p.root {
		return err
	}
	n := newDir()
	if !entry.IsDir() {
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		n = &node{content: content}
	}
	p.nodes[path] = n
	p.nodes[filepath.Dir(path)].entries[filepath.Base(path)] = n
	return nil
}

// Calls returns how many mutating calls were made: opens for writing, changes of files and directories, and syncs.
func (p *PowerLoss) Calls() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.calls
}

// Cut cuts the power: what is below the root becomes what was durable, and all other calls fail from now on. Cutting it
// again does nothing and returns the same error.
func (p *PowerLoss) Cut() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut()
	return p.lost
}

func (p *PowerLoss) cut() {
	if p.off {
		return
	}
	p.off = true
	entries, err := os.ReadDir(p.root)
	for _, entry := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(p.root, entry.Name())))
	}
	p.lost = errors.Join(err, p.nodes[p.root].restore(p.root, p.config.Keep))
}

// do makes a call while the power is on.
func (p *PowerLoss) do(call func() error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.off {
		return ErrPowerLoss
	}
	return call()
}

// change makes a call that counts.
func (p *PowerLoss) change(call func() error) error {
	return p.do(func() error {
		p.calls++
		if p.calls == p.config.CutAt {
			p.cut()
			return ErrPowerLoss
		}
		return call()
	})
}

// OpenFile implements filesystem.FS. It does not know os.O_APPEND.
func (p *PowerLoss) OpenFile(name string, flag int, perm fs.FileMode) (filesystem.File, error) {
	do := p.change
	if flag&(os.O_WRONLY|os.O_RDWR|os.O_CREATE|os.O_TRUNC) == 0 {
		do = p.do
	}
	var opened filesystem.File
	err := do(func() error {
		f, err := p.os.OpenFile(name, flag, perm)
		if err != nil {
			return err
		}
		opened = &file{below: f, power: p, node: p.opened(name, flag)}
		return nil
	})
	return opened, err
}

// opened returns the node of a file that was opened, and makes it when the call made the file.
func (p *PowerLoss) opened(name string, flag int) *node {
	n := p.nodes[name]
	switch {
	case n == nil:
		n = &node{}
		p.link(name, n)
	case flag&os.O_TRUNC != 0:
		n.change(func() { n.content = nil })
	}
	return n
}

// link records a new entry of a directory.
func (p *PowerLoss) link(name string, n *node) {
	p.nodes[name] = n
	if dir := p.nodes[filepath.Dir(name)]; dir != nil {
		dir.change(func() { dir.entries[filepath.Base(name)] = n })
	}
}

// Mkdir implements filesystem.FS.
func (p *PowerLoss) Mkdir(name string, perm fs.FileMode) error {
	return p.change(func() error {
		if err := p.os.Mkdir(name, perm); err != nil {
			return err
		}
		if p.below(name) {
			p.link(name, newDir())
		}
		return nil
	})
}

// below tells names that can be lost from the parents of the root, which are taken to be durable.
func (p *PowerLoss) below(name string) bool {
	return strings.HasPrefix(name, p.root+string(filepath.Separator))
}

// Remove implements filesystem.FS.
func (p *PowerLoss) Remove(name string) error {
	return p.change(func() error {
		if err := p.os.Remove(name); err != nil {
			return err
		}
		delete(p.nodes, name)
		if dir := p.nodes[filepath.Dir(name)]; dir != nil {
			dir.change(func() { delete(dir.entries, filepath.Base(name)) })
		}
		return nil
	})
}

// SyncDir implements filesystem.FS.
func (p *PowerLoss) SyncDir(name string) error {
	return p.change(func() error {
		if _, err := p.os.ReadDir(name); err != nil {
			return err
		}
		if n := p.nodes[name]; n != nil {
			n.sync()
		}
		return nil
	})
}

// ReadDir implements filesystem.FS.
func (p *PowerLoss) ReadDir(name string) (entries []fs.DirEntry, err error) {
	err = p.do(func() error {
		entries, err = p.os.ReadDir(name)
		return err
	})
	return entries, err
}
